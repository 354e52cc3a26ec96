//! Until windows go through the spool.
#![forbid(unsafe_code)]

mod directory;
mod stdout;

use std::io;
use std::path::Path;

pub(crate) use directory::DirectorySink;
pub(crate) use stdout::StdoutSink;

use crate::record::Batch;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SinkError {
    /// Not a fault: `flowlogd | head` ends like this.
    #[error("the reader of standard output is gone")]
    ReaderGone,
    // The cause is in the line itself and so must not also be the error's source, or it would print twice.
    #[error("cannot {action}: {cause}")]
    Io { action: String, cause: io::Error },
}

impl SinkError {
    fn at(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action: format!("{verb} {}", path.display()), cause }
    }
}

pub(crate) enum Sink {
    Stdout(StdoutSink),
    Directory(DirectorySink),
}

impl Sink {
    /// Returns how many records it wrote.
    pub(crate) fn publish(&mut self, batch: &Batch) -> Result<u64, SinkError> {
        match self {
            Self::Stdout(sink) => sink.publish(batch),
            Self::Directory(sink) => sink.publish(batch),
        }
    }
}
