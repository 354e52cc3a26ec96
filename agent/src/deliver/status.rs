//! What a flow log's delivery says of itself: `status.json` beside the spool, for whoever asks.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sink::{self, Fault};
use crate::spool::Spool;

pub(crate) const FILE: &str = "status.json";
/// While nothing changes but counts.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Counts are since the agent began to deliver this flow log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// Until a delivery succeeds.
    pub(crate) error: Option<Problem>,
    /// Unix seconds.
    pub(crate) last_delivery: Option<i64>,
    pub(crate) delivered: Delivered,
    /// Lost for want of room, or to a damaged disk.
    pub(crate) dropped: Dropped,
    /// Records that the destination would not take.
    pub(crate) dead_lettered: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Idle,
    Delivering,
    Retrying,
    /// Needs a person.
    Refused,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    /// Unix seconds.
    pub(crate) since: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Delivered {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    /// Objects or calls.
    pub(crate) calls: u64,
    /// As sent: compressed, where the destination takes it. Not what a call has around it.
    pub(crate) bytes: u64,
    /// The same, not compressed: what CloudWatch Logs and Firehose meter.
    pub(crate) text_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dropped {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) corrupt_blocks: u64,
    pub(crate) corrupt_records: u64,
}

impl State {
    pub(crate) fn is_failing(self) -> bool {
        matches!(self, Self::Retrying | Self::Refused)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Delivering => "delivering",
            Self::Retrying => "retrying",
            Self::Refused => "refused",
        }
    }
}

impl Status {
    /// As [`Self::read`]; one that is damaged says so. The agent goes on with it and writes another.
    pub(crate) fn read_or_say(directory: &Path) -> io::Result<Option<Self>> {
        Self::read(directory).or_else(|error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                let message = format!("{}: {error}", directory.join(FILE).display());
                let problem = Problem { code: "DamagedStatus".to_owned(), message, since: 0 };
                Ok(Some(Self { error: Some(problem), ..Self::default() }))
            }
            _ => Err(error),
        })
    }

    /// Of a spool's directory. None: nothing was tried yet.
    pub(crate) fn read(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// For whoever asks the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<Status>>);

impl Shown {
    pub(super) fn get(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: &Status) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(status);
    }
}

/// Keeps the file up to date, and what is shown.
pub(super) struct Keeper {
    pub(super) status: Status,
    pub(super) shown: Shown,
    path: PathBuf,
    is_written: bool,
    last_write: Option<Instant>,
    is_failing: bool,
}

impl Keeper {
    /// Goes on where an earlier run was, so that an error keeps its time.
    pub(super) fn open(directory: &Path) -> Self {
        let before = Status::read(directory).ok().flatten().unwrap_or_default();
        let status = Status {
            state: State::Idle,
            error: before.error,
            last_delivery: before.last_delivery,
            ..Status::default()
        };
        let shown = Shown::default();
        shown.set(&status);
        Self { status, shown, path: directory.join(FILE), is_written: false, last_write: None, is_failing: false }
    }

    /// Says whether the state is another one.
    pub(super) fn enter(&mut self, state: State) -> bool {
        let is_new = std::mem::replace(&mut self.status.state, state) != state;
        if is_new {
            self.last_write = None;
            self.is_written = false;
        }
        is_new
    }

    pub(super) fn fail(&mut self, fault: &Fault, now: i64) {
        let since = self.status.error.as_ref().map_or(now, |problem| problem.since);
        let problem = Problem { code: fault.code.clone(), message: fault.message.clone(), since };
        if self.status.error.as_ref() != Some(&problem) {
            self.status.error = Some(problem);
            self.is_written = false;
        }
    }

    /// Something is out.
    pub(super) fn succeed(&mut self, now: i64) {
        self.status.error = None;
        self.status.last_delivery = Some(now);
        self.is_written = false;
    }

    pub(super) fn count(&mut self, delivered: sink::Delivered, spool: &Spool) {
        let sink::Delivered { segments, records, calls, bytes, text_bytes, dead_letters } = delivered;
        let dropped = spool.dropped();
        let before = (self.status.delivered, self.status.dropped, self.status.dead_lettered);
        self.status.delivered = Delivered { segments, records, calls, bytes, text_bytes };
        self.status.dropped = Dropped {
            segments: dropped.segments,
            records: dropped.records,
            corrupt_blocks: dropped.corrupt_blocks,
            corrupt_records: dropped.corrupt_records,
        };
        self.status.dead_lettered = dead_letters;
        self.is_written &= before == (self.status.delivered, self.status.dropped, self.status.dead_lettered);
    }

    /// When there is something new to write and it may be.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_written).then(|| self.last_write.map_or_else(Instant::now, |last| last + WRITE_EVERY))
    }

    pub(super) fn write_if_due(&mut self) {
        self.shown.set(&self.status);
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.write();
        }
    }

    pub(super) fn write(&mut self) {
        self.shown.set(&self.status);
        if self.is_written {
            return;
        }
        let written = self.try_write();
        self.last_write = Some(Instant::now());
        self.is_written = written.is_ok();
        match written {
            Ok(()) => self.is_failing = false,
            // It is no more than a view: the delivery goes on.
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!("cannot write {}: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }

    /// Not synced: after a crash of the host an old one or none does no harm.
    fn try_write(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("json.tmp");
        fs::write(&temporary, serde_json::to_vec(&self.status)?)?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Status::read(directory.path()).unwrap(), None);
        let mut keeper = Keeper::open(directory.path());
        assert!(keeper.enter(State::Refused));
        assert!(!keeper.enter(State::Refused));
        keeper.fail(&Fault::new("AccessDenied", "grant it"), 60);
        keeper.fail(&Fault::new("NoSuchBucket", "make it"), 120);
        keeper.write();
        let status = Status::read(directory.path()).unwrap().unwrap();
        let problem = Problem { code: "NoSuchBucket".to_owned(), message: "make it".to_owned(), since: 60 };
        assert_eq!((status.state, status.error), (State::Refused, Some(problem)));
        assert_eq!(keeper.due(), None);
        // The next run keeps the error until it has delivered.
        let mut keeper = Keeper::open(directory.path());
        keeper.fail(&Fault::new("NoSuchBucket", "make it"), 180);
        assert_eq!(keeper.status.error.as_ref().unwrap().since, 60);
        keeper.enter(State::Idle);
        keeper.succeed(240);
        keeper.write();
        let status = Status::read(directory.path()).unwrap().unwrap();
        assert_eq!((status.state, status.error, status.last_delivery), (State::Idle, None, Some(240)));
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(Status::read(directory.path()).is_err());
        let said = Status::read_or_say(directory.path()).unwrap().unwrap().error.unwrap();
        assert!(said.code == "DamagedStatus" && said.message.contains("status.json: "), "{said:?}");
    }
}
