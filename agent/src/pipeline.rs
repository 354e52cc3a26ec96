//! The way of a window: drains in, merged, exclusions out, statuses added, published.
//! Must not know how packets are counted, nor how a sink stores lines.
//! Always: the sum is taken over everything seen, before anything is left out by choice of the user.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::capture::flow::{Drained, Flow, Total, Verdict};
use crate::exclude::{self, Settings};
use crate::identity::Identity;
use crate::journal::{CARRIED, Frame, WindowId};
use crate::record::{Batch, Status};
use crate::sink::{Sink, SinkError};
use crate::verdict::{Outcome, Verdicts};
use crate::window::{self, Activity, Closed, Windows};

/// AWS's `--traffic-type`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum TrafficType {
    #[default]
    All,
    Accept,
    Reject,
}

pub(crate) struct Pipeline {
    windows: Windows,
    verdicts: Verdicts,
    activity: Activity,
    exclusions: Settings,
    traffic_type: TrafficType,
    identity: Identity,
    /// Also those of the last window, for what an interface did before it went away.
    interface_ids: BTreeMap<u32, String>,
    sink: Sink,
    /// Interfaces of an earlier run whose index is another's now, or nobody's.
    strangers: BTreeMap<u32, String>,
    /// Closed windows that are not out yet, oldest first. Empty but for an outage of the sink.
    waiting: VecDeque<Pending>,
}

/// What became of a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Lines of any status.
    pub(crate) records: u64,
    /// Lines with status OK.
    pub(crate) flows: u64,
    /// NODATA lines.
    pub(crate) nodata: u64,
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
    /// Windows that wait for the sink, and why.
    pub(crate) waiting: u64,
    pub(crate) error: Option<Arc<SinkError>>,
    /// Windows that need not be kept any longer.
    pub(crate) published: Vec<WindowId>,
    /// Given up because too much waited.
    pub(crate) lost_records: u64,
}

impl Pipeline {
    pub(crate) fn new(exclusions: Settings, traffic_type: TrafficType, identity: Identity, sink: Sink) -> Self {
        let (windows, verdicts, activity, interface_ids, strangers, waiting) = Default::default();
        Self {
            windows,
            verdicts,
            activity,
            exclusions,
            traffic_type,
            identity,
            interface_ids,
            sink,
            strangers,
            waiting,
        }
    }

    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.windows.absorb(drained);
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

    /// Ends the window. `tracked` is ifindex to interface-id, `gaps` are interfaces that were not counted for a while.
    /// `end` is inclusive. Nothing is published yet.
    pub(crate) fn close(
        &mut self,
        start: i64,
        end: i64,
        tracked: &BTreeMap<u32, String>,
        gaps: &BTreeSet<u32>,
    ) -> Pending {
        let mut closed = self.windows.close(start, end);
        let strangers = std::mem::take(&mut self.strangers);
        let mut drops = std::mem::take(&mut closed.drops);
        // The kernel reports every drop of the namespace; flows are only of what is captured.
        let is_ours = |ifindex: &u32| tracked.contains_key(ifindex) || strangers.contains_key(ifindex);
        drops.retain(|dropped| is_ours(&dropped.flow.key.ifindex));
        let verdicts = self.verdicts.apply(&mut closed.flows, drops);
        let kept = exclude::split(std::mem::take(&mut closed.flows), &self.exclusions);
        closed.flows = kept.flows;
        let mut summary = summarize(&closed, kept.excluded_by, verdicts);

        let interfaces: BTreeSet<u32> = tracked.keys().copied().collect();
        let statuses = self.activity.judge(&closed, &interfaces, gaps);
        // After the statuses: AWS's NODATA speaks of the interface's traffic and not of the filter's.
        closed.flows.retain(|flow| self.traffic_type.admits(flow));

        let mut interface_ids = std::mem::replace(&mut self.interface_ids, tracked.clone());
        interface_ids.extend(tracked.iter().map(|(&ifindex, id)| (ifindex, id.clone())));
        interface_ids.extend(strangers);
        let is_named = |ifindex: u32| interface_ids.contains_key(&ifindex);
        summary.flows = count(&closed.flows, |flow| is_named(flow.key.ifindex));
        summary.unnamed = closed.flows.len() as u64 - summary.flows;
        summary.nodata = count(&statuses, |(_, status)| *status == Status::NoData);
        Pending { closed, statuses, interface_ids, number: 0, file: None, summary }
    }

