//! Delivers what waits, for as long as it takes; the thread of one flow log.
//! Must not know what a destination is.
//! Always: a failure is said once for each change of state, and tried again; orders interrupt every wait.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::backoff::{Backoff, Cause};
use super::destination::Sink;
use super::status::{Keeper, Shown, State};
use crate::flow_log::FlowLog;
use crate::identity::Identity;
use crate::sink::{Fault, Outcome, Step};
use crate::spool::Spool;

/// The wall clock may be stepped, and does not go on in a suspended host the way the one that we sleep by does.
const LONGEST_REST: Duration = Duration::from_secs(30);
const SHORTEST_REST: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) mode: Mode,
    /// Counts calls to look at the spool.
    pub(super) wakes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// What is due.
    Run,
    /// What waits, due or not.
    Flush,
    /// The same, and then end; at the latest at this time.
    Finish(Instant),
    /// Nothing more than what is under way, and that until this time.
    Stop(Instant),
}

impl Mode {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Run | Self::Flush => None,
            Self::Finish(deadline) | Self::Stop(deadline) => Some(deadline),
        }
    }
}

pub(super) struct Worker {
    log: Arc<FlowLog>,
    identity: Identity,
    spool: Arc<Spool>,
    /// None: it could not be opened so far.
    sink: Option<Sink>,
    orders: watch::Receiver<Orders>,
    /// For the daemon, which ends then.
    fatal: Arc<OnceLock<Fault>>,
    backoff: Backoff,
    keeper: Keeper,
    fault: Option<Fault>,
}

impl Worker {
    /// Opens the sink if it can be: see [`Objects::open`](crate::sink::Objects::open).
    pub(super) fn new(
        log: Arc<FlowLog>,
        identity: Identity,
        spool: Arc<Spool>,
        orders: watch::Receiver<Orders>,
        fatal: Arc<OnceLock<Fault>>,
    ) -> Self {
        let sink = Sink::open(&log, &identity, &spool).ok();
        Self::with(sink, log, identity, spool, orders, fatal)
    }

    pub(super) fn with(
        sink: Option<Sink>,
        log: Arc<FlowLog>,
        identity: Identity,
        spool: Arc<Spool>,
        orders: watch::Receiver<Orders>,
        fatal: Arc<OnceLock<Fault>>,
    ) -> Self {
        let keeper = Keeper::open(spool.directory());
        Self { log, identity, spool, sink, orders, fatal, backoff: Backoff::default(), keeper, fault: None }
    }

    pub(super) fn shown(&self) -> Shown {
        self.keeper.shown.clone()
    }

    /// Until it is ordered to end. Returns why something is left, if that is known.
    pub(super) async fn run(mut self) -> Option<Fault> {
        loop {
            let mode = self.orders.borrow_and_update().mode;
            if matches!(mode, Mode::Stop(_)) {
                break;
            }
            let orders = self.orders.clone();
            let attempt = tokio::select! {
                biased;
                () = overdue(orders) => break,
                attempt = self.attempt(mode != Mode::Run) => attempt,
            };
            if !self.after(attempt, mode).await {
                break;
            }
        }
        self.count();
        self.keeper.write();
        self.fault
    }

