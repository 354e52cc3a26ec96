//! One flow log's windows: made of slices, ended on its own grid, put into its spool.
//! Must not know of drains, journals' contents or destinations.
//! Always: a window is in the spool once, also when its slices are replayed; its journals are released only then.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use crate::capture::flow::{Drained, Flow};
use crate::deliver::Delivery;
use crate::emit;
use crate::flow_log::FlowLog;
use crate::journal::WindowId;
use crate::known::Known;
use crate::pipeline::Slice;
use crate::record::{Batch, Host, Interface, Status};
use crate::spool::{Spool, SpoolError};
use crate::status::Made;
use crate::window::{Windows, window_at};

/// Flows of windows that wait for their spool: about 300 MB.
const WAITING_FLOWS_MAX: usize = 4_000_000;

pub(crate) struct Subscription {
    log: Arc<FlowLog>,
    known: Arc<Known>,
    spool: Arc<Spool>,
    /// None until there is somebody to deliver.
    delivery: Option<Delivery>,
    open: Option<Open>,
    /// Ended windows that could not be spooled, oldest first. Empty but for a full or broken disk.
    waiting: VecDeque<(Ended, Vec<Flow>)>,
    /// Replayed windows up to the one of this number are in the spool, or were.
    known_through: Option<u64>,
    made: Made,
}

/// The window that goes on.
struct Open {
    ended: Ended,
    /// Flows of all its slices, but for a window of one slice.
    windows: Windows,
    is_empty: bool,
    active: BTreeSet<u32>,
    skipped: BTreeSet<u32>,
    known: BTreeSet<u32>,
}

/// A window but for its flows.
#[derive(Default)]
pub(crate) struct Ended {
    start: i64,
    end: i64,
    /// Its last slice's.
    number: u64,
    /// By ifindex, what the flow log covers.
    interfaces: BTreeMap<u32, Interface>,
    statuses: Vec<(u32, Status)>,
    files: Vec<WindowId>,
}

/// What a flow log made of a slice.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) records: u64,
    pub(crate) lost_records: u64,
    /// Slices that it needs no longer.
    pub(crate) released: Vec<WindowId>,
    pub(crate) error: Option<String>,
}

impl Subscription {
    pub(crate) fn new(log: Arc<FlowLog>, known: Arc<Known>, spool: Arc<Spool>) -> Self {
        let (delivery, open, waiting, known_through, made) = Default::default();
        Self { log, known, spool, delivery, open, waiting, known_through, made }
    }

    #[must_use]
    pub(crate) fn delivered_by(self, delivery: Delivery) -> Self {
        Self { delivery: Some(delivery), ..self }
    }

    /// From now on records say what is known now.
    pub(crate) fn learn(&mut self, known: Arc<Known>) {
        self.known = known;
    }

