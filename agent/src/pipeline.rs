//! The way of a window: drains in, merged, exclusions out, statuses added, published.
//! Must not know how packets are counted, nor how a sink stores lines.
//! Always: the sum is taken over everything seen, before anything is left out by choice of the user.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::capture::flow::{Drained, Flow, Total, Verdict};
use crate::exclude::{self, Settings};
use crate::identity::Identity;
use crate::record::{Batch, Status};
use crate::sink::{Sink, SinkError};
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
    activity: Activity,
    exclusions: Settings,
    traffic_type: TrafficType,
    identity: Identity,
    /// Also those of the last window, for what an interface did before it went away.
    interface_ids: BTreeMap<u32, String>,
    sink: Sink,
    /// Closed windows that are not out yet, oldest first. Empty but for an outage of the sink.
    waiting: VecDeque<Waiting>,
}

/// What became of a window.
#[derive(Debug, Default)]
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
    pub(crate) skipped: Total,
    pub(crate) excluded: Total,
    pub(crate) excluded_by: [Total; exclude::COUNT],
    /// Packets and bytes. Not (0, 0) is a bug of ours.
    pub(crate) sum_error: (i128, i128),
    /// Windows that wait for the sink, and why.
    pub(crate) waiting: u64,
    pub(crate) error: Option<SinkError>,
    /// Given up because too much waited.
    pub(crate) lost_records: u64,
}

impl Pipeline {
    pub(crate) fn new(exclusions: Settings, traffic_type: TrafficType, identity: Identity, sink: Sink) -> Self {
        let (windows, activity, interface_ids, waiting) = Default::default();
        Self { windows, activity, exclusions, traffic_type, identity, interface_ids, sink, waiting }
    }

    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.windows.absorb(drained);
    }

    /// `tracked` is ifindex to interface-id, `gaps` are interfaces that were not counted for a while. `end` is inclusive. When the sink fails the window waits in memory and is
    /// published again, in order, with the next one; the summary says what waits and why.
    pub(crate) fn close(
        &mut self,
        start: i64,
        end: i64,
        tracked: &BTreeMap<u32, String>,
        gaps: &BTreeSet<u32>,
    ) -> Summary {
        let mut closed = self.windows.close(start, end);
        let kept = exclude::split(std::mem::take(&mut closed.flows), &self.exclusions);
        closed.flows = kept.flows;
        let mut summary = summarize(&closed, kept.excluded_by);

        let interfaces: BTreeSet<u32> = tracked.keys().copied().collect();
        let statuses = self.activity.judge(&closed, &interfaces, gaps);
        // After the statuses: AWS's NODATA speaks of the interface's traffic and not of the filter's.
        closed.flows.retain(|flow| self.traffic_type.admits(flow));

        let mut interface_ids = std::mem::replace(&mut self.interface_ids, tracked.clone());
        interface_ids.extend(tracked.iter().map(|(&ifindex, id)| (ifindex, id.clone())));
        let is_named = |ifindex: u32| interface_ids.contains_key(&ifindex);
        summary.flows = count(&closed.flows, |flow| is_named(flow.key.ifindex));
        summary.unnamed = closed.flows.len() as u64 - summary.flows;
        summary.nodata = count(&statuses, |(_, status)| *status == Status::NoData);
        self.waiting.push_back(Waiting { closed, statuses, interface_ids });
        self.publish(&mut summary);
        summary
    }

    /// Publishes what waits, oldest first.
    fn publish(&mut self, summary: &mut Summary) {
        while let Some(window) = self.waiting.front() {
            let batch = Batch {
                account_id: &self.identity.account_id,
                start: window.closed.start,
                end: window.closed.end,
                flows: &window.closed.flows,
                statuses: &window.statuses,
                interface_ids: &window.interface_ids,
            };
            match self.sink.publish(&batch) {
                Ok(records) => summary.records += records,
                Err(error) => {
                    summary.error = Some(error);
                    break;
                }
            }
            self.waiting.pop_front();
        }
        // Memory is bounded: only when the bound is passed is the oldest given up, and that is counted.
        while self.waiting.iter().map(|window| window.closed.flows.len()).sum::<usize>() > WAITING_FLOWS_MAX {
            let Some(oldest) = self.waiting.pop_front() else { break };
            summary.lost_records += (oldest.closed.flows.len() + oldest.statuses.len()) as u64;
        }
        summary.waiting = self.waiting.len() as u64;
    }
}

/// Flows of windows that wait for their sink: about 300 MB.
const WAITING_FLOWS_MAX: usize = 4_000_000;

/// A closed window that is not out yet.
struct Waiting {
    closed: Closed,
    /// NODATA and SKIPDATA.
    statuses: Vec<(u32, Status)>,
    interface_ids: BTreeMap<u32, String>,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.flows += other.flows;
        self.nodata += other.nodata;
        self.unnamed += other.unnamed;
        self.seen += other.seen;
        self.skipped += other.skipped;
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
fn summarize(closed: &Closed, excluded_by: [Total; exclude::COUNT]) -> Summary {
    let mut summary = Summary { excluded_by, ..Summary::default() };
    for total in excluded_by {
        summary.excluded += total;
    }
    for totals in &closed.totals {
        summary.seen += totals.seen;
        summary.skipped += totals.skipped;
    }
    summary.sum_error = window::sum_error(closed, summary.excluded);
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
        Flow { key, packets: 1, bytes: 60, first: 5, last: 6, tcp_flags: 0 }
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
            });
            entry.seen += Total { packets: 1, bytes: 60 };
        }
        Drained { batches: vec![flows], totals: totals.into_values().collect() }
    }

    fn pipeline(root: &Path, traffic_type: TrafficType) -> Pipeline {
        let identity = Identity::new(None, None).unwrap();
        let sink = Sink::Directory(DirectorySink::create(root.to_owned(), &identity, "fl-1").unwrap());
        Pipeline::new(Settings::new(&[], &[], &[]).unwrap(), traffic_type, identity, sink)
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
            let got = pipeline.close(start, start + 59, &tracked(&[1]), &BTreeSet::new());
            assert_eq!((got.records, got.waiting, got.error.is_some(), got.lost_records), (0, waiting, true, 0));
        }
        std::fs::remove_file(&year).unwrap();
        let got = pipeline.close(120, 179, &tracked(&[1]), &BTreeSet::new());
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
        assert_eq!(figures(&pipeline.close(0, 59, &tracked(&[1, 2]), &BTreeSet::new())), figures(&Summary::default()));
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
        assert_eq!(figures(&pipeline.close(0, 59, &tracked(&[1, 2]), &BTreeSet::new())), figures(&want));

        // 1 goes away after a last packet and is still known by its id; nothing of it follows.
        pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.8")], 7));
        let got = pipeline.close(60, 119, &tracked(&[2]), &BTreeSet::new());
        assert_eq!((got.records, got.skipped.packets, got.sum_error), (2, 7, (0, 0)));
        assert_eq!(figures(&pipeline.close(120, 179, &tracked(&[2]), &BTreeSet::new())), figures(&Summary::default()));

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
            assert_eq!(pipeline.close(0, 59, &tracked(&[1]), &BTreeSet::new()).nodata, nodata);
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
            let got = pipeline.close(0, 59, &tracked(&[1]), &BTreeSet::new());
            assert_eq!((got.records, got.flows, got.nodata, got.sum_error), (records, records, 0, (0, 0)));
        }
    }
}
