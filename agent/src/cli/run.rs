//! `flowlogd run`: a configuration file, or flags that make one flow log -> the daemon. Every refusal names the flag, or
//! file, line and key.
#![forbid(unsafe_code)]

use super::Failure;
use crate::capture::Hook;
use crate::config::{self, Config, Surroundings, Tables};
use crate::daemon::{self, Settings, Source};
use std::path::PathBuf;
use toml::Value;

const EXAMPLES: &str = "\
Examples:
  flowlogd run --max-aggregation-interval 60
  flowlogd run --interface eth0 --account-id 123456789012 \\
      --region eu-west-1 --log-destination-type s3 \\
      --log-destination arn:aws:s3:::my-flow-logs/on-prem/
  flowlogd run --interface 'veth*' --subnet 10.0.0.0/8 \\
      --log-destination-type directory --log-destination /tmp/records
  flowlogd run --config /etc/flowlogd/flowlogd.toml";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Flow logs of a file; SIGHUP reads it again [without FILE: /etc/flowlogd/flowlogd.toml]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = config::DEFAULT_FILE, conflicts_with_all = FLOW_LOG_FLAGS)]
    config: Option<PathBuf>,

    /// Interfaces to capture, by name or glob; a glob also takes those that come later
    ///
    /// Default: every interface that holds an IP address, loopback aside, and those that get one later.
    #[arg(long, value_name = "GLOB", help_heading = "Source", num_args = 1..)]
    interface: Vec<String>,
    /// Capture interfaces with an address inside this network
    #[arg(long, value_name = "CIDR", help_heading = "Source", num_args = 1..)]
    subnet: Vec<String>,
    /// Which verdicts to log [default: ALL]
    #[arg(long, value_name = "TYPE", help_heading = "Source", value_parser = ["ALL", "ACCEPT", "REJECT"])]
    traffic_type: Option<String>,
    /// Aggregation interval, 1 to 600; AWS knows 60 and 600 [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = "Source", value_parser = clap::value_parser!(u32).range(1..=600))]
    max_aggregation_interval: Option<u32>,
    /// Fields of a record, such as '${srcaddr} ${dstaddr} ${bytes}' [default: AWS's version 2]
    #[arg(long, value_name = "FORMAT", help_heading = "Source")]
    log_format: Option<String>,

    /// Where records go [default: stdout]
    #[arg(long, value_name = "TYPE", help_heading = "Destination", value_parser = ["stdout", "directory", "s3", "cloud-watch-logs", "kinesis-data-firehose"])]
    log_destination_type: Option<String>,
    /// The directory; or the ARN of the bucket and folder, log group or delivery stream
    #[arg(long, value_name = "PATH|ARN", help_heading = "Destination")]
    log_destination: Option<String>,
    /// The log group, in place of its ARN
    #[arg(long, value_name = "NAME", help_heading = "Destination")]
    log_group_name: Option<String>,
    /// Folders named year=2026 and so on
    #[arg(long, help_heading = "Destination")]
    hive_compatible_partitions: bool,
    /// A folder for each hour
    #[arg(long, help_heading = "Destination")]
    per_hour_partition: bool,
    /// How long an object collects records: 300 to 3600, or 0 for an object per window [default: 300, directory 0]
    #[arg(long, value_name = "SECONDS", help_heading = "Destination")]
    object_interval: Option<u32>,
    /// A service that is not AWS's own, such as http://minio:9000
    #[arg(long, value_name = "URL", help_heading = "Destination")]
    endpoint_url: Option<String>,
    /// The bucket's name in the path and not in the host name
    #[arg(long, help_heading = "Destination")]
    path_style: bool,
    /// Of the AWS configuration files
    #[arg(long, value_name = "NAME", help_heading = "Destination")]
    profile: Option<String>,

    /// 12 digits [default: 000000000000]
    #[arg(long, value_name = "ID", help_heading = "Identity")]
    account_id: Option<String>,
    /// Region in the shape of AWS's [default: on-prem-1]
    #[arg(long, value_name = "REGION", help_heading = "Identity")]
    region: Option<String>,
    /// Interface id of an interface [default: eni- and 17 hex digits from machine-id and name]
    #[arg(long, value_name = "NAME=ENI", help_heading = "Identity", num_args = 1..)]
    interface_id: Vec<String>,

    /// VPC network: its base + 2 is the Amazon DNS server, which is not logged
    #[arg(long, value_name = "CIDR", help_heading = "Exclusions", num_args = 1..)]
    vpc_cidr: Vec<String>,
    /// Subnet: its base + 1 is the VPC router, which is not logged
    #[arg(long, value_name = "CIDR", help_heading = "Exclusions", num_args = 1..)]
    subnet_cidr: Vec<String>,
    /// Log what AWS leaves out: an exclusion's name, or `all`
    #[arg(long, value_name = "NAME", help_heading = "Exclusions", num_args = 1..)]
    log_excluded: Vec<String>,

    /// State of this agent and what waits to be delivered; one agent per directory [default: /var/lib/flowlogd]
    #[arg(long, value_name = "DIR", help_heading = "Agent")]
    state_directory: Option<PathBuf>,
    /// Go on in place of the agent that uses the state directory: it ends, and nothing is missed
    #[arg(long, help_heading = "Agent")]
    take_over: bool,
    /// Log every packet as ACCEPT and leave the kernel's drops alone
    #[arg(long, help_heading = "Agent", conflicts_with = "traffic_type")]
    no_verdicts: bool,
    /// Directory on a bpf file system below which counters outlive a killed agent [default: /sys/fs/bpf/flowlogd]
    #[arg(long, value_name = "DIR", help_heading = "Agent")]
    bpf_directory: Option<PathBuf>,
    /// Unix socket for flowlogd status and others [default: /run/flowlogd/flowlogd.sock; with another state directory, in it]
    #[arg(long, value_name = "PATH", help_heading = "Agent")]
    socket: Option<PathBuf>,
    /// IPv4 flows of one CPU and epoch [default: from CPUs and RAM]
    #[arg(long, value_name = "FLOWS", help_heading = "Agent", value_parser = clap::value_parser!(u32).range(8..=4_194_304))]
    flow_table_slots: Option<u32>,
    /// Flows that find no room in the table and are still counted
    #[arg(long, value_name = "FLOWS", help_heading = "Agent", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    overflow_slots: Option<u32>,
    /// Drain only at the window's end, however full the tables are
    #[arg(long, hide = true)]
    hold_drain: bool,
    /// Attach this way, not the best one that the kernel has
    #[arg(long, hide = true, value_parser = ["tcx", "clsact"])]
    attach: Option<String>,
}

