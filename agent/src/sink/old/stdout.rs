//! Writes lines to standard output.
//! Must not know of objects, slots or compression.
//! Always: whole lines, no header, and flushed when a batch is done.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};

use super::SinkError;
use crate::encode;
use crate::format::Format;
use crate::record::Batch;

/// Lines collect up to here before they are written, so a big window is not a system call a line.
const BUFFER_BYTES: usize = 1 << 16;

pub(crate) struct StdoutSink {
    out: Box<dyn Write + Send>,
    buffer: Vec<u8>,
}

impl StdoutSink {
    pub(crate) fn new() -> Self {
        Self::to(Box::new(std::io::stdout()))
    }

    fn to(out: Box<dyn Write + Send>) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    pub(crate) fn publish(&mut self, batch: &Batch) -> Result<u64, SinkError> {
        let mut records = 0;
        self.buffer.clear();
        for record in batch.records() {
            // Before appending, so that the buffer never ends within a line.
            if self.buffer.len() > BUFFER_BYTES - 512 {
                self.flush()?;
            }
            encode::append(&Format::default(), &record, &mut self.buffer);
            records += 1;
        }
        self.flush()?;
        Ok(records)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let written = self.out.write_all(&self.buffer).and_then(|()| self.out.flush());
        self.buffer.clear();
        written.map_err(|cause| match cause.kind() {
            ErrorKind::BrokenPipe => SinkError::ReaderGone,
            _ => SinkError::Io { action: "write to standard output".to_owned(), cause },
        })
    }
}
