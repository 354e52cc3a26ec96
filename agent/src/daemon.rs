//! The event loop: clocks, signals, interface changes. One thread; the data path is a straight line through it.
//! Knows no formats and no BPF. A slice is closed only after its last epoch was drained.
#![forbid(unsafe_code)]

use crate::capture::interfaces::{self, Interface, Watch};
use crate::capture::{Capture, DropReport, Hook, Sizes};
use crate::cli::Failure;
use crate::config::{Agent, Host};
use crate::durable::Durable;
use crate::fault;
use crate::identity::asking::Asking;
use crate::journal::{CARRIED, Frame};
use crate::notify::Notify;
use crate::pipeline::{Pipeline, Slice, Summary};
use crate::privileges::Privileges;
use crate::select::{Named, Selection};
use crate::serve::{Places, Server, socket};
use crate::state_lock::HAND_OVER;
use crate::subscription::Subscription;
use crate::wall::Wall;
use crate::window::window_at;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike as _;
use nix::time::ClockId;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod leftover;
mod recover;
mod reload;
mod room;
mod snapshot;
mod standing;
mod start;
mod tally;

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
    let Plan { settings, agent, pipeline, host, news, mut lock, pins } = plan;
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
        host,
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
            Ok(()) => daemon.no_verdicts = None,
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
    host: Host,
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

    /// Attaches to what is wanted now and lets go of what is not.
    fn sync(&mut self) -> Result<(), Failure> {
        let mut wanted = interfaces::list().map_err(crate::capture::Error::from)?;
        wanted.retain(|interface| self.wants(interface));
        let changes = self.capture.sync(&wanted);
        for (interface, hook) in &changes.attached {
            let id = self.host.interface_id(&interface.name);
            if let (Some(asking), Some(mac)) = (&mut self.asking, self.host.unknown_mac(&interface.name)) {
                asking.miss(mac);
            }
            tracing::info!(interface = %interface.name, %id, hook = ?hook, "attached");
            if *hook == Hook::Clsact {
                tracing::warn!(interface = %interface.name, "no TCX on this kernel: other tools can remove the filters");
            }
            self.left.retain(|&index| index != interface.index);
            self.tracked.insert(interface.index, Named::new(id, interface));
        }
        // Flow logs may choose by addresses, and these change.
        for interface in &wanted {
            if let Some(named) = self.tracked.get_mut(&interface.index) {
                *named = Named::new(named.id.clone(), interface);
            }
        }
        for interface in &changes.detached {
            tracing::info!(interface = %interface.name, "detached");
            self.left.push(interface.index);
        }
        self.unattached.clear();
        for (interface, error) in &changes.failed {
            // Gone between the listing and the attachment: the next change of the interfaces tells.
            if interfaces::list().is_ok_and(|now| now.iter().any(|i| i.index == interface.index)) {
                tracing::error!(interface = %interface.name, error = error.explained(), "cannot attach");
                self.unattached.push(interface.name.clone());
            }
        }
        Ok(())
    }

    /// A new window's journal, with the names that its flows will go by, and with what it has from the one before it.
    fn begin(&mut self) {
        self.durable.begin(self.window);
        self.durable.name(&self.tracked);
        if let Some(drained) = self.pipeline.carried() {
            self.durable.append(&Frame { generation: CARRIED, epoch: 0, drained });
        }
    }

    /// Puts programs back that somebody else has removed.
    fn look(&mut self) -> Result<(), Failure> {
        self.looked = Instant::now();
        self.leftovers.look();
        if let Some(imds) = self.asking.as_mut().and_then(|asking| asking.poll(Instant::now())) {
            self.learn(imds)?;
        }
        if self.was_pinned && !self.capture.is_pinned() {
            self.was_pinned = false;
            tracing::error!(
                "somebody removed what was pinned: a crash or a restart loses what the kernel has counted; restart"
            );
        }
        let changes = self.capture.mend();
        for interface in &changes.rehooked {
            // Each once in a window.
            if self.gaps.insert(interface.index) {
                self.tally.unhooked += 1;
                tracing::warn!(interface = %interface.name, "somebody took our programs off; hooked again, packets were missed");
            }
        }
        for (interface, error) in &changes.failed {
            tracing::error!(interface = %interface.name, %error, "cannot hook again");
        }
        Ok(())
    }

    /// Drains when it is time to, closes the window when it has ended.
    fn tick(&mut self, stop: bool) -> Result<(), Failure> {
        fault::stand_still("loop-turns");
        let (wall, monotonic) = clocks();
        if let Some(step) = self.wall.step(wall, monotonic) {
            self.step(step, wall)?;
        }
        self.capture.flush_log();
        let now = now();
        let (start, last) = self.window;
        // A clock set back before the slice ends it as well: a slice never spans such a step. After a cut a slice may
        // begin with the next second.
        let ended = now > last || now + 1 < start;
        if stop || ended {
            self.drain(0)?;
            let (next, next_last) = window_at(now, self.interval);
            let late = now - last;
            if ended && late > LATE {
                // We were stopped: what was counted meanwhile keeps its times.
                tracing::warn!(seconds = late, window = start, "the window ends late and is longer");
            }
            let end = match ended {
                true if late > LATE => now - 1,
                true => last,
                false => now,
            };
            let slice = self.close(start, end, stop || now + 1 < start);
            // Slices never overlap, unless the clock itself goes back.
            self.window = (if now < start { now } else { next.max(start).max(end + 1) }, next_last);
            if !stop {
                self.begin();
            }
            self.publish(&slice);
        } else if self.durable.is_full() {
            self.cut(now)?;
        } else if !self.settings.hold_drain && self.capture.crowded() {
            self.drain(0)?;
        }
        self.notify.turned();
        if self.notify.wants_status() {
            self.notify.status(self.standing());
        }
        Ok(())
    }

    /// Ends the slice before its time: a journal is bounded, and flow logs come and go. Another goes on to its end.
    fn cut(&mut self, now: i64) -> Result<(), Failure> {
        self.drain(0)?;
        let (start, last) = self.window;
        let slice = self.close(start, now, false);
        // Its last second is the window's too, which ends with it: the next one must not have it again.
        let next = if now < last { now.max(start) } else { now + 1 };
        self.window = (next, window_at(next, self.interval).1);
        self.begin();
        self.publish(&slice);
        Ok(())
    }

    /// The wall clock was stepped: all windows end where it was, and others begin where it is now, so that no record spans
    /// the step.
    fn step(&mut self, step: i64, wall: i64) -> Result<(), Failure> {
        let before = (wall - step) / NANOSECONDS;
        tracing::warn!(seconds = step / NANOSECONDS, "the wall clock was stepped: the window ends early");
        self.tally.clock_steps += 1;
        self.drain(step)?;
        let (start, last) = self.window;
        let slice = self.close(start, before.clamp(start, last), true);
        let now = wall / NANOSECONDS;
        self.window = (now, window_at(now, self.interval).1);
        self.begin();
        self.publish(&slice);
        Ok(())
    }

    /// `stepped`: by how many nanoseconds the wall clock was stepped since the last tick. What was counted is in the
    /// journal before the kernel forgets it.
    fn drain(&mut self, stepped: i64) -> Result<(), Failure> {
        let (pipeline, durable) = (&mut self.pipeline, &mut self.durable);
        let (generation, epoch) = (self.capture.generation().0, self.capture.epoch());
        let start = Instant::now();
        self.drained_ms = now_ms();
        let drained = self.capture.drain_after_step(stepped, |drained| {
            let frame = Frame { generation, epoch, drained };
            durable.append(&frame);
            pipeline.absorb(frame.drained);
            Ok(())
        });
        self.tally.drained(start.elapsed());
        drained
    }

    /// Ends the slice and keeps it. To be published when the next one has begun, for its file goes then.
    fn close(&mut self, start: i64, last: i64, ends: bool) -> Slice {
        let gaps = std::mem::take(&mut self.gaps);
        self.since_ms = self.drained_ms;
        let mut slice = self.pipeline.close((start, last), &self.tracked, gaps, ends);
        (slice.number, slice.file) = self.durable.close(slice.closing());
        for index in self.left.drain(..) {
            self.tracked.remove(&index);
        }
        slice
    }

    fn publish(&mut self, slice: &Slice) {
        let summary = self.pipeline.publish(slice);
        self.tally.add(slice, &summary);
        self.tally.keep(&self.tracked.values().map(|named| named.id.as_str()).collect());
        self.account(&summary, slice.start);
    }

    /// Forgets what every flow log has, and says what went wrong.
    fn account(&mut self, summary: &Summary, start: i64) {
        self.durable.forget(&summary.published);
        self.tally.windows += 1;
        if summary.sum_error != (0, 0) {
            self.tally.with_error += 1;
            let (packets, bytes) = summary.sum_error;
            tracing::error!(%packets, %bytes, window = start, "the sum rule does not hold: please report this");
        }
        if summary.skipped.packets > 0 {
            tracing::warn!(
                packets = summary.skipped.packets,
                window = start,
                "flows found no room, SKIPDATA written; raise --flow-table-slots or --overflow-slots"
            );
        }
        if summary.drops_skipped.packets > 0 {
            tracing::warn!(
                packets = summary.drops_skipped.packets,
                window = start,
                "rejected flows found no room, SKIPDATA written; raise --flow-table-slots"
            );
        }
        self.tally.total.add(summary);
        if summary.lost_records > 0 {
            tracing::error!(records = summary.lost_records, "given up: too many windows wait for room in the spool");
        }
        match &summary.error {
            // Once, until it works again.
            Some(error) if !std::mem::replace(&mut self.unspooled, true) => {
                tracing::error!(%error, "not spooled, waits in memory and will be tried again");
            }
            None if summary.waiting == 0 && std::mem::take(&mut self.unspooled) => {
                tracing::info!("the spool can be written again");
            }
            _ => {}
        }
    }

    /// Why going on makes no sense: nobody reads what we write.
    fn fatal(&self) -> Option<String> {
        let faults = self.pipeline.subscriptions.iter().filter_map(|one| one.delivery()?.fatal());
        faults.map(|fault| fault.message).next()
    }

    /// Leaves what is not delivered to the next agent.
    fn stop_deliveries(self) {
        // All at once: the other agent waits, and a call that is under way may take a while.
        std::thread::scope(|scope| {
            let deliveries = self.pipeline.subscriptions.into_iter().filter_map(Subscription::into_delivery);
            for delivery in deliveries.chain(self.leftovers.into_deliveries()) {
                scope.spawn(move || delivery.stop());
            }
        });
    }

    /// Delivers what there is time for, all at once. Returns why nobody reads it, if so.
    fn finish_deliveries(self, deadline: Instant) -> Option<String> {
        let mut fatal = None;
        std::thread::scope(|scope| {
            for leftover in self.leftovers.into_deliveries() {
                scope.spawn(move || leftover.finish(deadline));
            }
            let finish = |one: Subscription| {
                let id = one.log().id.clone();
                let delivery = one.into_delivery()?;
                Some(scope.spawn(move || (id, delivery.finish(deadline))))
            };
            let finishing: Vec<_> = self.pipeline.subscriptions.into_iter().filter_map(finish).collect();
            for (id, finished) in finishing.into_iter().filter_map(|thread| thread.join().ok()) {
                if let Some(fault) = &finished.fatal {
                    fatal = Some(fault.message.clone());
                } else if finished.segments > 0 {
                    let (windows, records) = (finished.segments, finished.records);
                    let why = finished.fault.map_or("no time left".to_owned(), |fault| fault.message);
                    tracing::warn!(flow_log = %id, windows, records, why, "left in the spool for the next start");
                }
            }
        });
        fatal
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

    /// Leaves to another agent what it finds in the kernel and in the journal. What the disk did not take, and is in our
    /// memory alone, goes into the spool now or is lost, and said: programs count on all the while.
    fn settle(&mut self) -> Result<(), Failure> {
        let is_kept = self.durable.is_whole() && (self.pipeline.waiting() == 0 || self.durable.errors == 0);
        if is_kept {
            return Ok(());
        }
        self.tick(true)?;
        self.make_room(Instant::now() + SETTLE)
    }

    /// The closing line.
    fn said(&self, report: Option<&DropReport>) -> String {
        let Tally { windows, with_error, total, .. } = &self.tally;
        let unmatched = total.unmatched.packets + self.pipeline.drops_waiting().packets;
        let lost: u64 = report.into_iter().flat_map(|report| &report.lost).map(|(_, count)| count).sum();
        let fields = [
            ("verdicts", u8::from(self.no_verdicts.is_none()).to_string()),
            ("windows", windows.to_string()),
            ("records", total.records.to_string()),
            ("seen_packets", total.seen.packets.to_string()),
            ("seen_bytes", total.seen.bytes.to_string()),
            ("excluded_packets", total.excluded.packets.to_string()),
            ("non_ip_packets", total.non_ip.packets.to_string()),
            ("unparsable_packets", total.unparsable.packets.to_string()),
            ("skipped_packets", total.skipped.packets.to_string()),
            ("skipped_bytes", total.skipped.bytes.to_string()),
            ("rejected_packets", total.rejected.packets.to_string()),
            ("rejected_bytes", total.rejected.bytes.to_string()),
            ("drops_unmatched_packets", unmatched.to_string()),
            ("drops_lost", lost.to_string()),
            ("drops_nested", report.map_or(0, |report| report.nested.iter().sum::<u64>()).to_string()),
            ("journal_errors", self.durable.errors.to_string()),
            ("clock_steps", self.tally.clock_steps.to_string()),
            ("sum_error_packets", total.sum_error.0.to_string()),
            ("sum_error_bytes", total.sum_error.1.to_string()),
            ("windows_with_error", with_error.to_string()),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(" ")
    }
}

fn say_ended(how: &str, said: &str, report: Option<DropReport>) {
    eprintln!("flowlogd {how}: {said}");
    let Some(report) = report else { return };
    let frees: Vec<String> = report.other_frees.iter().map(|(name, frees)| format!("{name}={frees}")).collect();
    tracing::debug!("frees that were no policy's: {}", frees.join(" "));
    let [first, second] = report.nested;
    tracing::debug!(first, second, "nested frees, by the program that was left out");
    for (cause, drops) in report.lost.iter().filter(|(_, drops)| *drops > 0) {
        tracing::warn!(cause, drops, "rejected packets that are not logged as such");
    }
}
