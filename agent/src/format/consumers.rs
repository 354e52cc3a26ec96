//! Programs that read AWS's flow logs, and formats that each of them refuses, misreads or reads only in part.
//! Must not know how records are delivered, but for what a reader finds: objects or events.
//! Always: silence means that nothing is known against a format, and not that it was tried.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::Format;

/// What a destination hands to those who read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Files with a header line.
    Objects,
    /// Files in Parquet.
    Columns,
    /// Messages of CloudWatch Logs.
    LogEvents,
    /// Firehose's records.
    Stream,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Refusal {
    pub(crate) consumer: &'static str,
    pub(crate) why: String,
}

struct Consumer {
    name: &'static str,
    reads: &'static [Reading],
    /// Why it cannot read all of a format.
    refuses: fn(&Format) -> Option<String>,
}

use Reading::{Columns, LogEvents, Objects, Stream};

/// What Filebeat's module and Matano tell apart by the number of values: AWS's default, and three of its examples.
const BY_COUNT: [&str; 4] = [
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status",
    "instance-id interface-id srcaddr dstaddr pkt-srcaddr pkt-dstaddr",
    "version interface-id account-id vpc-id subnet-id instance-id srcaddr dstaddr srcport dstport protocol tcp-flags type \
     pkt-srcaddr pkt-dstaddr action log-status",
    "version vpc-id subnet-id instance-id interface-id account-id type srcaddr dstaddr srcport dstport pkt-srcaddr \
     pkt-dstaddr protocol bytes packets start end action tcp-flags log-status",
];
/// Matano's fifth: all to version 5.
const MATANO_FIFTH: usize = 29;

const CONSUMERS: &[Consumer] = &[
    Consumer {
        name: "flowlogs-reader",
        reads: &[Objects, Columns, LogEvents],
        refuses: |format| names(format, |version| !matches!(version, 2..=5)).map(|names| format!("leaves out {names}")),
    },
    Consumer {
        name: "Filebeat module aws.vpcflow",
        reads: &[Objects],
        refuses: |format| by_count(format).or_else(|| header(format)),
    },
    Consumer {
        name: "Matano",
        reads: &[Objects],
        refuses: |format| by_count(format).filter(|_| format.fields().len() != MATANO_FIFTH).or_else(|| header(format)),
    },
    Consumer {
        name: "Elastic parse_aws_vpc_flow_log",
        reads: &[Objects, LogEvents, Stream],
        refuses: |format| unknown(format, 8),
    },
    Consumer {
        name: "Vector parse_aws_vpc_flow_log",
        reads: &[Objects, LogEvents, Stream],
        refuses: |format| unknown(format, 11),
    },
    Consumer {
        name: "Athena's table with partition projection",
        reads: &[Objects, Columns],
        refuses: |format| {
            let why = "its partition has the name of the column region: leave one of the two out";
            format.has("region").then(|| why.to_owned())
        },
    },
    Consumer {
        name: "Splunk aws:cloudwatchlogs:vpcflow",
        reads: &[LogEvents, Stream],
        refuses: |format| {
            let why = "finds the default format's values by their places; more may follow behind them";
            (!format.begins_as_default()).then(|| why.to_owned())
        },
    },
    Consumer {
        name: "CloudWatch Logs Insights",
        reads: &[LogEvents],
        refuses: |format| {
            let why = "finds fields by itself in the default format only; others need parse in the query";
            (!format.is_default()).then(|| why.to_owned())
        },
    },
    Consumer {
        name: "Datadog vpc_flow_log_monitoring",
        reads: &[LogEvents],
        refuses: |format| {
            let why = "takes messages of the default format only";
            (!format.is_default()).then(|| why.to_owned())
        },
    },
];

/// Who cannot read all of it, in a fixed order.
pub(crate) fn refusing(format: &Format, reading: Reading) -> Vec<Refusal> {
    let of = CONSUMERS.iter().filter(|consumer| consumer.reads.contains(&reading));
    let refusal = |it: &Consumer| (it.refuses)(format).map(|why| Refusal { consumer: it.name, why });
    of.filter_map(refusal).collect()
}

/// Fields of some versions, a few by name.
fn names(format: &Format, of: impl Fn(u8) -> bool) -> Option<String> {
    const SHOWN: usize = 3;
    let names: Vec<&str> = format.fields().iter().filter(|field| of(field.version)).map(|field| field.name).collect();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown} and {more} more")),
    }
}

/// Ours have version 0.
fn unknown(format: &Format, highest: u8) -> Option<String> {
    names(format, |version| version == 0 || version > highest).map(|names| format!("does not know {names}"))
}

fn by_count(format: &Format) -> Option<String> {
    let header = format.header();
    let why = "knows the default format and three of AWS's examples, by their number of values";
    (!BY_COUNT.contains(&header.as_str())).then(|| why.to_owned())
}

fn header(format: &Format) -> Option<String> {
    let first = format.fields().first().map_or("", |field| field.name);
    let why = "takes a header line that does not begin with version or instance-id for a record";
    (!matches!(first, "version" | "instance-id")).then(|| why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(header: &str, reading: Reading) -> Vec<&'static str> {
        let tokens: Vec<String> = header.split(' ').map(|name| format!("${{{name}}}")).collect();
        let format = Format::parse(&tokens.join(" ")).unwrap();
        refusing(&format, reading).into_iter().map(|refusal| refusal.consumer).collect()
    }

    #[test]
    fn who_refuses_what() {
        let default = Format::default().header();
        let (module, matano) = ("Filebeat module aws.vpcflow", "Matano");
        let (elastic, vector) = ("Elastic parse_aws_vpc_flow_log", "Vector parse_aws_vpc_flow_log");
        let (splunk, datadog) = ("Splunk aws:cloudwatchlogs:vpcflow", "Datadog vpc_flow_log_monitoring");
        let (reader, insights) = ("flowlogs-reader", "CloudWatch Logs Insights");
        let projection = "Athena's table with partition projection";
        for (header, reading, want) in [
            (default.as_str(), Objects, &[][..]),
            (&default, LogEvents, &[]),
            (&default, Stream, &[]),
            (BY_COUNT[1], Objects, &[]),
            (BY_COUNT[2], Objects, &[]),
            (BY_COUNT[3], Objects, &[]),
            ("end version", Objects, &[module, matano]),
            (&format!("{default} region"), Objects, &[module, matano, projection]),
            ("end region version", Columns, &[projection]),
            (&format!("{default} x-hostname"), Columns, &[reader]),
            (&format!("{default} vpc-id"), LogEvents, &[insights, datadog]),
            (&format!("vpc-id {default}"), Stream, &[splunk]),
            (&format!("{default} ecs-task-id"), Stream, &[]),
            (&format!("{default} ecs-task-id"), Objects, &[reader, module, matano]),
            (&format!("{default} resource-id"), Stream, &[elastic]),
            (&format!("{default} instance-tag"), Stream, &[elastic]),
            (&format!("{default} x-hostname"), Objects, &[reader, module, matano, elastic, vector]),
        ] {
            assert_eq!(said(header, reading), want, "{header} {reading:?}");
        }
        let format = Format::parse("${version} ${x-hostname} ${x-interface-name} ${asg-tag} ${asg-tag-2}").unwrap();
        let refusals = refusing(&format, Objects);
        assert_eq!(refusals[0].why, "leaves out x-hostname, x-interface-name, asg-tag and 1 more");
        assert!(refusals.iter().all(|refusal| !refusal.why.contains('\n')));
    }
}
