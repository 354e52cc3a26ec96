//! The table of fields: every one that AWS documents for VPC flow logs, and ours. Docs, `flowlogd fields`, both encodings
//! and the tests are made from it; a new field is one entry here.
//! Must not know how a value is written.
//! Always: what has no value is [`Value::Absent`], in every encoding.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::capture::flow::{Direction, Flow, Verdict};
use crate::record::{Record, Status};

/// AWS's types of columns in Parquet. In text, all are words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Text,
    Int32,
    Int64,
}

impl Type {
    /// AWS's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "STRING",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
        }
    }
}

/// What a record has in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `-` in text; in Parquet null in a column of numbers, `-` in one of text.
    Absent,
    /// Never empty, no space in it.
    Text(&'a str),
    Number(u64),
    /// Unix.
    Seconds(i64),
    Address(IpAddr),
}

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// Of the whole format: the highest version among its fields.
    Version,
    Record(for<'a> fn(&Record<'a>) -> Value<'a>),
    /// No host knows it.
    Nowhere,
}

pub(crate) struct Field {
    /// AWS's, or ours with `x-` before it.
    pub(crate) name: &'static str,
    /// Of AWS's format that brought it; 0: ours, and no version has it.
    pub(crate) version: u8,
    pub(crate) kind: Type,
    pub(crate) source: Source,
    /// One line: what it is, where a host has it from, and why it is `-` where it is.
    pub(crate) help: &'static str,
}

/// Names are distinct.
impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Field {}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Field {
    /// AWS's name of its column in Parquet.
    pub(crate) fn column(&self) -> String {
        self.name.replace('-', "_")
    }

    /// No host has a value for it.
    pub(crate) fn is_always_absent(&self) -> bool {
        matches!(self.source, Source::Nowhere)
    }
}

use Source::{Nowhere, Version};
use Type::{Int32, Int64, Text};

const fn field(name: &'static str, version: u8, kind: Type, source: Source, help: &'static str) -> Field {
    Field { name, version, kind, source, help }
}

/// Of every record.
const fn any(value: for<'a> fn(&Record<'a>) -> Value<'a>) -> Source {
    Source::Record(value)
}

/// Absent from NODATA and SKIPDATA.
macro_rules! of_flow {
    ($value:expr) => {
        Source::Record(|record| match record.flow {
            Some(flow) => {
                let value: for<'a> fn(&Record<'a>, &'a Flow) -> Value<'a> = $value;
                value(record, flow)
            }
            None => Value::Absent,
        })
    };
}

fn text(value: Option<&String>) -> Value<'_> {
    value.map_or(Value::Absent, |value| Value::Text(value))
}

fn service<'a>(record: &Record<'a>, address: IpAddr) -> Value<'a> {
    let services = record.host.services.as_deref();
    services.and_then(|services| services.of(address)).map_or(Value::Absent, Value::Text)
}

const ECS: &str = "Of a task of Amazon ECS that has an interface of its own. `-`: a host is no such task.";
const NEXT_HOP: &str = "Of the interface at the other end within AWS. `-`: behind a host's route there is none.";
const GROUP_TAG: &str = "A tag of the Auto Scaling group. `-`: a host belongs to none.";