/// What makes the one flow log, and so contradicts a file.
const FLOW_LOG_FLAGS: [&str; 20] = [
    "interface",
    "subnet",
    "traffic_type",
    "max_aggregation_interval",
    "log_format",
    "log_destination_type",
    "log_destination",
    "log_group_name",
    "hive_compatible_partitions",
    "per_hour_partition",
    "object_interval",
    "endpoint_url",
    "path_style",
    "profile",
    "account_id",
    "region",
    "interface_id",
    "vpc_cidr",
    "subnet_cidr",
    "log_excluded",
];

impl Args {
    /// The keys of a file, said by flags.
    fn tables(&self) -> Result<Tables, Failure> {
        let mut tables = Tables::of_flags();
        let text = |value: &Option<String>| value.clone().map(Value::String);
        let number = |value: Option<u32>| value.map(|number| Value::Integer(number.into()));
        let list = |values: &[String]| {
            let values: Vec<Value> = values.iter().cloned().map(Value::String).collect();
            (!values.is_empty()).then_some(Value::Array(values))
        };
        let given = |is_given: bool| is_given.then_some(Value::Boolean(true));
        let kind = self.log_destination_type.clone().unwrap_or_else(|| "stdout".to_owned());
        let said = [
            ("flow-log.interfaces", "--interface", list(&self.interface)),
            ("flow-log.subnets", "--subnet", list(&self.subnet)),
            ("flow-log.traffic-type", "--traffic-type", text(&self.traffic_type)),
            ("flow-log.max-aggregation-interval", "--max-aggregation-interval", number(self.max_aggregation_interval)),
            ("flow-log.log-format", "--log-format", text(&self.log_format)),
            ("flow-log.log-destination-type", "--log-destination-type", Some(Value::String(kind))),
            ("flow-log.log-destination", "--log-destination", text(&self.log_destination)),
            ("flow-log.log-group-name", "--log-group-name", text(&self.log_group_name)),
            (
                "flow-log.destination-options.hive-compatible-partitions",
                "--hive-compatible-partitions",
                given(self.hive_compatible_partitions),
            ),
            ("flow-log.destination-options.per-hour-partition", "--per-hour-partition", given(self.per_hour_partition)),
            ("flow-log.object-interval", "--object-interval", number(self.object_interval)),
            ("flow-log.endpoint-url", "--endpoint-url", text(&self.endpoint_url)),
            ("flow-log.path-style", "--path-style", given(self.path_style)),
            ("flow-log.profile", "--profile", text(&self.profile)),
            ("host.account-id", "--account-id", text(&self.account_id)),
            ("host.region", "--region", text(&self.region)),
            ("host.interface-ids", "--interface-id", interface_ids(&self.interface_id)?),
            ("host.vpc-cidrs", "--vpc-cidr", list(&self.vpc_cidr)),
            ("host.subnet-cidrs", "--subnet-cidr", list(&self.subnet_cidr)),
            ("exclusions.log-excluded", "--log-excluded", list(&self.log_excluded)),
            ("agent.no-verdicts", "--no-verdicts", given(self.no_verdicts)),
        ];
        for (key, flag, value) in said {
            if let Some(value) = value {
                tables.set(key, flag, value);
            }
        }
        Ok(tables)
    }