    /// A window of an earlier run, from its drains, and what of it the next window is to have. `statuses`: as it was
    /// closed with, if it was.
    pub(crate) fn replay(
        &mut self,
        frames: impl Iterator<Item = Frame>,
        (start, end): (i64, i64),
        names: &BTreeMap<u32, String>,
        statuses: Option<Vec<(u32, Status)>>,
    ) -> (Pending, Option<Drained>) {
        let (windows, verdicts) = (std::mem::take(&mut self.windows), std::mem::take(&mut self.verdicts));
        let (activity, interface_ids) = (std::mem::take(&mut self.activity), std::mem::take(&mut self.interface_ids));
        let strangers = std::mem::take(&mut self.strangers);
        frames.for_each(|frame| self.absorb_frame(frame));
        let mut pending = self.close(start, end, names, &BTreeSet::new());
        if let Some(statuses) = statuses {
            pending.statuses = statuses;
        }
        let left = carried(&self.verdicts);
        (self.windows, self.verdicts, self.activity) = (windows, verdicts, activity);
        (self.interface_ids, self.strangers) = (interface_ids, strangers);
        (pending, left)
    }

    /// Strangers of an earlier run's window that goes on.
    pub(crate) fn know_strangers(&mut self, names: &BTreeMap<u32, String>) {
        self.strangers.extend(names.range(STRANGERS_FROM..).map(|(&index, id)| (index, id.clone())));
    }

    pub(crate) fn strangers(&self) -> &BTreeMap<u32, String> {
        &self.strangers
    }

    /// Before [`Self::absorb`], of an earlier run: an index that goes by another id now, or by none, is given another,
    /// one of [`Self::strangers`].
    pub(crate) fn rename_former(
        &mut self,
        drained: &mut Drained,
        names: &BTreeMap<u32, String>,
        tracked: &BTreeMap<u32, String>,
    ) {
        let strangers = &mut self.strangers;
        let mut rename = |ifindex: &mut u32| {
            let Some(id) = names.get(ifindex).filter(|id| tracked.get(ifindex) != Some(id)) else { return };
            let known = strangers.iter().find(|(_, known)| *known == id).map(|(&index, _)| index);
            *ifindex = known.unwrap_or_else(|| {
                let index = strangers.last_key_value().map_or(STRANGERS_FROM, |(last, _)| last + 1);
                strangers.insert(index, id.clone());
                index
            });
        };
        drained.batches.iter_mut().flatten().for_each(|flow| rename(&mut flow.key.ifindex));
        drained.totals.iter_mut().for_each(|totals| rename(&mut totals.ifindex));
        drained.drops.iter_mut().for_each(|dropped| rename(&mut dropped.flow.key.ifindex));
    }

    /// Publishes what waits, oldest first, and then this. When the sink fails a window waits in memory and is published
    /// again, in order, with the next one; the summary says what waits and why.
    pub(crate) fn publish(&mut self, pending: Pending) -> Summary {
        let mut summary = pending.summary.clone();
        self.waiting.push_back(pending);
        while let Some(window) = self.waiting.front() {
            let batch = Batch {
                account_id: &self.identity.account_id,
                number: window.number,
                start: window.closed.start,
                end: window.closed.end,
                flows: &window.closed.flows,
                statuses: &window.statuses,
                interface_ids: &window.interface_ids,
            };
            match self.sink.publish(&batch) {
                Ok(records) => summary.records += records,
                Err(error) => {
                    summary.error = Some(Arc::new(error));
                    break;
                }
            }
            summary.published.extend(window.file);
            self.waiting.pop_front();
        }
        // Memory is bounded: only when the bound is passed is the oldest given up, and that is counted.
        while self.waiting.iter().map(|window| window.closed.flows.len()).sum::<usize>() > WAITING_FLOWS_MAX {
            let Some(oldest) = self.waiting.pop_front() else { break };
            summary.lost_records += (oldest.closed.flows.len() + oldest.statuses.len()) as u64;
            summary.published.extend(oldest.file);
        }
        summary.waiting = self.waiting.len() as u64;
        summary
    }
}

fn carried(verdicts: &Verdicts) -> Option<Drained> {
    let drops = verdicts.carried();
    (!drops.is_empty()).then(|| Drained { batches: Vec::new(), totals: Vec::new(), drops })
}

/// No interface of Linux has such an index: they are positive 32-bit numbers.
const STRANGERS_FROM: u32 = 1 << 31;

/// Flows of windows that wait for their sink: about 300 MB.
const WAITING_FLOWS_MAX: usize = 4_000_000;

