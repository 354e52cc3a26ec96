//! `flowlogd check`: validates the configuration and says what it would do on this host. Touches nothing and needs no
//! privileges; where an agent runs that may be asked, it also says what a day would come to.
#![forbid(unsafe_code)]

mod estimate;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use serde::Serialize;

use super::{Failure, say, say_json};
use crate::capture::interfaces::{self, Interface};
use crate::config::describe::Description;
use crate::config::{self, Agent, Host, policy};
use crate::flow_log::{Destination, FileFormat, FlowLog, Layout, S3};
use crate::format::consumers::{self, Reading, Refusal};
use crate::identity::services;
use crate::serve::{client, socket};
use crate::stack::Stack;
use crate::status::Snapshot;
use estimate::Estimate;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd check\n  flowlogd check --config flowlogd.toml --iam-policy")]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it adds flow logs
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// Print the policy document with the AWS permissions that all flow logs need, and nothing else
    #[arg(long, conflicts_with = "json")]
    iam_policy: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Answer<'a> {
    flow_logs: &'a [Checked],
    warnings: &'a [String],
}

/// What one flow log would do here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    #[serde(flatten)]
    description: Description,
    /// Present interfaces.
    captures: Vec<String>,
    /// Named, and not there now.
    absent: Vec<String>,
    counted_twice: Vec<Twice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_per_day_max: Option<u32>,
    permissions: Vec<Permission>,
    /// Programs that cannot read this format, or not all of it.
    refused_by: Vec<Refusal>,
    /// Of a day; none: no agent runs, or not for long enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
}

/// Packets of `upper` are counted on `lower` as well.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Twice {
    lower: String,
    upper: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Permission {
    action: &'static str,
    resource: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut config = config::load(&args.config).map_err(|e| Failure::Usage(e.to_string()))?;
    if args.iam_policy {
        return say_json(&policy::document(&config.logs, &config.host.identity));
    }
    if let Some(path) = &config.host.ip_ranges
        && let Err(error) = services::read(path)
    {
        config.warnings.push(format!("ip-ranges '{}': {error}", path.display()));
    }
    let all = interfaces::list().map_err(crate::capture::Error::from)?;
    let stack = Stack::read();
    let running = running(&config.agent);
    let check = |log| check(log, &config.host, &all, &stack, running.as_ref());
    let checked: Vec<Checked> = config.logs.iter().map(check).collect();
    if args.json {
        return say_json(&Answer { flow_logs: &checked, warnings: &config.warnings });
    }
    say(&text(&config.host, &checked, &config.warnings, std::io::stdout().is_terminal()))
}

/// What the agent with this state says of itself, if it runs and we may ask it.
fn running(agent: &Agent) -> Option<Snapshot> {
    let socket = agent.socket.clone().unwrap_or_else(|| socket::default_path(&agent.state_directory));
    client::get(&socket, "/v1/status").ok()
}

fn check(log: &FlowLog, host: &Host, all: &[Interface], stack: &Stack, running: Option<&Snapshot>) -> Checked {
    let captures: BTreeSet<String> =
        all.iter().filter(|it| log.selection.wants(it)).map(|it| it.name.clone()).collect();
    let there = |name: &str| all.iter().any(|it| it.name == name);
    let absent = |glob: &&String| !glob.contains(['*', '?']) && !there(glob);
    let twice = stack.twice(&captures).into_iter();
    let layout = match &log.destination {
        Destination::S3(s3) => Some(s3.layout),
        Destination::Directory { layout, .. } => Some(*layout),
        _ => None,
    };
    let permissions = policy::permissions(log, &host.identity).into_iter();
    let names: Vec<String> = captures.iter().cloned().collect();
    Checked {
        estimate: running.and_then(|snapshot| estimate::estimate(log, &names, snapshot)),
        description: Description::of(log, host),
        absent: log.selection.globs.iter().filter(absent).cloned().collect(),
        counted_twice: twice.map(|(lower, upper)| Twice { lower: lower.to_owned(), upper: upper.to_owned() }).collect(),
        captures: names,
        objects_per_day_max: layout.map(|layout| objects_per_day(log.interval, layout)),
        refused_by: reading(&log.destination)
            .map_or_else(Vec::new, |reading| consumers::refusing(&log.format, reading)),
        permissions: permissions.map(|it| Permission { action: it.action, resource: it.resource }).collect(),
    }
}

