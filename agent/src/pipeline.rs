//! The way of a window: drains in, merged, exclusions out, statuses added, published.
//! Must not know how packets are counted, nor how a sink stores lines.
//! Always: the sum is taken over everything seen, before anything is left out by choice of the user.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

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
}

/// What became of a window.
#[derive(Debug, Default, PartialEq, Eq)]
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
}

impl Pipeline {
    pub(crate) fn new(exclusions: Settings, traffic_type: TrafficType, identity: Identity, sink: Sink) -> Self {
        let (windows, activity, interface_ids) = Default::default();
        Self { windows, activity, exclusions, traffic_type, identity, interface_ids, sink }
    }

    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.windows.absorb(drained);
    }

    /// `tracked` is ifindex to interface-id. `end` is inclusive. After an error the window is lost.
    pub(crate) fn close(
        &mut self,
        start: i64,
        end: i64,
        tracked: &BTreeMap<u32, String>,
    ) -> Result<Summary, SinkError> {
        let mut closed = self.windows.close(start, end);
        let kept = exclude::split(std::mem::take(&mut closed.flows), &self.exclusions);
        closed.flows = kept.flows;
        let mut summary = summarize(&closed, kept.excluded_by);

        let interfaces: BTreeSet<u32> = tracked.keys().copied().collect();
        let statuses = self.activity.judge(&closed, &interfaces);
        // After the statuses: AWS's NODATA speaks of the interface's traffic and not of the filter's.
        closed.flows.retain(|flow| self.traffic_type.admits(flow));

        self.interface_ids.extend(tracked.iter().map(|(&ifindex, id)| (ifindex, id.clone())));
        let is_named = |ifindex: u32| self.interface_ids.contains_key(&ifindex);
        summary.flows = count(&closed.flows, |flow| is_named(flow.key.ifindex));
        summary.unnamed = closed.flows.len() as u64 - summary.flows;
        summary.nodata = count(&statuses, |(_, status)| *status == Status::NoData);
        summary.records = self.sink.publish(&Batch {
            account_id: &self.identity.account_id,
            start: closed.start,
            end: closed.end,
            flows: &closed.flows,
            statuses: &statuses,
            interface_ids: &self.interface_ids,
        })?;
        self.interface_ids.clone_from(tracked);
        Ok(summary)
    }
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

    #[test]
    fn windows_become_lines() {
        let root = tempfile::tempdir().unwrap();
        let mut pipeline = pipeline(root.path(), TrafficType::All);
        assert_eq!(pipeline.close(0, 59, &tracked(&[1, 2])).unwrap(), Summary::default());
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
        assert_eq!(pipeline.close(0, 59, &tracked(&[1, 2])).unwrap(), want);

        // 1 goes away after a last packet and is still known by its id; nothing of it follows.
        pipeline.absorb(drained(vec![flow(1, Verdict::Accept, "10.0.0.8")], 7));
        let got = pipeline.close(60, 119, &tracked(&[2])).unwrap();
        assert_eq!((got.records, got.skipped.packets, got.sum_error), (2, 7, (0, 0)));
        assert_eq!(pipeline.close(120, 179, &tracked(&[2])).unwrap(), Summary::default());

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
            assert_eq!(pipeline.close(0, 59, &tracked(&[1])).unwrap().nodata, nodata);
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
            let got = pipeline.close(0, 59, &tracked(&[1])).unwrap();
            assert_eq!((got.records, got.flows, got.nodata, got.sum_error), (records, records, 0, (0, 0)));
        }
    }
}
