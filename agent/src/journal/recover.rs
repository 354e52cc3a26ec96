//! What an earlier run left in the directory.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::format::{self, Closing, Entry};
use super::scan::{Damage, Refusal, Scan};
use super::{Frame, JournalError, TEMPORARY, WindowId};
use crate::select::Named;

#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Oldest first.
    pub(crate) windows: Vec<Recovered>,
    pub(crate) left_alone: Vec<LeftAlone>,
}

/// A window that was not published.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) id: WindowId,
    /// First and last second, as begun.
    pub(crate) window: (i64, i64),
    /// Random, the same for as long as the window is not forgotten.
    pub(crate) number: u64,
    /// What it is to be published with, if it was closed and nothing came after that.
    pub(crate) closed: Option<Closing>,
    /// Interfaces by ifindex, as they were.
    pub(crate) names: BTreeMap<u32, Named>,
    /// To be said, in one line.
    pub(crate) damage: Option<Damage>,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Behind the last whole entry.
    pub(super) whole: u64,
    pub(super) file_crc: u32,
}

/// Something in the directory that is no journal of this version. To be said, in one line.
#[derive(Debug)]
pub(crate) struct LeftAlone {
    path: PathBuf,
    why: String,
}

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left {} in the journal directory alone: {}", self.path.display(), self.why)
    }
}

impl Recovered {
    /// In the order of their drains, read one at a time.
    pub(crate) fn frames(&self) -> Result<Frames, JournalError> {
        let unreadable = |why: Refusal| JournalError::Unreadable { path: self.path.clone(), why: why.to_string() };
        Ok(Frames { scan: Scan::open(&self.path).map_err(unreadable)? })
    }
}

pub(crate) struct Frames {
    scan: Scan,
}

impl Iterator for Frames {
    type Item = Result<Frame, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (offset, payload) = self.scan.next()?;
            match format::read_payload(payload) {
                Some(Entry::Drain(frame)) => return Some(Ok(frame)),
                Some(Entry::Closed(_) | Entry::Names(_)) => {}
                None => return Some(Err(JournalError::Undecodable { path: self.scan.path().to_owned(), offset })),
            }
        }
    }
}

pub(super) fn read(directory: &Path) -> Result<Recovery, JournalError> {
    let mut recovery = Recovery::default();
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<DirEntry>, _>>);
    for entry in entries.map_err(JournalError::at("read directory", directory))? {
        let path = entry.path();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_temporary(&entry) {
            // Nothing was appended to it yet.
            fs::remove_file(&path).map_err(JournalError::at("remove", &path))?;
            continue;
        }
        let found = match WindowId::parse(&entry.file_name()) {
            _ if !is_file => Err(Refusal::NotAFile.to_string()),
            None => Err("its name is not a journal's".to_owned()),
            Some(id) => window(id, &path).map_err(|why| why.to_string()),
        };
        match found {
            Ok(Some(window)) => recovery.windows.push(window),
            // It says nothing, not even that something was lost.
            Ok(None) => fs::remove_file(&path).map_err(JournalError::at("remove journal", &path))?,
            Err(why) => recovery.left_alone.push(LeftAlone { path, why }),
        }
    }
    recovery.windows.sort_by_key(|window| window.id);
    recovery.left_alone.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(recovery)
}

fn is_temporary(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let target = name.to_str().and_then(|name| name.strip_suffix(TEMPORARY));
    target.is_some_and(|target| WindowId::parse(target.as_ref()).is_some())
}

/// Reads the file once through, decoding no frame. Nothing if it has no entry.
fn window(id: WindowId, path: &Path) -> Result<Option<Recovered>, Refusal> {
    let mut scan = Scan::open(path)?;
    let (mut closed, mut entries) = (None, 0);
    let mut names = BTreeMap::new();
    while let Some((_, payload)) = scan.next() {
        entries += 1;
        closed = None;
        match format::read_kind(payload) {
            Some(Entry::Closed(closing)) => closed = Some(closing),
            Some(Entry::Names(more)) => names.extend(more),
            Some(Entry::Drain(())) | None => {}
        }
    }
    if entries == 0 && scan.damage.is_none() {
        return Ok(None);
    }
    let header = scan.header;
    Ok(Some(Recovered {
        id,
        window: header.window,
        number: header.number,
        closed,
        names,
        bytes: scan.bytes(),
        whole: scan.whole,
        file_crc: header.crc,
        damage: scan.damage,
        path: path.to_owned(),
    }))
}
