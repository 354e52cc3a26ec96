//! A configuration, checked against this host: its lock, its pins, its spools, the sizes of its tables.
//! Knows nothing of windows.
#![forbid(unsafe_code)]

use super::reload::News;
use crate::capture::{self, Hook, PinError, Pins, Sizes, interfaces};
use crate::cli::Failure;
use crate::config::{Agent, Config, Host, Metadata, Surroundings, Tables};
use crate::deliver::{self, Delivery};
use crate::flow_log::{Destination, FlowLog};
use crate::identity::asking::Asking;
use crate::identity::services::ServicesFile;
use crate::identity::{Identity, STAND_IN_ACCOUNT_ID, STAND_IN_REGION, kept};
use crate::known::Known;
use crate::pipeline::Pipeline;
use crate::privileges::Privileges;
use crate::sink::{Directory, Names};
use crate::spool::Spool;
use crate::state_lock::{self, StateLock};
use crate::subscription::Subscription;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Where the configuration is from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Flags,
    File(PathBuf),
}

/// How this run differs from others of the same configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) source: Source,
    /// What the source says.
    pub(crate) tables: Tables,
    /// What a reload is read against.
    pub(crate) surroundings: Surroundings,
    /// From an agent that runs.
    pub(crate) take_over: bool,
    pub(crate) hold_drain: bool,
    /// `None`: the best one that the kernel has.
    pub(crate) hook: Option<Hook>,
}

/// What is needed to run; making it touched only the state directory, whose lock it holds, and directories that are
/// destinations.
pub(crate) struct Plan {
    pub(super) settings: Settings,
    pub(super) agent: Agent,
    pub(super) known: Arc<Known>,
    pub(super) services: Option<ServicesFile>,
    pub(super) pipeline: Pipeline,
    /// From what earlier runs had to what is configured.
    pub(super) news: News,
    pub(super) lock: StateLock,
    pub(super) pins: Option<Pins>,
}

/// Checks the configuration against this host and its privileges.
pub(crate) fn plan(settings: Settings, config: Config) -> Result<Plan, Failure> {
    let all = interfaces::list().map_err(crate::capture::Error::from)?;
    // A file is also for interfaces that come later.
    if matches!(settings.source, Source::Flags)
        && let Some(name) = config.logs.iter().find_map(|log| log.selection.unknown_name(&all))
    {
        return Err(Failure::Usage(format!("invalid value '{name}' for '--interface': no such interface")));
    }
    if let Metadata::Silent { why } = &settings.surroundings.metadata {
        is_somebody(why, &config.host)?;
    }
    if let Some(why) = Privileges::read().shortage() {
        return Err(Failure::Run(why));
    }
    // Before any thread is started: it is each thread's.
    if let Err(error) = capture::clear_ambient_capabilities() {
        tracing::warn!("what the agent runs gets its capabilities: {error}");
    }
    // Before a destination or a spool is opened: opening one removes what a crashed run left half-written, and that must
    // not be what a running agent is writing.
    let Config { host, agent, logs, exclusions, warnings } = config;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let directory = &agent.state_directory;
    let lock = if settings.take_over { state_lock::take_over(directory) } else { state_lock::lock(directory) }?;
    let pins = pins(agent.bpf_directory.as_deref())?;
    // Of a file's flow logs one with such a trouble does not keep the others from being recorded: its delivery says it.
    if matches!(settings.source, Source::Flags) {
        logs.iter().try_for_each(|log| is_writable(log, &host))?;
    }
    let former = former_logs(&directory.join(SPOOLS));
    let (kept, added): (Vec<_>, Vec<_>) = logs.into_iter().partition(|log| former.iter().any(|one| one.id == log.id));
    let ids: BTreeSet<String> = kept.iter().chain(&added).map(|log| log.id.clone()).collect();
    let selections = kept.iter().chain(&added).map(|log| log.selection.clone()).collect();
    let removed = former.into_iter().filter(|log| !ids.contains(&log.id));
    let mut services = host.ip_ranges.as_deref().map(ServicesFile::new);
    let known = Arc::new(Known { services: services.as_mut().and_then(ServicesFile::poll), host, ..Known::default() });
    let subscribe = |log| subscribe(log, &known, directory);
    let mut before: Vec<_> = kept.into_iter().chain(removed).map(subscribe).collect::<Result<_, _>>()?;
    let mut added: Vec<_> = added.into_iter().map(subscribe).collect::<Result<_, _>>()?;
    if before.is_empty() {
        // Nobody was here, or nobody knows who.
        before = std::mem::take(&mut added);
    }
    let pipeline = Pipeline::new(exclusions.clone(), before);
    let news = News { exclusions, ids, selections, added };
    Ok(Plan { settings, agent, known, services, pipeline, news, lock, pins })
}

