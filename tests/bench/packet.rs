//! Nanoseconds a packet costs inside the kernel: our classifier, the same over a per-CPU hash, and an empty one.
//!
//! Every flow is run once to fill the tables. Then blocks of distinct packets in random order are run, each block by
//! all three programs one after the other, one packet a system call; the kernel takes the time of the program alone.
//! What the clock and the call cost is in every figure and goes away in "over empty".

use anyhow::Result;
use flowlogd::capture::{Capture, Offload, Sizes};

use crate::report::{Cell, Table};
use crate::{Settings, ensure_counted, min_median};

const PROGRAMS: [&str; 3] = ["empty", "ingress", "ingress_hash"];
const BLOCK: usize = 1000;
/// Runs of one packet when there is only one flow and so nothing to vary.
const REPEAT: u32 = 100_000;

/// Distinct packets, one per flow: TCP ACKs from many clients to one server.
pub(crate) struct Packets {
    frame: Vec<u8>,
    v6: bool,
}

impl Packets {
    pub(crate) fn new(v6: bool) -> Self {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([10, 0, 0, 0, 192, 168, 7, 9]);
        }
        frame.extend([0, 0, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        Self { frame, v6 }
    }

    /// The packet of this flow; the address alone tells flows apart.
    pub(crate) fn of_flow(&mut self, flow: u32) -> &[u8] {
        let (source, ports) = if self.v6 { (14 + 20, 14 + 40) } else { (14 + 12, 14 + 20) };
        let port = 1024 + (mix(u64::from(flow)) % 60_000) as u16;
        self.frame[source + 1..source + 4].copy_from_slice(&flow.to_be_bytes()[1..]);
        self.frame[ports..ports + 2].copy_from_slice(&port.to_be_bytes());
        &self.frame
    }
}

/// SplitMix64: deterministic and good enough to shuffle with.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn shuffled(count: u32) -> Vec<u32> {
    let mut flows: Vec<u32> = (0..count).collect();
    for at in (1..flows.len()).rev() {
        flows.swap(at, (mix(at as u64) % (at as u64 + 1)) as usize);
    }
    flows
}

/// Tables for this many flows of one family, at least an agent's own.
fn sizes(flows: u32, v6: bool) -> Sizes {
    let default = Sizes::for_machine(crate::machine::cpus(), crate::machine::ram_bytes());
    let mut sizes = if flows * 2 > default.sets4 * 4 { default.with_slots(flows * 2) } else { default };
    if v6 {
        sizes.sets6 = sizes.sets4;
    }
    sizes.overflow = 1 << 16;
    sizes.yardstick = (flows * 2).max(1 << 16);
    sizes
}

/// Mean ns per packet of each block, for each program.
fn blocks(capture: &mut Capture, packets: &mut Packets, order: &[u32], blocks: usize) -> Result<[Vec<f64>; 3]> {
    let mut means: [Vec<f64>; 3] = Default::default();
    let mut upcoming = order.iter().copied().cycle();
    for block in 0..blocks {
        let flows: Vec<u32> = upcoming.by_ref().take(BLOCK).collect();
        // Every program takes each place in turn.
        for turn in 0..PROGRAMS.len() {
            let program = (block + turn) % PROGRAMS.len();
            let mut sum = 0;
            for &flow in &flows {
                let (_, took) = capture.test_run(PROGRAMS[program], packets.of_flow(flow), Offload::default(), 1)?;
                sum += took.as_nanos() as u64;
            }
            means[program].push(sum as f64 / flows.len() as f64);
        }
    }
    Ok(means)
}

/// As [`blocks`], with one packet run again and again inside the kernel.
fn repeated(capture: &mut Capture, packets: &mut Packets, rounds: usize) -> Result<[Vec<f64>; 3]> {
    let mut means: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..PROGRAMS.len() {
            let program = (round + turn) % PROGRAMS.len();
            let (_, took) = capture.test_run(PROGRAMS[program], packets.of_flow(0), Offload::default(), REPEAT)?;
            means[program].push(took.as_nanos() as f64);
        }
    }
    Ok(means)
}

fn row(table: &mut Table, v6: bool, flows: &str, means: &[Vec<f64>; 3]) {
    let [empty, ours, hash] = [0, 1, 2].map(|program| min_median(&means[program]));
    let pair = |(min, median): (f64, f64)| Cell::text(format!("{min:.0}/{median:.0}"));
    table.row(vec![
        Cell::text(if v6 { "IPv6" } else { "IPv4" }),
        Cell::text(flows),
        pair(empty),
        pair(ours),
        pair(hash),
        Cell::number(ours.1 - empty.1, 0),
        Cell::number(hash.1 - empty.1, 0),
    ]);
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let mut table = Table::new(
        "packet: ns per packet, min/median over blocks of 1,000 distinct packets",
        &["family", "flows", "empty", "flowlogd", "per-CPU hash", "flowlogd over empty", "hash over empty"],
    );
    let (counts, rounds): (&[u32], usize) =
        if settings.quick { (&[1, 1000, 65_536], 10) } else { (&[1, 1000, 65_536, 524_288], 60) };
    for v6 in [false, true] {
        let mut packets = Packets::new(v6);
        for &flows in counts {
            let mut capture = Capture::open(sizes(flows, v6))?;
            let order = shuffled(flows);
            for program in &PROGRAMS[1..] {
                for &flow in &order {
                    capture.test_run(program, packets.of_flow(flow), Offload::default(), 1)?;
                }
            }
            if flows == 1 {
                row(&mut table, v6, "1, repeated", &repeated(&mut capture, &mut packets, rounds / 2)?);
            }
            row(&mut table, v6, &flows.to_string(), &blocks(&mut capture, &mut packets, &order, rounds)?);
            let (drained, _) = capture.drain_timed()?;
            ensure_counted(&drained, flows as usize)?;
        }
    }
    Ok(table)
}
