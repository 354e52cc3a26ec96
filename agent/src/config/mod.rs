//! What is configured: `flowlogd.toml`, or the flags of `run`. Every refusal is one line that names file, line and key,
//! or the flag.
//! Knows nothing of how flows are counted or delivered.
#![forbid(unsafe_code)]

mod arn;
pub(crate) mod describe;
mod file;
mod flow_log;
mod host;
mod id;
mod keys;
mod metrics;
mod place;
pub(crate) mod policy;
mod section;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use host::Host;
pub(crate) use metrics::{Listen, Metrics};
pub(crate) use place::{ConfigError, Place};

use crate::exclude;
use crate::flow_log::{CloudWatchLogs, Destination, Endpoint, Firehose, FlowLog, S3};
use crate::identity::imds::{self, Imds};
use crate::identity::kept;
use section::Section;

pub(crate) const DEFAULT_FILE: &str = "/etc/flowlogd/flowlogd.toml";
pub(crate) const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/flowlogd";

/// AWS's, per resource and account.
const LOGS_MAX: usize = 250;
const SPOOL_BYTES_DEFAULT: u64 = 1 << 30;
/// Less would not hold a window.
const SPOOL_BYTES_LEAST: u64 = 64 << 10;
const SLOTS_MAX: u32 = 4_194_304;

/// Everything, validated.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) host: Host,
    pub(crate) agent: Agent,
    pub(crate) exclusions: exclude::Settings,
    pub(crate) logs: Vec<FlowLog>,
    /// One line each, for people.
    pub(crate) warnings: Vec<String>,
}

/// `[agent]`: of the process, not of what it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) state_directory: PathBuf,
    /// `None`: the usual one, if it can be used.
    pub(crate) bpf_directory: Option<PathBuf>,
    /// Where the agent is asked. `None`: the usual place, if it can be used.
    pub(crate) socket: Option<PathBuf>,
    /// Ask the kernel for its verdicts.
    pub(crate) verdicts: bool,
    pub(crate) flow_table_slots: Option<u32>,
    pub(crate) overflow_slots: Option<u32>,
    /// How long a stop may take to deliver what waits.
    pub(crate) shutdown: Duration,
    pub(crate) metrics: Metrics,
}

/// What the configuration is read against. Found once, so that a reload asks nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) machine_id: String,
    pub(crate) hostname: Option<String>,
    /// Of the environment.
    pub(crate) region: Option<String>,
    pub(crate) metadata: Metadata,
}

/// What EC2's metadata service says of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// Not on EC2, or it is turned off.
    #[default]
    NoService,
    /// It does not answer, and never did: the network is not up yet, or it is out of reach.
    Silent {
        why: String,
    },
    Known {
        imds: Imds,
        is_fresh: bool,
    },
}

impl Surroundings {
    /// On EC2 this asks the metadata service; elsewhere it asks nobody.
    pub(crate) fn read(state_directory: &Path) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
        Self {
            metadata: Metadata::read(state_directory, &machine_id),
            machine_id,
            hostname: hostname(),
            region: set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")),
        }
    }
}

/// None: it has not been given one.
fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

impl Metadata {
    fn read(state_directory: &Path, machine_id: &str) -> Self {
        if !imds::is_expected() {
            return Self::NoService;
        }
        // The client reads the endpoint from the environment itself.
        let why = match imds::fetch(None) {
            Ok(imds) => return Self::Known { imds, is_fresh: true },
            Err(error) => error.to_string(),
        };
        match kept::read(state_directory, machine_id, imds::instance_id().as_deref()) {
            Some(imds) => Self::Known { imds, is_fresh: false },
            None => Self::Silent { why },
        }
    }

    pub(crate) fn imds(&self) -> Option<&Imds> {
        match self {
            Self::Known { imds, .. } => Some(imds),
            Self::NoService | Self::Silent { .. } => None,
        }
    }
}

/// What was said, by table; not yet looked at.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    host: Section,
    spool: Section,
    exclusions: Section,
    agent: Section,
    metrics: Section,
    logs: Vec<Section>,
    /// For what is missing altogether.
    whole: Place,
}

