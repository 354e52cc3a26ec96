//! Delivery: a thread for each flow log that takes its spool to its destination, whatever happens there.
//! Must not know how records come about. Always: nobody waits for a destination but its own thread.
#![forbid(unsafe_code)]

mod backoff;
mod destination;
pub(crate) mod status;
#[cfg(test)]
mod tests;
mod worker;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use tokio::sync::watch;

use crate::flow_log::FlowLog;
use crate::identity::Identity;
use crate::sink::Fault;
use crate::spool::Spool;
use status::Shown;
use worker::{Mode, Orders, Worker};

/// The flow log's settings, beside its spool: what waits there can be delivered when it is configured no longer.
pub(crate) const FLOW_LOG: &str = "flow-log.json";
pub(crate) const DEAD_LETTERS: &str = crate::sink::DEAD_LETTERS;

/// How long a call that is under way may take when another agent waits for us.
const STOP: Duration = Duration::from_secs(3);
/// What a thread may take to notice.
const GRACE: Duration = Duration::from_secs(1);

/// One flow log's.
pub(crate) struct Delivery {
    orders: watch::Sender<Orders>,
    fatal: Arc<OnceLock<Fault>>,
    ended: mpsc::Receiver<Option<Fault>>,
    spool: Arc<Spool>,
    shown: Shown,
}

/// What is left in the spool, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) fault: Option<Fault>,
    pub(crate) fatal: Option<Fault>,
}

/// Records that will never be delivered, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The oldest made room.
    pub(crate) dropped: u64,
    pub(crate) corrupt: u64,
    pub(crate) dead_lettered: u64,
}

impl std::ops::Add for Missed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            dropped: self.dropped + other.dropped,
            corrupt: self.corrupt + other.corrupt,
            dead_lettered: self.dead_lettered + other.dead_lettered,
        }
    }
}

impl Delivery {
    /// `directory` is the spool's.
    pub(crate) fn start(
        log: Arc<FlowLog>,
        identity: Identity,
        spool: Arc<Spool>,
        directory: PathBuf,
    ) -> io::Result<Self> {
        if let Err(error) = keep_settings(&log, &directory) {
            let path = directory.join(FLOW_LOG);
            tracing::warn!(
                "cannot write {}: {error}; were the flow log removed, what waits would stay",
                path.display()
            );
        }
        let (orders, receiver) = watch::channel(Orders { mode: Mode::Run, wakes: 0 });
        let (end, ended) = mpsc::channel();
        let fatal = Arc::new(OnceLock::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker = Worker::new(log, identity, Arc::clone(&spool), receiver, Arc::clone(&fatal));
        let shown = worker.shown();
        thread::Builder::new().name("deliver".to_owned()).spawn(move || {
            // Signals are for the main thread.
            let _ = SigSet::all().thread_block();
            let fault = runtime.block_on(worker.run());
            // A name that is being looked up would keep it for as long as that takes.
            runtime.shutdown_background();
            let _ = end.send(fault);
        })?;
        Ok(Self { orders, fatal, ended, spool, shown })
    }

    /// There is something new in the spool.
    pub(crate) fn wake(&self) {
        self.orders.send_modify(|orders| orders.wakes += 1);
    }

    /// From now on what waits is delivered at once, due or not.
    pub(crate) fn flush(&self) {
        self.order(Mode::Flush);
    }

    /// Delivers all that waits, until the deadline, and ends.
    pub(crate) fn finish(self, deadline: Instant) -> Finished {
        self.order(Mode::Finish(deadline.into()));
        self.end(deadline)
    }

    /// Ends as soon as the call that is under way has; for another agent that goes on.
    pub(crate) fn stop(self) {
        let deadline = Instant::now() + STOP;
        self.order(Mode::Stop(deadline.into()));
        self.end(deadline);
    }

    /// How it goes.
    pub(crate) fn status(&self) -> status::Status {
        self.shown.get()
    }

    pub(crate) fn missed(&self) -> Missed {
        let dropped = self.spool.dropped();
        Missed {
            dropped: dropped.records,
            corrupt: dropped.corrupt_records,
            dead_lettered: self.status().dead_lettered,
        }
    }

    /// Why there will never be anything to deliver to again.
    pub(crate) fn fatal(&self) -> Option<Fault> {
        self.fatal.get().cloned()
    }

    fn order(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }

    /// A thread that is stuck in the kernel, such as in a pipe that nobody reads, is left behind.
    fn end(self, deadline: Instant) -> Finished {
        let wait = deadline.saturating_duration_since(Instant::now()) + GRACE;
        let fault = self.ended.recv_timeout(wait).unwrap_or_else(|error| match error {
            mpsc::RecvTimeoutError::Timeout => Some(Fault::new("timeout", "the destination does not answer")),
            mpsc::RecvTimeoutError::Disconnected => Some(Fault::new("panic", "the thread of this flow log died")),
        });
        let left = self.spool.segments();
        let (segments, records) = (left.len() as u64, left.iter().map(|segment| segment.records).sum());
        Finished { segments, records, fault, fatal: self.fatal() }
    }
}

/// Only when they differ: the file is as old as the flow log.
fn keep_settings(log: &FlowLog, directory: &Path) -> io::Result<()> {
    let (path, text) = (directory.join(FLOW_LOG), serde_json::to_vec_pretty(log)?);
    if fs::read(&path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, text)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, &path)
}