    fn config(&self, tables: &Tables, surroundings: &Surroundings) -> Result<Config, Failure> {
        let mut config = tables.build(surroundings).map_err(|error| Failure::Usage(error.to_string()))?;
        // Of the process and not of flow logs, so said beside a file as well.
        let agent = &mut config.agent;
        if let Some(directory) = &self.state_directory {
            agent.state_directory.clone_from(directory);
        }
        agent.bpf_directory = self.bpf_directory.clone().or(agent.bpf_directory.take());
        agent.socket = self.socket.clone().or(agent.socket.take());
        agent.verdicts &= !self.no_verdicts;
        agent.flow_table_slots = self.flow_table_slots.or(agent.flow_table_slots);
        agent.overflow_slots = self.overflow_slots.or(agent.overflow_slots);
        Ok(config)
    }
}

/// NAME=ENI as the table of a file.
pub(super) fn interface_ids(pairs: &[String]) -> Result<Option<Value>, Failure> {
    let mut ids = toml::Table::new();
    for pair in pairs {
        let refuse = |why: &str| Failure::Usage(format!("invalid value '{pair}' for '--interface-id': {why}"));
        let (name, id) = pair.split_once('=').ok_or_else(|| refuse("expected NAME=eni- and 8 or 17 hex digits"))?;
        if let Some(Value::String(first)) = ids.insert(name.to_owned(), Value::String(id.to_owned())) {
            return Err(refuse(&format!("the interface has the id {first} already")));
        }
    }
    Ok((!ids.is_empty()).then_some(Value::Table(ids)))
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    daemon::keep_stops()?;
    let tables = match &args.config {
        Some(path) => config::read(path).map_err(|error| Failure::Usage(error.to_string()))?,
        None => args.tables()?,
    };
    let state_directory = args.state_directory.clone().unwrap_or_else(|| tables.state_directory());
    let surroundings = Surroundings::read(&state_directory);
    let config = args.config(&tables, &surroundings)?;
    let settings = Settings {
        source: args.config.clone().map_or(Source::Flags, Source::File),
        tables,
        surroundings,
        take_over: args.take_over,
        hold_drain: args.hold_drain,
        hook: args.attach.as_deref().map(|name| if name == "tcx" { Hook::Tcx } else { Hook::Clsact }),
    };
    daemon::run(daemon::plan(settings, config)?)
}
