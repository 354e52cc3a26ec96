//! How an attempt to deliver went.
//! Knows no destination.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Nothing is ever dropped for an error: what differs is when it is tried again, and who must act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Passes by itself.
    Retry(Fault),
    /// Needs a person.
    Refuse(Fault),
    /// The process has nothing left to do: the reader of standard output is gone.
    Fatal(Fault),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The service's own error code, or a word of ours: timeout, dns, connection, tls, credentials, disk.
    pub(crate) code: String,
    /// One line; of a refusal also what to do.
    pub(crate) message: String,
    /// Asked for by the service.
    pub(crate) retry_after: Option<Duration>,
}

impl Fault {
    pub(crate) fn new(code: &str, message: impl std::fmt::Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string(), retry_after: None }
    }
}
