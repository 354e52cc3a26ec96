//! A closed window of one flow log -> its lines, in blocks as the destination takes them, in the spool.
//! Must not know how blocks are stored or sent.
//! Always: every record of the batch is in one block, and the same batch gives the same blocks.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::capture::flow::Flow;
use crate::encode;
use crate::flow_log::{Destination, FlowLog, Layout, S3};
use crate::format::Format;
use crate::record::{Batch, Interface, Record, Status};
use crate::spool::{Spool, SpoolError, Window, Writer};

/// A block is full when its lines come to this: enough to compress well, little to hold.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Longer than most lines; a longer one makes the buffer grow.
const LINE_BYTES: usize = 512;

/// Durable when it returns. The number of records.
pub(crate) fn spool(log: &FlowLog, batch: &Batch, spool: &Spool) -> Result<u64, SpoolError> {
    let window = Window { start: batch.start, end: batch.end, number: batch.number };
    let mut writer = spool.begin(window)?;
    let (format, records) = (&log.format, batch.records());
    let count = match &log.destination {
        Destination::S3(S3 { layout, .. }) | Destination::Directory { layout, .. } => {
            by_slot(format, records, *layout, &mut writer)
        }
        Destination::CloudWatchLogs(_) => by_interface(format, batch, &mut writer),
        Destination::Stdout | Destination::Firehose(_) => as_they_come(format, records, &mut writer),
    }?;
    writer.finish()?;
    Ok(count)
}

/// Lines of one key that are no block yet.
struct Lines {
    text: Vec<u8>,
    records: u32,
}

impl Lines {
    fn new() -> Self {
        Self { text: Vec::with_capacity(BLOCK_BYTES + LINE_BYTES), records: 0 }
    }

    #[inline]
    fn append(&mut self, format: &Format, record: &Record) {
        encode::append(format, record, &mut self.text);
        self.records += 1;
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.text.len() >= BLOCK_BYTES
    }

    fn flush(&mut self, key: &str, writer: &mut Writer) -> Result<(), SpoolError> {
        if self.records > 0 {
            writer.block(key, self.records, &self.text)?;
            self.text.clear();
            self.records = 0;
        }
        Ok(())
    }
}

fn as_they_come<'a>(
    format: &Format,
    records: impl Iterator<Item = Record<'a>>,
    writer: &mut Writer,
) -> Result<u64, SpoolError> {
    let (mut lines, mut count) = (Lines::new(), 0);
    for record in records {
        lines.append(format, &record);
        count += 1;
        if lines.is_full() {
            lines.flush("", writer)?;
        }
    }
    lines.flush("", writer)?;
    Ok(count)
}

/// Objects are named after the slot that `end` is in; the key is its first second.
fn by_slot<'a>(
    format: &Format,
    records: impl Iterator<Item = Record<'a>>,
    layout: Layout,
    writer: &mut Writer,
) -> Result<u64, SpoolError> {
    // A window touches a handful at most.
    let mut slots: Vec<(i64, Lines)> = Vec::new();
    let (mut at, mut count) = (0, 0);
    for record in records {
        let slot = layout.slot_of(record.end);
        // Neighbours are mostly of one slot.
        if slots.get(at).is_none_or(|(known, _)| *known != slot) {
            at = slots.iter().position(|(known, _)| *known == slot).unwrap_or_else(|| {
                slots.push((slot, Lines::new()));
                slots.len() - 1
            });
        }
        let lines = &mut slots[at].1;
        lines.append(format, &record);
        count += 1;
        if lines.is_full() {
            lines.flush(&slot.to_string(), writer)?;
        }
    }
    for (slot, mut lines) in slots {
        lines.flush(&slot.to_string(), writer)?;
    }
    Ok(count)
}

/// A stream per interface, in order of `start`, which stands before each line; the key is the interface id.
fn by_interface(format: &Format, batch: &Batch, writer: &mut Writer) -> Result<u64, SpoolError> {
    let sorted = Sorted::new(batch);
    let mut lines = Lines::new();
    // Neighbours mostly start in the same second.
    let (mut start, mut prefix) = (None, String::new());
    for run in sorted.places.chunk_by(|one, next| one.interface() == next.interface()) {
        let interface = sorted.interfaces[run[0].interface()];
        for place in run {
            // One id may be that of several interfaces.
            let own = place.flow.and_then(|flow| batch.interfaces.get(&flow.key.ifindex));
            let record = place.record(batch, own.unwrap_or(interface));
            if start.replace(record.start) != Some(record.start) {
                prefix = format!("{} ", record.start);
            }
            lines.text.extend_from_slice(prefix.as_bytes());
            lines.append(format, &record);
            if lines.is_full() {
                lines.flush(&interface.id, writer)?;
            }
        }
        lines.flush(&interface.id, writer)?;
    }
    Ok(sorted.places.len() as u64)
}

