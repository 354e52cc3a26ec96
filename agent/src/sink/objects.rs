//! Publishes the spool as objects: batches of segments, in each batch an object for every five minutes of `end`.
//! Must not know what a line is, nor how a store keeps objects.
//! Always: a record is in one object; a batch that was begun is the same one after a crash, under the same names, so
//! that what is published again takes its own place; no object without records.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;

use super::due::{due, next_look};
use super::member::{Member, TEXT_BYTES_MAX};
use super::{Delivered, Directory, Names, Outcome, S3, slot_of};
use crate::fault;
use crate::register::Register;
use crate::spool::{Block, Segment, SegmentId, Spool, SpoolError};

/// Keeps whole objects by name.
pub(crate) enum Store {
    Directory(Directory),
    S3(Box<S3>),
}

impl Store {
    async fn put(&mut self, key: &str, body: Bytes) -> Outcome {
        match self {
            Self::Directory(directory) => directory.put(key, &body),
            Self::S3(bucket) => bucket.put(key, body).await,
        }
    }
}

pub(crate) struct Objects {
    spool: Arc<Spool>,
    names: Names,
    /// The first line of each.
    header: String,
    /// Seconds that a batch is collected for, see [`due`].
    interval: u32,
    store: Store,
    batch: Option<Batch>,
    /// The newest batch's last segment.
    batch_file: Register,
    delivered: Delivered,
    text_bytes_max: u64,
}

/// Of the first segment to `through`.
struct Batch {
    segments: Vec<Segment>,
    through: SegmentId,
    /// What is not published yet.
    left: Vec<Part>,
}

/// One object: a slot's records, or as many of them as one object may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Part {
    slot: i64,
    number: u32,
}

impl Objects {
    /// `header`: the first line, without newline. To be made before a window is finished in the spool: what a batch
    /// that was begun is made of must not make room for it.
    pub(crate) fn open(
        spool: Arc<Spool>,
        names: Names,
        header: &str,
        interval: u32,
        store: Store,
    ) -> Result<Self, SpoolError> {
        let (mut batch_file, through) = read_batch_file(&spool)?;
        // Makes room for what is to be said when there is none.
        if let Err(error) = write_batch_file(&mut batch_file, through) {
            tracing::warn!("{error}");
        }
        let (header, delivered) = (format!("{header}\n"), Delivered::default());
        let (batch, text_bytes_max) = (None, TEXT_BYTES_MAX);
        let mut objects = Self { spool, names, header, interval, store, batch, batch_file, delivered, text_bytes_max };
        // None of it is there when the batch was settled.
        objects.batch = objects.batch_through(through)?;
        Ok(objects)
    }

    /// Publishes one object, the next that is due. None: nothing is due. `all`: nothing more comes, so everything is.
    pub(crate) async fn deliver(&mut self, now: i64, all: bool) -> Option<Outcome> {
        match self.begin(now, all) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => return Some(error.into()),
        }
        let batch = self.batch.as_ref()?;
        let Some(&part) = batch.left.last() else { return Some(self.settle()) };
        let (object, records) = match self.assemble(batch, part) {
            Ok(assembled) => assembled,
            Err(error) => return Some(error.into()),
        };
        let key = self.names.key(batch.segments.first()?.window.number, part.slot, part.number);
        let bytes = object.len() as u64;
        let outcome = self.store.put(&key, object.into()).await;
        if outcome != Outcome::Done {
            return Some(outcome);
        }
        self.delivered.calls += 1;
        self.delivered.bytes += bytes;
        self.delivered.records += records;
        let batch = self.batch.as_mut()?;
        batch.left.pop();
        Some(if batch.left.is_empty() { self.settle() } else { Outcome::Done })
    }

    /// When something may become due, in seconds, if the spool stays as it is.
    pub(crate) fn next_look(&self, now: i64) -> i64 {
        next_look(now, self.interval)
    }

    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Whether there is a batch, perhaps a new one.
    fn begin(&mut self, now: i64, all: bool) -> Result<bool, SpoolError> {
        if self.batch.is_none() {
            let Some(through) = due(&self.spool.segments(), now, self.interval, all) else { return Ok(false) };
            let batch = self.batch_through(through)?;
            if batch.is_some() {
                write_batch_file(&mut self.batch_file, through)?;
                fault::point("batch-made");
            }
            self.batch = batch;
        }
        Ok(self.batch.is_some())
    }

    /// Held, so that none of it makes room for others. None if there is nothing.
    fn batch_through(&self, through: SegmentId) -> Result<Option<Batch>, SpoolError> {
        self.spool.hold(Some(through));
        let mut segments = self.spool.segments();
        segments.retain(|segment| segment.id <= through);
        if segments.is_empty() {
            self.spool.hold(None);
            return Ok(None);
        }
        let mut parts = BTreeSet::new();
        self.visit(&segments, |part, _| {
            parts.insert(part);
        })?;
        // The last is the next.
        Ok(Some(Batch { segments, through, left: parts.into_iter().rev().collect() }))
    }

    /// Everything is out.
    fn settle(&mut self) -> Outcome {
        let Some(batch) = &self.batch else { return Outcome::Done };
        if let Err(error) = self.spool.remove(batch.through) {
            return error.into();
        }
        self.delivered.segments += batch.segments.len() as u64;
        self.batch = None;
        self.spool.hold(None);
        Outcome::Done
    }

    fn assemble(&self, batch: &Batch, wanted: Part) -> Result<(Vec<u8>, u64), SpoolError> {
        let mut member = Member::new(&self.header).map_err(|_| SpoolError::Block)?;
        let mut records = 0;
        self.visit(&batch.segments, |part, block| {
            if part == wanted {
                member.push(block);
                records += u64::from(block.records);
            }
        })?;
        Ok((member.finish(), records))
    }

    /// Every block that has records, with the object that it belongs to; always the same one.
    fn visit(&self, segments: &[Segment], mut visit: impl FnMut(Part, &Block)) -> Result<(), SpoolError> {
        // By slot: the part that is being filled, and its text.
        let mut filling: BTreeMap<i64, (u32, u64)> = BTreeMap::new();
        for segment in segments {
            for block in self.spool.read(segment.id)? {
                let block = block?;
                if block.records == 0 {
                    continue;
                }
                let slot = block.key.parse().unwrap_or_else(|_| slot_of(segment.window.end));
                let header = self.header.len() as u64;
                let (number, text_bytes) = filling.entry(slot).or_insert((0, header));
                if *text_bytes > header && *text_bytes + u64::from(block.raw_len) > self.text_bytes_max {
                    (*number, *text_bytes) = (*number + 1, header);
                }
                *text_bytes += u64::from(block.raw_len);
                visit(Part { slot, number: *number }, &block);
            }
        }
        Ok(())
    }
}

fn write_batch_file(file: &mut Register, through: SegmentId) -> Result<(), SpoolError> {
    file.write(&through.to_string()).map_err(SpoolError::at("write", file.path()))
}

fn read_batch_file(spool: &Spool) -> Result<(Register, SegmentId), SpoolError> {
    let (file, line) = Register::open(spool.directory().join("batch"));
    let through = match line {
        Ok(None) => Some(SegmentId::NONE),
        Ok(Some(line)) => line.parse().ok(),
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => return Err(SpoolError::at("read", file.path())(error)),
    };
    let through = through.unwrap_or_else(|| {
        let path = file.path().display();
        tracing::warn!("{path} is damaged: objects may be published again under other names");
        SegmentId::NONE
    });
    Ok((file, through))
}
