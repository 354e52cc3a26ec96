//! What waits to be delivered: a directory with one segment file per window of one flow log, oldest first.
//!
//! A segment is written whole under another name, so it has no torn tail; what is damaged was damaged by the disk, costs
//! the block it is in, and is counted. Bounded in bytes: the oldest segments make room, and are counted.
//!
//! Must not know what the text is or where it goes.
//! Always: what `finish` returned Ok for is there after a crash, until it is removed or has to make room; what `remove`
//! returned Ok for never comes back; no two segments ever have the same id.
#![forbid(unsafe_code)]

mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod reader;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use format::{Block, Deflate};
pub(crate) use reader::Reader;
pub(crate) use writer::Writer;

use crate::register::Register;
use crate::{disk, fault};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// Unix seconds.
    pub(crate) start: i64,
    /// Inclusive.
    pub(crate) end: i64,
    pub(crate) number: u64,
}

/// Counts up from 1, also over restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SegmentId(u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) window: Window,
    /// Of the file.
    pub(crate) bytes: u64,
    /// Before compression.
    pub(crate) text_bytes: u64,
    pub(crate) records: u64,
}

/// Since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Dropped {
    /// For want of room.
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) corrupt_blocks: u64,
    pub(crate) corrupt_records: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    // The cause is in the line itself and so must not also be the error's source, or it would print twice.
    #[error("cannot {verb} {}: {cause}", path.display())]
    Io { verb: &'static str, path: PathBuf, cause: io::Error },
    #[error("a block of {0} bytes is too large for the spool")]
    TooLarge(usize),
    #[error("a block of the spool cannot be inflated")]
    Block,
}

impl SpoolError {
    pub(crate) fn at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { verb, path: path.to_owned(), cause }
    }
}

/// Used by the one who fills it and the one who empties it.
pub(crate) struct Spool {
    directory: PathBuf,
    limit: u64,
    /// With readers, which count what they found corrupt.
    state: Arc<Mutex<State>>,
}

struct State {
    segments: BTreeMap<SegmentId, Segment>,
    /// The newest id that was ever given out.
    newest: u64,
    last: Last,
    register: Register,
    /// Everything up to here is being delivered.
    held: Option<SegmentId>,
    /// Blocks and records, of segments that are read to their end.
    corrupt: BTreeMap<SegmentId, (u64, u64)>,
    dropped: Dropped,
    /// When dropped segments were last spoken of, and what was dropped by then.
    said: Option<(Instant, Dropped)>,
}

/// In the file `last`: what must outlive the segments.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Last {
    /// Of the newest window that was finished, with the number it has.
    id: u64,
    number: Option<u64>,
    /// All up to this id are delivered, also those that a crash kept from being deleted.
    removed: u64,
}