/// The records of a batch in the order of interface and `start`, without a copy of the flows.
struct Sorted<'a> {
    interfaces: Vec<&'a Interface>,
    places: Vec<Place<'a>>,
}

struct Place<'a> {
    /// Number of the interface, and seconds since the window's start.
    order: u64,
    flow: Option<&'a Flow>,
    status: Status,
}

impl<'a> Sorted<'a> {
    fn new(batch: &Batch<'a>) -> Self {
        let mut interfaces: Vec<&Interface> = Vec::new();
        let mut numbers: HashMap<&str, u64> = HashMap::new();
        let mut last = ("", 0);
        let mut places = Vec::with_capacity(batch.flows.len() + batch.statuses.len());
        for Record { interface, flow, start, status, .. } in batch.records() {
            // Neighbours are mostly of one interface. No id is empty.
            if last.0 != interface.id {
                let number = *numbers.entry(&interface.id).or_insert_with(|| {
                    interfaces.push(interface);
                    interfaces.len() as u64 - 1
                });
                last = (&interface.id, number);
            }
            let offset = u32::try_from(start.saturating_sub(batch.start).max(0)).unwrap_or(u32::MAX);
            places.push(Place { order: last.1 << 32 | u64::from(offset), flow, status });
        }
        places.sort_unstable_by_key(|place| place.order);
        Self { interfaces, places }
    }
}

impl<'a> Place<'a> {
    fn interface(&self) -> usize {
        (self.order >> 32) as usize
    }

    fn record(&self, batch: &Batch<'a>, interface: &'a Interface) -> Record<'a> {
        let Self { flow, status, .. } = *self;
        let (start, end) = flow.map_or((batch.start, batch.end), |flow| (flow.first, flow.last));
        Record { host: batch.host, interface, flow, start, end, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, FlowKey, Verdict};
    use crate::flow_log::{CloudWatchLogs, Endpoint, Fields, Firehose, Framing, Retention, TrafficType};
    use crate::record::Host;
    use crate::select::Selection;
    use std::collections::BTreeMap;

    const START: i64 = 1_795_517_700;
    const FORMAT: &str = "${interface-id} ${dstport} ${end} ${log-status}";

    fn log(destination: Destination) -> FlowLog {
        FlowLog {
            id: "fl-1".to_owned(),
            selection: Selection::default(),
            traffic_type: TrafficType::All,
            interval: 600,
            format: Format::parse(FORMAT).unwrap(),
            destination,
            tags: BTreeMap::new(),
            fields: Fields::default(),
            spool_bytes_max: 0,
        }
    }

    fn directory() -> Destination {
        Destination::Directory { root: "/".into(), layout: Layout::default(), retention: Retention::default() }
    }

    fn cloud_watch_logs() -> Destination {
        Destination::CloudWatchLogs(CloudWatchLogs {
            group: "g".to_owned(),
            retention_days: None,
            endpoint: Endpoint::default(),
        })
    }

    fn flow(ifindex: u32, dst_port: u16, first: i64, last: i64) -> Flow {
        let key = FlowKey {
            ifindex,
            direction: Direction::Ingress,
            verdict: Verdict::Accept,
            protocol: 6,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: 40_000,
            dst_port,
        };
        Flow { key, packets: 1, bytes: 40, first: START + first, last: START + last, tcp_flags: 0, reason: 0 }
    }

    /// Key, number of records and text of each block.
    fn blocks(destination: Destination, flows: &[Flow], statuses: &[(u32, Status)]) -> Vec<(String, u32, String)> {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::open(root.path(), u64::MAX).unwrap();
        // 3 has no id and gives no record.
        let interface = |id: &str| Interface { id: id.to_owned(), ..Interface::default() };
        let interfaces = BTreeMap::from([(1, interface("eni-b")), (2, interface("eni-a"))]);
        let batch = Batch {
            host: &Host::default(),
            number: 5,
            start: START,
            end: START + 599,
            traffic_type: TrafficType::All,
            flows,
            statuses,
            interfaces: &interfaces,
        };
        let records = super::spool(&log(destination), &batch, &spool).unwrap();
        assert_eq!(spool.last(), Some(5));
        let Some(segment) = spool.segments().pop() else { return Vec::new() };
        assert_eq!((segment.records, segment.window.end), (records, START + 599));
        let text = |block: crate::spool::Block| {
            let text = String::from_utf8(block.text().unwrap()).unwrap();
            assert_eq!(text.lines().count(), block.records as usize);
            (block.key, block.records, text)
        };
        spool.read(segment.id).unwrap().map(|block| text(block.unwrap())).collect()
    }

    fn some_flows() -> [Flow; 5] {
        [flow(1, 80, 7, 20), flow(1, 81, 3, 299), flow(2, 82, 0, 300), flow(3, 83, 0, 0), flow(1, 84, 2, 599)]
    }

