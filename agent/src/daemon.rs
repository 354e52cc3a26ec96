//! The event loop: clocks, signals, interface changes. One thread; the data path is a straight line through it.
//! Knows no formats and no BPF; what it does at each turn is in the files beside it.
#![forbid(unsafe_code)]

use crate::capture::interfaces::{Interface, Watch};
use crate::capture::{Capture, Sizes};
use crate::cli::Failure;
use crate::config::Agent;
use crate::durable::Durable;
use crate::identity::asking::Asking;
use crate::identity::services::ServicesFile;
use crate::known::Known;
use crate::notify::Notify;
use crate::pipeline::Pipeline;
use crate::privileges::Privileges;
use crate::select::{Named, Selection};
use crate::serve::{Places, Server, socket};
use crate::state_lock::HAND_OVER;
use crate::wall::Wall;
use crate::window::window_at;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike as _;
use nix::time::ClockId;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod ending;
mod hooks;
mod leftover;
mod recover;
mod reload;
mod room;
mod slices;
mod snapshot;
mod standing;
mod start;
mod tally;

use ending::say_ended;
use leftover::Leftovers;
pub(crate) use start::{Plan, Settings, Source, available_bytes, plan, possible_cpus, sizes};
use tally::Tally;

/// How often tables are looked at for an early drain, and the longest wait for a signal.
const TICK: Duration = Duration::from_millis(50);

/// How often the programs are looked for on their interfaces.
const LOOK: Duration = Duration::from_secs(1);

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn now_ms() -> i64 {
    clocks().0 / NANOSECONDS_IN_MS
}

/// How long another agent waits while we find room for what is in memory alone.
const SETTLE: Duration = Duration::from_secs(3);

/// Seconds after its end that a window may be closed and still end where it should.
const LATE: i64 = 2;

const NANOSECONDS: i64 = 1_000_000_000;
const NANOSECONDS_IN_MS: i64 = 1_000_000;

/// Wall clock and monotonic clock, in nanoseconds.
fn clocks() -> (i64, i64) {
    let read = |clock: ClockId| clock.now().map_or(0, |time| time.num_nanoseconds());
    (read(ClockId::CLOCK_REALTIME), read(ClockId::CLOCK_MONOTONIC))
}

/// A stop that comes before [`run`] is kept for it: what a former agent left in the kernel must not count on after it.
pub(crate) fn keep_stops() -> Result<(), Failure> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(HAND_OVER);
    mask.thread_block().map_err(|error| Failure::Run(format!("block signals: {error}")))
}

/// Runs until SIGINT or SIGTERM, or until another agent takes over.
pub(crate) fn run(plan: Plan) -> Result<(), Failure> {
    let Plan { settings, agent, pipeline, known, services, news, mut lock, pins } = plan;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.add(HAND_OVER);
    mask.add(Signal::SIGHUP);
    let io = |what: &'static str| move |e: nix::errno::Errno| Failure::Run(format!("{what}: {e}"));
    mask.thread_block().map_err(io("block signals"))?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(io("signalfd"))?;
    lock.sign();
    Privileges::read().log();
    let (durable, recovery) = Durable::open(&agent.state_directory);
    let watch = Watch::new().map_err(io("watch interfaces"))?;
    let sizes = start::sizes(Some(&agent));
    let mut capture = match pins {
        Some(pins) => Capture::open_pinned(sizes, pins)?,
        None => Capture::open(sizes)?,
    };
    if let Some(hook) = settings.hook {
        capture.attach_by(hook);
    }
    let interval = slice_seconds(&pipeline);
    let (start, last) = window_at(now(), interval);
    let (wall, monotonic) = clocks();
    let asking = start::asking(&settings.surroundings, &agent.state_directory);
    let mut daemon = Daemon {
        settings,
        agent,
        known,
        services,
        capture,
        pipeline,
        leftovers: Leftovers::default(),
        selections: news.selections.clone(),
        interval,
        tracked: BTreeMap::new(),
        left: Vec::new(),
        // The first window begins when we do.
        window: (start.max(now()), last),
        since_ms: now_ms(),
        drained_ms: now_ms(),
        tally: Tally::default(),
        wall: Wall::new(wall, monotonic),
        unspooled: false,
        no_verdicts: Some("turned off by no-verdicts".to_owned()),
        started: (now(), Instant::now()),
        gaps: BTreeSet::new(),
        looked: Instant::now(),
        asking,
        durable,
        was_pinned: false,
        notify: Notify::new(),
        unattached: Vec::new(),
        not_reloaded: None,
    };
    // Before the interfaces: a refused packet that was counted must not stay ACCEPT. One that was dropped before its
    // interface was hooked finds no counterpart and is in no record.
    if daemon.agent.verdicts {
        match daemon.capture.watch_drops() {
            Ok(()) => {
                daemon.no_verdicts = None;
                let drop_reasons = Arc::new(daemon.capture.policies());
                daemon.know(Known { drop_reasons, ..(*daemon.known).clone() });
            }
            Err(why) => {
                tracing::warn!("every record will be ACCEPT: {why}");
                daemon.no_verdicts = Some(why.to_string());
            }
        }
    }
    daemon.sync()?;
    daemon.recover(recovery)?;
    // From what earlier runs had, if they had other flow logs.
    daemon.change(news)?;
    let (server, asks) = Server::start(daemon.places());
    crate::capture::trim_heap();
    daemon.was_pinned = daemon.capture.is_pinned();
    daemon.say_ready(&sizes);
    daemon.notify.ready(daemon.standing());
    let mut stop = false;
    while !stop {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Failure::Run(format!("poll: {error}"))),
        }
        // Also what is an error there: reading tells.
        let [has_changed, has_signal] = fds.map(|fd| fd.any().unwrap_or(true));
        if has_signal && let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo == HAND_OVER as u32 && daemon.capture.is_pinned() {
                daemon.notify.stopping("handing over", SETTLE);
                let settled = daemon.settle();
                daemon.capture.flush_log();
                let report = daemon.capture.drop_report().ok().flatten();
                let said = daemon.said(report.as_ref());
                drop(server);
                daemon.stop_deliveries();
                say_ended("handed over", &said, report);
                return settled;
            }
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                daemon.notify.reloading();
                daemon.reload()?;
                daemon.notify.ready(daemon.standing());
            } else {
                stop = true;
            }
        }
        if has_changed && watch.changed() {
            daemon.sync()?;
            daemon.durable.name(&daemon.tracked);
        }
        if daemon.looked.elapsed() >= LOOK {
            daemon.look()?;
        }
        daemon.tick(stop)?;
        daemon.answer(&asks);
        if let Some(fault) = daemon.fatal() {
            // Everything was drained or is in the spool: nothing is worth counting on for.
            daemon.capture.close();
            daemon.stop_deliveries();
            return Err(Failure::Run(fault));
        }
    }
    daemon.notify.stopping("delivering what waits", daemon.agent.shutdown);
    drop(server);
    let report = daemon.capture.drop_report().ok().flatten();
    daemon.capture.close();
    let deadline = Instant::now() + daemon.agent.shutdown;
    let room = daemon.make_room(deadline);
    let said = daemon.said(report.as_ref());
    let fatal = daemon.finish_deliveries(deadline);
    say_ended("stopped", &said, report);
    room?;
    fatal.map_or(Ok(()), |fault| Err(Failure::Run(fault)))
}