const LAST: &str = "last";
/// How often dropped segments are spoken of.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Spool {
    /// Makes the directory if there is none and takes up what is in it. What is no segment of this version is left
    /// alone, and said.
    pub(crate) fn open(directory: &Path, limit: u64) -> Result<Self, SpoolError> {
        let make = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        make.map_err(SpoolError::at("create directory", directory))?;
        if let Some(parent) = directory.parent() {
            // An empty parent is the working directory.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            disk::sync_folder(parent).map_err(SpoolError::at("sync directory", parent))?;
        }
        let state = recover::read(directory)?;
        Ok(Self { directory: directory.to_owned(), limit, state: Arc::new(Mutex::new(state)) })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The number of the newest window that was ever finished here, also when it is delivered and gone.
    pub(crate) fn last(&self) -> Option<u64> {
        self.state().last.number
    }

    /// Makes no file yet.
    pub(crate) fn begin(&self, window: Window) -> Result<Writer<'_>, SpoolError> {
        Ok(Writer::new(self, window))
    }

    /// Oldest first.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.state().segments.values().copied().collect()
    }

    /// What it has opened can be read to its end, also when the segment is removed.
    pub(crate) fn read(&self, id: SegmentId) -> Result<Reader, SpoolError> {
        Reader::open(&self.path(id), id, Arc::clone(&self.state))
    }

    /// Segments up to `through` are delivered. All of them or, after an error, none.
    pub(crate) fn remove(&self, through: SegmentId) -> Result<(), SpoolError> {
        let mut state = self.state();
        let Some(newest) = state.segments.range(..=through).next_back().map(|(id, _)| *id) else { return Ok(()) };
        let last = Last { removed: newest.0, ..state.last };
        state.write_last(last)?;
        let kept = state.segments.split_off(&SegmentId(newest.0 + 1));
        for id in std::mem::replace(&mut state.segments, kept).into_keys() {
            self.delete(id);
            state.settle(id);
            fault::point("segment-removed");
        }
        Ok(())
    }

    /// Keeps segments up to `through` from making room for others. The next call takes the place of this one.
    pub(crate) fn hold(&self, through: Option<SegmentId>) {
        self.state().held = through;
    }

    /// Of all segments' files.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes()
    }

    pub(crate) fn dropped(&self) -> Dropped {
        let state = self.state();
        let mut dropped = state.dropped;
        for (blocks, records) in state.corrupt.values() {
            dropped.corrupt_blocks += blocks;
            dropped.corrupt_records += records;
        }
        dropped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.directory.join(id.file_name())
    }

    /// Whatever the segment's fate is, it is decided: a file that stays now goes at the next start.
    fn delete(&self, id: SegmentId) {
        let path = self.path(id);
        if let Err(error) = disk::remove(&path).map_err(SpoolError::at("remove segment", &path)) {
            tracing::warn!("{error}");
        }
    }

    /// A window without a block.
    fn pass(&self, window: Window) -> Result<(), SpoolError> {
        let mut state = self.state();
        let last = Last { id: state.next_id().0, number: Some(window.number), ..state.last };
        state.write_last(last)
    }

    /// A segment whose file is in its place.
    fn add(&self, segment: Segment) {
        let mut state = self.state();
        state.segments.insert(segment.id, segment);
        state.last.finish(segment.id, segment.window);
        while state.bytes() > self.limit {
            let held = state.held;
            let spare = |id: &SegmentId| Some(*id) > held && *id != segment.id;
            let Some(id) = state.segments.keys().copied().find(spare) else { break };
            let Some(oldest) = state.segments.remove(&id) else { break };
            self.delete(id);
            state.settle(id);
            state.dropped.segments += 1;
            state.dropped.records += oldest.records;
        }
        state.say_dropped(&self.directory, self.limit);
    }
}

impl State {
    fn next_id(&mut self) -> SegmentId {
        self.newest += 1;
        SegmentId(self.newest)
    }

    fn write_last(&mut self, last: Last) -> Result<(), SpoolError> {
        let written = self.register.write(&last.line());
        written.map_err(SpoolError::at("write", self.register.path()))?;
        self.last = last;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Nobody reads it any more.
    fn settle(&mut self, id: SegmentId) {
        let (blocks, records) = self.corrupt.remove(&id).unwrap_or_default();
        self.dropped.corrupt_blocks += blocks;
        self.dropped.corrupt_records += records;
    }

    fn say_dropped(&mut self, directory: &Path, limit: u64) {
        let (when, before) = self.said.map_or((None, Dropped::default()), |(when, before)| (Some(when), before));
        if self.dropped.segments == before.segments || when.is_some_and(|when| when.elapsed() < SAY_AGAIN) {
            return;
        }
        let (segments, records) = (self.dropped.segments - before.segments, self.dropped.records - before.records);
        tracing::error!(
            "spool {} is full ({limit} bytes): the oldest {segments} windows with {records} records were dropped",
            directory.display()
        );
        self.said = Some((Instant::now(), self.dropped));
    }
}

impl Last {
    fn finish(&mut self, id: SegmentId, window: Window) {
        if id.0 > self.id {
            (self.id, self.number) = (id.0, Some(window.number));
        }
    }

    fn line(self) -> String {
        let number = self.number.map_or("-".to_owned(), |number| number.to_string());
        format!("{} {number} {}", self.id, self.removed)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok()?;
        let number = match words.next()? {
            "-" => None,
            number => Some(number.parse().ok()?),
        };
        Some(Self { id, number, removed: words.next()?.parse().ok()? })
    }
}

const EXTENSION: &str = ".seg";
const TEMPORARY: &str = ".tmp";

impl SegmentId {
    /// Before all others.
    pub(crate) const NONE: Self = Self(0);

    /// In the order of ids.
    fn file_name(self) -> String {
        format!("{:020}{EXTENSION}", self.0)
    }

    fn parse(name: &str) -> Option<Self> {
        let id = Self(name.strip_suffix(EXTENSION)?.parse().ok()?);
        // One name for one segment: no plus signs, no other width.
        (id.0 > 0 && id.file_name() == name).then_some(id)
    }
}

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SegmentId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing is left half done by a panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_file(path: &Path) -> Result<File, SpoolError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW);
    options.open(path).map_err(SpoolError::at("open segment", path))
}
