//! One segment on its way to the disk.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;

use super::format::{self, Deflate, SEAL_BYTES, Summary};
use super::{Segment, SegmentId, Spool, SpoolError, TEMPORARY, Window};
use crate::{disk, fault};

pub(crate) struct Writer<'a> {
    spool: &'a Spool,
    summary: Summary,
    file: Option<Growing>,
}

/// The file under its other name, which goes unless it was given the right one.
struct Growing {
    id: SegmentId,
    temporary: PathBuf,
    file: File,
    bytes: u64,
    lengths: Vec<u32>,
    deflate: Deflate,
    /// A block, until it is written.
    buffer: Vec<u8>,
    is_named: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(spool: &'a Spool, window: Window) -> Self {
        let summary = Summary { window, blocks: 0, records: 0, text_bytes: 0 };
        Self { spool, summary, file: None }
    }

    /// Whole lines, about a mebibyte. After an error the writer is to be dropped.
    pub(crate) fn block(&mut self, key: &str, records: u32, text: &[u8]) -> Result<(), SpoolError> {
        if self.file.is_none() {
            self.file = Some(Growing::create(self.spool)?);
        }
        let Some(growing) = &mut self.file else { return Ok(()) };
        format::block(&mut growing.deflate, key, records, text, &mut growing.buffer)?;
        growing.append()?;
        self.summary.blocks += 1;
        self.summary.records += u64::from(records);
        self.summary.text_bytes += text.len() as u64;
        Ok(())
    }

    /// Durable when it returns. The oldest segments go if the limit is passed. Without a block there is no segment.
    pub(crate) fn finish(self) -> Result<(), SpoolError> {
        let Self { spool, summary, file } = self;
        let Some(growing) = file else { return spool.pass(summary.window) };
        let (id, bytes) = growing.finish(spool, &summary)?;
        let Summary { window, records, text_bytes, .. } = summary;
        spool.add(Segment { id, window, bytes, text_bytes, records });
        Ok(())
    }
}

impl Growing {
    fn create(spool: &Spool) -> Result<Self, SpoolError> {
        let id = spool.state().next_id();
        let temporary = spool.directory.join(format!("{}{TEMPORARY}", id.file_name()));
        let file = disk::create(&temporary, 0o600).map_err(SpoolError::at("create segment", &temporary))?;
        let (deflate, lengths) = (Deflate::new(), Vec::new());
        // The header is written last.
        let (bytes, buffer) = (SEAL_BYTES as u64, Vec::new());
        Ok(Self { id, temporary, file, bytes, lengths, deflate, buffer, is_named: false })
    }

    fn append(&mut self) -> Result<(), SpoolError> {
        let written = disk::write_all_at(&self.file, &self.buffer, self.bytes);
        written.map_err(SpoolError::at("write segment", &self.temporary))?;
        self.bytes += self.buffer.len() as u64;
        self.lengths.push(self.buffer.len() as u32);
        Ok(())
    }

    fn finish(mut self, spool: &Spool, summary: &Summary) -> Result<(SegmentId, u64), SpoolError> {
        let path = spool.path(self.id);
        let footer = format::footer(&self.lengths, summary);
        let bytes = self.bytes + footer.len() as u64;
        let written = disk::write_all_at(&self.file, &footer, self.bytes)
            .and_then(|()| disk::write_all_at(&self.file, &format::header(summary), 0))
            .and_then(|()| disk::sync(&self.file));
        written.map_err(SpoolError::at("write segment", &self.temporary))?;
        fault::point("spool-written");
        disk::rename(&self.temporary, &path).map_err(SpoolError::at("name segment", &path))?;
        self.is_named = true;
        fault::point("spool-named");
        let synced = disk::sync_folder(&spool.directory);
        // What the caller will write again must not be there twice.
        let synced = synced.inspect_err(|_| drop(disk::remove(&path)));
        synced.map_err(SpoolError::at("sync directory", &spool.directory))?;
        Ok((self.id, bytes))
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be removed now goes at the next start.
            let _ = disk::remove(&self.temporary);
        }
    }
}
