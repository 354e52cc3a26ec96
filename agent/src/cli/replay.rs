//! `flowlogd replay`: a capture file and flags that make one flow log -> its records on standard output.
//! Asks nothing of this host: the same file gives the same bytes on any.
#![forbid(unsafe_code)]

use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use toml::Value;

use super::Failure;
use super::run::interface_ids;
use crate::config::{Config, Surroundings, Tables};
use crate::replay::{self, Report, Unsaid};

const EXAMPLES: &str = "\
Examples:
  flowlogd replay capture.pcap
  flowlogd replay capture.pcapng --address 10.0.0.5 --max-aggregation-interval 60 \\
      --log-format '${start} ${srcaddr} ${dstaddr} ${bytes}'
  flowlogd replay capture.pcap --interface-name eth0 --interface-id eth0=eni-0a1b2c3d

What the capture says of a packet's direction holds (pcapng, Linux cooked). Else what
an --address sends is egress and all the rest ingress. All records are ACCEPT: a
capture knows no verdict.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// pcap or pcapng: Ethernet, raw IP, null/loopback or Linux cooked
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An address of the captured host, whose packets are egress; may be repeated [default: as the capture says, else all is ingress]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
    /// Of an interface that the capture does not name
    #[arg(long, value_name = "NAME", default_value = "pcap")]
    interface_name: String,

    /// Aggregation interval, 1 to 600; AWS knows 60 and 600 [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = "Records", value_parser = clap::value_parser!(u32).range(1..=600))]
    max_aggregation_interval: Option<u32>,
    /// Fields of a record, such as '${srcaddr} ${dstaddr} ${bytes}' [default: AWS's version 2]
    #[arg(long, value_name = "FORMAT", help_heading = "Records")]
    log_format: Option<String>,
    /// 12 digits [default: 000000000000]
    #[arg(long, value_name = "ID", help_heading = "Records")]
    account_id: Option<String>,
    /// Region in the shape of AWS's [default: on-prem-1]
    #[arg(long, value_name = "REGION", help_heading = "Records")]
    region: Option<String>,
    /// Interface id of an interface; may be repeated [default: eni- and 17 hex digits from its name]
    #[arg(long, value_name = "NAME=ENI", help_heading = "Records")]
    interface_id: Vec<String>,

    /// VPC network: its base + 2 is the Amazon DNS server, which is not logged; may be repeated
    #[arg(long, value_name = "CIDR", help_heading = "Exclusions")]
    vpc_cidr: Vec<String>,
    /// Subnet: its base + 1 is the VPC router, which is not logged; may be repeated
    #[arg(long, value_name = "CIDR", help_heading = "Exclusions")]
    subnet_cidr: Vec<String>,
    /// Log what AWS leaves out: an exclusion's name, or `all`; may be repeated
    #[arg(long, value_name = "NAME", help_heading = "Exclusions")]
    log_excluded: Vec<String>,
}

impl Args {
    /// One flow log that takes every interface.
    fn config(&self) -> Result<Config, Failure> {
        let text = |value: &Option<String>| value.clone().map(Value::String);
        let list = |values: &[String]| {
            let values: Vec<Value> = values.iter().cloned().map(Value::String).collect();
            (!values.is_empty()).then_some(Value::Array(values))
        };
        let interval = self.max_aggregation_interval.map(|seconds| Value::Integer(seconds.into()));
        let said = [
            ("flow-log.interfaces", "FILE", list(&["*".to_owned()])),
            ("flow-log.log-destination-type", "FILE", Some(Value::String("stdout".to_owned()))),
            ("flow-log.max-aggregation-interval", "--max-aggregation-interval", interval),
            ("flow-log.log-format", "--log-format", text(&self.log_format)),
            ("host.account-id", "--account-id", text(&self.account_id)),
            ("host.region", "--region", text(&self.region)),
            ("host.interface-ids", "--interface-id", interface_ids(&self.interface_id)?),
            ("host.vpc-cidrs", "--vpc-cidr", list(&self.vpc_cidr)),
            ("host.subnet-cidrs", "--subnet-cidr", list(&self.subnet_cidr)),
            ("exclusions.log-excluded", "--log-excluded", list(&self.log_excluded)),
        ];
        let mut tables = Tables::of_flags();
        for (key, flag, value) in said {
            if let Some(value) = value {
                tables.set(key, flag, value);
            }
        }
        // No machine id and no metadata service: records do not depend on where they are made.
        tables.build(&Surroundings::default()).map_err(|error| Failure::Usage(error.to_string()))
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config()?;
    let unsaid = Unsaid { addresses: args.address.iter().copied().collect(), interface: args.interface_name.clone() };
    let name = args.file.display();
    let input = File::open(&args.file).map_err(|error| Failure::Run(format!("{name}: cannot be opened: {error}")))?;
    let report = match replay::replay(input, &config, &unsaid, std::io::stdout().lock()) {
        Ok(report) => report,
        // A reader that has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) => return Err(Failure::Run(format!("cannot write to stdout: {error}"))),
    };
    let Report { packets: _, unparsable, untimed, joined, broken } = report;
    if let Some(broken) = broken {
        return Err(Failure::Run(format!("{name}: {broken}")));
    }
    let notes = [
        (unparsable, "left out, cut before their ports or damaged (capture with -s 0)"),
        (untimed, "left out, in blocks without a time or of an obsolete kind (convert with editcap)"),
        (joined, "longer than any link carries and each counted as one (capture with offloads off, or on the wire)"),
    ];
    for (packets, what) in notes.iter().filter(|(packets, _)| *packets > 0) {
        eprintln!("flowlogd: {name}: packets {what}: {packets}");
    }
    Ok(())
}