/// AWS's in the order of its table, then ours.
pub(crate) static FIELDS: &[Field] = &[
    field("version", 2, Int32, Version, "The highest version among the format's fields; the default format has 2."),
    field(
        "account-id",
        2,
        Text,
        any(|record| Value::Text(&record.host.account_id)),
        "12 digits: `account-id` of `[host]`, else EC2's, else 000000000000.",
    ),
    field(
        "interface-id",
        2,
        Text,
        any(|record| Value::Text(&record.interface.id)),
        "`interface-ids` of `[host]`, else EC2's, else `eni-` and 17 hex digits made of the host and the interface's name.",
    ),
    field(
        "srcaddr",
        2,
        Text,
        of_flow!(|record, flow| Value::Address(record.interface.ends(flow).0)),
        "The packet's source. With `address-rewriting = \"aws\"`, of outgoing IPv4 the interface's primary address.",
    ),
    field(
        "dstaddr",
        2,
        Text,
        of_flow!(|record, flow| Value::Address(record.interface.ends(flow).1)),
        "The packet's destination. With `address-rewriting = \"aws\"`, of incoming IPv4 the interface's primary address.",
    ),
    field(
        "srcport",
        2,
        Int32,
        of_flow!(|_, flow| Value::Number(flow.key.src_port.into())),
        "0 for protocols without ports, such as ICMP.",
    ),
    field(
        "dstport",
        2,
        Int32,
        of_flow!(|_, flow| Value::Number(flow.key.dst_port.into())),
        "0 for protocols without ports, such as ICMP.",
    ),
    field(
        "protocol",
        2,
        Int32,
        of_flow!(|_, flow| Value::Number(flow.key.protocol.into())),
        "IANA's number of the protocol; in IPv6 of the last header.",
    ),
    field(
        "packets",
        2,
        Int64,
        of_flow!(|_, flow| Value::Number(flow.packets)),
        "Packets as they are on the wire; super-packets are counted as what they become.",
    ),
    field(
        "bytes",
        2,
        Int64,
        of_flow!(|_, flow| Value::Number(flow.bytes)),
        "Bytes of these packets, IP header and up.",
    ),
    field(
        "start",
        2,
        Int64,
        any(|record| Value::Seconds(record.start)),
        "Unix seconds of the first packet in the window; of NODATA and SKIPDATA the window's first second.",
    ),
    field(
        "end",
        2,
        Int64,
        any(|record| Value::Seconds(record.end)),
        "Unix seconds of the last packet in the window; of NODATA and SKIPDATA the window's last second.",
    ),
    field(
        "action",
        2,
        Text,
        of_flow!(|_, flow| Value::Text(match flow.key.verdict {
            Verdict::Accept => "ACCEPT",
            Verdict::Reject => "REJECT",
        })),
        "ACCEPT or REJECT: the kernel's own verdict, see verdicts.md.",
    ),
    field(
        "log-status",
        2,
        Text,
        any(|record| {
            Value::Text(match record.status {
                Status::Ok => "OK",
                Status::NoData => "NODATA",
                Status::SkipData => "SKIPDATA",
            })
        }),
        "OK; NODATA: no traffic in the window; SKIPDATA: some was not recorded. Never `-`.",
    ),
    field(
        "vpc-id",
        3,
        Text,
        any(|record| text(record.interface.vpc_id.as_ref())),
        "`vpc-id` of `[host]`, else EC2's of the interface. `-`: neither is known.",
    ),
    field(
        "subnet-id",
        3,
        Text,
        any(|record| text(record.interface.subnet_id.as_ref())),
        "`subnet-id` of `[host]`, else EC2's of the interface. `-`: neither is known.",
    ),
    field(
        "instance-id",
        3,
        Text,
        of_flow!(|record, _| text(record.host.instance_id.as_ref())),
        "`instance-id` of `[host]`, else EC2's. `-`: neither is known; and, as in AWS, on NODATA and SKIPDATA.",
    ),
    field(
        "tcp-flags",
        3,
        Int32,
        of_flow!(|_, flow| Value::Number(flow.tcp_flags.into())),
        "OR over the window of FIN 1, SYN 2, RST 4, SYN-ACK 18. Others add nothing: 0 when none of these was seen.",
    ),
    field(
        "type",
        3,
        Text,
        of_flow!(|_, flow| Value::Text(if flow.key.src.is_ipv4() { "IPv4" } else { "IPv6" })),
        "IPv4 or IPv6. AWS's third, EFA, is of its own network cards.",
    ),
    field("pkt-srcaddr", 3, Text, of_flow!(|_, flow| Value::Address(flow.key.src)), "The packet's own source."),
    field("pkt-dstaddr", 3, Text, of_flow!(|_, flow| Value::Address(flow.key.dst)), "The packet's own destination."),
    field(
        "region",
        4,
        Text,
        any(|record| Value::Text(&record.host.region)),
        "`region` of `[host]`, else EC2's, else on-prem-1.",
    ),
    field(
        "az-id",
        4,
        Text,
        any(|record| text(record.host.az_id.as_ref())),
        "`az-id` of `[host]`, else EC2's. `-`: neither is known, or the host is in a sublocation.",
    ),
    field(
        "sublocation-type",
        4,
        Text,
        any(|record| text(record.host.sublocation_type.as_ref())),
        "`sublocation-type` of `[host]`: wavelength, outpost or localzone. `-`: the host is in none.",
    ),
    field(
        "sublocation-id",
        4,
        Text,
        any(|record| text(record.host.sublocation_id.as_ref())),
        "`sublocation-id` of `[host]`. `-`: the host is in none.",
    ),
    field(
        "pkt-src-aws-service",
        5,
        Text,
        of_flow!(|record, flow| service(record, flow.key.src)),
        "The AWS service that pkt-srcaddr belongs to, by the file `ip-ranges` of `[host]`. `-`: none, or there is no file.",
    ),
    field(
        "pkt-dst-aws-service",
        5,
        Text,
        of_flow!(|record, flow| service(record, flow.key.dst)),
        "The AWS service that pkt-dstaddr belongs to, by the file `ip-ranges` of `[host]`. `-`: none, or there is no file.",
    ),
    field(
        "flow-direction",
        5,
        Text,
        of_flow!(|_, flow| Value::Text(match flow.key.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })),
        "ingress or egress, of the interface.",
    ),
    field(
        "traffic-path",
        5,
        Int32,
        of_flow!(|record, flow| match (flow.key.direction, record.host.traffic_path) {
            (Direction::Egress, Some(path)) => Value::Number(path.into()),
            _ => Value::Absent,
        }),
        "`traffic-path` of `[host]`, 1 to 8, on what goes out. `-`: a host's routes lead through none of AWS's gateways.",
    ),
    field("ecs-cluster-arn", 7, Text, Nowhere, ECS),
    field("ecs-cluster-name", 7, Text, Nowhere, ECS),
    field("ecs-container-instance-arn", 7, Text, Nowhere, ECS),
    field("ecs-container-instance-id", 7, Text, Nowhere, ECS),
    field("ecs-container-id", 7, Text, Nowhere, ECS),
    field("ecs-second-container-id", 7, Text, Nowhere, ECS),
    field("ecs-service-name", 7, Text, Nowhere, ECS),
    field("ecs-task-definition-arn", 7, Text, Nowhere, ECS),
    field("ecs-task-arn", 7, Text, Nowhere, ECS),
    field("ecs-task-id", 7, Text, Nowhere, ECS),
    field(
        "reject-reason",
        8,
        Text,
        Nowhere,
        "Block Public Access or Encryption Controls of a VPC. `-`: AWS has no word for a host's firewall, and prints `-` for \
         security groups too. `action` tells what was refused.",
    ),
    field("resource-id", 9, Text, Nowhere, "Of a regional NAT gateway. `-`: a host is none."),
    field("encryption-status", 10, Int32, Nowhere, "Of the VPC's Encryption Controls. `-`: a host has none."),
    field(
        "instance-tag",
        11,
        Text,
        any(|record| text(record.host.tags[0].as_ref())),
        "The label of `[host]` that `tag-field-specifications.instance` names first, percent-encoded. `-`: there is none.",
    ),
    field(
        "instance-tag-2",
        11,
        Text,
        any(|record| text(record.host.tags[1].as_ref())),
        "The label of `[host]` that `tag-field-specifications.instance` names second, percent-encoded. `-`: there is none.",
    ),
    field(
        "interface-tag",
        11,
        Text,
        any(|record| text(record.interface.tags[0].as_ref())),
        "The interface's label that `tag-field-specifications.network-interface` names first, percent-encoded. `-`: there is \
         none.",
    ),
    field(
        "interface-tag-2",
        11,
        Text,
        any(|record| text(record.interface.tags[1].as_ref())),
        "The interface's label that `tag-field-specifications.network-interface` names second, percent-encoded. `-`: there \
         is none.",
    ),
    field("asg-tag", 11, Text, Nowhere, GROUP_TAG),
    field("asg-tag-2", 11, Text, Nowhere, GROUP_TAG),
    field(
        "interface-type",
        11,
        Text,
        Nowhere,
        "Of five kinds of interface that AWS makes for its services. `-`: AWS prints it for an instance's interface too.",
    ),
    field("next-hop-interface-id", 11, Text, Nowhere, NEXT_HOP),
    field("next-hop-subnet-id", 11, Text, Nowhere, NEXT_HOP),
    field("next-hop-az-id", 11, Text, Nowhere, NEXT_HOP),
    field("next-hop-vpc-id", 11, Text, Nowhere, NEXT_HOP),
    field("next-hop-interface-type", 11, Text, Nowhere, NEXT_HOP),
    field(
        "x-interface-name",
        0,
        Text,
        any(|record| Value::Text(&record.interface.name)),
        "The interface's name on this host, such as eth0, percent-encoded.",
    ),
    field(
        "x-hostname",
        0,
        Text,
        any(|record| text(record.host.hostname.as_ref())),
        "The host's name when the agent started, percent-encoded. `-`: it has none.",
    ),
    field(
        "x-drop-reason",
        0,
        Text,
        of_flow!(|record, flow| text(record.host.drop_reasons.get(&flow.reason))),
        "The kernel's name for what refused the packets, such as NETFILTER_DROP; the first, if several did. `-`: they were \
         not refused.",
    ),
];

/// AWS's default: all of version 2, in its order.
pub(crate) const DEFAULT_FIELDS: usize = 14;

/// Of transit gateways' flow logs (version 6), which a host cannot be asked for.
pub(crate) const TRANSIT_GATEWAY: [&str; 18] = [
    "resource-type",
    "tgw-id",
    "tgw-attachment-id",
    "tgw-src-vpc-account-id",
    "tgw-dst-vpc-account-id",
    "tgw-src-vpc-id",
    "tgw-dst-vpc-id",
    "tgw-src-subnet-id",
    "tgw-dst-subnet-id",
    "tgw-src-eni",
    "tgw-dst-eni",
    "tgw-src-az-id",
    "tgw-dst-az-id",
    "tgw-pair-attachment-id",
    "packets-lost-no-route",
    "packets-lost-blackhole",
    "packets-lost-mtu-exceeded",
    "packets-lost-ttl-expired",
];
