//! Writes the lines of blocks to standard output.
//! Must not know of objects, slots or services.
//! Always: whole lines, no header, and flushed when a block is done.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};

use super::{Fault, Outcome};
use crate::spool::Block;

pub(crate) struct Stdout {
    out: Box<dyn Write + Send>,
    /// Of the block that an error interrupted: how much of it is written.
    written: usize,
}

impl Stdout {
    pub(crate) fn new() -> Self {
        Self::to(Box::new(std::io::stdout()))
    }

    fn to(out: Box<dyn Write + Send>) -> Self {
        Self { out, written: 0 }
    }

    /// After an error the same block is to be given again: it goes on where it stopped.
    pub(crate) fn put(&mut self, block: &Block) -> Outcome {
        let text = match block.text() {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        match self.write(&text) {
            Ok(()) => Outcome::Done,
            // Not a fault: `flowlogd | head` ends like this.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                Outcome::Fatal(Fault::new("stdout", "the reader of standard output is gone"))
            }
            Err(error) => Outcome::Retry(Fault::new("stdout", format!("cannot write to standard output: {error}"))),
        }
    }

    fn write(&mut self, text: &[u8]) -> std::io::Result<()> {
        while self.written < text.len() {
            match self.out.write(&text[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.flush()?;
        self.written = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Spool, Window};
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::{Arc, Mutex};

    const TEXT: &str = "one line\nanother\n";

    fn block() -> Block {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::open(root.path(), u64::MAX).unwrap();
        let mut writer = spool.begin(Window { start: 0, end: 59, number: 1 }).unwrap();
        writer.block("", 2, TEXT.as_bytes()).unwrap();
        writer.finish().unwrap();
        spool.read(spool.segments()[0].id).unwrap().next().unwrap().unwrap()
    }

    /// Takes four bytes and then says no once, over and over.
    #[derive(Clone, Default)]
    struct Stubborn(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Write for Stubborn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, refuses) = &mut *self.0.lock().unwrap();
            *refuses = !*refuses;
            if !*refuses {
                return Err(ErrorKind::StorageFull.into());
            }
            let len = bytes.len().min(4);
            text.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn goes_on_where_an_error_stopped_it() {
        let out = Stubborn::default();
        let mut sink = Stdout::to(Box::new(out.clone()));
        let mut attempts = 1;
        while sink.put(&block()) != Outcome::Done {
            attempts += 1;
        }
        assert_eq!((attempts, sink.put(&block()) == Outcome::Done), (5, false));
        assert!(out.0.lock().unwrap().0.starts_with(TEXT.as_bytes()));
    }

    #[test]
    fn tells_a_gone_reader_from_a_fault() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert!(matches!(Stdout::to(Box::new(writer)).put(&block()), Outcome::Fatal(_)));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let Outcome::Retry(fault) = Stdout::to(Box::new(full)).put(&block()) else { panic!("taken") };
        assert_eq!(fault.message, "cannot write to standard output: No space left on device (os error 28)");
    }
}
