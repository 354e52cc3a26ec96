//! Changes to files and folders. A test can have the process as good as killed after any number of them.
//! Must not know what is written.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// An empty file, also where a crashed run left one. Links are not followed.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    alive()?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)
}

pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    alive().inspect_err(|_| drop(file.write_all(&bytes[..killed_at(bytes.len())])))?;
    file.write_all(bytes)
}

pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    alive().inspect_err(|_| drop(file.write_all_at(&bytes[..killed_at(bytes.len())], offset)))?;
    file.write_all_at(bytes, offset)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    alive()?;
    file.sync_all()
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    alive()?;
    fs::rename(from, to)
}

/// What is gone already is as good as removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    alive()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    alive()?;
    fs::create_dir(folder)
}

/// Makes what was created, renamed and removed in it durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    alive()?;
    File::open(folder)?.sync_all()
}

#[cfg(not(test))]
#[inline(always)]
fn alive() -> io::Result<()> {
    Ok(())
}

#[cfg(not(test))]
#[inline(always)]
fn killed_at(_: usize) -> usize {
    0
}

#[cfg(test)]
pub(crate) use killed::kill_after;
#[cfg(test)]
use killed::{alive, killed_at};

#[cfg(test)]
mod killed {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Changes that this thread may still make. 0: the next one is interrupted. Below: as good as killed.
        static LEFT: Cell<Option<i32>> = const { Cell::new(None) };
    }

    /// After so many changes no other is made, whatever `work` tries; a write is made by half. Says whether it came to
    /// that.
    pub(crate) fn kill_after(changes: i32, work: impl FnOnce()) -> bool {
        LEFT.set(Some(changes));
        work();
        LEFT.replace(None).is_some_and(|left| left < 0)
    }

    pub(super) fn alive() -> io::Result<()> {
        let Some(left) = LEFT.get() else { return Ok(()) };
        LEFT.set(Some(left.max(-1) - 1));
        if left > 0 { Ok(()) } else { Err(io::Error::other("killed")) }
    }

    /// Of a write that was not made: how much of it is on disk all the same.
    pub(super) fn killed_at(len: usize) -> usize {
        if LEFT.get() == Some(-1) { len / 2 } else { 0 }
    }
}
