//! Drained epochs of windows that are not published yet, so that a crash loses none of them.
//!
//! A directory with one file per window; publishing a window removes its file. An epoch is appended and synced before
//! the kernel's copy is cleared. The next start replays the files, each as its own window; an epoch that is both here
//! and in the kernel is known by its generation and number.
//!
//! Must not know of tables, records or destinations.
//! Always: what an append or a close returned Ok for is there after a crash, unaltered; what is no journal of this
//! version is left alone.
#![forbid(unsafe_code)]

pub(crate) mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod recover;
mod scan;
mod tail;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::capture::flow::Drained;
use crate::fault;
use crate::select::Named;
pub(crate) use format::Closing;
use format::{Entry, FILE_HEADER_BYTES};
pub(crate) use recover::{Recovered, Recovery};
use tail::Tail;

/// One drained epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Of the set of kernel maps that it was drained from.
    pub(crate) generation: u64,
    pub(crate) epoch: u32,
    pub(crate) drained: Drained,
}

/// The generation of a frame that is no epoch: what a window has from the one before it.
pub(crate) const CARRIED: u64 = 0;

/// A window's file. In order of start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WindowId {
    start: i64,
    /// Among windows of the same start: a clock can be set back.
    counter: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    // The cause is in the line itself and so must not also be the error's source, or it would print twice.
    #[error("cannot {verb} {}: {cause}", path.display())]
    Io { verb: &'static str, path: PathBuf, cause: io::Error },
    #[error("journal {} is in use by another flowlogd: give each a state directory of its own", .0.display())]
    InUse(PathBuf),
    #[error("no window has begun in journal {}", .0.display())]
    NoWindow(PathBuf),
    #[error("too many flows in one drain for journal {}", .0.display())]
    TooLarge(PathBuf),
    #[error("journal {} has an entry at byte {offset} that cannot be decoded", path.display())]
    Undecodable { path: PathBuf, offset: u64 },
    #[error("cannot read journal {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
}

impl JournalError {
    fn at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { verb, path: path.to_owned(), cause }
    }
}

pub(crate) struct Journal {
    directory: PathBuf,
    /// Locked, so that no other agent replays or removes what is ours.
    handle: File,
    limit_bytes: u64,
    /// Of every file that is not forgotten.
    sizes: BTreeMap<WindowId, u64>,
    /// The window that is open, and its file once there is one.
    window: Option<((i64, i64), u64)>,
    current: Option<Current>,
}

struct Current {
    id: WindowId,
    file_crc: u32,
    tail: Tail<File>,
}

