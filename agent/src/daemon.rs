//! The event loop: clocks, signals, interface changes. One thread; the data path is a straight line through it.
//! Knows no formats and no BPF. A window is closed only after its last epoch was drained.
#![forbid(unsafe_code)]

use crate::capture::interfaces::{self, Interface, Watch};
use crate::capture::{Capture, Hook, Sizes};
use crate::cli::Failure;
use crate::doctor;
use crate::pipeline::{Pipeline, Summary};
use crate::select::Selection;
use crate::sink::SinkError;
use crate::wall::Wall;
use crate::window::window_at;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike as _;
use nix::time::ClockId;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often tables are looked at for an early drain, and the longest wait for a signal.
const TICK: Duration = Duration::from_millis(50);

/// Where records go.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    Stdout,
    Directory(PathBuf),
}

/// A validated command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) selection: Selection,
    pub(crate) traffic_type: String,
    /// Ask the kernel for its verdicts.
    pub(crate) verdicts: bool,
    pub(crate) interval: u32,
    pub(crate) destination: Destination,
    pub(crate) account_id: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) interface_ids: BTreeMap<String, String>,
    pub(crate) vpc_cidrs: Vec<IpNet>,
    pub(crate) subnet_cidrs: Vec<IpNet>,
    pub(crate) log_excluded: Vec<String>,
    pub(crate) state_directory: PathBuf,
    pub(crate) flow_table_slots: Option<u32>,
    pub(crate) overflow_slots: Option<u32>,
    pub(crate) hold_drain: bool,
    /// `None`: the best one that the kernel has.
    pub(crate) hook: Option<Hook>,
}

/// What is needed to run; making it touched only the destination and the state directory, whose lock it holds.
pub(crate) struct Plan {
    settings: Settings,
    pipeline: Pipeline,
    machine_id: String,
    lock: Flock<File>,
}

/// Checks the settings against this host and its privileges.
pub(crate) fn plan(settings: Settings) -> Result<Plan, Failure> {
    let all = interfaces::list().map_err(crate::capture::Error::from)?;
    if let Some(name) = settings.selection.unknown_name(&all) {
        return Err(Failure::Usage(format!("invalid value '{name}' for '--interface': no such interface")));
    }
    let missing = doctor::missing_capabilities();
    if !missing.is_empty() {
        let why = format!("missing {}: run as root, or see flowlogd doctor", missing.join(", "));
        return Err(Failure::Run(why));
    }
    // Before the destination is opened: opening it removes what a crashed run left half-written, and that must not be
    // what a running agent is writing.
    let lock = lock(&settings.state_directory)?;
    let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    let pipeline = crate::assemble::pipeline(&settings, &machine_id)?;
    Ok(Plan { settings, pipeline, machine_id, lock })
}

/// CPUs that may ever come up: per-CPU tables need a part for each.
pub(crate) fn possible_cpus() -> u32 {
    aya::util::nr_cpus().ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

fn ram_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")).and_then(|rest| rest.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(1 << 20) * 1024
}

fn sizes(settings: &Settings) -> Sizes {
    let mut sizes = Sizes::for_machine(possible_cpus(), ram_bytes());
    if let Some(slots) = settings.flow_table_slots {
        sizes = sizes.with_slots(slots);
    }
    sizes.overflow = settings.overflow_slots.unwrap_or(sizes.overflow);
    sizes
}

