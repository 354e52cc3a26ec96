//! The way of a window: drains in, merged, verdicts told, exclusions out; then to every flow log.
//! Must not know how packets are counted, nor where records go.
//! Always: the sum is taken over everything seen, before anything is left out by choice of the user.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::capture::flow::{Drained, Flow, InterfaceTotals, Total, Verdict};
use crate::exclude::{self, Settings};
use crate::journal::{CARRIED, Closing, Frame, WindowId};
use crate::known::Known;
use crate::select::Named;
use crate::subscription::{Subscription, Taken};
use crate::verdict::{Outcome, Verdicts};
use crate::window::{self, Closed, LoggedBy, Windows};

mod open;

pub(crate) use open::{Open, Settled};

pub(crate) struct Pipeline {
    windows: Windows,
    verdicts: Verdicts,
    /// Interfaces that have had traffic: AWS writes nothing at all before an interface's first.
    known: BTreeSet<u32>,
    exclusions: Settings,
    /// Also those of the last window, for what an interface did before it went away.
    names: BTreeMap<u32, Named>,
    /// Interfaces of an earlier run whose index is another's now, or nobody's.
    strangers: BTreeMap<u32, Named>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// How many flow logs still need a window's journal.
    held: BTreeMap<WindowId, usize>,
}

/// A part of time that every flow log's windows are made of: as long as the greatest common divisor of their
/// intervals, or shorter.
pub(crate) struct Slice {
    pub(crate) start: i64,
    /// Inclusive.
    pub(crate) end: i64,
    /// Random, the same when it is replayed.
    pub(crate) number: u64,
    /// Where it is kept until every flow log has it.
    pub(crate) file: Option<WindowId>,
    /// The windows of all flow logs end with it.
    pub(crate) ends: bool,
    pub(crate) flows: Vec<Flow>,
    pub(crate) names: BTreeMap<u32, Named>,
    /// Interfaces with flows.
    pub(crate) active: BTreeSet<u32>,
    /// Everything that was seen.
    pub(crate) totals: Vec<InterfaceTotals>,
    /// What the flows come to.
    pub(crate) logged: LoggedBy,
    /// Interfaces with packets that are in no record.
    pub(crate) skipped: BTreeSet<u32>,
    gaps: BTreeSet<u32>,
    /// Interfaces whose silence is worth a record.
    pub(crate) known: BTreeSet<u32>,
    summary: Summary,
}

/// What became of a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Lines of any status, of all flow logs.
    pub(crate) records: u64,
    /// Flows not written for want of an interface id.
    pub(crate) unnamed: u64,
    pub(crate) seen: Total,
    /// Not logged: neither IPv4 nor IPv6, and what cannot be read.
    pub(crate) non_ip: Total,
    pub(crate) unparsable: Total,
    pub(crate) skipped: Total,
    /// A policy's drops that are not logged as such, for want of room.
    pub(crate) drops_skipped: Total,
    /// In records with REJECT, before exclusions.
    pub(crate) rejected: Total,
    /// Drops whose packets were in no accepted flow: translated or reassembled before they were dropped.
    pub(crate) unmatched: Total,
    pub(crate) excluded: Total,
    pub(crate) excluded_by: [Total; exclude::COUNT],
    /// Packets and bytes. Not (0, 0) is a bug of ours.
    pub(crate) sum_error: (i128, i128),
    /// Windows that cannot be put into their flow log's spool, and why.
    pub(crate) waiting: u64,
    pub(crate) error: Option<String>,
    /// Windows that need not be kept any longer.
    pub(crate) published: Vec<WindowId>,
    /// Given up because too much waited.
    pub(crate) lost_records: u64,
}

