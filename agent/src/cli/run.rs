//! `flowlogd run`: what was typed -> validated settings -> the daemon. Every refusal names the flag and the value.
#![forbid(unsafe_code)]

use super::Failure;
use crate::capture::Hook;
use crate::daemon::{self, Destination, Settings};
use crate::select::Selection;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  flowlogd run --max-aggregation-interval 60
  flowlogd run --interface eth0 --account-id 123456789012 --region eu-west-1 \\
      --log-destination-type directory \\
      --log-destination /var/lib/flowlogd/records
  flowlogd run --interface 'veth*' --subnet 10.0.0.0/8 \\
      --vpc-cidr 10.0.0.0/16 --subnet-cidr 10.0.1.0/24";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Interfaces to capture, by name or glob; a glob also takes those that come later
    ///
    /// Default: every interface that holds an IP address, loopback aside, and those that get one later.
    #[arg(long, value_name = "GLOB", help_heading = "Source", num_args = 1..)]
    interface: Vec<String>,
    /// Capture interfaces with an address inside this network
    #[arg(long, value_name = "CIDR", help_heading = "Source", num_args = 1..)]
    subnet: Vec<IpNet>,
    /// Which verdicts to log
    #[arg(long, value_name = "TYPE", help_heading = "Source", default_value = "ALL", value_parser = ["ALL", "ACCEPT", "REJECT"])]
    traffic_type: String,
    /// Log every packet as ACCEPT and leave the kernel's drops alone
    #[arg(long, help_heading = "Source", conflicts_with = "traffic_type")]
    no_verdicts: bool,
    /// Aggregation interval; AWS knows 60 and 600
    #[arg(long, value_name = "SECONDS", help_heading = "Source", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=600))]
    max_aggregation_interval: u32,

    /// Where records go
    #[arg(long, value_name = "TYPE", help_heading = "Destination", default_value = "stdout", value_parser = ["stdout", "directory"])]
    log_destination_type: String,
    /// The directory, laid out with the keys of AWS's S3 objects
    #[arg(long, value_name = "PATH", help_heading = "Destination")]
    log_destination: Option<PathBuf>,

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
    vpc_cidr: Vec<IpNet>,
    /// Subnet: its base + 1 is the VPC router, which is not logged
    #[arg(long, value_name = "CIDR", help_heading = "Exclusions", num_args = 1..)]
    subnet_cidr: Vec<IpNet>,
    /// Log what AWS leaves out: an exclusion's name, or `all`
    #[arg(long, value_name = "NAME", help_heading = "Exclusions", num_args = 1..)]
    log_excluded: Vec<String>,

    /// State of this agent; one agent per directory
    #[arg(long, value_name = "DIR", help_heading = "Agent", default_value = "/var/lib/flowlogd")]
    state_directory: PathBuf,
    /// Go on in place of the agent that uses the state directory: it ends, and nothing is missed
    #[arg(long, help_heading = "Agent")]
    take_over: bool,
    /// Directory on a bpf file system below which counters outlive a killed agent [default: /sys/fs/bpf/flowlogd]
    #[arg(long, value_name = "DIR", help_heading = "Agent")]
    bpf_directory: Option<PathBuf>,
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

fn usage(flag: &str, value: impl std::fmt::Display, why: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("invalid value '{value}' for '{flag}': {why}"))
}

impl Args {
    fn destination(&self) -> Result<Destination, Failure> {
        match (self.log_destination_type.as_str(), &self.log_destination) {
            ("directory", Some(path)) => Ok(Destination::Directory(path.clone())),
            ("directory", None) => Err(usage("--log-destination-type", "directory", "needs --log-destination PATH")),
            (_, None) => Ok(Destination::Stdout),
            (_, Some(path)) => {
                Err(usage("--log-destination", path.display(), "needs --log-destination-type directory"))
            }
        }
    }

    fn interface_ids(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut ids = BTreeMap::new();
        for pair in &self.interface_id {
            let shape = |id: &str| {
                let hex = id.strip_prefix("eni-").unwrap_or_default();
                (hex.len() == 8 || hex.len() == 17) && hex.bytes().all(|b| b.is_ascii_hexdigit())
            };
            let Some((name, id)) = pair.split_once('=').filter(|(name, id)| !name.is_empty() && shape(id)) else {
                return Err(usage("--interface-id", pair, "expected NAME=eni- and 8 or 17 hex digits"));
            };
            if let Some(other) = ids.insert(name.to_owned(), id.to_owned()) {
                return Err(usage("--interface-id", pair, format!("{name} has {other} already")));
            }
        }
        Ok(ids)
    }

    fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            selection: Selection { globs: self.interface.clone(), subnets: self.subnet.clone() },
            traffic_type: self.traffic_type.clone(),
            verdicts: !self.no_verdicts,
            interval: self.max_aggregation_interval,
            destination: self.destination()?,
            account_id: self.account_id.clone(),
            region: self.region.clone(),
            interface_ids: self.interface_ids()?,
            vpc_cidrs: self.vpc_cidr.clone(),
            subnet_cidrs: self.subnet_cidr.clone(),
            log_excluded: self.log_excluded.clone(),
            state_directory: self.state_directory.clone(),
            take_over: self.take_over,
            bpf_directory: self.bpf_directory.clone(),
            flow_table_slots: self.flow_table_slots,
            overflow_slots: self.overflow_slots,
            hold_drain: self.hold_drain,
            hook: self.attach.as_deref().map(|name| if name == "tcx" { Hook::Tcx } else { Hook::Clsact }),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.settings()?;
    let plan = daemon::plan(settings)?;
    daemon::run(plan)
}
