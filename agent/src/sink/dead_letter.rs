//! What a destination will never take: kept as plain lines beside the spool, for a person.
//! Always: synced before it counts as kept; bounded in bytes, the oldest file goes first, and that is said.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Fault, Outcome};
use crate::disk;

pub(crate) const DEAD_LETTERS: &str = "dead-letter";
const FILE_BYTES: u64 = 8 << 20;
const FILES: usize = 8;

pub(super) struct DeadLetter {
    directory: PathBuf,
    /// Not yet on disk.
    pending: Vec<u8>,
    pending_lines: u64,
    /// Since the start.
    pub(super) lines: u64,
}

impl DeadLetter {
    /// `directory` is the spool's.
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.join(DEAD_LETTERS), pending: Vec::new(), pending_lines: 0, lines: 0 }
    }

    /// To be followed by [`Self::keep`].
    pub(super) fn add(&mut self, reason: &str, stream: &str, line: &[u8]) {
        self.pending.extend_from_slice(reason.as_bytes());
        self.pending.push(b' ');
        self.pending.extend_from_slice(stream.as_bytes());
        self.pending.push(b' ');
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
        self.pending_lines += 1;
    }

    /// On disk when it returns Ok; else it stays pending.
    pub(super) fn keep(&mut self) -> Result<(), Outcome> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.write().map_err(|cause| {
            Outcome::Retry(Fault::new("disk", format!("cannot write to {}: {cause}", self.directory.display())))
        })?;
        tracing::error!(
            lines = self.pending_lines,
            "not taken by the destination, kept in {}",
            self.directory.display()
        );
        self.lines += std::mem::take(&mut self.pending_lines);
        self.pending.clear();
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        if !self.directory.is_dir() {
            fs::create_dir(&self.directory)?;
            disk::sync_folder(self.directory.parent().unwrap_or(Path::new(".")))?;
        }
        let mut numbers = self.numbers()?;
        let mut newest = numbers.last().copied().unwrap_or(1);
        if fs::metadata(self.path(newest)).is_ok_and(|file| file.len() >= FILE_BYTES) {
            newest += 1;
        }
        if numbers.last() != Some(&newest) {
            numbers.push(newest);
        }
        self.append(newest)?;
        for &oldest in &numbers[..numbers.len().saturating_sub(FILES)] {
            let path = self.path(oldest);
            disk::remove(&path)?;
            tracing::error!("too many dead letters: {} was removed", path.display());
        }
        Ok(())
    }

    /// Undone when it fails, so that trying again does not double it.
    fn append(&self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let file = fs::File::options().create(true).append(true).open(&path)?;
        let before = file.metadata()?.len();
        let written = disk::write_all(&file, &self.pending).and_then(|()| disk::sync(&file));
        written.inspect_err(|_| drop(file.set_len(before)))?;
        if before == 0 { disk::sync_folder(&self.directory) } else { Ok(()) }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.log"))
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|name| name.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_lines_and_bounds_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut dead = DeadLetter::new(directory.path());
        dead.keep().unwrap();
        assert!(!directory.path().join("dead-letter").exists());
        dead.add("too-old", "eni-1-all", b"2 1 eni-1");
        dead.keep().unwrap();
        dead.add("too-new", "eni-1-all", b"2 2 eni-1");
        dead.keep().unwrap();
        let first = directory.path().join("dead-letter/00000001.log");
        assert_eq!(fs::read_to_string(&first).unwrap(), "too-old eni-1-all 2 1 eni-1\ntoo-new eni-1-all 2 2 eni-1\n");
        assert_eq!(dead.lines, 2);
        let long = vec![b'x'; FILE_BYTES as usize];
        for _ in 0..FILES {
            dead.add("too-long", "eni-1-all", &long);
            dead.keep().unwrap();
        }
        assert_eq!(dead.numbers().unwrap(), (1..=FILES as u64).collect::<Vec<_>>());
        dead.add("too-old", "eni-1-all", b"last");
        dead.keep().unwrap();
        assert_eq!(dead.numbers().unwrap(), (2..=FILES as u64 + 1).collect::<Vec<_>>());
        assert_eq!(fs::read_to_string(dead.path(FILES as u64 + 1)).unwrap(), "too-old eni-1-all last\n");
    }

    #[test]
    fn what_cannot_be_written_stays_pending() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("dead-letter"), "in the way").unwrap();
        let mut dead = DeadLetter::new(directory.path());
        dead.add("too-old", "eni-1-all", b"line");
        assert!(dead.keep().is_err());
        assert_eq!(dead.lines, 0);
        fs::remove_file(directory.path().join("dead-letter")).unwrap();
        dead.keep().unwrap();
        assert_eq!(dead.lines, 1);
        assert_eq!(fs::read_to_string(dead.path(1)).unwrap(), "too-old eni-1-all line\n");
    }
}