    async fn attempt(&mut self, all: bool) -> Result<Step, Outcome> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => self.sink.insert(Sink::open(&self.log, &self.identity, &self.spool)?),
        };
        sink.deliver(&self.spool, now().as_secs() as i64, all).await
    }

    /// Says whether to go on.
    async fn after(&mut self, attempt: Result<Step, Outcome>, mode: Mode) -> bool {
        let is_last = matches!(mode, Mode::Finish(_));
        match attempt {
            Ok(Step::Progress) | Err(Outcome::Done) => self.succeeded(),
            Ok(Step::Idle { due }) => {
                self.idle(due);
                if is_last {
                    return false;
                }
                self.rest(due).await;
            }
            Err(Outcome::Retry(fault)) => self.failed(fault, Cause::Passing).await,
            Err(Outcome::Refuse(fault)) => {
                if is_last {
                    // Nobody acts that fast.
                    self.fail(fault, Cause::Person);
                    return false;
                }
                self.failed(fault, Cause::Person).await;
            }
            Err(Outcome::Fatal(fault)) => {
                self.fail(fault.clone(), Cause::Person);
                let _ = self.fatal.set(fault);
                return false;
            }
        }
        true
    }

    fn succeeded(&mut self) {
        let was_failing = self.keeper.status.state.is_failing();
        self.backoff.reset();
        self.fault = None;
        self.keeper.succeed(now().as_secs() as i64);
        self.keeper.enter(State::Delivering);
        if was_failing {
            tracing::info!(flow_log = %self.log.id, "delivery works again");
        }
        self.count();
        self.keeper.write_if_due();
    }

    /// What failed before and is not due now is not known to work.
    fn idle(&mut self, due: Option<i64>) {
        if due.is_none() || !self.keeper.status.state.is_failing() {
            self.keeper.enter(State::Idle);
        }
        self.count();
        self.keeper.write_if_due();
    }

    async fn failed(&mut self, fault: Fault, cause: Cause) {
        let wait = self.backoff.after(cause, fault.retry_after, fastrand::f64());
        self.fail(fault, cause);
        self.pause(Instant::now() + wait).await;
    }

    fn fail(&mut self, fault: Fault, cause: Cause) {
        let state = if cause == Cause::Passing { State::Retrying } else { State::Refused };
        let is_new = self.keeper.enter(state);
        let is_other = self.fault.as_ref().is_none_or(|before| before.code != fault.code);
        let (flow_log, code) = (&self.log.id, &fault.code);
        match cause {
            Cause::Passing if is_new => {
                tracing::warn!(%flow_log, %code, "not delivered, tried again: {}", fault.message);
            }
            // Who has mended one thing is told of the next.
            Cause::Person if is_new || is_other => {
                tracing::error!(%flow_log, %code, "not delivered, waits in the spool: {}", fault.message);
            }
            _ => {}
        }
        self.keeper.fail(&fault, now().as_secs() as i64);
        self.fault = Some(fault);
        self.count();
        self.keeper.write();
    }

    /// Until then, or until there is another order; a new segment is none.
    async fn pause(&mut self, until: Instant) {
        let mode = self.orders.borrow_and_update().mode;
        let until = mode.deadline().map_or(until, |deadline| deadline.min(until));
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                changed = self.orders.changed() => {
                    if changed.is_err() || self.orders.borrow_and_update().mode != mode {
                        return;
                    }
                }
            }
        }
    }

    /// Until something is due, or the spool or the orders change.
    async fn rest(&mut self, due: Option<i64>) {
        let start = Instant::now();
        let rest = due.map_or(LONGEST_REST, |due| Duration::from_secs(due.max(0) as u64).saturating_sub(now()));
        let end = start + rest.clamp(SHORTEST_REST, LONGEST_REST);
        let end = self.keeper.due().map_or(end, |due| end.min(Instant::from_std(due)).max(start + SHORTEST_REST));
        tokio::select! {
            () = sleep_until(end) => {}
            _ = self.orders.changed() => {}
        }
    }

    fn count(&mut self) {
        if let Some(sink) = &self.sink {
            self.keeper.count(sink.delivered(), &self.spool);
        }
    }
}

/// When what is under way is to be given up.
async fn overdue(mut orders: watch::Receiver<Orders>) {
    loop {
        let deadline = orders.borrow_and_update().mode.deadline();
        let changed = match deadline {
            Some(deadline) => tokio::select! {
                () = sleep_until(deadline) => return,
                changed = orders.changed() => changed,
            },
            None => orders.changed().await,
        };
        if changed.is_err() {
            // Whoever gave orders is gone.
            return;
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
