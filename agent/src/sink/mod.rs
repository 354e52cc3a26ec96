//! Where the blocks of the spool go.
//! Must not know of packets, exclusions or how a window came about.
//! Always: Done means that it is out; whatever else is said, nothing is dropped, and it can be asked for again.
#![forbid(unsafe_code)]

mod aws;
mod body;
mod cloudwatch;
mod dead_letter;
mod directory;
mod due;
mod firehose;
mod key;
mod member;
mod objects;
mod outcome;
mod parquet;
mod print;
mod retention;
mod s3;
mod stdout;
#[cfg(test)]
mod test_server;
mod walk;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use aws::judge_credentials;
pub(crate) use aws::probe;
pub(crate) use body::Shape;
pub(crate) use cloudwatch::CloudWatch;
pub(crate) use dead_letter::DEAD_LETTERS;
pub(crate) use directory::Directory;
pub(crate) use firehose::Firehose;
pub(crate) use key::Names;
pub(crate) use objects::{Objects, Store};
pub(crate) use outcome::{Fault, Outcome};
pub(crate) use print::Print;
pub(crate) use s3::S3;
pub(crate) use stdout::Stdout;

use ::parquet::errors::ParquetError;

use crate::spool::SpoolError;

/// What a sink delivered since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    /// Objects or calls.
    pub(crate) calls: u64,
    /// As sent: compressed, where the destination takes it. Not what a call has around it.
    pub(crate) bytes: u64,
    /// The same, not compressed.
    pub(crate) text_bytes: u64,
    /// Records that the destination will never take, or that were no records of its format.
    pub(crate) dead_letters: u64,
}

/// What a sink did when it was asked to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that may go now. `due`: when that changes by itself, Unix seconds.
    Idle { due: Option<i64> },
    /// Something is out, and there may be more.
    Progress,
}

/// Of our own state: passes when the disk does again what it should.
impl From<SpoolError> for Outcome {
    fn from(error: SpoolError) -> Self {
        Self::Retry(Fault::new("spool", error.to_string()))
    }
}

/// Nothing that we know makes one.
impl From<ParquetError> for Outcome {
    fn from(error: ParquetError) -> Self {
        Self::Retry(Fault::new("parquet", error.to_string()))
    }
}