    pub(crate) fn log(&self) -> &FlowLog {
        &self.log
    }

    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        self.delivery.as_ref()
    }

    /// Id, spool directory and spool.
    pub(crate) fn place(&self) -> (String, PathBuf, Arc<Spool>) {
        (self.log.id.clone(), self.spool.directory().to_owned(), Arc::clone(&self.spool))
    }

    pub(crate) fn into_delivery(self) -> Option<Delivery> {
        self.delivery
    }

    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(crate) fn made(&self) -> Made {
        self.made
    }

    /// Windows that could not be spooled.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Spools what waits, as far as there is room now.
    pub(crate) fn try_again(&mut self) -> Taken {
        let mut taken = Taken::default();
        self.retry(&mut taken);
        taken
    }

    /// Records that wait to be spooled.
    pub(crate) fn waiting_records(&self) -> u64 {
        self.waiting.iter().map(records).sum()
    }

    /// Those of them that no journal has.
    pub(crate) fn only_in_memory(&self) -> u64 {
        self.waiting.iter().filter(|(ended, _)| ended.files.is_empty()).map(records).sum()
    }

    /// Slices of these numbers will be replayed, oldest first. Slices are forgotten in order: if the newest spooled window
    /// is none of them, all came after it.
    pub(crate) fn expect_replay(&mut self, numbers: &[u64]) {
        self.known_through = self.spool.last().filter(|last| numbers.contains(last));
    }

    pub(crate) fn take(&mut self, slice: &Slice) -> Taken {
        let interval = self.log.interval;
        let mut taken = Taken::default();
        // A window never spans two places of its grid, however long nobody ran.
        let is_other = |open: &Open| window_at(open.ended.start, interval) != window_at(slice.start, interval);
        if self.open.as_ref().is_some_and(|open| is_other(open) || open.confuses(slice)) {
            taken = self.end();
        }
        let mut open = self.open.take().unwrap_or_else(|| Open::new(slice.start));
        open.note(slice, &self.log, &self.known);
        let is_complete = slice.ends || slice.end >= window_at(slice.start, interval).1;
        if is_complete && open.is_empty {
            // A window of one slice: nothing is copied.
            self.put(open.finish(), &slice.flows, &mut taken);
            return taken;
        }
        open.collect(slice, &self.log);
        self.open = Some(open);
        if is_complete {
            taken.add(self.end());
        }
        taken
    }

    /// Ends the open window where it is.
    pub(crate) fn end(&mut self) -> Taken {
        let mut taken = Taken::default();
        if let Some(mut open) = self.open.take() {
            let flows = open.windows.close(open.ended.start, open.ended.end).flows;
            self.put(open.finish(), &flows, &mut taken);
        }
        taken
    }

    /// Spools a window, after those that wait.
    fn put(&mut self, mut ended: Ended, flows: &[Flow], taken: &mut Taken) {
        if let Some(last) = self.known_through {
            if ended.number == last {
                self.known_through = None;
            }
            taken.released.append(&mut ended.files);
            return;
        }
        self.retry(taken);
        let spooled = if self.waiting.is_empty() { self.write(&ended, flows) } else { Err(None) };
        match spooled {
            Ok(records) => {
                taken.records += records;
                self.made.add(&ended, records);
                taken.released.append(&mut ended.files);
            }
            Err(error) => {
                taken.error = error.map(|error| error.to_string()).or(taken.error.take());
                let kept = wanted(&self.log, flows, &ended.interfaces).copied().collect();
                self.waiting.push_back((ended, kept));
                self.bound(taken);
            }
        }
    }

    fn retry(&mut self, taken: &mut Taken) {
        while let Some((ended, flows)) = self.waiting.front() {
            match self.write(ended, flows) {
                Ok(records) => {
                    taken.records += records;
                    self.made.add(ended, records);
                }
                Err(error) => {
                    taken.error = error.map(|error| error.to_string());
                    return;
                }
            }
            taken.released.extend(self.waiting.pop_front().into_iter().flat_map(|(ended, _)| ended.files));
        }
    }

    /// Memory is bounded: only when the bound is passed is the oldest given up, and that is counted.
    fn bound(&mut self, taken: &mut Taken) {
        while self.waiting.iter().map(|(_, flows)| flows.len()).sum::<usize>() > WAITING_FLOWS_MAX {
            let Some(oldest) = self.waiting.pop_front() else { break };
            taken.lost_records += records(&oldest);
            taken.released.extend(oldest.0.files);
        }
    }

    /// What could not be spooled is lost with the flow log.
    pub(crate) fn give_up(&mut self) -> Taken {
        let mut taken = Taken::default();
        for window in self.waiting.drain(..) {
            taken.lost_records += records(&window);
            taken.released.extend(window.0.files);
        }
        taken
    }

    fn write(&self, ended: &Ended, flows: &[Flow]) -> Result<u64, Option<SpoolError>> {
        let host = self.known.host(&self.log);
        let batch = ended.batch(&host, &self.log, flows);
        let records = emit::spool(&self.log, &batch, &self.spool)?;
        self.delivery.iter().for_each(Delivery::wake);
        Ok(records)
    }
}

impl Ended {
    /// A window of one slice.
    pub(crate) fn with(slice: &Slice, log: &FlowLog, known: &Known) -> Self {
        let mut open = Open::new(slice.start);
        open.note(slice, log, known);
        open.finish()
    }

    pub(crate) fn batch<'a>(&'a self, host: &'a Host, log: &FlowLog, flows: &'a [Flow]) -> Batch<'a> {
        Batch {
            host,
            number: self.number,
            start: self.start,
            end: self.end,
            traffic_type: log.traffic_type,
            flows,
            statuses: &self.statuses,
            interfaces: &self.interfaces,
        }
    }
}

impl Made {
    fn add(&mut self, window: &Ended, records: u64) {
        self.windows += 1;
        self.records += records;
        self.seconds += (window.end - window.start + 1).max(0).cast_unsigned();
    }
}

fn records((ended, flows): &(Ended, Vec<Flow>)) -> u64 {
    (flows.len() + ended.statuses.len()) as u64
}