impl Pipeline {
    pub(crate) fn new(exclusions: Settings, subscriptions: Vec<Subscription>) -> Self {
        let (windows, verdicts, known, names, strangers, held) = Default::default();
        Self { windows, verdicts, known, exclusions, names, strangers, subscriptions, held }
    }

    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.windows.absorb(drained);
    }

    /// What was seen in the slice that is open, as far as it was drained.
    pub(crate) fn seen(&self) -> impl Iterator<Item = &InterfaceTotals> {
        self.windows.totals()
    }

    /// Drops that wait for their packets.
    pub(crate) fn drops_waiting(&self) -> Total {
        self.verdicts.waiting()
    }

    /// What a journal had kept.
    pub(crate) fn absorb_frame(&mut self, frame: Frame) {
        if frame.generation == CARRIED {
            self.verdicts.carry(frame.drained.drops);
        } else {
            self.absorb(frame.drained);
        }
    }

    /// The same, for the journal of the window that has begun.
    pub(crate) fn carried(&self) -> Option<Drained> {
        carried(&self.verdicts)
    }

    /// Ends a slice. `tracked` is what is captured, by ifindex; `gaps` are interfaces that were not counted for a while.
    /// `end` is inclusive. Nothing is published yet.
    pub(crate) fn close(
        &mut self,
        (start, end): (i64, i64),
        tracked: &BTreeMap<u32, Named>,
        gaps: BTreeSet<u32>,
        ends: bool,
    ) -> Slice {
        let mut closed = self.windows.close(start, end);
        let strangers = std::mem::take(&mut self.strangers);
        let is_ours = |ifindex: u32| tracked.contains_key(&ifindex) || strangers.contains_key(&ifindex);
        let (verdicts, excluded_by) = judge(&mut closed, &mut self.verdicts, is_ours, &self.exclusions);
        let mut summary = summarize(&closed, excluded_by, verdicts);

        let (logged, skipped) = (window::logged(&closed), window::skipped(&closed, &gaps));
        let active: BTreeSet<u32> = logged.keys().map(|(ifindex, ..)| *ifindex).collect();
        self.known.extend(active.union(&skipped));
        self.known.retain(|ifindex| tracked.contains_key(ifindex));
        let mut names = std::mem::replace(&mut self.names, tracked.clone());
        names.extend(tracked.iter().map(|(&ifindex, named)| (ifindex, named.clone())));
        names.extend(strangers);
        summary.unnamed = closed.flows.iter().filter(|flow| !names.contains_key(&flow.key.ifindex)).count() as u64;
        Slice {
            start: closed.start,
            end: closed.end,
            number: 0,
            file: None,
            ends,
            flows: closed.flows,
            names,
            active,
            totals: closed.totals,
            logged,
            skipped,
            gaps,
            known: self.known.clone(),
            summary,
        }
    }

    /// A slice of an earlier run, from its drains, and what of it the next one is to have. `closing`: as it was closed,
    /// if it was.
    pub(crate) fn replay(
        &mut self,
        frames: impl Iterator<Item = Frame>,
        span: (i64, i64),
        names: &BTreeMap<u32, Named>,
        closing: Option<Closing>,
    ) -> (Slice, Option<Drained>) {
        let (windows, verdicts) = (std::mem::take(&mut self.windows), std::mem::take(&mut self.verdicts));
        let (known, tracked) = (std::mem::take(&mut self.known), std::mem::take(&mut self.names));
        let strangers = std::mem::take(&mut self.strangers);
        frames.for_each(|frame| self.absorb_frame(frame));
        let gaps = closing.as_ref().map_or_else(BTreeSet::new, |closing| closing.gaps.clone());
        let mut slice = self.close(span, names, gaps, closing.as_ref().is_some_and(|closing| closing.ends));
        slice.known = closing.map_or_else(BTreeSet::new, |closing| closing.known);
        let left = carried(&self.verdicts);
        (self.windows, self.verdicts, self.known) = (windows, verdicts, known);
        (self.names, self.strangers) = (tracked, strangers);
        (slice, left)
    }

    /// Strangers of an earlier run's window that goes on.
    pub(crate) fn know_strangers(&mut self, names: &BTreeMap<u32, Named>) {
        self.strangers.extend(names.range(STRANGERS_FROM..).map(|(&index, named)| (index, named.clone())));
    }

    pub(crate) fn strangers(&self) -> &BTreeMap<u32, Named> {
        &self.strangers
    }

    /// Before [`Self::absorb`], of an earlier run: an index that goes by another id now, or by none, is given another,
    /// one of [`Self::strangers`].
    pub(crate) fn rename_former(
        &mut self,
        drained: &mut Drained,
        names: &BTreeMap<u32, Named>,
        tracked: &BTreeMap<u32, Named>,
    ) {
        let strangers = &mut self.strangers;
        let mut rename = |ifindex: &mut u32| {
            let is_other = |named: &&Named| tracked.get(ifindex).is_none_or(|now| now.id != named.id);
            let Some(named) = names.get(ifindex).filter(is_other) else { return };
            let known = strangers.iter().find(|(_, known)| known.id == named.id).map(|(&index, _)| index);
            *ifindex = known.unwrap_or_else(|| {
                let index = strangers.last_key_value().map_or(STRANGERS_FROM, |(last, _)| last + 1);
                strangers.insert(index, named.clone());
                index
            });
        };
        drained.batches.iter_mut().flatten().for_each(|flow| rename(&mut flow.key.ifindex));
        drained.totals.iter_mut().for_each(|totals| rename(&mut totals.ifindex));
        drained.drops.iter_mut().for_each(|dropped| rename(&mut dropped.flow.key.ifindex));
    }

    /// Hands a slice to every flow log. The summary says which windows' journals may go.
    pub(crate) fn publish(&mut self, slice: &Slice) -> Summary {
        let mut summary = slice.summary.clone();
        if let Some(file) = slice.file {
            self.held.insert(file, self.subscriptions.len());
        }
        for subscription in &mut self.subscriptions {
            let taken = subscription.take(slice);
            settle(&mut self.held, taken, &mut summary);
        }
        summary.waiting = self.waiting();
        summary
    }

    /// Spools what waits for room, as far as there is some now.
    pub(crate) fn try_again(&mut self) -> Summary {
        let mut summary = Summary::default();
        for subscription in &mut self.subscriptions {
            settle(&mut self.held, subscription.try_again(), &mut summary);
        }
        summary.waiting = self.waiting();
        summary
    }

    /// Windows that could not be spooled.
    pub(crate) fn waiting(&self) -> u64 {
        self.subscriptions.iter().map(Subscription::waiting).sum()
    }

    /// From now on records say what is known now.
    pub(crate) fn learn(&mut self, known: &Arc<Known>) {
        self.subscriptions.iter_mut().for_each(|one| one.learn(Arc::clone(known)));
    }

    /// From the next slice on.
    pub(crate) fn change(&mut self, exclusions: Settings, added: Vec<Subscription>) {
        self.exclusions = exclusions;
        self.subscriptions.extend(added);
    }

    /// Ends the open windows of flow logs that are no longer wanted, and takes these out.
    pub(crate) fn unsubscribe(&mut self, is_wanted: impl Fn(&str) -> bool) -> (Vec<Subscription>, Summary) {
        let (kept, mut removed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.subscriptions).into_iter().partition(|one| is_wanted(&one.log().id));
        self.subscriptions = kept;
        let mut summary = Summary::default();
        for subscription in &mut removed {
            let taken = subscription.end();
            settle(&mut self.held, taken, &mut summary);
            settle(&mut self.held, subscription.give_up(), &mut summary);
        }
        (removed, summary)
    }
}

