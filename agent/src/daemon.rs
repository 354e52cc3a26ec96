//! The event loop: clocks, signals, interface changes. One thread; the data path is a straight line through it.
//! Knows no formats and no BPF. A window is closed only after its last epoch was drained.
#![forbid(unsafe_code)]

use crate::capture::interfaces::{self, Interface, Watch};
use crate::capture::{Capture, DropReport, Hook, Sizes};
use crate::cli::Failure;
use crate::durable::Durable;
use crate::journal::{CARRIED, Closing, Frame};
use crate::pipeline::{Pending, Pipeline, Summary};
use crate::sink::SinkError;
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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod recover;
mod start;

pub(crate) use start::{Destination, Plan, Settings, plan, possible_cpus};

/// How often tables are looked at for an early drain, and the longest wait for a signal.
const TICK: Duration = Duration::from_millis(50);

/// How often the programs are looked for on their interfaces.
const LOOK: Duration = Duration::from_secs(1);

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Seconds after its end that a window may be closed and still end where it should.
const LATE: i64 = 2;

const NANOSECONDS: i64 = 1_000_000_000;

/// Wall clock and monotonic clock, in nanoseconds.
fn clocks() -> (i64, i64) {
    let read = |clock: ClockId| clock.now().map_or(0, |time| time.num_nanoseconds());
    (read(ClockId::CLOCK_REALTIME), read(ClockId::CLOCK_MONOTONIC))
}

/// Runs until SIGINT or SIGTERM, or until another agent takes over.
pub(crate) fn run(plan: Plan) -> Result<(), Failure> {
    let Plan { settings, pipeline, machine_id, mut lock, pins } = plan;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.add(HAND_OVER);
    let io = |what: &'static str| move |e: nix::errno::Errno| Failure::Run(format!("{what}: {e}"));
    mask.thread_block().map_err(io("block signals"))?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(io("signalfd"))?;
    lock.sign();
    let (durable, recovery) = Durable::open(&settings.state_directory);
    let watch = Watch::new().map_err(io("watch interfaces"))?;
    let sizes = start::sizes(&settings);
    let mut capture = match pins {
        Some(pins) => Capture::open_pinned(sizes, pins)?,
        None => Capture::open(sizes)?,
    };
    if let Some(hook) = settings.hook {
        capture.attach_by(hook);
    }
    let (start, last) = window_at(now(), settings.interval);
    let (wall, monotonic) = clocks();
    let mut daemon = Daemon {
        settings,
        machine_id,
        capture,
        pipeline,
        tracked: BTreeMap::new(),
        left: Vec::new(),
        // The first window begins when we do.
        window: (start.max(now()), last),
        sums: Sums::default(),
        wall: Wall::new(wall, monotonic),
        clock_steps: 0,
        verdicts: false,
        gaps: BTreeSet::new(),
        looked: Instant::now(),
        durable,
    };
    // Before the interfaces: a refused packet that was counted must not stay ACCEPT. One that was dropped before its
    // interface was hooked finds no counterpart and is in no record.
    if daemon.settings.verdicts {
        match daemon.capture.watch_drops() {
            Ok(()) => daemon.verdicts = true,
            Err(why) => tracing::warn!("every record will be ACCEPT: {why}"),
        }
    }
    daemon.sync()?;
    daemon.recover(recovery)?;
    daemon.say_ready(&sizes);
    let mut stop = false;
    while !stop {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Failure::Run(format!("poll: {error}"))),
        }
        if let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo == HAND_OVER as u32 && daemon.can_hand_over() {
                daemon.capture.flush_log();
                let report = daemon.capture.drop_report().ok().flatten();
                daemon.say_ended("handed over", report);
                return Ok(());
            }
            stop = true;
        }
        if watch.changed() {
            daemon.sync()?;
            daemon.durable.name(&daemon.tracked);
        }
        if daemon.looked.elapsed() >= LOOK {
            daemon.look();
        }
        daemon.tick(stop)?;
    }
    let report = daemon.capture.drop_report().ok().flatten();
    daemon.capture.close();
    daemon.say_ended("stopped", report);
    Ok(())
}

/// Running sums for the closing line.
#[derive(Default)]
struct Sums {
    windows: u64,
    with_error: u64,
    total: Summary,
}

