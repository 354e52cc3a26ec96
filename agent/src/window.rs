//! Aggregation windows: collects drains, closes them into one flow per key, and finds interfaces
//! that had traffic or are short of some.
//! Must not know of clocks, interface names, files or exclusions.
//! Always: start <= first <= last <= end, one flow per key.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use serde::{Deserialize, Serialize};

use crate::capture::flow::{Direction, Drained, Dropped, Flow, FlowKey, InterfaceTotals, Total, Verdict};

/// Flows waiting beyond the first batch before they are merged early, so that many drains in a long window cannot
/// fill the memory.
const MERGE_EARLY: usize = 1 << 16;

/// First and last second of the window that holds `now`. Windows are multiples of the interval in wall-clock time.
/// The last second belongs to the window and the next starts one later: S3 objects are named after 5-minute slots of
/// `end`, and a window that printed S+I would fall into the next slot.
pub(crate) fn window_at(now: i64, interval: u32) -> (i64, i64) {
    let length = i64::from(interval.max(1));
    let start = now - now.rem_euclid(length);
    (start, start + length - 1)
}

/// Drains of the window that is open.
#[derive(Clone, Default)]
pub(crate) struct Windows {
    batches: Vec<Vec<Flow>>,
    totals: BTreeMap<(u32, Direction), InterfaceTotals>,
    drops: Vec<Dropped>,
}

/// A window with nothing more to come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) start: i64,
    /// Inclusive.
    pub(crate) end: i64,
    pub(crate) flows: Vec<Flow>,
    /// One per interface and direction, in that order.
    pub(crate) totals: Vec<InterfaceTotals>,
    /// What a policy dropped; a key may recur.
    pub(crate) drops: Vec<Dropped>,
}

impl Windows {
    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.batches.extend(drained.batches.into_iter().filter(|batch| !batch.is_empty()));
        for totals in drained.totals {
            self.totals
                .entry((totals.ifindex, totals.direction))
                .and_modify(|sum| add_totals(sum, &totals))
                .or_insert(totals);
        }
        self.drops.extend(drained.drops);
        let waiting: usize = self.batches.iter().skip(1).map(Vec::len).sum();
        if waiting > MERGE_EARLY.max(self.batches.first().map_or(0, Vec::len)) {
            let merged = merge(std::mem::take(&mut self.batches), |_| ());
            self.batches.push(merged);
        }
    }

    /// Of what was absorbed so far.
    pub(crate) fn totals(&self) -> impl Iterator<Item = &InterfaceTotals> {
        self.totals.values()
    }

    /// `end` is inclusive: the window's last second, or the time of the stop. An `end` before `start` (the clock was
    /// set back) counts as `start`.
    pub(crate) fn close(&mut self, start: i64, end: i64) -> Closed {
        let end = end.max(start);
        let clamp = |flow: &mut Flow| clamp(flow, start, end);
        let flows = merge(std::mem::take(&mut self.batches), clamp);
        let mut drops = std::mem::take(&mut self.drops);
        drops.iter_mut().for_each(|dropped| clamp(&mut dropped.flow));
        Closed { start, end, flows, totals: std::mem::take(&mut self.totals).into_values().collect(), drops }
    }
}

/// Into the window.
pub(crate) fn clamp(flow: &mut Flow, start: i64, end: i64) {
    flow.first = flow.first.clamp(start, end);
    flow.last = flow.last.clamp(flow.first, end);
}

fn add_totals(sum: &mut InterfaceTotals, more: &InterfaceTotals) {
    sum.seen += more.seen;
    sum.non_ip += more.non_ip;
    sum.skipped += more.skipped;
    sum.drops_skipped += more.drops_skipped;
    sum.buffers += more.buffers;
    for (sum, more) in sum.unparsable.iter_mut().zip(more.unparsable) {
        *sum += more;
    }
}

/// One flow per key, each `finish`ed. Keys are distinct within a batch, so a lone batch needs no hashing, and of several
/// the largest is only held against an index of the others: mostly a drain's tables against its overflow hash.
fn merge(mut batches: Vec<Vec<Flow>>, finish: impl Fn(&mut Flow)) -> Vec<Flow> {
    let Some(largest) = (0..batches.len()).max_by_key(|&at| batches[at].len()) else { return Vec::new() };
    let mut flows = batches.swap_remove(largest);
    let mut others = Index::new(batches);
    // In one pass: a million flows do not stay in the cache.
    for flow in &mut flows {
        others.take_into(flow);
        finish(flow);
    }
    flows.extend(others.left().map(|mut flow| {
        finish(&mut flow);
        flow
    }));
    flows
}