/// Flows of the flow log's traffic type and interfaces.
fn wanted<'a>(
    log: &FlowLog,
    flows: &'a [Flow],
    interfaces: &BTreeMap<u32, Interface>,
) -> impl Iterator<Item = &'a Flow> {
    flows.iter().filter(|flow| log.traffic_type.admits(flow) && interfaces.contains_key(&flow.key.ifindex))
}

impl Open {
    fn new(start: i64) -> Self {
        let (windows, active, skipped, known) = Default::default();
        Self { ended: Ended { start, ..Ended::default() }, windows, is_empty: true, active, skipped, known }
    }

    /// Whether an index is another interface's now: after a restart it may be.
    fn confuses(&self, slice: &Slice) -> bool {
        let is_other = |(ifindex, interface): (&u32, &Interface)| {
            slice.names.get(ifindex).is_some_and(|now| now.id != interface.id)
        };
        self.ended.interfaces.iter().any(is_other)
    }

    fn note(&mut self, slice: &Slice, log: &FlowLog, facts: &Known) {
        let Self { ended, active, skipped, known, .. } = self;
        ended.end = slice.end;
        ended.number = slice.number;
        ended.files.extend(slice.file);
        let covered = slice.names.iter().filter(|(_, named)| log.selection.covers(named));
        ended.interfaces.extend(covered.map(|(&ifindex, named)| (ifindex, facts.interface(log, named))));
        active.extend(&slice.active);
        skipped.extend(&slice.skipped);
        known.clone_from(&slice.known);
    }

    /// Only what the flow log wants.
    fn collect(&mut self, slice: &Slice, log: &FlowLog) {
        let flows = wanted(log, &slice.flows, &self.ended.interfaces).copied().collect();
        self.windows.absorb(Drained { batches: vec![flows], ..Drained::default() });
        self.is_empty = false;
    }

    /// SKIPDATA stands beside the normal lines, for AWS writes one for many lost flows; NODATA never stands beside
    /// anything, and speaks of the interface's traffic and not of the traffic type's.
    fn finish(self) -> Ended {
        let Self { mut ended, active, skipped, known, .. } = self;
        let is_covered = |ifindex: &&u32| ended.interfaces.contains_key(ifindex);
        let silent = known.iter().filter(|ifindex| !active.contains(ifindex) && !skipped.contains(ifindex));
        let no_data = silent.filter(is_covered).map(|&ifindex| (ifindex, Status::NoData));
        let mut statuses: Vec<_> =
            skipped.iter().filter(is_covered).map(|&ifindex| (ifindex, Status::SkipData)).collect();
        statuses.extend(no_data);
        ended.statuses = statuses;
        ended
    }
}

