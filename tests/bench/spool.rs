//! What a closed window costs on its way to a durable segment, and from there to objects, and what memory that needs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use flowlogd::bench::{self, ObjectsCost, ReadCost, Service, SpoolCost, Window};
use flowlogd::capture::flow::{Buffers, Direction, Drained, Flow, FlowKey, InterfaceTotals, Total, Verdict};

use crate::report::{Cell, Table};
use crate::{Settings, machine, min_median};

const INTERFACES: u32 = 4;

/// Of a server: some addresses of its own, many clients, ports and counters that hardly repeat.
pub(crate) fn window(flows: u32) -> Result<Window> {
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().cast_signed() / 300 * 300 - 1;
    let mut random = 1u64;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let mut flow = |number: u32| {
        let first = end - 59 + below(50).cast_signed();
        let magnitude = below(12);
        let packets = 1 + below(1 << magnitude);
        let key = FlowKey {
            ifindex: 1 + number % INTERFACES,
            direction: Direction::Ingress,
            verdict: if below(20) == 0 { Verdict::Reject } else { Verdict::Accept },
            protocol: if below(4) == 0 { 17 } else { 6 },
            src: (0x0b00_0000 + below(1 << 24) as u32).to_be_bytes().into(),
            dst: [10, 0, 0, 1 + below(8) as u8].into(),
            src_port: 1024 + below(64_000) as u16,
            dst_port: [443, 80, 53, 22][below(4) as usize],
        };
        let bytes = packets * (40 + below(1400));
        Flow { key, packets, bytes, first, last: first + below(10).cast_signed(), tcp_flags: 3, reason: 0 }
    };
    let batch: Vec<Flow> = (0..flows).map(&mut flow).collect();
    let zero = Total::default();
    let totals = (1..=INTERFACES).map(|ifindex| InterfaceTotals {
        ifindex,
        direction: Direction::Ingress,
        seen: zero,
        non_ip: zero,
        unparsable: [zero; 3],
        skipped: zero,
        drops_skipped: zero,
        buffers: Buffers::default(),
    });
    let drained = Drained { batches: vec![batch], totals: totals.collect(), drops: Vec::new() };
    Ok(bench::close_window(drained, end - 59, end))
}

/// One window all the way, and the memory that the process had at most during each part.
struct Round {
    slots: SpoolCost,
    interfaces: SpoolCost,
    read: ReadCost,
    objects: ObjectsCost,
    resident: u64,
    peaks: [u64; 3],
}

fn with_peak<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    machine::forget_peak()?;
    Ok((work()?, machine::peak_bytes()?))
}

fn round(window: &Window) -> Result<Round> {
    let [slots_root, interfaces_root, target] = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    let resident = machine::resident_bytes()?;
    let (slots, of_slots) = with_peak(|| bench::spool(window, Service::S3, slots_root.path()))?;
    let (interfaces, of_interfaces) =
        with_peak(|| bench::spool(window, Service::CloudWatchLogs, interfaces_root.path()))?;
    let read = bench::read(slots_root.path())?;
    let (objects, of_objects) = with_peak(|| bench::objects(slots_root.path(), target.path()))?;
    Ok(Round { slots, interfaces, read, objects, resident, peaks: [of_slots, of_interfaces, of_objects] })
}

type Value = fn(&Round) -> f64;

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const ROWS: [(&str, Value); 10] = [
    ("encode, ms", |round| ms(round.slots.encode)),
    ("deflate, ms", |round| ms(round.slots.deflate)),
    ("window to durable segment, ms", |round| ms(round.slots.spool)),
    ("the same for CloudWatch Logs, ms", |round| ms(round.interfaces.spool)),
    ("read the segment, ms", |round| ms(round.read.read)),
    ("segment to synced objects, ms", |round| ms(round.objects.publish)),
    ("text, MiB", |round| mib(round.slots.text_bytes)),
    ("segment, MiB", |round| mib(round.slots.segment_bytes)),
    ("objects", |round| round.objects.objects as f64),
    ("objects, MiB", |round| mib(round.objects.bytes)),
];

/// Of the first round: later ones find what the allocator has kept.
fn memory(rounds: &[Round]) -> impl Iterator<Item = (&'static str, u64)> {
    rounds.iter().take(1).flat_map(|Round { resident, peaks: [slots, interfaces, objects], .. }| {
        [
            ("memory with the flows, MiB", *resident),
            ("most while spooling, MiB", *slots),
            ("most for CloudWatch Logs, MiB", *interfaces),
            ("most while publishing, MiB", *objects),
        ]
    })
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (counts, rounds): (&[u32], usize) = if settings.quick { (&[100_000], 2) } else { (&[100_000, 1_000_000], 5) };
    let mut table = Table::new("spool: one window on one core, min/median", &["flows", "what", "min", "median"]);
    for &flows in counts {
        let window = window(flows)?;
        let rounds = (0..rounds).map(|_| round(&window)).collect::<Result<Vec<_>>>()?;
        for (name, value) in ROWS {
            let (min, median) = min_median(&rounds.iter().map(value).collect::<Vec<f64>>());
            table.row(vec![
                Cell::text(flows.to_string()),
                Cell::text(name),
                Cell::number(min, 1),
                Cell::number(median, 1),
            ]);
        }
        for (name, bytes) in memory(&rounds) {
            let bytes = Cell::number(mib(bytes), 1);
            table.row(vec![Cell::text(flows.to_string()), Cell::text(name), Cell::number_or_dash(None, 1), bytes]);
        }
    }
    Ok(table)
}