/// Flows by key.
struct Index {
    flows: Vec<Flow>,
    places: HashTable<Place>,
    hasher: DefaultHashBuilder,
}

/// Where a flow is, and not its key: a key twice over would cost 48 bytes a flow.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    /// Other bits than those the table tells entries apart by, so that hardly a flow is looked at in vain.
    hash_high: u32,
}

/// By reference: the copy of a key would be read again before the processor has written it, which takes 10 ns.
fn hash_of(hasher: &DefaultHashBuilder, key: &FlowKey) -> u64 {
    hasher.hash_one(key)
}

impl Place {
    fn holds(self, flows: &[Flow], hash: u64, key: &FlowKey) -> bool {
        self.hash_high == (hash >> 32) as u32 && flows[self.at as usize].key == *key
    }
}

impl Index {
    fn new(batches: Vec<Vec<Flow>>) -> Self {
        let count = batches.iter().map(Vec::len).sum();
        let (flows, places) = (Vec::with_capacity(count), HashTable::with_capacity(count));
        let mut index = Self { flows, places, hasher: DefaultHashBuilder::default() };
        for flow in batches.into_iter().flatten() {
            index.add(flow);
        }
        index
    }

    fn add(&mut self, flow: Flow) {
        let Self { flows, places, hasher } = self;
        let hash = hash_of(hasher, &flow.key);
        if let Some(place) = places.find(hash, |place| place.holds(flows, hash, &flow.key)) {
            flows[place.at as usize].merge(&flow);
            return;
        }
        let place = Place { at: flows.len() as u32, hash_high: (hash >> 32) as u32 };
        places.insert_unique(hash, place, |place| hash_of(hasher, &flows[place.at as usize].key));
        flows.push(flow);
    }

    /// Moves the counterpart of `flow` into it.
    #[inline]
    fn take_into(&mut self, flow: &mut Flow) {
        let Self { flows, places, hasher } = self;
        if flows.is_empty() {
            return;
        }
        let hash = hash_of(hasher, &flow.key);
        if let Ok(found) = places.find_entry(hash, |place| place.holds(flows, hash, &flow.key)) {
            flow.merge(&flows[found.remove().0.at as usize]);
        }
    }

    /// What has not been taken.
    fn left(self) -> impl Iterator<Item = Flow> {
        self.places.into_iter().map(move |place| self.flows[place.at as usize])
    }
}

/// Flows + excluded + skipped + non-IP + unparsable - seen, as (packets, bytes). Zero, or packets went missing.
/// `unseen`: the part of the flows and the excluded that the classifier did not see.
pub(crate) fn sum_error(closed: &Closed, excluded: Total, unseen: Total) -> (i128, i128) {
    let mut packets = i128::from(excluded.packets) - i128::from(unseen.packets);
    let mut bytes = i128::from(excluded.bytes) - i128::from(unseen.bytes);
    for flow in &closed.flows {
        packets += i128::from(flow.packets);
        bytes += i128::from(flow.bytes);
    }
    for totals in &closed.totals {
        for part in totals.unparsable.iter().chain([&totals.non_ip, &totals.skipped]) {
            packets += i128::from(part.packets);
            bytes += i128::from(part.bytes);
        }
        packets -= i128::from(totals.seen.packets);
        bytes -= i128::from(totals.seen.bytes);
    }
    (packets, bytes)
}

/// Flows, each once in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    pub(crate) flows: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl std::ops::AddAssign for Logged {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Sums by interface, direction and verdict; what is here had traffic. Traffic that is excluded is no traffic to a flow log.
pub(crate) type LoggedBy = BTreeMap<(u32, Direction, Verdict), Logged>;

pub(crate) fn logged(closed: &Closed) -> LoggedBy {
    let mut by = LoggedBy::new();
    let mut flows = closed.flows.iter().peekable();
    while let Some(first) = flows.next() {
        let key_of = |flow: &Flow| (flow.key.ifindex, flow.key.direction, flow.key.verdict);
        let one = |flow: &Flow| Logged { flows: 1, packets: flow.packets, bytes: flow.bytes };
        let mut sum = one(first);
        // Neighbours are mostly of one interface; saves a lookup for each of a million flows.
        while let Some(next) = flows.next_if(|next| key_of(next) == key_of(first)) {
            sum += one(next);
        }
        *by.entry(key_of(first)).or_default() += sum;
    }
    by
}

