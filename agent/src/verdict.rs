//! ACCEPT and REJECT: moves what a policy dropped out of the accepted flow that counted it.
//! Pure. Must not know where drops come from nor what they are called.
//! Always: a packet is in one record. Nothing goes below zero: what finds no counterpart is kept for the next window,
//! since a drop may be drained one epoch before its packet, and then given up and counted.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::capture::flow::{Dropped, Flow, FlowKey, Total, Verdict};

/// What one window's verdicts came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// In records with REJECT.
    pub(crate) rejected: Total,
    /// The part of it that the classifier never saw, and so is not in the sum rule.
    pub(crate) unseen: Total,
    /// Drops whose packets were in no accepted flow of their window or the next: translated or reassembled ones.
    pub(crate) unmatched: Total,
}

/// Drops that wait for their packets, from one window to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts {
    waiting: Vec<Flow>,
}

fn total(flow: &Flow) -> Total {
    Total { packets: flow.packets, bytes: flow.bytes }
}

fn accepted(key: &FlowKey) -> FlowKey {
    FlowKey { verdict: Verdict::Accept, ..*key }
}

impl Verdicts {
    /// `flows` are accepted ones, one per key. Adds the rejected ones, one per key.
    pub(crate) fn apply(&mut self, flows: &mut Vec<Flow>, drops: Vec<Dropped>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rejected: HashMap<FlowKey, Flow> = HashMap::new();
        let mut counted: HashMap<FlowKey, Pair> = HashMap::new();
        for flow in std::mem::take(&mut self.waiting) {
            counted.entry(accepted(&flow.key)).or_default().add(flow, true);
        }
        for Dropped { flow, counted: is_counted } in drops {
            if is_counted {
                counted.entry(accepted(&flow.key)).or_default().add(flow, false);
            } else {
                outcome.unseen += total(&flow);
                add(&mut rejected, flow);
            }
        }
        if !counted.is_empty() {
            flows.retain_mut(|flow| {
                if let Some(pair) = counted.get_mut(&flow.key) {
                    for dropped in [&mut pair.old, &mut pair.new].into_iter().flatten() {
                        if let Some(moved) = take(flow, dropped) {
                            add(&mut rejected, moved);
                        }
                    }
                }
                flow.packets > 0
            });
        }
        for Pair { old, new } in counted.into_values() {
            if let Some(old) = old.filter(|flow| flow.packets > 0) {
                outcome.unmatched += total(&old);
            }
            self.waiting.extend(new.filter(|flow| flow.packets > 0));
        }
        for flow in rejected.values() {
            outcome.rejected += total(flow);
        }
        flows.extend(rejected.into_values());
        outcome
    }

    /// What was [`Self::carried`] from the window before.
    pub(crate) fn carry(&mut self, drops: Vec<Dropped>) {
        self.waiting.extend(drops.into_iter().map(|dropped| dropped.flow));
    }

    /// Drops that wait for the next window, as a drain has them.
    pub(crate) fn carried(&self) -> Vec<Dropped> {
        self.waiting.iter().map(|&flow| Dropped { flow, counted: true }).collect()
    }

    /// Drops that still wait, when there is no next window.
    pub(crate) fn waiting(&self) -> Total {
        let mut sum = Total::default();
        for flow in &self.waiting {
            sum += total(flow);
        }
        sum
    }
}

/// What was dropped under one key: what waited since the last window, and what came in this one.
#[derive(Default)]
struct Pair {
    old: Option<Flow>,
    new: Option<Flow>,
}

impl Pair {
    fn add(&mut self, flow: Flow, waited: bool) {
        let slot = if waited { &mut self.old } else { &mut self.new };
        match slot {
            Some(sum) => sum.merge(&flow),
            None => *slot = Some(flow),
        }
    }
}

fn add(flows: &mut HashMap<FlowKey, Flow>, flow: Flow) {
    flows.entry(flow.key).and_modify(|sum| sum.merge(&flow)).or_insert(flow);
}