/// A closed window that is not out yet.
pub(crate) struct Pending {
    closed: Closed,
    /// NODATA and SKIPDATA.
    pub(crate) statuses: Vec<(u32, Status)>,
    interface_ids: BTreeMap<u32, String>,
    /// The batch's own, see [`Batch::number`].
    pub(crate) number: u64,
    /// Where it is kept until it is out.
    pub(crate) file: Option<WindowId>,
    summary: Summary,
}

impl Pending {
    pub(crate) fn start(&self) -> i64 {
        self.closed.start
    }
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.flows += other.flows;
        self.nodata += other.nodata;
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

impl TrafficType {
    fn admits(self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Accept => flow.key.verdict == Verdict::Accept,
            Self::Reject => flow.key.verdict == Verdict::Reject,
        }
    }
}

/// Everything but what depends on names and the sink.
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

fn count<T>(items: &[T], is_counted: impl Fn(&T) -> bool) -> u64 {
    items.iter().filter(|item| is_counted(item)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, FlowKey, InterfaceTotals};
    use crate::sink::DirectorySink;
    use flate2::read::GzDecoder;
    use std::io::Read;
    use std::path::Path;

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
            });
            entry.seen += Total { packets: 1, bytes: 60 };
        }
        Drained { batches: vec![flows], totals: totals.into_values().collect(), drops: Vec::new() }
    }

    fn pipeline(root: &Path, traffic_type: TrafficType) -> Pipeline {
        let identity = Identity::new(None, None).unwrap();
        let sink = Sink::Directory(DirectorySink::create(root.to_owned(), &identity, "fl-1").unwrap());
        Pipeline::new(Settings::new(&[], &[], &[]).unwrap(), traffic_type, identity, sink)
    }

    fn close(pipeline: &mut Pipeline, start: i64, end: i64, tracked: &BTreeMap<u32, String>) -> Summary {
        let mut pending = pipeline.close(start, end, tracked, &BTreeSet::new());
        pending.number = start.cast_unsigned();
        pipeline.publish(pending)
    }

    fn tracked(ifindexes: &[u32]) -> BTreeMap<u32, String> {
        ifindexes.iter().map(|&ifindex| (ifindex, format!("eni-{ifindex}"))).collect()
    }

    /// Lines of all objects without headers, sorted.
    fn lines(root: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let Ok(day) = std::fs::read_dir(root.join("AWSLogs/000000000000/vpcflowlogs/on-prem-1/1970/01/01")) else {
            return lines;
        };
        for entry in day {
            let mut text = String::new();
            let file = std::fs::File::open(entry.unwrap().path()).unwrap();
            GzDecoder::new(file).read_to_string(&mut text).unwrap();
            lines.extend(text.lines().skip(1).map(str::to_owned));
        }
        lines.sort();
        lines
    }

    type Figures = (u64, u64, u64, u64, [Total; 3], [Total; exclude::COUNT], (i128, i128), u64);

    fn figures(s: &Summary) -> Figures {
        assert!(s.error.is_none());
        let totals = [s.seen, s.skipped, s.excluded];
        (s.records, s.flows, s.nodata, s.unnamed, totals, s.excluded_by, s.sum_error, s.waiting)
    }

    #[test]
    fn a_window_waits_for_its_sink() {
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), TrafficType::All);
        // A file where the year's folder should be: no object can be made.
        let year = root.path().join("AWSLogs/000000000000/vpcflowlogs/on-prem-1/1970");
        std::fs::write(&year, "").unwrap();
        for (start, waiting) in [(0, 1), (60, 2)] {
            pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.9")], 0));
            let got = close(&mut pipeline, start, start + 59, &tracked(&[1]));
            assert_eq!((got.records, got.waiting, got.error.is_some(), got.lost_records), (0, waiting, true, 0));
        }
        std::fs::remove_file(&year).unwrap();
        let got = close(&mut pipeline, 120, 179, &tracked(&[1]));
        assert_eq!((got.records, got.waiting, got.error.is_none()), (3, 0, true));
        assert_eq!(
            lines(root.path()),
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
            flows: 2,
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
        for (dst, nodata) in [("169.254.169.253", 0), ("10.0.0.9", 0), ("169.254.169.253", 1)] {
            pipeline.absorb(drained(vec![flow(1, Verdict::Accept, dst)], 0));
            assert_eq!(close(&mut pipeline, 0, 59, &tracked(&[1])).nodata, nodata);
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
            assert_eq!((got.records, got.flows, got.nodata, got.sum_error), (records, records, 0, (0, 0)));
        }
    }
}
