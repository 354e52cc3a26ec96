//! Writes AWS's S3 layout below a directory: gzipped text objects, one or more for each five minutes of `end`.
//! Must not know of interfaces, flows or how a window came about.
//! Always: an object appears whole, synced, with a header and at least one record, or not at all; none is replaced
//! but by the same batch published again.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::{SinkError, key};
use crate::encode;
use crate::identity::Identity;
use crate::record::Batch;

/// Text compresses about as well at 4 as at the usual 6, in a fraction of the time.
const LEVEL: Compression = Compression::new(4);
/// Lines collect up to here before they are compressed.
const BUFFER_BYTES: usize = 1 << 20;
/// AWS's old guide caps a file at 75 MB and does not say of what; before compression is the safe reading.
const PART_BYTES: usize = 75_000_000;
/// Longer than any line.
const LINE_BYTES: usize = 512;

pub(crate) struct DirectorySink {
    root: PathBuf,
    identity: Identity,
    flow_log_id: String,
    /// Differs from run to run. Without it a restart within one window, or a clock set back, would give the names of
    /// objects that are already there.
    run: u64,
    /// Batches published in this run.
    published: u64,
    part_bytes: usize,
}

/// An object being written, under a hidden name.
struct Object {
    slot: i64,
    part: u32,
    /// Uncompressed, header and buffer included.
    bytes: usize,
    buffer: Vec<u8>,
    encoder: GzEncoder<File>,
    file: Hidden,
}

/// Removed when dropped before it was revealed.
struct Hidden {
    temporary: PathBuf,
    target: PathBuf,
    revealed: bool,
}

impl DirectorySink {
    /// Fails when the directory cannot be written to. Removes what a crashed run left half-written.
    pub(crate) fn create(root: PathBuf, identity: &Identity, flow_log_id: &str) -> Result<Self, SinkError> {
        let base = root.join(key::prefix(&identity.account_id, &identity.region));
        make_folder(&base)?;
        let stem = format!(".{}", key::stem(&identity.account_id, &identity.region, flow_log_id));
        remove_leftovers(&base, &stem)?;
        let probe = base.join(format!("{stem}probe.tmp"));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(SinkError::at("write to", &base))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            root,
            identity: identity.clone(),
            flow_log_id: flow_log_id.to_owned(),
            run: (now.as_nanos() as u64).wrapping_add(u64::from(std::process::id())),
            published: 0,
            part_bytes: PART_BYTES,
        })
    }

    pub(crate) fn publish(&mut self, batch: &Batch) -> Result<u64, SinkError> {
        let mut records = 0;
        // One per slot; a window touches three slots at most.
        let mut open: Vec<Object> = Vec::new();
        let mut sealed: Vec<Hidden> = Vec::new();
        for record in batch.records() {
            let slot = key::slot_of(record.end);
            let at = match open.iter().position(|object| object.slot == slot) {
                Some(at) => at,
                None => {
                    open.push(self.open(batch, slot, 0)?);
                    open.len() - 1
                }
            };
            if open[at].bytes + LINE_BYTES > self.part_bytes {
                let next = self.open(batch, slot, open[at].part + 1)?;
                sealed.push(std::mem::replace(&mut open[at], next).seal()?);
            }
            open[at].append(|buffer| encode::append(&record, buffer))?;
            records += 1;
        }
        for object in open {
            sealed.push(object.seal()?);
        }
        for file in sealed {
            file.reveal()?;
        }
        self.published += 1;
        Ok(records)
    }

    /// With its header. Only called when there is a record to follow.
    fn open(&self, batch: &Batch, slot: i64, part: u32) -> Result<Object, SinkError> {
        let Identity { account_id, region } = &self.identity;
        let numbers: [&[u8]; 5] = [
            &self.run.to_be_bytes(),
            &self.published.to_be_bytes(),
            &batch.start.to_be_bytes(),
            &slot.to_be_bytes(),
            &part.to_be_bytes(),
        ];
        let [run, published, start, slot_bytes, part_bytes] = numbers;
        let hash = key::hash8(&[self.flow_log_id.as_bytes(), run, published, start, slot_bytes, part_bytes]);
        let folder = self.root.join(key::folder(account_id, region, slot));
        make_folder(&folder)?;
        let name = key::file_name(account_id, region, &self.flow_log_id, slot, &hash);
        let file =
            Hidden { temporary: folder.join(format!(".{name}.tmp")), target: folder.join(name), revealed: false };
        let out = File::create(&file.temporary).map_err(SinkError::at("create", &file.temporary))?;
        // No name and no time in the gzip header, so equal records give equal bytes.
        let encoder = GzBuilder::new().mtime(0).write(out, LEVEL);
        let mut object =
            Object { slot, part, bytes: 0, buffer: Vec::with_capacity(BUFFER_BYTES + LINE_BYTES), encoder, file };
        object.append(|buffer| buffer.extend_from_slice(encode::HEADER.as_bytes()))?;
        Ok(object)
    }
}

impl Object {
    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), SinkError> {
        let before = self.buffer.len();
        write(&mut self.buffer);
        self.bytes += self.buffer.len() - before;
        if self.buffer.len() >= BUFFER_BYTES { self.compress() } else { Ok(()) }
    }

    fn compress(&mut self) -> Result<(), SinkError> {
        self.encoder.write_all(&self.buffer).map_err(SinkError::at("write", &self.file.temporary))?;
        self.buffer.clear();
        Ok(())
    }

    /// On disk, but still hidden.
    fn seal(mut self) -> Result<Hidden, SinkError> {
        self.compress()?;
        let Self { encoder, file, .. } = self;
        encoder.finish().and_then(|out| out.sync_all()).map_err(SinkError::at("write", &file.temporary))?;
        Ok(file)
    }
}

impl Hidden {
    fn reveal(mut self) -> Result<(), SinkError> {
        fs::rename(&self.temporary, &self.target).map_err(SinkError::at("rename to", &self.target))?;
        self.revealed = true;
        self.target.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.revealed {
            // What cannot be removed now goes at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// New folders are synced into their parents, else a power cut could take a synced object along with its folder.
fn make_folder(folder: &Path) -> Result<(), SinkError> {
    match fs::create_dir(folder) {
        Ok(()) => folder.parent().filter(|parent| *parent != Path::new("")).map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => match folder.parent() {
            Some(parent) if parent != Path::new("") => {
                make_folder(parent)?;
                make_folder(folder)
            }
            _ => Err(SinkError::at("create directory", folder)(error)),
        },
        Err(error) => Err(SinkError::at("create directory", folder)(error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), SinkError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(SinkError::at("sync", folder))
}

/// Only this flow log's, for others may be writing theirs here right now. Links are not followed.
fn remove_leftovers(folder: &Path, stem: &str) -> Result<(), SinkError> {
    let is_leftover = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(stem) && name.ends_with(".tmp"));
    let visit = |entry: DirEntry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return remove_leftovers(&entry.path(), stem);
        }
        if is_leftover(&entry.file_name()) {
            fs::remove_file(entry.path()).map_err(SinkError::at("remove", &entry.path()))?;
        }
        Ok(())
    };
    let mut entries = fs::read_dir(folder).map_err(SinkError::at("read", folder))?;
    entries.try_for_each(|entry| visit(entry.map_err(SinkError::at("read", folder))?))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