/// Tells REJECT from ACCEPT and takes out what is not logged.
fn judge(
    closed: &mut Closed,
    verdicts: &mut Verdicts,
    is_ours: impl Fn(u32) -> bool,
    exclusions: &Settings,
) -> (Outcome, [Total; exclude::COUNT]) {
    let mut drops = std::mem::take(&mut closed.drops);
    // The kernel reports every drop of the namespace; flows are only of what is captured.
    drops.retain(|dropped| is_ours(dropped.flow.key.ifindex));
    let outcome = verdicts.apply(&mut closed.flows, drops);
    // What waited for its packets has the times of the slice before.
    let rejected = closed.flows.iter_mut().filter(|flow| flow.key.verdict == Verdict::Reject);
    rejected.for_each(|flow| window::clamp(flow, closed.start, closed.end));
    let kept = exclude::split(std::mem::take(&mut closed.flows), exclusions);
    closed.flows = kept.flows;
    (outcome, kept.excluded_by)
}

/// Adds what a flow log made of a slice; journals that it was the last to need are published.
fn settle(held: &mut BTreeMap<WindowId, usize>, taken: Taken, summary: &mut Summary) {
    summary.records += taken.records;
    summary.lost_records += taken.lost_records;
    if taken.error.is_some() {
        summary.error = taken.error;
    }
    for file in taken.released {
        let Some(holders) = held.get_mut(&file) else { continue };
        *holders -= 1;
        if *holders == 0 {
            held.remove(&file);
            summary.published.push(file);
        }
    }
}

