//! What the end of a window costs, step by step, by number of flows.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use flowlogd::bench::{self, Service};
use flowlogd::capture::flow::Drained;
use flowlogd::capture::{Capture, DrainTimes, Offload, Sizes};

use crate::packet::Packets;
use crate::report::{Cell, Table};
use crate::{Settings, ensure_counted, machine, min_median};

/// Steps of one drain.
#[derive(Clone, Copy, Debug)]
enum Step {
    Swap,
    ScanMerge,
    Clear,
    Window,
    Format,
    Sum,
    Spool,
    Peek,
    Copy,
    Settle,
    Answer,
}

const STEPS: [(Step, &str); 11] = [
    (Step::Swap, "swap (grace period)"),
    (Step::ScanMerge, "scan + merge CPUs"),
    (Step::Clear, "clear"),
    (Step::Window, "merge into window"),
    (Step::Format, "format"),
    (Step::Sum, "scan + merge + format"),
    (Step::Spool, "format + deflate + fsync"),
    (Step::Peek, "look: scan + merge CPUs"),
    (Step::Copy, "look: copy as much again"),
    (Step::Settle, "look: merge, verdicts"),
    (Step::Answer, "look: one answer"),
];

/// An hour that ends now: no time needs to be moved into it.
fn window_of_now() -> Result<(i64, i64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().cast_signed();
    Ok((now - 3600, now + 1))
}

/// Half full with so many flows, as full as an agent lets it become.
pub(crate) fn open(flows: u32) -> Result<Capture> {
    let mut sizes = Sizes::for_machine(machine::cpus(), machine::ram_bytes()).with_slots(flows * 2);
    (sizes.sets6, sizes.overflow) = (2, 1 << 17);
    Ok(Capture::open(sizes)?)
}

fn fill(capture: &mut Capture, flows: u32) -> Result<()> {
    let mut packets = Packets::new(false);
    for flow in 0..flows {
        capture.test_run("ingress", packets.of_flow(flow), Offload::default(), 1)?;
    }
    Ok(())
}

/// Fills the table and empties it.
pub(crate) fn fill_and_drain(capture: &mut Capture, flows: u32) -> Result<(Drained, DrainTimes)> {
    fill(capture, flows)?;
    drain(capture, flows)
}

fn drain(capture: &mut Capture, flows: u32) -> Result<(Drained, DrainTimes)> {
    let (drained, times) = capture.drain_timed()?;
    ensure_counted(&drained, flows as usize)?;
    Ok((drained, times))
}

/// Takes the times of one drain.
fn round(capture: &mut Capture, flows: u32) -> Result<[Duration; 11]> {
    fill(capture, flows)?;
    let (first, last) = window_of_now()?;
    let start = Instant::now();
    let peeked = capture.peek()?;
    let peek = start.elapsed();
    let (drained, times) = drain(capture, flows)?;
    let bench::LookCost { copy, settle, answer } = bench::look(drained.clone(), peeked, (first, last))?;
    let start = Instant::now();
    let window = bench::close_window(drained, first, last);
    let close = start.elapsed();
    let mut out = Vec::with_capacity(2 << 20);
    let start = Instant::now();
    let bytes = bench::format_v2(&window, &mut out);
    let format = start.elapsed();
    ensure!(bytes > window.flows() * 60, "{bytes} bytes of text for {} flows", window.flows());
    let root = tempfile::tempdir()?;
    let spool = bench::spool(&window, Service::S3, root.path())?.spool;
    let sum = times.read + close + format;
    Ok([times.swap, times.read, times.clear, close, format, sum, spool, peek, copy, settle, answer])
}

/// Numbers of flows, and how often each is measured.
pub(crate) fn counts_and_rounds(settings: &Settings) -> (&'static [u32], usize) {
    if settings.quick { (&[100_000], 2) } else { (&[100_000, 1_000_000], 5) }
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (counts, rounds) = counts_and_rounds(settings);
    let mut table = Table::new("drain: ms on one core, min/median", &["flows", "step", "min", "median"]);
    for &flows in counts {
        let mut capture = open(flows)?;
        let rounds = (0..rounds).map(|_| round(&mut capture, flows)).collect::<Result<Vec<_>>>()?;
        for (step, name) in STEPS {
            let times: Vec<f64> = rounds.iter().map(|times| times[step as usize].as_secs_f64() * 1e3).collect();
            let (min, median) = min_median(&times);
            table.row(vec![
                Cell::text(flows.to_string()),
                Cell::text(name),
                Cell::number(min, 1),
                Cell::number(median, 1),
            ]);
        }
    }
    Ok(table)
}
