//! Aggregation windows: collects drains, closes them into one flow per key, and finds NODATA and SKIPDATA.
//! Must not know of clocks, interface names, files or exclusions.
//! Always: start <= first <= last <= end, one flow per key, and never NODATA beside a flow of the same interface.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::capture::flow::{Direction, Drained, Flow, InterfaceTotals, Total};
use crate::record::Status;

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
#[derive(Default)]
pub(crate) struct Windows {
    batches: Vec<Vec<Flow>>,
    totals: BTreeMap<(u32, Direction), InterfaceTotals>,
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
        let waiting: usize = self.batches.iter().skip(1).map(Vec::len).sum();
        if waiting > MERGE_EARLY.max(self.batches.first().map_or(0, Vec::len)) {
            let merged = merge(std::mem::take(&mut self.batches));
            self.batches.push(merged);
        }
    }

    /// `end` is inclusive: the window's last second, or the time of the stop. An `end` before `start` (the clock was
    /// set back) counts as `start`.
    pub(crate) fn close(&mut self, start: i64, end: i64) -> Closed {
        let end = end.max(start);
        let mut flows = merge(std::mem::take(&mut self.batches));
        for flow in &mut flows {
            flow.first = flow.first.clamp(start, end);
            flow.last = flow.last.clamp(flow.first, end);
        }
        Closed { start, end, flows, totals: std::mem::take(&mut self.totals).into_values().collect() }
    }
}

fn add_totals(sum: &mut InterfaceTotals, more: &InterfaceTotals) {
    sum.seen += more.seen;
    sum.non_ip += more.non_ip;
    sum.skipped += more.skipped;
    for (sum, more) in sum.unparsable.iter_mut().zip(more.unparsable) {
        *sum += more;
    }
}

/// Keys are distinct within a batch, so a lone batch needs no hashing, nor does the largest need comparing.
fn merge(mut batches: Vec<Vec<Flow>>) -> Vec<Flow> {
    let Some(largest) = (0..batches.len()).max_by_key(|&at| batches[at].len()) else { return Vec::new() };
    let mut flows = batches.swap_remove(largest);
    if batches.is_empty() {
        return flows;
    }
    let hasher = DefaultHashBuilder::default();
    // Holds places in `flows` and not keys: a key twice over would cost 50 bytes a flow.
    let mut places: HashTable<usize> = HashTable::with_capacity(flows.len());
    for (at, flow) in flows.iter().enumerate() {
        places.insert_unique(hasher.hash_one(flow.key), at, |&at| hasher.hash_one(flows[at].key));
    }
    for flow in batches.into_iter().flatten() {
        let hash = hasher.hash_one(flow.key);
        match places.find(hash, |&at| flows[at].key == flow.key) {
            Some(&at) => flows[at].merge(&flow),
            None => {
                places.insert_unique(hash, flows.len(), |&at| hasher.hash_one(flows[at].key));
                flows.push(flow);
            }
        }
    }
    flows
}