fn carried(verdicts: &Verdicts) -> Option<Drained> {
    let drops = verdicts.carried();
    (!drops.is_empty()).then(|| Drained { batches: Vec::new(), totals: Vec::new(), drops })
}

/// No interface of Linux has such an index: they are positive 32-bit numbers.
const STRANGERS_FROM: u32 = 1 << 31;

impl Slice {
    /// Only flows of interfaces.
    #[cfg(test)]
    pub(crate) fn of(start: i64, end: i64, flows: Vec<Flow>, names: BTreeMap<u32, Named>) -> Self {
        let (active, skipped, gaps, known, summary) = Default::default();
        let (number, file, ends, totals, logged) = (0, None, false, Vec::new(), LoggedBy::new());
        Self { start, end, number, file, ends, flows, names, active, totals, logged, skipped, gaps, known, summary }
    }

    /// What its journal says of its end.
    pub(crate) fn closing(&self) -> Closing {
        Closing { end: self.end, ends: self.ends, gaps: self.gaps.clone(), known: self.known.clone() }
    }
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.unnamed += other.unnamed;
        self.seen += other.seen;
        self.non_ip += other.non_ip;
        self.unparsable += other.unparsable;
        self.skipped += other.skipped;
        self.drops_skipped += other.drops_skipped;
        self.rejected += other.rejected;
        self.unmatched += other.unmatched;
        self.excluded += other.excluded;
        for (sum, one) in self.excluded_by.iter_mut().zip(other.excluded_by) {
            *sum += one;
        }
        self.sum_error.0 += other.sum_error.0;
        self.sum_error.1 += other.sum_error.1;
        self.lost_records += other.lost_records;
    }
}