/// Slices end wherever any flow log's window may end.
fn slice_seconds(pipeline: &Pipeline) -> u32 {
    let gcd = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    pipeline.subscriptions.iter().map(|one| one.log().interval).fold(0, gcd)
}

struct Daemon {
    settings: Settings,
    agent: Agent,
    known: Arc<Known>,
    services: Option<ServicesFile>,
    capture: Capture,
    pipeline: Pipeline,
    /// Of the flow logs that are configured, which these need not be yet when the agent starts.
    selections: Vec<Selection>,
    /// Spools of flow logs that are configured no longer.
    leftovers: Leftovers,
    /// Of a slice, in seconds.
    interval: u32,
    /// By ifindex, what is captured, or was in this slice.
    tracked: BTreeMap<u32, Named>,
    /// Interfaces that went away in this slice: their last packets are still to be logged.
    left: Vec<u32>,
    /// First and last second of the slice.
    window: (i64, i64),
    /// When its first epoch began, Unix milliseconds.
    since_ms: i64,
    /// When the last epoch ended.
    drained_ms: i64,
    tally: Tally,
    wall: Wall,
    /// A window could not be spooled.
    unspooled: bool,
    /// Why every record is ACCEPT, if so.
    no_verdicts: Option<String>,
    /// Interfaces that were not counted for a while in this window.
    gaps: BTreeSet<u32>,
    /// When the programs were looked for last.
    looked: Instant,
    /// On EC2.
    asking: Option<Asking>,
    durable: Durable,
    /// Counters outlive us, or did until somebody removed them.
    was_pinned: bool,
    /// By the wall clock and by the other.
    started: (i64, Instant),
    notify: Notify,
    /// Names of wanted interfaces that we could not attach to.
    unattached: Vec<String>,
    /// Why the last reload was refused, if it was.
    not_reloaded: Option<String>,
}

impl Daemon {
    fn wants(&self, interface: &Interface) -> bool {
        self.selections.iter().any(|selection| selection.wants(interface))
    }

    /// Why going on makes no sense: nobody reads what we write.
    fn fatal(&self) -> Option<String> {
        let faults = self.pipeline.subscriptions.iter().filter_map(|one| one.delivery()?.fatal());
        faults.map(|fault| fault.message).next()
    }

    /// Where this agent can be asked.
    fn places(&self) -> Places {
        let socket = self.agent.socket.clone();
        let socket = socket.or_else(|| socket::usable_default(&self.agent.state_directory));
        Places { socket, metrics: self.agent.metrics.clone() }
    }

    fn say_ready(&self, sizes: &Sizes) {
        let names: Vec<&str> = self.capture.attached().map(|interface| interface.name.as_str()).collect();
        let logs = &self.pipeline.subscriptions;
        let destinations: Vec<String> = logs.iter().map(|one| one.log().destination.to_string()).collect();
        let intervals: Vec<String> = logs.iter().map(|one| format!("{}s", one.log().interval)).collect();
        let names = if names.is_empty() { "none yet".to_owned() } else { names.join(",") };
        eprintln!(
            "flowlogd ready: interfaces={names} flows_per_cpu={} overflow={} cpus={} tables={}MiB verdicts={} interval={} destination={}",
            sizes.sets4 * 4,
            sizes.overflow,
            sizes.cpus,
            sizes.table_bytes() >> 20,
            if self.no_verdicts.is_none() { "kernel" } else { "none" },
            intervals.join(","),
            destinations.join(","),
        );
    }
}