/// Flows + excluded + skipped + non-IP + unparsable - seen, as (packets, bytes). Zero, or packets went missing.
pub(crate) fn sum_error(closed: &Closed, excluded: Total) -> (i128, i128) {
    let mut packets = i128::from(excluded.packets);
    let mut bytes = i128::from(excluded.bytes);
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

/// Remembers which interfaces ever had traffic: AWS writes nothing at all before an interface's first traffic.
#[derive(Default)]
pub(crate) struct Activity {
    known: BTreeSet<u32>,
}

impl Activity {
    /// NODATA and SKIPDATA of one window, by ifindex. Traffic is what `closed.flows` holds, so excluded traffic alone
    /// is NODATA (AWS does not say; it is no traffic to a flow log). SKIPDATA stands beside the normal lines, for AWS
    /// writes one for many lost flows; NODATA never stands beside anything.
    pub(crate) fn judge(&mut self, closed: &Closed, tracked: &BTreeSet<u32>) -> Vec<(u32, Status)> {
        let mut active: BTreeSet<u32> = BTreeSet::new();
        let mut last = None;
        for flow in &closed.flows {
            // Neighbours are mostly of one interface; saves a lookup for each of a million flows.
            if last.replace(flow.key.ifindex) != Some(flow.key.ifindex) {
                active.insert(flow.key.ifindex);
            }
        }
        let skipped: BTreeSet<u32> =
            closed.totals.iter().filter(|totals| totals.skipped.packets > 0).map(|totals| totals.ifindex).collect();
        active.extend(&skipped);

        let mut statuses: Vec<_> = skipped.iter().map(|&ifindex| (ifindex, Status::SkipData)).collect();
        let silent = self.known.iter().filter(|ifindex| tracked.contains(ifindex) && !active.contains(ifindex));
        statuses.extend(silent.map(|&ifindex| (ifindex, Status::NoData)));

        self.known.extend(active);
        self.known.retain(|ifindex| tracked.contains(ifindex));
        statuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{FlowKey, Verdict};

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
        Flow { key, packets, bytes: packets * 100, first, last, tcp_flags }
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
        }
    }

    fn closed(flows: Vec<Flow>, totals: Vec<InterfaceTotals>) -> Closed {
        Closed { start: 0, end: 59, flows, totals }
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
        windows.absorb(Drained { batches: vec![vec![flow(1, 1, 2, 5, 9, 2)], vec![]], totals: vec![totals(1, 2, 0)] });
        windows.absorb(Drained {
            batches: vec![vec![flow(1, 2, 1, 6, 6, 0), flow(1, 1, 3, 3, 20, 1), flow(2, 1, 1, 7, 7, 4)]],
            totals: vec![totals(1, 5, 1), totals(2, 1, 0)],
        });
        let mut got = windows.close(0, 59);
        got.flows.sort_by_key(|flow| (flow.key.ifindex, flow.key.src_port));
        let flows = vec![flow(1, 1, 5, 3, 20, 3), flow(1, 2, 1, 6, 6, 0), flow(2, 1, 1, 7, 7, 4)];
        assert_eq!(got, closed(flows, vec![totals(1, 7, 1), totals(2, 1, 0)]));
        assert_eq!(sum_error(&got, total(0)), (0, 0));
        assert_eq!(windows.close(60, 119), Closed { start: 60, end: 119, flows: vec![], totals: vec![] });
    }

    #[test]
    fn merges_early_without_loss() {
        let mut windows = Windows::default();
        let batch: Vec<Flow> = (0..40_000).map(|port| flow(1, port, 1, 1, 1, 0)).collect();
        for _ in 0..5 {
            windows.absorb(Drained { batches: vec![batch.clone()], totals: vec![totals(1, 40_000, 0)] });
            assert!(windows.batches.len() <= 3);
        }
        let got = windows.close(0, 59);
        assert_eq!((got.flows.len(), sum_error(&got, total(0))), (40_000, (0, 0)));
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
            windows.absorb(Drained { batches: vec![vec![flow(1, 1, 1, first, last, 0)]], totals: vec![] });
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
        assert_eq!(sum_error(&window, total(5)), (0, 0));
        assert_eq!(sum_error(&window, total(0)), (-5, -500));
        assert_eq!(sum_error(&window, total(6)), (1, 100));
    }

    #[test]
    fn statuses_over_time() {
        use Status::{NoData, SkipData};
        type Row = (&'static [u32], &'static [u32], &'static [u32], &'static [(u32, Status)]);
        let rows: [Row; 9] = [
            // (flows on, skips on, tracked, statuses)
            (&[], &[], &[1, 2], &[]),
            (&[1], &[], &[1, 2], &[]),
            (&[], &[], &[1, 2], &[(1, NoData)]),
            (&[1], &[1], &[1, 2], &[(1, SkipData)]),
            (&[1], &[2], &[1, 2], &[(2, SkipData)]),
            (&[], &[], &[1, 2], &[(1, NoData), (2, NoData)]),
            (&[], &[], &[2], &[(2, NoData)]),
            // Came back: a new interface, so nothing before its first traffic.
            (&[2], &[], &[1, 2], &[]),
            (&[], &[], &[1, 2], &[(2, NoData)]),
        ];
        let mut activity = Activity::default();
        for (at, (flows, skips, tracked, want)) in rows.into_iter().enumerate() {
            let window = closed(
                flows.iter().map(|&ifindex| flow(ifindex, 1, 1, 0, 0, 0)).collect(),
                skips.iter().map(|&ifindex| totals(ifindex, 9, 1)).collect(),
            );
            assert_eq!(activity.judge(&window, &tracked.iter().copied().collect()), want, "row {at}");
        }
    }
}
