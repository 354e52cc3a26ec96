//! Writes AWS's S3 layout below a directory: gzipped text objects, one or more for each five minutes of `end`.
//! Must not know of interfaces, flows or how a window came about.
//! Always: an object appears whole, synced, with a header and at least one record, or not at all; none is replaced
//! but by the same batch published again.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::super::{Names, slot_of};
use super::SinkError;
use crate::encode;
use crate::fault;
use crate::flow_log::Layout;
use crate::format::Format;
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
    names: Names,
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
        let names = Names::new(identity.clone(), flow_log_id, "", Layout::default());
        let base = root.join(names.prefix());
        make_folder(&base)?;
        let stem = format!(".{}", names.stem());
        remove_leftovers(&base, &stem)?;
        let probe = base.join(format!("{stem}probe.tmp"));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(SinkError::at("write to", &base))?;
        Ok(Self { root, names, part_bytes: PART_BYTES })
    }

    pub(crate) fn publish(&mut self, batch: &Batch) -> Result<u64, SinkError> {
        let mut records = 0;
        // One per slot; a window touches three slots at most.
        let mut open: Vec<Object> = Vec::new();
        let mut sealed: Vec<Hidden> = Vec::new();
        for record in batch.records() {
            let slot = slot_of(record.end);
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
            open[at].append(|buffer| encode::append(&Format::default(), &record, buffer))?;
            records += 1;
        }
        for object in open {
            sealed.push(object.seal()?);
        }
        for file in sealed {
            file.reveal()?;
            fault::point("revealed");
        }
        Ok(records)
    }

    /// With its header. Only called when there is a record to follow.
    fn open(&self, batch: &Batch, slot: i64, part: u32) -> Result<Object, SinkError> {
        let target = self.root.join(self.names.key(batch.number, slot, part));
        let (folder, name) = (target.parent().unwrap_or(&self.root), target.file_name().unwrap_or_default());
        make_folder(folder)?;
        let temporary = folder.join(format!(".{}.tmp", name.display()));
        let file = Hidden { temporary, target, revealed: false };
        let out = File::create(&file.temporary).map_err(SinkError::at("create", &file.temporary))?;
        // No name and no time in the gzip header, so equal records give equal bytes.
        let encoder = GzBuilder::new().mtime(0).write(out, LEVEL);
        let mut object =
            Object { slot, part, bytes: 0, buffer: Vec::with_capacity(BUFFER_BYTES + LINE_BYTES), encoder, file };
        object.append(|buffer| buffer.extend_from_slice(format!("{}\n", Format::default().header()).as_bytes()))?;
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
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        // Another process was faster.
        Err(_) if folder.is_dir() => Ok(()),
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
