//! A file of one short line that is replaced as a whole: after a crash it has the old line or the new one.
//!
//! Two slots take turns, in place: a full disk, which is emptied by what is said here, needs no more room for it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::disk;

/// A sector of its own for each.
const SLOT_BYTES: usize = 4096;

pub(crate) struct Register {
    path: PathBuf,
    /// Of the newest line; its parity is the slot. None: there is no such file.
    turn: Option<u64>,
}

impl Register {
    /// With the line in it, if there is one. Invalid data is as good as no file: the next line takes its place.
    pub(crate) fn open(path: PathBuf) -> (Self, io::Result<Option<String>>) {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return (Self { path, turn: None }, Ok(None)),
            Err(error) => return (Self { path, turn: None }, Err(error)),
        };
        match bytes.chunks(SLOT_BYTES).filter_map(read).max() {
            Some((turn, line)) => (Self { path, turn: Some(turn) }, Ok(Some(line))),
            None => (Self { path, turn: None }, Err(ErrorKind::InvalidData.into())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Durable when it returns. `line` is short.
    pub(crate) fn write(&mut self, line: &str) -> io::Result<()> {
        let turn = self.turn.map_or(0, |turn| turn.wrapping_add(1));
        if self.turn.is_none() {
            self.create(line)?
        } else {
            self.replace(turn, line)?
        }
        self.turn = Some(turn);
        Ok(())
    }

    fn create(&self, line: &str) -> io::Result<()> {
        let temporary = self.path.with_added_extension("tmp");
        let file = disk::create(&temporary, 0o600)?;
        // Room for both.
        let mut slots = vec![b' '; 2 * SLOT_BYTES];
        let slot = slot(0, line);
        slots[..slot.len()].copy_from_slice(&slot);
        disk::write_all(&file, &slots)?;
        disk::sync(&file)?;
        disk::rename(&temporary, &self.path)?;
        disk::sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }

    fn replace(&self, turn: u64, line: &str) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).open(&self.path)?;
        disk::write_all_at(&file, &slot(turn, line), turn % 2 * SLOT_BYTES as u64)?;
        disk::sync(&file)
    }
}

fn slot(turn: u64, line: &str) -> Vec<u8> {
    let text = format!("{turn} {line}");
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes()
}

fn read(slot: &[u8]) -> Option<(u64, String)> {
    let (text, crc) = str::from_utf8(slot.split(|byte| *byte == b'\n').next()?).ok()?.rsplit_once(' ')?;
    let (turn, line) = text.split_once(' ')?;
    let is_whole = format!("{:08x}", crc32fast::hash(text.as_bytes())) == crc;
    is_whole.then_some((turn.parse().ok()?, line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Option<String> {
        Register::open(path.to_owned()).1.unwrap()
    }

    #[test]
    fn holds_the_last_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("last");
        let (mut register, line) = Register::open(path.clone());
        assert_eq!(line.unwrap(), None);
        for line in ["a long line with spaces", "b", ""] {
            register.write(line).unwrap();
            assert_eq!(read(&path).as_deref(), Some(line));
            register = Register::open(path.clone()).0;
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        // It does not grow, so it does not need room.
        assert_eq!(fs::metadata(path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn after_a_kill_it_has_the_old_line_or_the_new() {
        for before in 0..3 {
            let mut changes = 0;
            loop {
                let root = tempfile::tempdir().unwrap();
                let path = root.path().join("last");
                let mut register = Register::open(path.clone()).0;
                (0..before).for_each(|line| register.write(&line.to_string()).unwrap());
                let old = read(&path);
                let mut result = Ok(());
                let is_killed = disk::kill_after(changes, || result = register.write("new"));
                let found = read(&path);
                assert!(found == old || found.as_deref() == Some("new"), "{found:?}");
                assert!(result.is_err() || found.as_deref() == Some("new"));
                // Also by the same process: the disk was full.
                register.write("newer").unwrap();
                assert_eq!(read(&path).as_deref(), Some("newer"));
                if !is_killed {
                    break;
                }
                changes += 1;
            }
            assert_eq!(changes, if before == 0 { 5 } else { 2 });
        }
    }

    #[test]
    fn damage_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("last");
        let mut register = Register::open(path.clone()).0;
        register.write("one").unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.iter().position(|byte| *byte == b'\n').unwrap() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            let (mut register, line) = Register::open(path.clone());
            assert_eq!(line.unwrap_err().kind(), ErrorKind::InvalidData, "{at}");
            register.write("two").unwrap();
            assert_eq!(read(&path).as_deref(), Some("two"));
        }
    }
}