impl Tables {
    fn empty(path: &Path) -> Self {
        let table = |name| Section::of_table(name, &path.into(), 0);
        Self {
            host: table("host"),
            spool: table("spool"),
            exclusions: table("exclusions"),
            agent: table("agent"),
            metrics: table("metrics"),
            logs: Vec::new(),
            whole: Place::file(path),
        }
    }

    fn replace(&mut self, table: &str, section: Section) {
        match table {
            "host" => self.host = section,
            "spool" => self.spool = section,
            "exclusions" => self.exclusions = section,
            "metrics" => self.metrics = section,
            _ => self.agent = section,
        }
    }

    /// One flow log, made of flags: see [`Self::set`].
    pub(crate) fn of_flags() -> Self {
        Self {
            host: Section::of_flags("host"),
            spool: Section::of_flags("spool"),
            exclusions: Section::of_flags("exclusions"),
            agent: Section::of_flags("agent"),
            metrics: Section::of_flags("metrics"),
            logs: vec![Section::of_flags("flow-log")],
            whole: Place::Flag("run".to_owned()),
        }
    }

    /// What a flag says, as the key (`table.key`) of a file would.
    pub(crate) fn set(&mut self, key: &str, flag: &str, value: impl Into<toml::Value>) {
        let (table, key) = key.split_once('.').unwrap_or(("flow-log", key));
        debug_assert!(keys::of(table).contains(&key), "{table}.{key}");
        let place = Place::Flag(flag.to_owned());
        let value = value.into();
        match table {
            "host" => self.host.set(key, value, place),
            "spool" => self.spool.set(key, value, place),
            "exclusions" => self.exclusions.set(key, value, place),
            "agent" => self.agent.set(key, value, place),
            _ => self.logs.iter_mut().for_each(|log| log.set(key, value.clone(), place.clone())),
        }
    }

    /// What is said of it, whatever the rest says.
    pub(crate) fn state_directory(&self) -> PathBuf {
        let said = self.agent.text("state-directory").ok().flatten();
        said.map_or_else(|| DEFAULT_STATE_DIRECTORY.into(), PathBuf::from)
    }

    /// Validates it all. Touches nothing but what a path's permissions are.
    pub(crate) fn build(&self, surroundings: &Surroundings) -> Result<Config, ConfigError> {
        let host = Host::build(&self.host, surroundings)?;
        let agent = Agent::build(&self.agent, Metrics::build(&self.metrics)?)?;
        let spool_bytes_max = self.spool.bytes("max-bytes", SPOOL_BYTES_LEAST)?.unwrap_or(SPOOL_BYTES_DEFAULT);
        let disabled = self.exclusions.list("log-excluded")?;
        let exclusions = exclude::Settings::new(&host.vpc_cidrs, &host.subnet_cidrs, &disabled)
            .map_err(|error| self.exclusions.error("log-excluded", error))?;
        let context = flow_log::Context { host: &host, surroundings, spool_bytes_max, verdicts: agent.verdicts };
        let logs = self.logs.iter().map(|section| flow_log::build(section, &context)).collect::<Result<Vec<_>, _>>()?;
        self.distinct(&logs)?;
        Ok(Config { agent, exclusions, warnings: self.warnings(&logs, &host), host, logs })
    }

    /// AWS's rules about flow logs as a whole.
    fn distinct(&self, logs: &[FlowLog]) -> Result<(), ConfigError> {
        if logs.is_empty() {
            return Err(ConfigError::new(self.whole.clone(), "no flow log is configured; add a [[flow-log]] table"));
        }
        if let Some(section) = self.logs.get(LOGS_MAX) {
            let why = format!("FlowLogsLimitExceeded: {} flow logs are too many; allowed: {LOGS_MAX}", logs.len());
            return Err(ConfigError::new(section.origin(), why));
        }
        let mut seen = BTreeMap::new();
        for (log, section) in logs.iter().zip(&self.logs) {
            let source = (log.selection.globs.clone(), log.selection.subnets.clone(), log.traffic_type.name());
            let what = (source, place_of(&log.destination));
            if let Some(first) = seen.insert(what, section) {
                let first = first.origin();
                let why = format!(
                    "FlowLogAlreadyExists: There is an existing Flow Log with the same configuration and log \
                     destination: the one at {first}; change interfaces, subnets, traffic-type or the destination"
                );
                return Err(ConfigError::new(section.origin(), why));
            }
        }
        Ok(())
    }

