//! A validated command line, checked against this host: its lock, its pins, the sizes of its tables.
//! Knows nothing of windows.
#![forbid(unsafe_code)]

use crate::capture::{self, Hook, PinError, Pins, Sizes, interfaces};
use crate::cli::Failure;
use crate::doctor;
use crate::pipeline::Pipeline;
use crate::select::Selection;
use crate::state_lock::{self, StateLock};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// From an agent that runs.
    pub(crate) take_over: bool,
    /// `None`: the usual one, if it can be used.
    pub(crate) bpf_directory: Option<PathBuf>,
    pub(crate) flow_table_slots: Option<u32>,
    pub(crate) overflow_slots: Option<u32>,
    pub(crate) hold_drain: bool,
    /// `None`: the best one that the kernel has.
    pub(crate) hook: Option<Hook>,
}

/// What is needed to run; making it touched only the destination and the state directory, whose lock it holds.
pub(crate) struct Plan {
    pub(super) settings: Settings,
    pub(super) pipeline: Pipeline,
    pub(super) machine_id: String,
    pub(super) lock: StateLock,
    pub(super) pins: Option<Pins>,
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
    // Before a running agent is asked to leave.
    let stages = crate::assemble::check(&settings)?;
    // Before the destination is opened: opening it removes what a crashed run left half-written, and that must not be
    // what a running agent is writing.
    let directory = &settings.state_directory;
    let lock = if settings.take_over { state_lock::take_over(directory) } else { state_lock::lock(directory) }?;
    let pins = pins(settings.bpf_directory.as_deref())?;
    let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    let pipeline = crate::assemble::pipeline(stages, &settings, &machine_id)?;
    Ok(Plan { settings, pipeline, machine_id, lock, pins })
}

/// Where the kernel side is to outlive us. Without such a place the agent works as well, until it is killed.
fn pins(directory: Option<&Path>) -> Result<Option<Pins>, Failure> {
    let path = directory.unwrap_or(Path::new(capture::DEFAULT_DIRECTORY));
    match Pins::open(path) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ PinError::InUse) if directory.is_some() => {
            Err(Failure::Run(format!("--bpf-directory '{}': {error}", path.display())))
        }
        Err(error) if directory.is_some() => {
            Err(Failure::Usage(format!("invalid value '{}' for '--bpf-directory': {error}", path.display())))
        }
        Err(error) => {
            tracing::warn!("cannot pin below {}: {error}; counters will not survive a restart", path.display());
            Ok(None)
        }
    }
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

pub(super) fn sizes(settings: &Settings) -> Sizes {
    let mut sizes = Sizes::for_machine(possible_cpus(), ram_bytes());
    if let Some(slots) = settings.flow_table_slots {
        sizes = sizes.with_slots(slots);
    }
    sizes.overflow = settings.overflow_slots.unwrap_or(sizes.overflow);
    sizes
}