/// The shortest IP header.
const HEADER_LEN: u64 = 20;
const HEADER6_LEN: u64 = 40;
/// What every link carries whole (RFC 791, RFC 8200).
const FITS: u64 = 576;
const FITS6: u64 = 1280;
/// In every IPv6 fragment, also the first.
const FRAGMENT_HEADER_LEN: u64 = 8;

/// Whether what would stay is the headers of fragments that were dropped as one, to the byte: less strict, packets that
/// were let through beside larger refused ones would be taken for such headers. Only datagrams that need not fit a link
/// are fragmented at all.
fn reassembled(flow: &Flow, dropped: &Flow) -> bool {
    let left = flow.packets.saturating_sub(dropped.packets);
    let (headers, fits) = if flow.key.src.is_ipv4() {
        (left * HEADER_LEN, FITS)
    } else {
        (left * HEADER6_LEN + flow.packets * FRAGMENT_HEADER_LEN, FITS6)
    };
    left > 0 && dropped.bytes > dropped.packets * fits && flow.bytes == dropped.bytes + headers
}

/// Moves as much of `dropped` as `flow` holds out of both.
fn take(flow: &mut Flow, dropped: &mut Flow) -> Option<Flow> {
    if dropped.packets > 0 && reassembled(flow, dropped) {
        dropped.packets = flow.packets;
    }
    let packets = flow.packets.min(dropped.packets);
    if packets == 0 {
        return None;
    }
    // The last packets take all bytes along; before that, those that stay keep at least their IP headers.
    let left = flow.packets - packets;
    let bytes = if left == 0 { flow.bytes } else { dropped.bytes.min(flow.bytes.saturating_sub(left * HEADER_LEN)) };
    flow.packets -= packets;
    flow.bytes -= bytes;
    let moved = Flow { packets, bytes, ..*dropped };
    dropped.packets -= packets;
    dropped.bytes = dropped.bytes.saturating_sub(bytes);
    Some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::Direction;

    fn flow(verdict: Verdict, port: u16, packets: u64, bytes: u64) -> Flow {
        let key = FlowKey {
            ifindex: 2,
            direction: Direction::Ingress,
            verdict,
            protocol: 6,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: 40000,
            dst_port: port,
        };
        let reason = if verdict == Verdict::Reject { 12 } else { 0 };
        Flow { key, packets, bytes, first: 100, last: 110, tcp_flags: 2, reason }
    }

    fn dropped(port: u16, packets: u64, bytes: u64, counted: bool) -> Dropped {
        Dropped { flow: flow(Verdict::Reject, port, packets, bytes), counted }
    }

    fn totals(packets: u64, bytes: u64) -> Total {
        Total { packets, bytes }
    }

    fn sorted(mut flows: Vec<Flow>) -> Vec<(Verdict, u16, u64, u64)> {
        flows.sort_by_key(|flow| (flow.key.verdict, flow.key.dst_port));
        flows.iter().map(|flow| (flow.key.verdict, flow.key.dst_port, flow.packets, flow.bytes)).collect()
    }

    #[test]
    fn drops_move_out_of_accept() {
        let mut flows = vec![flow(Verdict::Accept, 80, 10, 600), flow(Verdict::Accept, 22, 3, 180)];
        // Port 23 was dropped on its way out: nobody has counted it.
        let drops = vec![
            dropped(80, 2, 120, true),
            dropped(80, 1, 60, true),
            dropped(22, 3, 180, true),
            dropped(23, 5, 300, false),
        ];
        let outcome = Verdicts::default().apply(&mut flows, drops);
        let unseen = totals(5, 300);
        assert_eq!(outcome, Outcome { rejected: totals(11, 660), unseen, unmatched: totals(0, 0) });
        let want = [
            (Verdict::Accept, 80, 7, 420),
            (Verdict::Reject, 22, 3, 180),
            (Verdict::Reject, 23, 5, 300),
            (Verdict::Reject, 80, 3, 180),
        ];
        assert_eq!(sorted(flows), want);
    }

    #[test]
    fn a_drop_waits_one_window_for_its_packet() {
        let mut verdicts = Verdicts::default();
        let mut flows = vec![flow(Verdict::Accept, 80, 1, 60)];
        let outcome = verdicts.apply(&mut flows, vec![dropped(80, 3, 180, true)]);
        assert_eq!(outcome.unmatched, totals(0, 0));
        assert_eq!(sorted(flows), [(Verdict::Reject, 80, 1, 60)]);
        assert_eq!(verdicts.waiting(), totals(2, 120));

        let mut flows = vec![flow(Verdict::Accept, 80, 1, 60)];
        let outcome = verdicts.apply(&mut flows, Vec::new());
        assert_eq!((outcome.rejected, outcome.unmatched), (totals(1, 60), totals(1, 60)));
        assert_eq!(sorted(flows), [(Verdict::Reject, 80, 1, 60)]);
        assert_eq!(verdicts.waiting(), totals(0, 0));
    }

    #[test]
    fn nothing_goes_below_zero() {
        // A reassembled datagram is dropped once and was counted as three fragments; another one was let through.
        let mut flows = vec![flow(Verdict::Accept, 80, 6, 6120)];
        let mut verdicts = Verdicts::default();
        verdicts.apply(&mut flows, vec![dropped(80, 1, 3020, true)]);
        assert_eq!(sorted(flows), [(Verdict::Accept, 80, 5, 3100), (Verdict::Reject, 80, 1, 3020)]);
        let mut flows = vec![flow(Verdict::Accept, 80, 2, 120)];
        verdicts.apply(&mut flows, vec![dropped(80, 2, 100, true)]);
        assert_eq!(sorted(flows), [(Verdict::Reject, 80, 2, 120)]);
    }

    #[test]
    fn fragments_go_with_their_datagram() {
        let mut flows = vec![flow(Verdict::Accept, 80, 6, 6120)];
        let outcome = Verdicts::default().apply(&mut flows, vec![dropped(80, 2, 6040, true)]);
        assert_eq!(sorted(flows), [(Verdict::Reject, 80, 6, 6120)]);
        assert_eq!(outcome.unmatched, totals(0, 0));
        // Empty packets, half of them dropped.
        let mut flows = vec![flow(Verdict::Accept, 80, 6, 120)];
        Verdicts::default().apply(&mut flows, vec![dropped(80, 3, 60, true)]);
        assert_eq!(sorted(flows), [(Verdict::Accept, 80, 3, 60), (Verdict::Reject, 80, 3, 60)]);
    }

    #[test]
    fn packets_let_through_beside_larger_refused_ones_stay() {
        let mut of_v6 = flow(Verdict::Accept, 80, 2010, 2_088_400);
        (of_v6.key.src, of_v6.key.dst) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut refused = dropped(80, 2000, 2_080_000, true);
        (refused.flow.key.src, refused.flow.key.dst) = (of_v6.key.src, of_v6.key.dst);
        let mut flows = vec![of_v6];
        Verdicts::default().apply(&mut flows, vec![refused]);
        assert_eq!(sorted(flows), [(Verdict::Accept, 80, 10, 8_400), (Verdict::Reject, 80, 2000, 2_080_000)]);
    }

    #[test]
    fn one_record_per_key_and_the_reason_stays() {
        let mut flows = vec![flow(Verdict::Accept, 80, 9, 540)];
        let drops = vec![dropped(80, 1, 60, true), dropped(80, 2, 120, false)];
        Verdicts::default().apply(&mut flows, drops);
        assert_eq!(sorted(flows.clone()), [(Verdict::Accept, 80, 8, 480), (Verdict::Reject, 80, 3, 180)]);
        assert!(flows.iter().all(|flow| (flow.reason == 12) == (flow.key.verdict == Verdict::Reject)));
    }
}