    #[test]
    fn a_block_for_each_slot() {
        let end = |offset: i64| START + offset;
        let want = [
            (START.to_string(), 2, format!("eni-b 80 {} OK\neni-b 81 {} OK\n", end(20), end(299))),
            (
                (START + 300).to_string(),
                3,
                format!("eni-a 82 {} OK\neni-b 84 {} OK\neni-a - {} SKIPDATA\n", end(300), end(599), end(599)),
            ),
        ];
        assert_eq!(blocks(directory(), &some_flows(), &[(2, Status::SkipData), (3, Status::NoData)]), want);
    }

    #[test]
    fn slots_of_a_quarter_of_an_hour() {
        let layout = Layout { object_interval: 900, ..Layout::default() };
        let blocks = blocks(
            Destination::Directory { root: "/".into(), layout, retention: Retention::default() },
            &some_flows(),
            &[],
        );
        // 600 seconds after a quarter began.
        let slots: Vec<(i64, u32)> = blocks.iter().map(|(key, records, _)| (key.parse().unwrap(), *records)).collect();
        assert_eq!(slots, [(START - 600, 2), (START + 300, 2)]);
    }

    #[test]
    fn a_block_for_each_interface_in_order_of_start() {
        let at = |offset: i64| START + offset;
        let lines = |lines: &[(i64, &str, i64, &str)]| -> String {
            lines
                .iter()
                .map(|(start, id, end, status)| format!("{} {id} {} {status}\n", at(*start), at(*end)))
                .collect()
        };
        let want = [
            (
                "eni-b".to_owned(),
                3,
                lines(&[(2, "eni-b 84", 599, "OK"), (3, "eni-b 81", 299, "OK"), (7, "eni-b 80", 20, "OK")]),
            ),
            ("eni-a".to_owned(), 2, lines(&[(0, "eni-a -", 599, "NODATA"), (1, "eni-a 82", 300, "OK")])),
        ];
        let mut flows = some_flows();
        flows[2].first += 1;
        assert_eq!(blocks(cloud_watch_logs(), &flows, &[(2, Status::NoData)]), want);
    }

    /// What records of one stream say of their interface is that interface's.
    #[test]
    fn two_interfaces_of_one_id() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::open(root.path(), u64::MAX).unwrap();
        let interface =
            |name: &str| Interface { id: "eni-a".to_owned(), name: name.to_owned(), ..Interface::default() };
        let batch = Batch {
            host: &Host::default(),
            number: 5,
            start: START,
            end: START + 599,
            traffic_type: TrafficType::All,
            flows: &[flow(1, 80, 9, 9), flow(2, 81, 3, 3), flow(1, 82, 1, 1)],
            statuses: &[],
            interfaces: &BTreeMap::from([(1, interface("eth1")), (2, interface("eth2"))]),
        };
        let format = Format::parse("${x-interface-name} ${dstport}").unwrap();
        let log = FlowLog { format, ..log(cloud_watch_logs()) };
        super::spool(&log, &batch, &spool).unwrap();
        let segment = spool.segments().pop().unwrap();
        let texts =
            spool.read(segment.id).unwrap().map(|block| String::from_utf8(block.unwrap().text().unwrap()).unwrap());
        let [one, three, nine] = [1, 3, 9].map(|offset| START + offset);
        assert_eq!(texts.collect::<Vec<_>>(), [format!("{one} eth1 82\n{three} eth2 81\n{nine} eth1 80\n")]);
    }

    #[test]
    fn one_block_without_a_key() {
        let firehose = Firehose { stream: "s".to_owned(), framing: Framing::Json, endpoint: Endpoint::default() };
        let want = blocks(Destination::Stdout, &some_flows(), &[]);
        assert_eq!((want.len(), want[0].0.as_str(), want[0].1), (1, "", 4));
        assert_eq!(blocks(Destination::Firehose(firehose), &some_flows(), &[]), want);
        assert_eq!(blocks(Destination::Stdout, &some_flows()[3..4], &[]), []);
    }

    #[test]
    fn many_lines_are_many_blocks() {
        let flows: Vec<Flow> = (0..100_000u32).map(|at| flow(1, at as u16, i64::from(at % 600), 599)).collect();
        for destination in [directory(), cloud_watch_logs(), Destination::Stdout] {
            let blocks = blocks(destination, &flows, &[]);
            assert!(blocks.len() > 2);
            assert_eq!(blocks.iter().map(|(_, records, _)| records).sum::<u32>(), 100_000);
            let full = BLOCK_BYTES..BLOCK_BYTES + LINE_BYTES;
            assert!(blocks[..blocks.len() - 1].iter().all(|(.., text)| full.contains(&text.len())));
        }
        // In order over all of them.
        let starts = blocks(cloud_watch_logs(), &flows, &[]).into_iter().flat_map(|(.., text)| {
            let starts: Vec<i64> = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
            starts
        });
        assert!(starts.is_sorted());
    }
}
