//! Nanoseconds a packet costs inside the kernel: our classifier, the same over a per-CPU hash, and an empty one.
//!
//! Every flow is run once to fill the tables. Then each program takes turns in blocks of packets, all of them inside
//! one system call: a small program in front writes a random flow's address into the packet and jumps to the one under
//! test. What that and the kernel's loop cost is in every figure and goes away in "over empty".

use anyhow::Result;
use flowlogd::capture::{Capture, Offload, Sizes};

use crate::report::{Cell, Table};
use crate::{Settings, ensure_counted, min_median};

/// Behind the generator: nothing, the product, the yardstick.
const PROGRAMS: [&str; 3] = ["vary_empty", "vary_ingress", "vary_hash"];
/// Packets in a block.
const BLOCK: u32 = 100_000;

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
        frame.extend([0xc3, 0x50, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        Self { frame, v6 }
    }

    /// Where the source address is.
    fn source(&self) -> usize {
        if self.v6 { 14 + 8 } else { 14 + 12 }
    }

    /// The packet of this flow; the address alone tells flows apart.
    pub(crate) fn of_flow(&mut self, flow: u32) -> &[u8] {
        let source = self.source();
        self.frame[source + 1..source + 4].copy_from_slice(&flow.to_be_bytes()[1..]);
        &self.frame
    }
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
fn blocks(capture: &mut Capture, packets: &mut Packets, flows: u32, blocks: usize) -> Result<[Vec<f64>; 3]> {
    let mut means: [Vec<f64>; 3] = Default::default();
    for block in 0..blocks {
        // Every program takes each place in turn, and all see the same packets.
        for turn in 0..PROGRAMS.len() {
            let program = (block + turn) % PROGRAMS.len();
            capture.vary(flows, packets.source() as u32, block as u64)?;
            let (_, took) = capture.test_run(PROGRAMS[program], packets.of_flow(0), Offload::default(), BLOCK)?;
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
        "packet: ns per packet, min/median over blocks of 100,000 packets, a random flow each",
        &["family", "flows", "empty", "flowlogd", "per-CPU hash", "flowlogd over empty", "hash over empty"],
    );
    let (counts, rounds): (&[u32], usize) =
        if settings.quick { (&[1, 1024, 65_536], 10) } else { (&[1, 1024, 65_536, 524_288], 60) };
    for v6 in [false, true] {
        let mut packets = Packets::new(v6);
        for &flows in counts {
            let mut capture = Capture::open(sizes(flows, v6))?;
            for program in ["ingress", "ingress_hash"] {
                for flow in 0..flows {
                    capture.test_run(program, packets.of_flow(flow), Offload::default(), 1)?;
                }
            }
            row(&mut table, v6, &flows.to_string(), &blocks(&mut capture, &mut packets, flows, rounds)?);
            let (drained, _) = capture.drain_timed()?;
            ensure_counted(&drained, flows as usize)?;
        }
    }
    Ok(table)
}
