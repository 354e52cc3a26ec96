//! Writes lines to standard output.
//! Must not know of objects, slots or compression.
//! Always: whole lines, no header, and flushed when a batch is done.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};

use super::SinkError;
use crate::encode;
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
            encode::append(&record, &mut self.buffer);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Status;
    use std::collections::BTreeMap;
    use std::fs::{File, OpenOptions};

    fn publish(out: Box<dyn Write + Send>) -> Result<u64, SinkError> {
        let interface_ids = BTreeMap::from([(1, "eni-1".to_owned())]);
        // Interface 2 has no id and gives no record.
        let statuses = [(1, Status::NoData), (2, Status::NoData)];
        let batch = Batch {
            account_id: "000000000000",
            number: 1,
            start: 60,
            end: 119,
            flows: &[],
            statuses: &statuses,
            interface_ids: &interface_ids,
        };
        StdoutSink::to(out).publish(&batch)
    }

    #[test]
    fn writes_lines_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(publish(Box::new(file.reopen().unwrap())).unwrap(), 1);
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "2 000000000000 eni-1 - - - - - - - 60 119 - NODATA\n");
    }

    #[test]
    fn tells_a_gone_reader_from_a_fault() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(matches!(publish(Box::new(writer)), Err(SinkError::ReaderGone)));
        let full: File = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = publish(Box::new(full)).unwrap_err().to_string();
        assert_eq!(error, "cannot write to standard output: No space left on device (os error 28)");
    }
}