impl Journal {
    /// Makes the directory if there is none, and finds what an earlier run left.
    pub(crate) fn open(directory: &Path, limit_bytes: u64) -> Result<(Self, Recovery), JournalError> {
        let at = |verb| JournalError::at(verb, directory);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at("create directory"))?;
        let handle = File::open(directory).map_err(at("open directory"))?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at("lock directory")(error)),
        }
        if let Some(parent) = directory.parent() {
            // An empty parent is the working directory.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(at("sync directory"))?;
        }
        let recovery = recover::read(directory)?;
        let sizes = recovery.windows.iter().map(|window| (window.id, window.bytes)).collect();
        let directory = directory.to_owned();
        Ok((Self { directory, handle, limit_bytes, sizes, window: None, current: None }, recovery))
    }

    /// From now on appends go to this window, first and last second, and its random number. Its file is made by the
    /// first of them.
    pub(crate) fn begin(&mut self, window: (i64, i64), number: u64) {
        self.window = Some((window, number));
        self.current = None;
    }

    /// From now on appends go to this window of an earlier run, if it goes on.
    pub(crate) fn resume(&mut self, recovered: &Recovered) -> Result<(), JournalError> {
        let path = self.path(recovered.id);
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = file.map_err(JournalError::at("open journal", &path))?;
        self.window = Some((recovered.window, recovered.number));
        // Bytes behind the last whole entry are lost; the next append takes their place.
        let tail = Tail::new(file, recovered.whole);
        self.current = Some(Current { id: recovered.id, file_crc: recovered.file_crc, tail });
        Ok(())
    }

    /// Durable when it returns. After an error the file is as it was before.
    pub(crate) fn append(&mut self, frame: &Frame) -> Result<(), JournalError> {
        self.make_current()?;
        self.write(&Entry::Drain(frame))
    }

    /// Interfaces that the window's flows are of, from now on. Durable when it returns.
    pub(crate) fn name(&mut self, names: Vec<(u32, Named)>) -> Result<(), JournalError> {
        self.make_current()?;
        self.write(&Entry::<&Frame>::Names(names))
    }

    /// The open window is complete. To be said before it is published, so that a replay gives it the same end and
    /// statuses. Nothing if nothing was appended. After an error the window is still open.
    pub(crate) fn close(&mut self, closing: Closing) -> Result<Option<WindowId>, JournalError> {
        let id = self.current();
        if id.is_some() {
            self.write(&Entry::<&Frame>::Closed(closing))?;
        }
        (self.window, self.current) = (None, None);
        Ok(id)
    }

    /// The open window, if it has a file.
    pub(crate) fn current(&self) -> Option<WindowId> {
        self.current.as_ref().map(|current| current.id)
    }

    /// The window is published: its file goes.
    pub(crate) fn forget(&mut self, id: WindowId) -> Result<(), JournalError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError::at("remove journal", &path)(error));
            }
            _ => {}
        }
        self.sizes.remove(&id);
        if self.current() == Some(id) {
            self.current = None;
        }
        self.sync_directory()
    }

    /// Whether the limit is passed: the caller closes and publishes the window early.
    pub(crate) fn is_full(&self) -> bool {
        self.sizes.values().sum::<u64>() > self.limit_bytes
    }

    fn path(&self, id: WindowId) -> PathBuf {
        self.directory.join(id.file_name())
    }

    fn temporary(&self, id: WindowId) -> PathBuf {
        self.directory.join(format!("{}{TEMPORARY}", id.file_name()))
    }

    fn sync_directory(&self) -> Result<(), JournalError> {
        self.handle.sync_all().map_err(JournalError::at("sync directory", &self.directory))
    }

    fn write<F: Serialize>(&mut self, entry: &Entry<F>) -> Result<(), JournalError> {
        let Some(current) = &mut self.current else { return Err(JournalError::NoWindow(self.directory.clone())) };
        let path = || self.directory.join(current.id.file_name());
        let bytes = format::entry(current.file_crc, current.tail.len(), entry);
        let bytes = bytes.ok_or_else(|| JournalError::TooLarge(path()))?;
        current.tail.append(&bytes).map_err(|cause| JournalError::at("append to journal", &path())(cause))?;
        self.sizes.insert(current.id, current.tail.len());
        Ok(())
    }

    fn make_current(&mut self) -> Result<(), JournalError> {
        if self.current.is_none() {
            let window = self.window.ok_or_else(|| JournalError::NoWindow(self.directory.clone()))?;
            self.current = Some(self.create(window)?);
        }
        Ok(())
    }

    /// Under another name until its header is durable: a file of ours always has one.
    fn create(&mut self, (window, number): ((i64, i64), u64)) -> Result<Current, JournalError> {
        let id = self.unused_id(window.0);
        let path = self.path(id);
        let temporary = self.temporary(id);
        let header = format::file_header(window, number);
        let make = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(&header)?;
            file.sync_all()?;
            fault::point("journal-made");
            fs::rename(&temporary, &path)?;
            fault::point("journal-named");
            Ok(file)
        };
        let file = make().inspect_err(|_| drop(fs::remove_file(&temporary)));
        let file = file.map_err(JournalError::at("create journal", &path))?;
        self.sync_directory().inspect_err(|_| drop(fs::remove_file(&path)))?;
        let len = FILE_HEADER_BYTES as u64;
        self.sizes.insert(id, len);
        // The header was just made, so it can be read.
        let file_crc = format::read_file_header(&header).map_or(0, |header| header.crc);
        Ok(Current { id, file_crc, tail: Tail::new(file, len) })
    }

    /// Behind all others of this start, and without the names of what is left alone.
    fn unused_id(&self, start: i64) -> WindowId {
        let same = WindowId { start, counter: 0 }..=WindowId { start, counter: u32::MAX };
        let mut counter = self.sizes.range(same).next_back().map_or(0, |(id, _)| id.counter.wrapping_add(1));
        loop {
            let id = WindowId { start, counter };
            let is_free = |path| fs::symlink_metadata(path).is_err();
            if is_free(self.path(id)) && is_free(self.temporary(id)) {
                return id;
            }
            counter = counter.wrapping_add(1);
        }
    }
}

const EXTENSION: &str = ".journal";
const TEMPORARY: &str = ".tmp";

impl WindowId {
    fn file_name(self) -> String {
        format!("{}-{}{EXTENSION}", self.start, self.counter)
    }

    fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?;
        let (start, counter) = name.strip_suffix(EXTENSION)?.rsplit_once('-')?;
        let id = Self { start: start.parse().ok()?, counter: counter.parse().ok()? };
        // One name for one window: no leading zeros or plus signs.
        (id.file_name() == name).then_some(id)
    }
}