    fn warnings(&self, logs: &[FlowLog], host: &Host) -> Vec<String> {
        let holds_secret = |log: &FlowLog| endpoint_of(&log.destination).is_some_and(holds_secret);
        let places = logs.iter().zip(&self.logs).filter(|(log, _)| holds_secret(log));
        let exposed = places.map(|(_, section)| section.place("endpoint-url")).filter_map(|place| {
            let path = place.path().filter(|path| file::readable_by_others(path))?;
            let path = path.display();
            Some(format!("{place}: holds a password that every user of this host can read: chmod o-r {path}"))
        });
        // machine-id(5): empty or "uninitialized" until a first boot has set it.
        let is_nobody = host.machine_id.is_empty() || host.machine_id == "uninitialized";
        let nobody = "/etc/machine-id says nothing: the ids of flow logs and interfaces are those of every such host; \
                      run systemd-machine-id-setup";
        exposed.chain(is_nobody.then(|| nobody.to_owned())).collect()
    }
}

impl Agent {
    fn build(section: &Section, metrics: Metrics) -> Result<Self, ConfigError> {
        Ok(Self {
            state_directory: section.path("state-directory")?.unwrap_or_else(|| DEFAULT_STATE_DIRECTORY.into()),
            bpf_directory: section.path("bpf-directory")?,
            socket: section.path("socket")?,
            verdicts: !section.flag("no-verdicts")?,
            flow_table_slots: section.within("flow-table-slots", 8, SLOTS_MAX)?,
            overflow_slots: section.within("overflow-slots", 1, SLOTS_MAX)?,
            shutdown: Duration::from_secs(section.within("shutdown-seconds", 0, 3600)?.unwrap_or(30).into()),
            metrics,
        })
    }
}

/// Reads `path` and the flow logs beside it.
pub(crate) fn read(path: &Path) -> Result<Tables, ConfigError> {
    file::read(path)
}

/// Reads and validates `path` and the flow logs beside it, as they would be here.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let tables = file::read(path)?;
    tables.build(&Surroundings::read(&tables.state_directory()))
}

/// A file that is read on a host without a name, off AWS.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn of_text(text: &str) -> Result<Config, ConfigError> {
    let path = Path::new("flowlogd.toml");
    let mut tables = Tables::empty(path);
    file::parse(&mut tables, path, text, true)?;
    tables.build(&Surroundings::default())
}

/// Where records go, without how: two flow logs of one resource must differ in it.
fn place_of(destination: &Destination) -> (&'static str, String) {
    let of = |endpoint: &Endpoint| endpoint.url.clone().unwrap_or_else(|| endpoint.region.clone());
    match destination {
        Destination::Stdout => ("stdout", String::new()),
        Destination::Directory { root, .. } => ("directory", root.display().to_string()),
        // A bucket's name is one in all regions.
        Destination::S3(s3) => {
            ("s3", format!("{} {}/{}", s3.endpoint.url.as_deref().unwrap_or_default(), s3.bucket, s3.folder))
        }
        Destination::CloudWatchLogs(logs) => ("cloud-watch-logs", format!("{} {}", of(&logs.endpoint), logs.group)),
        Destination::Firehose(it) => ("kinesis-data-firehose", format!("{} {}", of(&it.endpoint), it.stream)),
    }
}

fn endpoint_of(destination: &Destination) -> Option<&Endpoint> {
    match destination {
        Destination::Stdout | Destination::Directory { .. } => None,
        Destination::S3(S3 { endpoint, .. })
        | Destination::CloudWatchLogs(CloudWatchLogs { endpoint, .. })
        | Destination::Firehose(Firehose { endpoint, .. }) => Some(endpoint),
    }
}

/// `https://user:password@host`.
fn holds_secret(endpoint: &Endpoint) -> bool {
    endpoint.url.as_deref().is_some_and(|url| authority(url).contains('@'))
}

fn authority(url: &str) -> &str {
    url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default()
}
