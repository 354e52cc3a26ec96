//! A closed window of one flow log -> its lines, in blocks as the destination takes them, in the spool.
//! Must not know how blocks are stored or sent.
//! Always: every record of the batch is in one block, and the same batch gives the same blocks.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::Write as _;

use crate::capture::flow::Flow;
use crate::encode;
use crate::flow_log::{Destination, FlowLog};
use crate::format::Format;
use crate::record::{Batch, Record, Status};
use crate::sink;
use crate::spool::{Spool, SpoolError, Window, Writer};

/// A block is full when its lines come to this: enough to compress well, little to hold.
const BLOCK_BYTES: usize = 1 << 20;
/// Longer than most lines; a longer one makes the buffer grow.
const LINE_BYTES: usize = 512;

/// Durable when it returns. The number of records.
pub(crate) fn spool(log: &FlowLog, batch: &Batch, spool: &Spool) -> Result<u64, SpoolError> {
    let window = Window { start: batch.start, end: batch.end, number: batch.number };
    let mut writer = spool.begin(window)?;
    let (format, records) = (&log.format, batch.records());
    let count = match &log.destination {
        Destination::S3(_) | Destination::Directory { .. } => by_slot(format, records, &mut writer),
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

/// Objects are named after the five minutes that `end` is in; the key is their first second.
fn by_slot<'a>(
    format: &Format,
    records: impl Iterator<Item = Record<'a>>,
    writer: &mut Writer,
) -> Result<u64, SpoolError> {
    // A window touches a handful at most.
    let mut slots: Vec<(i64, Lines)> = Vec::new();
    let (mut at, mut count) = (0, 0);
    for record in records {
        let slot = sink::slot_of(record.end);
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
    for run in sorted.places.chunk_by(|one, next| one.interface() == next.interface()) {
        let interface_id = sorted.interfaces[run[0].interface()];
        for place in run {
            let record = place.record(batch, interface_id);
            // Writing to a vector cannot fail.
            let _ = write!(lines.text, "{} ", record.start);
            lines.append(format, &record);
            if lines.is_full() {
                lines.flush(interface_id, writer)?;
            }
        }
        lines.flush(interface_id, writer)?;
    }
    Ok(sorted.places.len() as u64)
}

/// The records of a batch in the order of interface and `start`, without a copy of the flows.
struct Sorted<'a> {
    interfaces: Vec<&'a str>,
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
        let mut interfaces: Vec<&str> = Vec::new();
        let mut numbers: HashMap<&str, u64> = HashMap::new();
        let mut last = ("", 0);
        let mut places = Vec::with_capacity(batch.flows.len() + batch.statuses.len());
        for Record { interface_id, flow, start, status, .. } in batch.records() {
            // Neighbours are mostly of one interface. No id is empty.
            if last.0 != interface_id {
                let number = *numbers.entry(interface_id).or_insert_with(|| {
                    interfaces.push(interface_id);
                    interfaces.len() as u64 - 1
                });
                last = (interface_id, number);
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

    fn record(&self, batch: &Batch<'a>, interface_id: &'a str) -> Record<'a> {
        let Self { flow, status, .. } = *self;
        let (start, end) = flow.map_or((batch.start, batch.end), |flow| (flow.first, flow.last));
        Record { account_id: batch.account_id, interface_id, flow, start, end, status }
    }
}