/// Interfaces with packets that are in no flow. `gaps`: whose packets nobody counted for a while.
pub(crate) fn skipped(closed: &Closed, gaps: &BTreeSet<u32>) -> BTreeSet<u32> {
    let is_short = |totals: &&InterfaceTotals| totals.skipped.packets + totals.drops_skipped.packets > 0;
    let short = closed.totals.iter().filter(is_short).map(|totals| totals.ifindex);
    short.chain(gaps.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::Buffers;

    fn flow(ifindex: u32, port: u16, packets: u64, first: i64, last: i64, tcp_flags: u8) -> Flow {
        let key = FlowKey {
            ifindex,
            direction: Direction::Ingress,
            verdict: Verdict::Accept,
            protocol: 6,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: port,
            dst_port: 443,
        };
        Flow { key, packets, bytes: packets * 100, first, last, tcp_flags, reason: 0 }
    }

    fn total(packets: u64) -> Total {
        Total { packets, bytes: packets * 100 }
    }

    fn totals(ifindex: u32, seen: u64, skipped: u64) -> InterfaceTotals {
        InterfaceTotals {
            ifindex,
            direction: Direction::Ingress,
            seen: total(seen),
            non_ip: total(0),
            unparsable: [total(0); 3],
            skipped: total(skipped),
            drops_skipped: total(0),
            buffers: Buffers::default(),
        }
    }

    fn closed(flows: Vec<Flow>, totals: Vec<InterfaceTotals>) -> Closed {
        Closed { start: 0, end: 59, flows, totals, drops: Vec::new() }
    }

    #[test]
    fn windows_are_multiples_of_the_interval() {
        for (now, interval, want) in [
            (0, 60, (0, 59)),
            (59, 60, (0, 59)),
            (60, 60, (60, 119)),
            (1_418_530_010, 60, (1_418_529_960, 1_418_530_019)),
            (1_418_530_010, 600, (1_418_529_600, 1_418_530_199)),
            (-1, 60, (-60, -1)),
            (7, 0, (7, 7)),
        ] {
            assert_eq!(window_at(now, interval), want, "{now} {interval}");
        }
    }

    #[test]
    fn merges_by_key() {
        let mut windows = Windows::default();
        windows.absorb(Drained {
            batches: vec![vec![flow(1, 1, 2, 5, 9, 2)], vec![]],
            totals: vec![totals(1, 2, 0)],
            drops: vec![],
        });
        windows.absorb(Drained {
            batches: vec![vec![flow(1, 2, 1, 6, 6, 0), flow(1, 1, 3, 3, 20, 1), flow(2, 1, 1, 7, 7, 4)]],
            totals: vec![totals(1, 5, 1), totals(2, 1, 0)],
            drops: vec![],
        });
        let mut got = windows.close(0, 59);
        got.flows.sort_by_key(|flow| (flow.key.ifindex, flow.key.src_port));
        let flows = vec![flow(1, 1, 5, 3, 20, 3), flow(1, 2, 1, 6, 6, 0), flow(2, 1, 1, 7, 7, 4)];
        assert_eq!(got, closed(flows, vec![totals(1, 7, 1), totals(2, 1, 0)]));
        assert_eq!(sum_error(&got, total(0), total(0)), (0, 0));
        assert_eq!(
            windows.close(60, 119),
            Closed { start: 60, end: 119, flows: vec![], totals: vec![], drops: vec![] }
        );
    }

    /// Ports of each batch, and packets by port after the merge.
    fn assert_merges(batches: &[&[u16]], want: &[(u16, u64)]) {
        // Each batch has another number of packets, so that none can stand for another.
        let flows = |(at, ports): (u32, &&[u16])| {
            ports.iter().map(|&port| flow(1, port, 1 << (8 * at), i64::from(at), 9, 1 << at)).collect()
        };
        let batches: Vec<Vec<Flow>> = (0..).zip(batches).map(flows).collect();
        let mut got = merge(batches, |flow| flow.last += 1);
        got.sort_by_key(|flow| flow.key.src_port);
        let flow = |&(port, packets): &(u16, u64)| {
            let first = i64::from(packets.trailing_zeros() / 8);
            let tcp_flags = (0..3).filter(|at| packets >> (8 * at) & 1 == 1).map(|at| 1 << at).sum();
            flow(1, port, packets, first, 10, tcp_flags)
        };
        assert_eq!(got, want.iter().map(flow).collect::<Vec<_>>());
    }

    #[test]
    fn merges_batches_of_any_size_in_any_order() {
        assert_merges(&[], &[]);
        assert_merges(&[&[2, 1]], &[(1, 1), (2, 1)]);
        // In two, in the largest and another, in all three, in one alone; the largest first, in the middle, last.
        let want = |large: u64, one: u64, two: u64| {
            [(1, large), (2, large | one), (3, large | two), (4, large | one | two), (5, one | two), (6, one), (7, two)]
        };
        let (large, one, two): (&[u16], &[u16], &[u16]) = (&[4, 3, 2, 1], &[6, 5, 4, 2], &[7, 3, 5, 4]);
        let large = &[large, &[8]].concat();
        let and_8 = |rows: [(u16, u64); 7], large| [&rows[..], &[(8, large)]].concat();
        assert_merges(&[large, one, two], &and_8(want(1, 1 << 8, 1 << 16), 1));
        assert_merges(&[one, large, two], &and_8(want(1 << 8, 1, 1 << 16), 1 << 8));
        assert_merges(&[one, two, large], &and_8(want(1 << 16, 1, 1 << 8), 1 << 16));
    }

    #[test]
    fn keys_that_differ_in_one_field_stay_apart() {
        let base = flow(1, 80, 1, 0, 0, 0);
        let mut flows = vec![base; 9];
        flows[1].key.ifindex = 2;
        flows[2].key.direction = Direction::Egress;
        flows[3].key.verdict = Verdict::Reject;
        flows[4].key.protocol = 17;
        (flows[5].key.src, flows[5].key.dst) = (base.key.dst, base.key.src);
        flows[6].key.src = [10, 0, 0, 3].into();
        (flows[7].key.src_port, flows[7].key.dst_port) = (443, 80);
        flows[8].key.dst = "2001:db8::1".parse().unwrap();
        let merged = merge(vec![flows.clone(), flows.clone(), flows.clone()], |_| ());
        assert_eq!(merged.len(), flows.len());
        assert!(merged.iter().zip(&flows).all(|(got, flow)| got.key == flow.key && got.packets == 3));
    }

    #[test]
    fn merges_early_without_loss() {
        let mut windows = Windows::default();
        let batch: Vec<Flow> = (0..40_000).map(|port| flow(1, port, 1, 1, 1, 0)).collect();
        for _ in 0..5 {
            windows.absorb(Drained { batches: vec![batch.clone()], totals: vec![totals(1, 40_000, 0)], drops: vec![] });
            assert!(windows.batches.len() <= 3);
        }
        let got = windows.close(0, 59);
        assert_eq!((got.flows.len(), sum_error(&got, total(0), total(0))), (40_000, (0, 0)));
        assert!(got.flows.iter().all(|flow| flow.packets == 5));
    }

    #[test]
    fn times_stay_inside_the_window() {
        for (first, last, end, want) in [
            (100, 130, 159, (100, 130)),
            (90, 130, 159, (100, 130)),
            (90, 95, 159, (100, 100)),
            (110, 170, 159, (110, 159)),
            (170, 180, 159, (159, 159)),
            (130, 110, 159, (130, 130)),
            (110, 120, 99, (100, 100)),
        ] {
            let mut windows = Windows::default();
            windows.absorb(Drained {
                batches: vec![vec![flow(1, 1, 1, first, last, 0)]],
                totals: vec![],
                drops: vec![],
            });
            let got = windows.close(100, end).flows[0];
            assert_eq!((got.first, got.last), want, "{first} {last} {end}");
        }
    }

    #[test]
    fn sum_error_counts_every_part() {
        let mut one = totals(1, 100, 4);
        one.non_ip = total(3);
        one.unparsable = [total(1), total(2), total(5)];
        let window = closed(vec![flow(1, 1, 80, 0, 0, 0)], vec![one]);
        assert_eq!(sum_error(&window, total(5), total(0)), (0, 0));
        assert_eq!(sum_error(&window, total(0), total(0)), (-5, -500));
        assert_eq!(sum_error(&window, total(6), total(0)), (1, 100));
        // Drops on the way out are in records, and were never seen.
        assert_eq!(sum_error(&window, total(6), total(1)), (0, 0));
    }

    #[test]
    fn who_had_traffic_and_who_is_short() {
        let mut window =
            closed(vec![flow(1, 1, 1, 0, 0, 0), flow(4, 1, 1, 0, 0, 0)], vec![totals(1, 9, 0), totals(2, 9, 1)]);
        let active = logged(&window).into_keys().map(|(ifindex, ..)| ifindex);
        assert!(active.eq([1, 4]));
        assert_eq!(skipped(&window, &BTreeSet::from([3])), BTreeSet::from([2, 3]));
        window.totals[0].drops_skipped = total(1);
        assert_eq!(skipped(&window, &BTreeSet::new()), BTreeSet::from([1, 2]));
    }
}