/// None: whoever reads it is no program that we know.
fn reading(destination: &Destination) -> Option<Reading> {
    match destination {
        Destination::S3(S3 { layout, .. }) | Destination::Directory { layout, .. } => match layout.file_format {
            FileFormat::PlainText => Some(Reading::Objects),
            FileFormat::Parquet => Some(Reading::Columns),
        },
        Destination::CloudWatchLogs(_) => Some(Reading::LogEvents),
        Destination::Firehose(_) => Some(Reading::Stream),
        Destination::Stdout => None,
    }
}

/// At most, while none reaches 75 MB. An object ends where a delivery ends, and where a slot of its name ends.
fn objects_per_day(interval: u32, layout: Layout) -> u32 {
    const DAY: u32 = 86_400;
    let (delivery, slot) = (layout.object_interval.max(interval), layout.slot_seconds());
    // Whole windows are delivered: the ends fall together only where windows fit.
    let together = if delivery.is_multiple_of(interval) { DAY / lcm(delivery, slot) } else { 0 };
    DAY / slot + DAY / delivery - together
}

fn lcm(a: u32, b: u32) -> u32 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

fn text(host: &Host, checked: &[Checked], warnings: &[String], colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut text = format!("account {}, region {}\n", host.identity.account_id, host.identity.region);
    for it in checked {
        let about = &it.description;
        let (traffic, interval) = (&about.traffic_type, about.max_aggregation_interval);
        text += &format!("\n{}  {traffic}, every {interval} s\n", paint("1", &about.flow_log_id));
        let mut line = |name: &str, said: &str| text += &format!("  {name:<12}  {said}\n");
        line("destination", format!("{}  {}", about.log_destination_type, about.destination()).trim_end_matches("  -"));
        line("interfaces", &if it.captures.is_empty() { "none now".to_owned() } else { it.captures.join(", ") });
        for name in &it.absent {
            line("absent", &paint("33", &format!("{name}: no such interface now")));
        }
        for Twice { lower, upper } in &it.counted_twice {
            let why = format!("packets of {upper} also pass {lower} below it: leave one out, with interfaces");
            line("twice", &paint("33", &why));
        }
        if let Some(objects) = it.objects_per_day_max {
            line("objects", &format!("at most {objects} a day, more when one would pass 75 MB"));
        }
        if let Some(estimate) = &it.estimate {
            let calls = if it.objects_per_day_max.is_some() { "objects" } else { "calls" };
            line("estimate", &estimate.text(calls));
        }
        if it.description.address_rewriting.is_some() {
            line("addresses", "the interface's primary address stands for its end of every IPv4 flow, as in AWS");
        }
        for specification in &it.description.tag_field_specifications {
            line("tag fields", &format!("{}: {}", specification.resource_type, specification.tag_keys.join(", ")));
        }
        for Refusal { consumer, why } in &it.refused_by {
            line("not for", &paint("33", &format!("{consumer}: {why}")));
        }
        for Permission { action, resource } in &it.permissions {
            line("permission", &format!("{action} on {resource}"));
        }
    }
    for warning in warnings {
        text += &format!("\n{} {warning}\n", paint("33", "warning:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    fn by(object_interval: u32) -> Layout {
        Layout { object_interval, ..Layout::default() }
    }

    /// Counted: each (delivery, slot) pair that windows of a day fall into.
    fn counted(interval: u32, layout: Layout) -> u32 {
        let mut pairs = BTreeSet::new();
        for second in 0..86_400 {
            let window_end = second / interval * interval + interval - 1;
            let delivery = window_end.checked_div(layout.object_interval).unwrap_or(window_end);
            pairs.insert((delivery, layout.slot_of(second.into())));
        }
        u32::try_from(pairs.len()).unwrap()
    }

    #[test]
    fn objects_of_a_day() {
        for (interval, object_interval) in
            [(60, 300), (600, 300), (60, 3600), (600, 3600), (60, 0), (300, 0), (600, 0), (1, 0), (200, 0), (450, 0)]
        {
            let expected = counted(interval, by(object_interval));
            assert_eq!(objects_per_day(interval, by(object_interval)), expected, "{interval} {object_interval}");
        }
        assert_eq!(objects_per_day(60, by(3600)), 24);
        // Not more than said, where windows do not fit.
        for (interval, object_interval) in [(7, 300), (200, 300), (450, 300), (450, 600)] {
            let (said, expected) =
                (objects_per_day(interval, by(object_interval)), counted(interval, by(object_interval)));
            assert!(said >= expected, "{interval} {object_interval} {expected}");
        }
    }

    #[test]
    fn who_refuses_the_format() {
        let toml = "[[flow-log]]\nlog-destination-type = \"kinesis-data-firehose\"\naddress-rewriting = \"aws\"\n\
                    log-destination = \"arn:aws:firehose:eu-west-1:123456789012:deliverystream/a\"\n\
                    log-format = \"${version} ${x-hostname}\"\ntag-field-specifications.instance = [\"role\"]\n";
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        std::fs::write(&file, toml).unwrap();
        let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
        let checked = check(&config.logs[0], &config.host, &[], &Stack::default(), None);
        let said = text(&config.host, std::slice::from_ref(&checked), &[], false);
        for line in [
            "  addresses     the interface's primary address stands for its end of every IPv4 flow, as in AWS\n",
            "  tag fields    instance: role\n",
            "  not for       Elastic parse_aws_vpc_flow_log: does not know x-hostname\n",
            "  not for       Vector parse_aws_vpc_flow_log: does not know x-hostname\n",
            "  not for       Splunk aws:cloudwatchlogs:vpcflow: finds the default format's values by their places; more \
             may follow behind them\n",
        ] {
            assert!(said.contains(line), "{line} not in {said}");
        }
        assert_eq!(serde_json::to_value(&checked).unwrap()["RefusedBy"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn what_a_flow_log_would_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        let toml = "[[flow-log]]\nlog-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs/a\"\n\
                    region = \"eu-west-1\"\ninterfaces = [\"eth*\", \"lo\", \"gone\"]\n";
        std::fs::write(&file, toml).unwrap();
        let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
        let interface = |name: &str| Interface {
            index: 1,
            name: name.to_owned(),
            addresses: Vec::new(),
            loopback: name == "lo",
            bare: false,
        };
        let all = ["lo", "eth0", "br0"].map(interface);
        let checked = check(&config.logs[0], &config.host, &all, &Stack::default(), None);
        assert_eq!(
            (checked.captures.as_slice(), checked.absent.as_slice()),
            (&["eth0".to_owned(), "lo".to_owned()][..], &["gone".to_owned()][..])
        );
        assert_eq!((checked.counted_twice.len(), checked.objects_per_day_max), (0, Some(288)));
        let said = text(&config.host, std::slice::from_ref(&checked), &["w".to_owned()], false);
        assert!(said.contains("  interfaces    eth0, lo\n  absent        gone: no such interface now\n"), "{said}");
        assert!(said.ends_with("\n\nwarning: w\n"), "{said}");
        assert!(checked.refused_by.is_empty() && !said.contains("not for"), "{said}");
        let shown = serde_json::to_value(&checked).unwrap();
        let resource = "arn:aws:s3:::logs/a/AWSLogs/000000000000/*";
        assert_eq!(shown["Permissions"], serde_json::json!([{ "Action": "s3:PutObject", "Resource": resource }]));
        assert_eq!(shown["LogDestination"], "arn:aws:s3:::logs/a/");
    }
}
