//! Reads a file entry by entry: what is whole is kept, what is not is stepped over and counted.
//! Always: no more memory than one entry, and never more than the file holds, whatever the file says.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use super::format::{self, FILE_HEADER_BYTES, FileHeader, HEAD_BYTES, NotOurs};

/// What of a file could not be read.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    path: PathBuf,
    /// Where the first of it begins.
    pub(crate) from: u64,
    pub(crate) bytes: u64,
    pub(crate) places: u64,
    pub(crate) cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// The last append did not end: the ordinary trace of a crash, and nothing that was promised is lost.
    Unfinished,
    Corrupt,
    Unreadable(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, from, bytes, places, cause } = self;
        write!(f, "journal {}: ", path.display())?;
        match cause {
            Cause::Unfinished => write!(f, "dropped an unfinished append, {bytes} bytes from byte {from}"),
            Cause::Corrupt if *places == 1 => write!(f, "dropped {bytes} damaged bytes from byte {from}"),
            Cause::Corrupt => write!(f, "dropped {bytes} damaged bytes in {places} places from byte {from}"),
            Cause::Unreadable(error) => write!(f, "dropped {bytes} unreadable bytes from byte {from}: {error}"),
        }
    }
}

/// Why a file is not read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is not a regular file")]
    NotAFile,
    #[error("{0}")]
    NotOurs(#[from] NotOurs),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

pub(super) struct Scan {
    file: File,
    path: PathBuf,
    pub(super) header: FileHeader,
    at: u64,
    end: u64,
    /// Behind the last whole entry.
    pub(super) whole: u64,
    pub(super) damage: Option<Damage>,
    payload: Vec<u8>,
}

impl Scan {
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        // Neither follows a symlink nor waits for the other end of a FIFO.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Refusal::NotAFile);
        }
        let mut bytes = [0; FILE_HEADER_BYTES];
        let end = metadata.len();
        let length = FILE_HEADER_BYTES.min(usize::try_from(end).unwrap_or(usize::MAX));
        file.read_exact_at(&mut bytes[..length], 0)?;
        let header = format::read_file_header(&bytes[..length])?;
        let at = FILE_HEADER_BYTES as u64;
        Ok(Self { file, path: path.to_owned(), header, at, end, whole: at, damage: None, payload: Vec::new() })
    }

    /// Of the whole file.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next whole entry: its offset and payload.
    pub(super) fn next(&mut self) -> Option<(u64, &[u8])> {
        while self.at < self.end {
            let offset = self.at;
            let rest = self.end - offset;
            let length = match self.entry(offset, rest) {
                Ok(length) => length,
                Err((lost, cause)) => {
                    self.lose(lost, cause);
                    continue;
                }
            };
            self.at += (HEAD_BYTES + length) as u64;
            self.whole = self.at;
            return Some((offset, &self.payload));
        }
        None
    }

    /// Reads the entry at `offset` into the buffer, or tells how many bytes there are lost and why.
    fn entry(&mut self, offset: u64, rest: u64) -> Result<usize, (u64, Cause)> {
        let unreadable = |error: io::Error| (rest, Cause::Unreadable(error.to_string()));
        if rest < HEAD_BYTES as u64 {
            return Err((rest, Cause::Unfinished));
        }
        let mut bytes = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut bytes, offset).map_err(unreadable)?;
        // Without a length there is no way to what follows.
        let head = format::read_head(self.header.crc, offset, &bytes).ok_or((rest, Cause::Corrupt))?;
        let whole = (HEAD_BYTES + head.length) as u64;
        if whole > rest {
            return Err((rest, Cause::Unfinished));
        }
        self.payload.resize(head.length, 0);
        self.file.read_exact_at(&mut self.payload, offset + HEAD_BYTES as u64).map_err(unreadable)?;
        if crc32fast::hash(&self.payload) != head.crc {
            return Err((whole, if whole == rest { Cause::Unfinished } else { Cause::Corrupt }));
        }
        Ok(head.length)
    }

    fn lose(&mut self, bytes: u64, cause: Cause) {
        let (path, from) = (&self.path, self.at);
        let none = || Damage { path: path.clone(), from, bytes: 0, places: 0, cause: cause.clone() };
        let damage = self.damage.get_or_insert_with(none);
        damage.bytes += bytes;
        damage.places += 1;
        // An unfinished end says nothing about the damage before it.
        if cause != Cause::Unfinished {
            damage.cause = cause;
        }
        self.at += bytes;
    }
}