/// Everything but what depends on names and flow logs.
fn summarize(closed: &Closed, excluded_by: [Total; exclude::COUNT], verdicts: Outcome) -> Summary {
    let Outcome { rejected, unseen, unmatched } = verdicts;
    let mut summary = Summary { excluded_by, rejected, unmatched, ..Summary::default() };
    for total in excluded_by {
        summary.excluded += total;
    }
    for totals in &closed.totals {
        summary.seen += totals.seen;
        summary.non_ip += totals.non_ip;
        totals.unparsable.into_iter().for_each(|cause| summary.unparsable += cause);
        summary.skipped += totals.skipped;
        summary.drops_skipped += totals.drops_skipped;
    }
    summary.sum_error = window::sum_error(closed, summary.excluded, unseen);
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Buffers, Direction, FlowKey, InterfaceTotals};
    use crate::flow_log::{Destination, Fields, FlowLog, TrafficType};
    use crate::format::Format;
    use crate::select::Selection;
    use crate::spool::Spool;
    use std::path::Path;
    use std::sync::Arc;

    fn flow(ifindex: u32, verdict: Verdict, dst: &str) -> Flow {
        let key = FlowKey {
            ifindex,
            direction: Direction::Egress,
            verdict,
            protocol: 17,
            src: [10, 0, 0, 1].into(),
            dst: dst.parse().unwrap(),
            src_port: 5000,
            dst_port: 53,
        };
        Flow { key, packets: 1, bytes: 60, first: 5, last: 6, tcp_flags: 0, reason: 0 }
    }

    fn drained(flows: Vec<Flow>, skipped: u64) -> Drained {
        let mut totals: BTreeMap<u32, InterfaceTotals> = BTreeMap::new();
        let zero = Total::default();
        for flow in &flows {
            let entry = totals.entry(flow.key.ifindex).or_insert(InterfaceTotals {
                ifindex: flow.key.ifindex,
                direction: Direction::Egress,
                seen: Total { packets: skipped, bytes: skipped },
                non_ip: zero,
                unparsable: [zero; 3],
                skipped: Total { packets: skipped, bytes: skipped },
                drops_skipped: zero,
                buffers: Buffers::default(),
            });
            entry.seen += Total { packets: 1, bytes: 60 };
        }
        Drained { batches: vec![flows], totals: totals.into_values().collect(), drops: Vec::new() }
    }

    fn pipeline(root: &Path, traffic_type: TrafficType) -> Pipeline {
        let log = FlowLog {
            id: "fl-1".to_owned(),
            selection: Selection { globs: vec!["*".to_owned()], subnets: Vec::new() },
            traffic_type,
            interval: 60,
            format: Format::default(),
            destination: Destination::Stdout,
            tags: BTreeMap::new(),
            fields: Fields::default(),
            spool_bytes_max: 1 << 20,
        };
        let spool = Spool::open(root, log.spool_bytes_max).unwrap();
        let subscription = Subscription::new(Arc::new(log), Arc::default(), Arc::new(spool));
        Pipeline::new(Settings::new(&[], &[], &[]).unwrap(), vec![subscription])
    }

    fn close(pipeline: &mut Pipeline, start: i64, end: i64, tracked: &BTreeMap<u32, Named>) -> Summary {
        let mut slice = pipeline.close((start, end), tracked, BTreeSet::new(), false);
        slice.number = start.cast_unsigned();
        pipeline.publish(&slice)
    }

    fn tracked(ifindexes: &[u32]) -> BTreeMap<u32, Named> {
        let named = |ifindex: u32| Named {
            id: format!("eni-{ifindex}"),
            name: format!("eth{ifindex}"),
            addresses: None,
            loopback: false,
        };
        ifindexes.iter().map(|&ifindex| (ifindex, named(ifindex))).collect()
    }

    /// All lines in the spool, sorted.
    fn lines(root: &Path) -> Vec<String> {
        let spool = Spool::open(root, 1 << 20).unwrap();
        let blocks = spool.segments().into_iter().flat_map(|segment| spool.read(segment.id).unwrap());
        let text: String = blocks.map(|block| String::from_utf8(block.unwrap().text().unwrap()).unwrap()).collect();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    type Figures = (u64, u64, [Total; 3], [Total; exclude::COUNT], (i128, i128));

    fn figures(s: &Summary) -> Figures {
        assert!(s.error.is_none());
        (s.records, s.unnamed, [s.seen, s.skipped, s.excluded], s.excluded_by, s.sum_error)
    }

    #[test]
    fn a_window_waits_for_room() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("spool");
        let mut pipeline = pipeline(&directory, TrafficType::All);
        // Nothing can be made in a directory that is none.
        std::fs::rename(&directory, root.path().join("away")).unwrap();
        std::fs::write(&directory, "").unwrap();
        for (start, waiting) in [(0, 1), (60, 2)] {
            pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.9")], 0));
            let got = close(&mut pipeline, start, start + 59, &tracked(&[1]));
            assert_eq!((got.records, got.waiting, got.error.is_some(), got.lost_records), (0, waiting, true, 0));
        }
        std::fs::remove_file(&directory).unwrap();
        std::fs::rename(root.path().join("away"), &directory).unwrap();
        let got = close(&mut pipeline, 120, 179, &tracked(&[1]));
        assert_eq!((got.records, got.waiting, got.error.is_none()), (3, 0, true));
        assert_eq!(
            lines(&directory),
            [
                "2 000000000000 eni-1 - - - - - - - 120 179 - NODATA",
                "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 ACCEPT OK",
                "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 60 60 ACCEPT OK",
            ]
        );
    }

    #[test]
    fn windows_become_lines() {
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), TrafficType::All);
        assert_eq!(figures(&close(&mut pipeline, 0, 59, &tracked(&[1, 2]))), figures(&Summary::default()));
        assert!(lines(root.path()).is_empty());

        let flows = vec![
            flow(1, Verdict::Accept, "10.0.0.9"),
            flow(1, Verdict::Reject, "10.0.0.9"),
            flow(1, Verdict::Accept, "169.254.169.253"),
            flow(3, Verdict::Accept, "10.0.0.9"),
        ];
        pipeline.absorb(drained(flows, 0));
        let mut excluded_by = [Total::default(); exclude::COUNT];
        excluded_by[0] = Total { packets: 1, bytes: 60 };
        let want = Summary {
            records: 2,
            unnamed: 1,
            seen: Total { packets: 4, bytes: 240 },
            excluded: excluded_by[0],
            excluded_by,
            ..Summary::default()
        };
        assert_eq!(figures(&close(&mut pipeline, 0, 59, &tracked(&[1, 2]))), figures(&want));

        // 1 goes away after a last packet and is still known by its id; nothing of it follows.
        pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.8")], 7));
        let got = close(&mut pipeline, 60, 119, &tracked(&[2]));
        assert_eq!((got.records, got.skipped.packets, got.sum_error), (2, 7, (0, 0)));
        assert_eq!(figures(&close(&mut pipeline, 120, 179, &tracked(&[2]))), figures(&Summary::default()));

        assert_eq!(
            lines(root.path()),
            [
                "2 000000000000 eni-1 - - - - - - - 60 119 - SKIPDATA",
                "2 000000000000 eni-1 10.0.0.1 10.0.0.8 5000 53 17 1 60 60 60 ACCEPT OK",
                "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 ACCEPT OK",
                "2 000000000000 eni-1 10.0.0.1 10.0.0.9 5000 53 17 1 60 5 6 REJECT OK",
            ]
        );
    }

    #[test]
    fn excluded_traffic_alone_is_no_data_but_not_first_traffic() {
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), TrafficType::All);
        for (dst, records) in [("169.254.169.253", 0), ("10.0.0.9", 1), ("169.254.169.253", 1)] {
            pipeline.absorb(drained(vec![flow(1, Verdict::Accept, dst)], 0));
            assert_eq!(close(&mut pipeline, 0, 59, &tracked(&[1])).records, records);
        }
        assert!(lines(root.path())[0].ends_with("0 59 - NODATA"));
    }

    #[test]
    fn statuses_over_time() {
        type Row = (&'static [u32], &'static [u32], &'static [u32], &'static [&'static str]);
        let rows: [Row; 9] = [
            // (flows on, gaps on, tracked, statuses)
            (&[], &[], &[1, 2], &[]),
            (&[1], &[], &[1, 2], &[]),
            (&[], &[], &[1, 2], &["eni-1 NODATA"]),
            (&[1], &[1], &[1, 2], &["eni-1 SKIPDATA"]),
            (&[1], &[2], &[1, 2], &["eni-2 SKIPDATA"]),
            (&[], &[], &[1, 2], &["eni-1 NODATA", "eni-2 NODATA"]),
            (&[], &[], &[2], &["eni-2 NODATA"]),
            // Came back: a new interface, so nothing before its first traffic.
            (&[2], &[], &[1, 2], &[]),
            (&[], &[], &[1, 2], &["eni-2 NODATA"]),
        ];
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), TrafficType::All);
        for (at, (flows, gaps, ifindexes, want)) in rows.into_iter().enumerate() {
            let flows = flows.iter().map(|&ifindex| flow(ifindex, Verdict::Accept, "10.0.0.9")).collect();
            pipeline.absorb(drained(flows, 0));
            let start = 60 * at as i64;
            let gaps = gaps.iter().copied().collect();
            let slice = pipeline.close((start, start + 59), &tracked(ifindexes), gaps, false);
            pipeline.publish(&slice);
            let ours = format!(" {start} {} - ", start + 59);
            let lines = lines(root.path());
            let statuses = lines.iter().filter(|line| line.contains(&ours));
            let got: Vec<String> = statuses
                .map(|line| line.split(' ').collect::<Vec<_>>())
                .map(|fields| format!("{} {}", fields[2], fields[13]))
                .collect();
            assert_eq!(got, want, "row {at}");
        }
    }

    #[test]
    fn traffic_types() {
        for (traffic_type, records) in [(TrafficType::All, 3), (TrafficType::Accept, 2), (TrafficType::Reject, 1)] {
            let root = tempfile::tempdir().unwrap();
            let mut pipeline = pipeline(root.path(), traffic_type);
            let flows = vec![
                flow(1, Verdict::Accept, "10.0.0.9"),
                flow(1, Verdict::Reject, "10.0.0.9"),
                flow(1, Verdict::Accept, "10.0.0.8"),
            ];
            pipeline.absorb(drained(flows, 0));
            let got = close(&mut pipeline, 0, 59, &tracked(&[1]));
            assert_eq!((got.records, got.sum_error), (records, (0, 0)));
        }
    }
}
