//! The same flood recorded by flowlogd, softflowd and pmacctd: what each costs, and what each misses.
//!
//! The recorder is on the receiving end of a veth. Its own processor time is half of its cost: the other half, a BPF
//! program or copying into a capture buffer, is in the sender's softirqs, so it is taken from the flood's rate. An
//! nftables counter right behind the recorder says what arrived.

mod cpu;
mod netflow5;
mod process;
mod recorder;

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};
use flowlogd_tests::netns::{Netns, Pair};

use crate::flood::{Flows, flood};
use crate::report::{Cell, Table};
use crate::{Settings, min_median};
use recorder::{NAMES, Recorder};

const FLOWS: [Flows; 2] = [Flows { sources: 16, targets: 64 }, Flows { sources: 512, targets: 128 }];
/// A flood is timed in parts, so that one of them is likely not disturbed.
const PARTS: u64 = 8;
const BROADCAST: &str = "10.77.0.255:9";
const PAUSE: Duration = Duration::from_millis(300);
/// Longer than a block of a capture buffer waits until it is handed over unfilled, which is a second at most.
const CAUGHT_UP: Duration = Duration::from_millis(1_200);

/// One recorder's runs.
#[derive(Debug, Default)]
struct Runs {
    nanoseconds: Vec<f64>,
    cpu: Duration,
    recorded: u64,
    arrived: u64,
}

impl Runs {
    fn flood(&mut self, pair: &Pair, flows: Flows, count: u64) -> Result<()> {
        let before = arrived(&pair.b)?;
        for _ in 0..PARTS {
            self.nanoseconds.push(1e9 / flood(pair, flows, count / PARTS)?);
        }
        self.arrived += arrived(&pair.b)? - before;
        Ok(())
    }

    fn record(&mut self, name: &str, pair: &Pair, flows: Flows, count: u64) -> Result<()> {
        let recorder = Recorder::start(name, &pair.b)?;
        let pid = recorder.pid();
        cpu::wait_idle(pid, PAUSE)?;
        let starting = cpu::of_tree(pid)?;
        self.flood(pair, flows, count)?;
        cpu::wait_idle(pid, PAUSE)?;
        push_out(pair)?;
        cpu::wait_idle(pid, CAUGHT_UP)?;
        let (recorded, whole) = cpu::of_reaped(|| recorder.stop())?;
        self.recorded += recorded;
        self.cpu += whole.saturating_sub(starting);
        Ok(())
    }
}

/// Fills the last block of a capture buffer: softflowd 1.1.0 never sees one that is not full
/// (github.com/irino/softflowd/pull/71). Sent to all addresses, so that it is nowhere taken for the flood.
fn push_out(pair: &Pair) -> Result<()> {
    pair.a.enter(|| {
        let socket = UdpSocket::bind((Pair::A4, 0))?;
        socket.set_broadcast(true)?;
        for _ in 0..4_000 {
            socket.send_to(&[0; 18], BROADCAST)?;
        }
        Ok(())
    })
}

/// Packets of the flood that came in.
fn arrived(ns: &Netns) -> Result<u64> {
    let text = ns.sh("nft list counter inet bench arrived")?;
    let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(count.with_context(|| format!("nft: {text}"))?.parse()?)
}

fn count_arrivals(ns: &Netns) -> Result<()> {
    let rule =
        format!("rule inet bench prerouting iifname b0 ip daddr {} meta l4proto udp counter name arrived", Pair::B4);
    for line in [
        "table inet bench",
        "counter inet bench arrived",
        "chain inet bench prerouting { type filter hook prerouting priority -450 ; }",
        &rule,
    ] {
        ns.sh(&format!("nft add {line}"))?;
    }
    Ok(())
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (count, rounds) = if settings.quick { (200_000, 1) } else { (800_000, 3) };
    let mut table = Table::new(
        &format!(
            "peers: {rounds} floods of {count} UDP datagrams as fast as one CPU sends them; ns: the fastest eighth of a \
             flood; CPU: of the recorder's processes; {} MiB capture buffers, tables for every flow, one flush",
            recorder::CAPTURE_MIB,
        ),
        &[
            "flows",
            "recorder",
            "ns per packet",
            "added",
            "CPU s per million recorded",
            "arrived",
            "recorded",
            "missed",
            "missed %",
        ],
    );
    for flows in FLOWS {
        let pair = Pair::new()?;
        let _full = flows.full_sockets(&pair)?;
        count_arrivals(&pair.b)?;
        flood(&pair, flows, count / 10)?;
        let mut bare = Runs::default();
        let mut runs = NAMES.map(|_| Runs::default());
        for _ in 0..rounds {
            bare.flood(&pair, flows, count)?;
            for (runs, name) in runs.iter_mut().zip(NAMES) {
                runs.record(name, &pair, flows, count)?;
            }
        }
        let base = min_median(&bare.nanoseconds).0;
        table.row(bare_row(flows, &bare));
        for (runs, name) in runs.iter().zip(NAMES) {
            table.row(row(flows, name, runs, base));
        }
    }
    Ok(table)
}

fn bare_row(flows: Flows, runs: &Runs) -> Vec<Cell> {
    let mut row = vec![
        Cell::number(flows.count().into(), 0),
        Cell::text("none"),
        Cell::number(min_median(&runs.nanoseconds).0, 0),
        Cell::number(0.0, 0),
        Cell::number_or_dash(None, 0),
        Cell::number(runs.arrived as f64, 0),
    ];
    row.resize_with(9, || Cell::number_or_dash(None, 0));
    row
}

fn row(flows: Flows, name: &str, runs: &Runs, base: f64) -> Vec<Cell> {
    let nanoseconds = min_median(&runs.nanoseconds).0;
    let (arrived, recorded) = (runs.arrived as f64, runs.recorded as f64);
    vec![
        Cell::number(flows.count().into(), 0),
        Cell::text(name),
        Cell::number(nanoseconds, 0),
        Cell::number(nanoseconds - base, 0),
        Cell::number_or_dash((runs.recorded > 0).then(|| runs.cpu.as_secs_f64() * 1e6 / recorded), 3),
        Cell::number(arrived, 0),
        Cell::number(recorded, 0),
        Cell::number(arrived - recorded, 0),
        Cell::number((arrived - recorded) * 100.0 / arrived, 1),
    ]
}
