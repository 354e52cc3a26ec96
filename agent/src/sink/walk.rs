//! Goes through the spool's segments a few blocks at a time, for destinations that take lines and not objects, and
//! keeps how far it came on disk: a restart repeats the calls that were under way, and no more.
//! Must not know what a call is; counts them.
#![forbid(unsafe_code)]

use std::path::Path;

use super::Outcome;
use crate::register::Register;
use crate::spool::{Block, Reader, SegmentId, Spool, SpoolError};

/// Of text that is in memory.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_BLOCKS: usize = 256;
const PROGRESS: &str = "progress";

/// Consecutive blocks of one segment. The same again after a restart.
pub(super) struct Group {
    pub(super) blocks: Vec<Block>,
    /// What the file said of this group; empty if nothing.
    pub(super) calls: Vec<usize>,
}

pub(super) struct Walk {
    file: Register,
    /// What the file says, or would if it could be written.
    said: String,
    place: Option<Place>,
    /// The file cannot be written: said once.
    is_failing: bool,
}

struct Place {
    segment: SegmentId,
    reader: Reader,
    /// Blocks before the group, and in it with those that were left out.
    before: usize,
    within: usize,
    /// Read ahead of the group.
    next: Option<Block>,
}

impl Walk {
    /// `directory` is the spool's.
    pub(super) fn new(directory: &Path) -> Self {
        let (file, line) = Register::open(directory.join(PROGRESS));
        // A damaged file costs calls that are made twice.
        let said = line.ok().flatten().unwrap_or_default();
        Self { file, said, place: None, is_failing: false }
    }

    /// The group after the last one. None: nothing waits.
    pub(super) fn next(&mut self, spool: &Spool) -> Result<Option<Group>, Outcome> {
        let calls = match self.place {
            Some(_) => Vec::new(),
            None => match self.enter(spool)? {
                Some(calls) => calls,
                None => return Ok(None),
            },
        };
        let group = self.place.as_mut().map(Place::read).transpose();
        match group {
            Ok(group) => Ok(group.map(|blocks| Group { blocks, calls })),
            Err(error) => {
                self.place = None;
                Err(error.into())
            }
        }
    }

    /// Opens the oldest segment where the file says that it was left.
    fn enter(&mut self, spool: &Spool) -> Result<Option<Vec<usize>>, Outcome> {
        let Some(segment) = spool.segments().first().map(|segment| segment.id) else { return Ok(None) };
        spool.hold(Some(segment));
        let mut reader = spool.read(segment)?;
        let (before, calls) = parse(&self.said, segment).unwrap_or_default();
        for _ in 0..before {
            reader.next().transpose()?;
        }
        self.place = Some(Place { segment, reader, before, within: 0, next: None });
        Ok(Some(calls))
    }

    /// So many calls for each part of the group are out.
    pub(super) fn note(&mut self, calls: &[usize]) {
        if let Some(place) = &self.place {
            let line = format(place.segment, place.before, calls);
            self.write(&line);
        }
    }

    /// All of the group is out. Says whether all of its segment is.
    pub(super) fn done(&mut self, spool: &Spool) -> Result<bool, Outcome> {
        let Some(place) = &mut self.place else { return Ok(false) };
        if place.next.is_none() {
            spool.remove(place.segment)?;
            spool.hold(None);
            self.place = None;
            return Ok(true);
        }
        place.before += std::mem::take(&mut place.within);
        let line = format(place.segment, place.before, &[]);
        self.write(&line);
        Ok(false)
    }

    /// Not worth stopping for: a full disk gets room by delivering.
    fn write(&mut self, line: &str) {
        line.clone_into(&mut self.said);
        match self.file.write(line) {
            Ok(()) => self.is_failing = false,
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!("cannot write {}: {error}; a restart would send more again", self.file.path().display());
            }
            Err(_) => {}
        }
    }
}

impl Place {
    fn read(&mut self) -> Result<Vec<Block>, SpoolError> {
        let mut blocks: Vec<Block> = self.next.take().into_iter().collect();
        let mut bytes: usize = blocks.iter().map(|block| block.raw_len as usize).sum();
        self.within = blocks.len();
        for block in self.reader.by_ref() {
            let block = block?;
            let size = block.raw_len as usize;
            if let Err(error) = block.text() {
                // Checksums hold, so it was written like this: it would never go.
                tracing::error!(records = block.records, "left out of segment {}: {error}", self.segment);
                self.within += 1;
                continue;
            }
            if !blocks.is_empty() && (bytes + size > GROUP_BYTES || blocks.len() == GROUP_BLOCKS) {
                self.next = Some(block);
                break;
            }
            bytes += size;
            self.within += 1;
            blocks.push(block);
        }
        Ok(blocks)
    }
}

/// `<segment> <blocks> <calls>,<calls>…`
fn format(segment: SegmentId, blocks: usize, calls: &[usize]) -> String {
    let calls: Vec<String> = calls.iter().map(usize::to_string).collect();
    format!("{segment} {blocks} {}", calls.join(","))
}

/// None when it is of another segment.
fn parse(line: &str, segment: SegmentId) -> Option<(usize, Vec<usize>)> {
    let [of, blocks, calls] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    if of.parse::<SegmentId>().ok()? != segment {
        return None;
    }
    let calls =
        calls.split(',').filter(|text| !text.is_empty()).map(|text| text.parse().ok()).collect::<Option<_>>()?;
    Some((blocks.parse().ok()?, calls))
}