fn is_writable(log: &FlowLog, host: &Host) -> Result<(), Failure> {
    if let Destination::Directory { root, layout, .. } = &log.destination {
        let names = Names::new(host.identity.clone(), &log.id, "", *layout);
        let checked = Directory::create(root.clone(), &names);
        checked.map_err(|e| Failure::Usage(format!("'--log-destination': '{}': {e}", root.display())))?;
    }
    Ok(())
}

/// On EC2 nobody is made up: what is delivered under another account's name is lost to its readers.
fn is_somebody(why: &str, host: &Host) -> Result<(), Failure> {
    let Identity { account_id, region } = &host.identity;
    if account_id == STAND_IN_ACCOUNT_ID || region == STAND_IN_REGION {
        let what = "try again when the network is up, or set account-id and region";
        return Err(Failure::Run(format!("instance metadata: {why}: {what}")));
    }
    tracing::warn!("instance metadata: {why}; what is not configured is made up until it answers");
    Ok(())
}

/// Keeps what the metadata service said, or asks it again.
pub(super) fn asking(surroundings: &Surroundings, state_directory: &Path) -> Option<Asking> {
    let is_silent = match &surroundings.metadata {
        Metadata::NoService => return None,
        Metadata::Known { imds, is_fresh: true } => {
            let written = kept::write(state_directory, &surroundings.machine_id, imds);
            written.unwrap_or_else(|error| tracing::warn!("cannot keep what the metadata service said: {error}"));
            false
        }
        Metadata::Known { is_fresh: false, .. } => {
            tracing::info!("instance metadata: no answer yet; goes by the last one");
            true
        }
        Metadata::Silent { .. } => true,
    };
    Some(Asking::new(is_silent, Instant::now()))
}

/// What earlier runs had a spool for. What they counted and could not log is theirs, whatever is configured now.
fn former_logs(spools: &Path) -> Vec<FlowLog> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(spools).into_iter().flatten().flatten() {
        let path = entry.path().join(deliver::FLOW_LOG);
        let log = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice::<FlowLog>(&text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match log {
            Ok(log) if entry.file_name() == *log.id => logs.push(log),
            Ok(_) => tracing::warn!("left {} alone: it is another flow log's", path.display()),
            Err(why) => tracing::warn!("left {} alone: {why}", path.display()),
        }
    }
    logs.sort_by(|a, b| a.id.cmp(&b.id));
    logs
}

/// Opens a flow log's spool and begins to deliver what is in it.
pub(super) fn subscribe(log: FlowLog, known: &Arc<Known>, state_directory: &Path) -> Result<Subscription, Failure> {
    let directory = state_directory.join(SPOOLS).join(&log.id);
    let said = |error: &dyn std::fmt::Display| Failure::Run(format!("spool {}: {error}", directory.display()));
    let spool = Arc::new(Spool::open(&directory, log.spool_bytes_max).map_err(|e| said(&e))?);
    let log = Arc::new(log);
    let identity = known.host.identity.clone();
    let delivery = Delivery::start(Arc::clone(&log), identity, Arc::clone(&spool), directory.clone());
    Ok(Subscription::new(log, Arc::clone(known), spool).delivered_by(delivery.map_err(|e| said(&e))?))
}

/// Below the state directory, one directory for each flow log.
const SPOOLS: &str = "spool";

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

/// A line of /proc/meminfo.
fn memory_bytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(1 << 20) * 1024
}

/// What a new program can have.
pub(crate) fn available_bytes() -> u64 {
    memory_bytes("MemAvailable:")
}

/// Of the tables, as configured or by default.
pub(crate) fn sizes(agent: Option<&Agent>) -> Sizes {
    let mut sizes = Sizes::for_machine(possible_cpus(), memory_bytes("MemTotal:"));
    let Some(agent) = agent else { return sizes };
    if let Some(slots) = agent.flow_table_slots {
        sizes = sizes.with_slots(slots);
        // A scan refused by the firewall makes as many flows as one that is let in.
        sizes.drops = sizes.drops.max(slots);
    }
    sizes.overflow = agent.overflow_slots.unwrap_or(sizes.overflow);
    sizes
}
