//! What the programs on `kfree_skb` cost: for a packet freed for a reason that is no policy's (a full socket), and for
//! one that a firewall drops and that is counted. Beside none, one and two empty programs on the same tracepoint: flowlogd
//! needs two, and the kernel calls a lone one in a cheaper way.

use anyhow::{Result, ensure};
use flowlogd::capture::Capture;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;

use crate::flood::{Flows, flood};
use crate::report::{Cell, Table};
use crate::{Settings, min_median, packet_sizes};

const FLOWS: Flows = Flows { sources: 512, targets: 1 };

#[derive(Clone, Copy, Debug)]
enum Load {
    Nothing,
    Empty,
    TwoEmpty,
    Verdicts,
}

const LOADS: [Load; 4] = [Load::Nothing, Load::Empty, Load::TwoEmpty, Load::Verdicts];

/// Nanoseconds of a datagram from its sender to its end.
fn measure(pair: &Pair, load: Load, count: u64, is_policy: bool) -> Result<f64> {
    // Opened where the drops are: only this namespace's are counted.
    let mut capture = pair.b.enter(|| Ok(Capture::open(packet_sizes())?))?;
    match load {
        Load::Nothing => {}
        Load::Empty => capture.watch_nothing(1)?,
        Load::TwoEmpty => capture.watch_nothing(2)?,
        Load::Verdicts => capture.watch_drops()?,
    }
    let nanoseconds = 1e9 / flood(pair, FLOWS, count)?;
    let (drained, _) = capture.drain_timed()?;
    let counted: u64 = drained.drops.iter().map(|dropped| dropped.flow.packets).sum();
    let expected = if is_policy && matches!(load, Load::Verdicts) { count } else { 0 };
    ensure!(counted >= expected && (expected > 0) == (counted > 0), "{counted} of {expected} drops counted");
    Ok(nanoseconds)
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (count, rounds) = if settings.quick { (200_000, 2) } else { (700_000, 5) };
    let pair = Pair::new()?;
    let _full = FLOWS.full_sockets(&pair)?;
    flood(&pair, FLOWS, count / 10)?;
    let mut table = Table::new(
        &format!("drops: ns per packet, min/median of {rounds} x {count} UDP datagrams of {} flows", FLOWS.count()),
        &["freed by", "no program", "one empty", "two empty", "flowlogd", "over two empty"],
    );
    for (name, is_policy) in [("a full socket", false), ("a firewall, counted", true)] {
        let _firewall = is_policy
            .then(|| {
                Firewall::new(&pair.b, "type filter hook input priority 0", &[("all", "meta l4proto udp", "drop")])
            })
            .transpose()?;
        let mut nanoseconds: [Vec<f64>; 4] = Default::default();
        for round in 0..rounds {
            // Each takes each place in turn.
            for turn in 0..LOADS.len() {
                let load = LOADS[(round + turn) % LOADS.len()];
                nanoseconds[load as usize].push(measure(&pair, load, count, is_policy)?);
            }
        }
        let [nothing, empty, two, verdicts] = [0, 1, 2, 3].map(|load| min_median(&nanoseconds[load]));
        let pair = |(min, median): (f64, f64)| Cell::text(format!("{min:.0}/{median:.0}"));
        let over = Cell::number(verdicts.0 - two.0, 0);
        table.row(vec![Cell::text(name), pair(nothing), pair(empty), pair(two), pair(verdicts), over]);
    }
    Ok(table)
}