/// Two agents on one state directory would each write half of a host's records under one name.
fn lock(directory: &PathBuf) -> Result<Flock<File>, Failure> {
    let said =
        |error: &dyn std::fmt::Display| Failure::Run(format!("--state-directory '{}': {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(|e| said(&e))?;
    let file = File::create(directory.join("lock")).map_err(|e| said(&e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| said(&"another flowlogd uses it"))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

const NANOSECONDS: i64 = 1_000_000_000;

/// Wall clock and monotonic clock, in nanoseconds.
fn clocks() -> (i64, i64) {
    let read = |clock: ClockId| clock.now().map_or(0, |time| time.num_nanoseconds());
    (read(ClockId::CLOCK_REALTIME), read(ClockId::CLOCK_MONOTONIC))
}

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(plan: Plan) -> Result<(), Failure> {
    let Plan { settings, pipeline, machine_id, lock: _lock } = plan;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    let io = |what: &'static str| move |e: nix::errno::Errno| Failure::Run(format!("{what}: {e}"));
    mask.thread_block().map_err(io("block signals"))?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(io("signalfd"))?;
    let watch = Watch::new().map_err(io("watch interfaces"))?;
    let sizes = sizes(&settings);
    let mut capture = Capture::open(sizes)?;
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
    };
    daemon.sync()?;
    // After the attachment, so that no drop comes whose packet was not counted.
    if daemon.settings.verdicts {
        match daemon.capture.watch_drops() {
            Ok(()) => daemon.verdicts = true,
            Err(why) => tracing::warn!("every record will be ACCEPT: {why}"),
        }
    }
    daemon.say_ready(&sizes);
    let mut stop = false;
    while !stop {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Failure::Run(format!("poll: {error}"))),
        }
        stop = matches!(signals.read_signal(), Ok(Some(_)));
        if watch.changed() {
            daemon.sync()?;
        }
        daemon.tick(stop)?;
    }
    daemon.say_stopped();
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
            self.close(start, if ended { last } else { now }, stop)?;
            let (next, next_last) = window_at(now, self.settings.interval);
            // Windows never overlap, unless the clock itself goes back.
            self.window = (if now < start { now } else { next.max(start) }, next_last);
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
        self.close(start, before.clamp(start, last), false)?;
        let now = wall / NANOSECONDS;
        self.window = (now, window_at(now, self.settings.interval).1);
        Ok(())
    }

    /// `stepped`: by how many nanoseconds the wall clock was stepped since the last tick.
    fn drain(&mut self, stepped: i64) -> Result<(), Failure> {
        let pipeline = &mut self.pipeline;
        self.capture.drain_after_step(stepped, |drained| {
            pipeline.absorb(drained);
            Ok(())
        })
    }

    fn close(&mut self, start: i64, last: i64, stop: bool) -> Result<(), Failure> {
        let summary = self.pipeline.close(start, last, &self.tracked);
        for index in self.left.drain(..) {
            self.tracked.remove(&index);
        }
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
        match summary.error {
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

    fn say_stopped(&self) {
        let Sums { windows, with_error, total } = &self.sums;
        let unmatched = total.unmatched.packets + self.pipeline.drops_waiting().packets;
        let report = self.capture.drop_report().ok().flatten();
        let lost: u64 = report.iter().flat_map(|report| &report.lost).map(|(_, count)| count).sum();
        let fields = [
            ("verdicts", u8::from(self.verdicts).to_string()),
            ("windows", windows.to_string()),
            ("records", total.records.to_string()),
            ("seen_packets", total.seen.packets.to_string()),
            ("seen_bytes", total.seen.bytes.to_string()),
            ("excluded_packets", total.excluded.packets.to_string()),
            ("skipped_packets", total.skipped.packets.to_string()),
            ("skipped_bytes", total.skipped.bytes.to_string()),
            ("rejected_packets", total.rejected.packets.to_string()),
            ("rejected_bytes", total.rejected.bytes.to_string()),
            ("drops_unmatched_packets", unmatched.to_string()),
            ("drops_lost", lost.to_string()),
            ("clock_steps", self.clock_steps.to_string()),
            ("sum_error_packets", total.sum_error.0.to_string()),
            ("sum_error_bytes", total.sum_error.1.to_string()),
            ("windows_with_error", with_error.to_string()),
        ];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        eprintln!("flowlogd stopped: {}", fields.join(" "));
        if let Some(report) = report {
            let frees: Vec<String> = report.other_frees.iter().map(|(name, frees)| format!("{name}={frees}")).collect();
            tracing::debug!("frees that were no policy's: {}", frees.join(" "));
            for (cause, drops) in report.lost.iter().filter(|(_, drops)| *drops > 0) {
                tracing::warn!(cause, drops, "rejected packets that are not logged as such");
            }
        }
    }
}