impl Taken {
    fn add(&mut self, mut other: Self) {
        self.records += other.records;
        self.lost_records += other.lost_records;
        self.released.append(&mut other.released);
        self.error = other.error.or(self.error.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, FlowKey, Verdict};
    use crate::flow_log::{Destination, Fields, TrafficType};
    use crate::format::Format;
    use crate::select::{Named, Selection};
    use std::path::Path;

    fn log(interval: u32, traffic_type: TrafficType, globs: &[&str]) -> Arc<FlowLog> {
        Arc::new(FlowLog {
            id: "fl-1".to_owned(),
            selection: Selection { globs: globs.iter().map(ToString::to_string).collect(), subnets: Vec::new() },
            traffic_type,
            interval,
            format: Format::parse("${interface-id} ${dstport} ${packets} ${start} ${end} ${action} ${log-status}")
                .unwrap(),
            destination: Destination::Stdout,
            tags: BTreeMap::new(),
            fields: Fields::default(),
            spool_bytes_max: 1 << 20,
        })
    }

    fn subscription(root: &Path, log: Arc<FlowLog>) -> Subscription {
        let spool = Spool::open(root, log.spool_bytes_max).unwrap();
        Subscription::new(log, Arc::default(), Arc::new(spool))
    }

    /// One packet on eth0 in its first second, and a rejected one on eth1.
    fn slice(start: i64, end: i64, ports: &[u16]) -> Slice {
        let flow = |ifindex: u32, verdict: Verdict, dst_port: u16| Flow {
            key: FlowKey {
                ifindex,
                direction: Direction::Ingress,
                verdict,
                protocol: 6,
                src: [10, 0, 0, 1].into(),
                dst: [10, 0, 0, 2].into(),
                src_port: 1,
                dst_port,
            },
            packets: 1,
            bytes: 60,
            first: start,
            last: start,
            tcp_flags: 0,
            reason: 0,
        };
        let flows: Vec<Flow> =
            ports.iter().flat_map(|&port| [flow(1, Verdict::Accept, port), flow(2, Verdict::Reject, port)]).collect();
        let named = |id: &str, name: &str| Named {
            id: id.to_owned(),
            name: name.to_owned(),
            addresses: Some(vec![[10, 0, 0, 2].into()]),
            loopback: false,
        };
        let active = flows.iter().map(|flow| flow.key.ifindex).collect();
        let names = BTreeMap::from([(1, named("eni-1", "eth0")), (2, named("eni-2", "eth1"))]);
        let (number, known) = (start.cast_unsigned(), BTreeSet::from([1, 2]));
        let mut slice = Slice::of(start, end, flows, names);
        (slice.number, slice.active, slice.known) = (number, active, known);
        slice
    }

    /// The windows in the spool, each as its number and sorted lines.
    fn windows(subscription: &Subscription) -> Vec<(u64, Vec<String>)> {
        let spool = &subscription.spool;
        let lines = |id| {
            let mut lines: Vec<String> = Vec::new();
            for block in spool.read(id).unwrap() {
                lines.extend(String::from_utf8(block.unwrap().text().unwrap()).unwrap().lines().map(str::to_owned));
            }
            lines.sort();
            lines
        };
        spool.segments().iter().map(|segment| (segment.window.number, lines(segment.id))).collect()
    }

    #[test]
    fn slices_become_windows() {
        let root = tempfile::tempdir().unwrap();
        let mut subscription = subscription(root.path(), log(180, TrafficType::All, &["eth0"]));
        for (at, ports) in [(0, &[80, 22][..]), (60, &[80]), (120, &[]), (180, &[80]), (240, &[]), (300, &[])] {
            subscription.take(&slice(at, at + 59, ports));
        }
        let want = [
            (120, vec!["eni-1 22 1 0 0 ACCEPT OK".to_owned(), "eni-1 80 2 0 60 ACCEPT OK".to_owned()]),
            (300, vec!["eni-1 80 1 180 180 ACCEPT OK".to_owned()]),
        ];
        assert_eq!(windows(&subscription), want);
        // A pause of the agent ends what was open.
        subscription.take(&slice(360, 419, &[22]));
        subscription.take(&slice(960, 1019, &[23]));
        assert_eq!(windows(&subscription)[2..], [(360, vec!["eni-1 22 1 360 360 ACCEPT OK".to_owned()])]);
        subscription.end();
        assert_eq!(windows(&subscription)[3..], [(960, vec!["eni-1 23 1 960 960 ACCEPT OK".to_owned()])]);
    }

    #[test]
    fn one_slice_is_a_window() {
        let root = tempfile::tempdir().unwrap();
        let mut subscription = subscription(root.path(), log(60, TrafficType::Reject, &[]));
        let taken = subscription.take(&slice(0, 59, &[80]));
        assert_eq!(taken.records, 1);
        // Silence of what is known is worth a line; a skip stands beside the others.
        let mut silent = slice(60, 119, &[]);
        silent.skipped.insert(2);
        subscription.take(&silent);
        let want = [
            (0, vec!["eni-2 80 1 0 0 REJECT OK".to_owned()]),
            (60, vec!["eni-1 - - 60 119 - NODATA".to_owned(), "eni-2 - - 60 119 - SKIPDATA".to_owned()]),
        ];
        assert_eq!(windows(&subscription), want);
    }

    #[test]
    fn what_is_replayed_is_spooled_once() {
        let root = tempfile::tempdir().unwrap();
        let slices: Vec<Slice> = (0..6).map(|at| slice(60 * at, 60 * at + 59, &[80])).collect();
        let mut first = subscription(root.path(), log(120, TrafficType::All, &[]));
        slices[..5].iter().for_each(|slice| drop(first.take(slice)));
        let before = windows(&first);
        // Also when it is delivered and gone by then.
        let through = first.spool.segments()[1].id;
        first.spool.remove(through).unwrap();
        drop(first);
        let mut second = subscription(root.path(), log(120, TrafficType::All, &[]));
        second.expect_replay(&[60, 120, 180, 240]);
        slices[1..].iter().for_each(|slice| drop(second.take(slice)));
        assert_eq!(
            (before.len(), windows(&second)),
            (
                2,
                vec![(
                    300,
                    vec!["eni-1 80 2 240 300 ACCEPT OK".to_owned(), "eni-2 80 2 240 300 REJECT OK".to_owned(),]
                )]
            )
        );
    }
}
