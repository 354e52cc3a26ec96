//! Sums since the start: for the closing line, and for whoever asks.
//! Must not know what is open or not drained yet.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::capture::flow::{Direction, Verdict};
use crate::pipeline::{Slice, Summary};
use crate::status::{Side, Window};

#[derive(Default)]
pub(super) struct Tally {
    pub(super) windows: u64,
    pub(super) with_error: u64,
    pub(super) total: Summary,
    pub(super) last: Option<Window>,
    /// By interface id: an index may be another interface's by now.
    pub(super) sides: BTreeMap<String, [Side; 2]>,
    pub(super) drains: u64,
    pub(super) drain_time: Duration,
    pub(super) last_drain: Duration,
    /// Windows of interfaces whose programs somebody took off.
    pub(super) unhooked: u64,
    pub(super) clock_steps: u64,
}

fn at(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

impl Tally {
    pub(super) fn drained(&mut self, took: Duration) {
        self.drains += 1;
        self.drain_time += took;
        self.last_drain = took;
    }

    /// What became of a slice.
    pub(super) fn add(&mut self, slice: &Slice, summary: &Summary) {
        let id_of = |ifindex: u32| slice.names.get(&ifindex).map(|named| named.id.clone());
        for totals in &slice.totals {
            if let Some(id) = id_of(totals.ifindex) {
                self.sides.entry(id).or_default()[at(totals.direction)].add(totals);
            }
        }
        for (&(ifindex, direction, verdict), &logged) in &slice.logged {
            let Some(id) = id_of(ifindex) else { continue };
            let side = &mut self.sides.entry(id).or_default()[at(direction)];
            let sum = if verdict == Verdict::Accept { &mut side.accepted } else { &mut side.rejected };
            *sum += logged;
        }
        self.last = Some(Window {
            start: slice.start,
            end: slice.end,
            seen: summary.seen,
            error_packets: narrow(summary.sum_error.0),
            error_bytes: narrow(summary.sum_error.1),
        });
    }

    /// Forgets interfaces that are gone.
    pub(super) fn keep(&mut self, ids: &BTreeSet<&str>) {
        self.sides.retain(|id, _| ids.contains(id.as_str()));
    }
}

pub(super) fn narrow(wide: i128) -> i64 {
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}