struct Daemon {
    settings: Settings,
    machine_id: String,
    capture: Capture,
    pipeline: Pipeline,
    /// ifindex -> interface id of what is captured, or was in this window.
    tracked: BTreeMap<u32, String>,
    /// Interfaces that went away in this window: their last packets are still to be logged.
    left: Vec<u32>,
    /// First and last second.
    window: (i64, i64),
    sums: Sums,
    wall: Wall,
    clock_steps: u64,
    /// The kernel's verdicts are on: else every record is ACCEPT.
    verdicts: bool,
    /// Interfaces that were not counted for a while in this window.
    gaps: BTreeSet<u32>,
    /// When the programs were looked for last.
    looked: Instant,
    durable: Durable,
}

impl Daemon {
    fn interface_id(&self, interface: &Interface) -> String {
        match self.settings.interface_ids.get(&interface.name) {
            Some(id) => id.clone(),
            None => crate::identity::interface_id(&self.machine_id, &interface.name),
        }
    }

    /// Attaches to what is wanted now and lets go of what is not.
    fn sync(&mut self) -> Result<(), Failure> {
        let mut wanted = interfaces::list().map_err(crate::capture::Error::from)?;
        wanted.retain(|interface| self.settings.selection.wants(interface));
        let changes = self.capture.sync(&wanted);
        for (interface, hook) in &changes.attached {
            let id = self.interface_id(interface);
            tracing::info!(interface = %interface.name, %id, hook = ?hook, "attached");
            if *hook == Hook::Clsact {
                tracing::warn!(interface = %interface.name, "no TCX on this kernel: other tools can remove the filters");
            }
            self.left.retain(|&index| index != interface.index);
            self.tracked.insert(interface.index, id);
        }
        for interface in &changes.detached {
            tracing::info!(interface = %interface.name, "detached");
            self.left.push(interface.index);
        }
        for (interface, error) in &changes.failed {
            // Gone between the listing and the attachment: the next change of the interfaces tells.
            if interfaces::list().is_ok_and(|now| now.iter().any(|i| i.index == interface.index)) {
                tracing::error!(interface = %interface.name, %error, "cannot attach");
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
    fn look(&mut self) {
        self.looked = Instant::now();
        let changes = self.capture.mend();
        for interface in &changes.rehooked {
            // Each once in a window.
            if self.gaps.insert(interface.index) {
                tracing::warn!(interface = %interface.name, "somebody took our programs off; hooked again, packets were missed");
            }
        }
        for (interface, error) in &changes.failed {
            tracing::error!(interface = %interface.name, %error, "cannot hook again");
        }
    }

    /// Drains when it is time to, closes the window when it has ended.
    fn tick(&mut self, stop: bool) -> Result<(), Failure> {
        let (wall, monotonic) = clocks();
        if let Some(step) = self.wall.step(wall, monotonic) {
            self.step(step, wall)?;
        }
        self.capture.flush_log();
        let now = now();
        let (start, last) = self.window;
        // A clock set back before the window ends it as well: a window never spans such a step.
        let ended = now > last || now < start;
        if stop || ended {
            self.drain(0)?;
            let (next, next_last) = window_at(now, self.settings.interval);
            let late = now - last;
            if ended && late > LATE {
                // We were stopped, or waited for the destination: what was counted meanwhile keeps its times.
                tracing::warn!(seconds = late, window = start, "the window ends late and is longer");
            }
            let end = match ended {
                true if late > LATE => now - 1,
                true => last,
                false => now,
            };
            let pending = self.close(start, end);
            // Windows never overlap, unless the clock itself goes back.
            self.window = (if now < start { now } else { next.max(start).max(end + 1) }, next_last);
            if !stop {
                self.begin();
            }
            let published = self.publish(pending, stop);
            if published.is_err() {
                // Everything was drained: nothing is worth counting on for.
                self.capture.close();
            }
            published?;
        } else if self.durable.is_full() {
            // A journal is bounded: the window ends early, and another goes on to its end.
            self.drain(0)?;
            let pending = self.close(start, now);
            self.window = (now, last);
            self.begin();
            self.publish(pending, false)?;
        } else if !self.settings.hold_drain && self.capture.crowded() {
            self.drain(0)?;
        }
        Ok(())
    }

    /// The wall clock was stepped: the window ends where it was, and another begins where it is now, so that no record
    /// spans the step.
    fn step(&mut self, step: i64, wall: i64) -> Result<(), Failure> {
        let before = (wall - step) / NANOSECONDS;
        tracing::warn!(seconds = step / NANOSECONDS, "the wall clock was stepped: the window ends early");
        self.clock_steps += 1;
        self.drain(step)?;
        let (start, last) = self.window;
        let pending = self.close(start, before.clamp(start, last));
        let now = wall / NANOSECONDS;
        self.window = (now, window_at(now, self.settings.interval).1);
        self.begin();
        self.publish(pending, false)
    }

    /// `stepped`: by how many nanoseconds the wall clock was stepped since the last tick. What was counted is in the
    /// journal before the kernel forgets it.
    fn drain(&mut self, stepped: i64) -> Result<(), Failure> {
        let (pipeline, durable) = (&mut self.pipeline, &mut self.durable);
        let (generation, epoch) = (self.capture.generation().0, self.capture.epoch());
        self.capture.drain_after_step(stepped, |drained| {
            let frame = Frame { generation, epoch, drained };
            durable.append(&frame);
            pipeline.absorb(frame.drained);
            Ok(())
        })
    }

    /// Ends the window and keeps it. To be published when the next one has begun, for its file goes then.
    fn close(&mut self, start: i64, last: i64) -> Pending {
        let mut pending = self.pipeline.close(start, last, &self.tracked, &std::mem::take(&mut self.gaps));
        let closing = Closing { end: last, statuses: pending.statuses.clone() };
        (pending.number, pending.file) = self.durable.close(closing);
        for index in self.left.drain(..) {
            self.tracked.remove(&index);
        }
        pending
    }

    fn publish(&mut self, pending: Pending, stop: bool) -> Result<(), Failure> {
        let start = pending.start();
        let summary = self.pipeline.publish(pending);
        self.durable.forget(&summary.published);
        self.sums.windows += 1;
        if summary.sum_error != (0, 0) {
            self.sums.with_error += 1;
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
        self.sums.total.add(&summary);
        if summary.lost_records > 0 {
            tracing::error!(records = summary.lost_records, "given up: too many windows wait for the destination");
        }
        match summary.error.as_deref() {
            None => Ok(()),
            // Nobody reads any more: nothing to wait for.
            Some(error @ SinkError::ReaderGone) => Err(Failure::Run(error.to_string())),
            Some(error) if stop => {
                Err(Failure::Run(format!("{} windows could not be written: {error}", summary.waiting)))
            }
            Some(error) => {
                tracing::error!(%error, windows = summary.waiting, "not written, will be tried again");
                Ok(())
            }
        }
    }

    fn say_ready(&self, sizes: &Sizes) {
        let names: Vec<&str> = self.capture.attached().map(|interface| interface.name.as_str()).collect();
        let destination = match &self.settings.destination {
            Destination::Stdout => "stdout".to_owned(),
            Destination::Directory(path) => path.display().to_string(),
        };
        let names = if names.is_empty() { "none yet".to_owned() } else { names.join(",") };
        eprintln!(
            "flowlogd ready: interfaces={names} flows_per_cpu={} overflow={} cpus={} tables={}MiB verdicts={} interval={}s destination={destination}",
            sizes.sets4 * 4,
            sizes.overflow,
            sizes.cpus,
            sizes.table_bytes() >> 20,
            if self.verdicts { "kernel" } else { "none" },
            self.settings.interval,
        );
    }

    /// Whether another agent finds everything in the kernel and in the journal. Else we end as if stopped.
    fn can_hand_over(&self) -> bool {
        self.capture.is_pinned() && self.durable.errors == 0
    }

    fn say_ended(&self, how: &str, report: Option<DropReport>) {
        let Sums { windows, with_error, total } = &self.sums;
        let unmatched = total.unmatched.packets + self.pipeline.drops_waiting().packets;
        let lost: u64 = report.iter().flat_map(|report| &report.lost).map(|(_, count)| count).sum();
        let fields = [
            ("verdicts", u8::from(self.verdicts).to_string()),
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
            ("drops_nested", report.as_ref().map_or(0, |report| report.nested.iter().sum::<u64>()).to_string()),
            ("journal_errors", self.durable.errors.to_string()),
            ("clock_steps", self.clock_steps.to_string()),
            ("sum_error_packets", total.sum_error.0.to_string()),
            ("sum_error_bytes", total.sum_error.1.to_string()),
            ("windows_with_error", with_error.to_string()),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        eprintln!("flowlogd {how}: {}", fields.join(" "));
        if let Some(report) = report {
            let frees: Vec<String> = report.other_frees.iter().map(|(name, frees)| format!("{name}={frees}")).collect();
            tracing::debug!("frees that were no policy's: {}", frees.join(" "));
            let [first, second] = report.nested;
            tracing::debug!(first, second, "nested frees, by the program that was left out");
            for (cause, drops) in report.lost.iter().filter(|(_, drops)| *drops > 0) {
                tracing::warn!(cause, drops, "rejected packets that are not logged as such");
            }
        }
    }
}
