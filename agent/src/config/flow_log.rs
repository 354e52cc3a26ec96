//! One `[[flow-log]]` or the flags of `run` -> a validated flow log. Refusals speak AWS's words where AWS has any.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

use ipnet::IpNet;

use super::arn::{self, Arn};
use super::keys::{self, KINDS, Kind};
use super::place::{ConfigError, Place};
use super::section::Section;
use super::{Host, Surroundings, id};
use crate::flow_log::{
    CloudWatchLogs, Destination, Endpoint, Fields, FileFormat, Firehose, FlowLog, Framing, Layout, Retention,
    Rewriting, S3, TrafficType,
};
use crate::format::Format;
use crate::identity::STAND_IN_REGION;
use crate::select::Selection;

const DEFAULT_INTERVAL: u32 = 600;
/// In AWS it is 300; others are for hosts with little traffic. No object spans two hours, which have folders of their own.
const OBJECT_INTERVALS: [u32; 7] = [0, OBJECT_INTERVAL_DEFAULT, 600, 900, 1200, 1800, 3600];
const OBJECT_INTERVAL_DEFAULT: u32 = 300;
/// Of a directory.
const RETENTION_DAYS_MOST: u32 = 36_500;
const RETENTION_BYTES_LEAST: u64 = 1 << 20;
/// What PutRetentionPolicy takes.
const LOG_GROUP_RETENTION_DAYS: [u16; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// What a flow log's keys are read against.
pub(super) struct Context<'a> {
    pub(super) host: &'a Host,
    pub(super) surroundings: &'a Surroundings,
    pub(super) spool_bytes_max: u64,
    pub(super) verdicts: bool,
}

pub(super) fn build(section: &Section, context: &Context) -> Result<FlowLog, ConfigError> {
    let kind = kind(section)?;
    applies(section, kind)?;
    let mut log = FlowLog {
        id: String::new(),
        selection: selection(section)?,
        traffic_type: traffic_type(section, context.verdicts)?,
        interval: interval(section)?,
        format: format(section)?,
        destination: destination(section, kind, context)?,
        tags: tags(section, kind)?,
        fields: fields(section)?,
        spool_bytes_max: context.spool_bytes_max,
    };
    log.id = id::of(&log, context.host);
    Ok(log)
}

fn kind(section: &Section) -> Result<Kind, ConfigError> {
    let key = "log-destination-type";
    section.choice(key, &KINDS)?.ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        let why = "is missing, and has no default here (AWS's is cloud-watch-logs)";
        section.error(key, format_args!("{why}; allowed: {}", names.join(", ")))
    })
}

/// Each key belongs to some destinations.
fn applies(section: &Section, kind: Kind) -> Result<(), ConfigError> {
    if section.has("log-group-name") && kind != Kind::CloudWatchLogs {
        let why = "LogDestination type must be cloud-watch-logs if LogGroupName is provided.";
        return Err(section.error("log-group-name", why));
    }
    let stray = |key: &&str| keys::FLOW_LOG.iter().any(|(known, kinds)| known == key && !kinds.contains(&kind));
    let Some(key) = section.keys().find(stray) else { return Ok(()) };
    let kinds = keys::FLOW_LOG.iter().find(|(known, _)| *known == key).map_or(&[][..], |(_, kinds)| kinds);
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let why = format!("is not for log-destination-type {}; it is for {}", kind.name(), names.join(", "));
    Err(section.error(key, why))
}

fn selection(section: &Section) -> Result<Selection, ConfigError> {
    let mut globs = section.list("interfaces")?;
    if globs.iter().any(|glob| glob.is_empty() || glob.contains(char::is_whitespace)) {
        return Err(section.error("interfaces", "must be names or globs such as \"eth0\", \"veth*\""));
    }
    let mut subnets: Vec<IpNet> = section.parsed("subnets", "a network such as 10.0.0.0/8")?;
    for (key, empty) in [("interfaces", globs.is_empty()), ("subnets", subnets.is_empty())] {
        if section.has(key) && empty {
            return Err(
                section.error(key, "must not be empty; without the key, every interface with an address is meant")
            );
        }
    }
    // The order is no setting: the same interfaces are the same resource.
    globs.sort();
    globs.dedup();
    subnets.sort();
    subnets.dedup();
    Ok(Selection { globs, subnets })
}

fn traffic_type(section: &Section, verdicts: bool) -> Result<TrafficType, ConfigError> {
    let all = [TrafficType::All, TrafficType::Accept, TrafficType::Reject].map(|it| (it.name(), it));
    let traffic_type = section.choice("traffic-type", &all)?.unwrap_or_default();
    if traffic_type == TrafficType::Reject && !verdicts {
        return Err(section.error("traffic-type", "REJECT needs the kernel's verdicts, and agent.no-verdicts is true"));
    }
    Ok(traffic_type)
}

fn interval(section: &Section) -> Result<u32, ConfigError> {
    let key = "max-aggregation-interval";
    let interval = section.within(key, 1, DEFAULT_INTERVAL).map_err(|error| ConfigError {
        what: format!("Invalid Flow Log Max Aggregation Interval: {} (AWS knows 60 and 600)", error.what),
        ..error
    })?;
    Ok(interval.unwrap_or(DEFAULT_INTERVAL))
}

fn format(section: &Section) -> Result<Format, ConfigError> {
    let Some(text) = section.text("log-format")? else { return Ok(Format::default()) };
    Format::parse(&text).map_err(|error| section.error("log-format", error))
}

fn fields(section: &Section) -> Result<Fields, ConfigError> {
    let rewriting = section.choice("address-rewriting", &[("none", Rewriting::None), ("aws", Rewriting::Aws)])?;
    Ok(Fields {
        rewriting: rewriting.unwrap_or_default(),
        instance_tags: tag_keys(section, "tag-field-specifications.instance")?,
        interface_tags: tag_keys(section, "tag-field-specifications.network-interface")?,
    })
}

/// AWS's rules: one or two keys of tags.
fn tag_keys(section: &Section, key: &str) -> Result<Vec<String>, ConfigError> {
    let keys = section.list(key)?;
    let good = |key: &String| (1..=128).contains(&key.chars().count());
    if section.has(key) && !(matches!(keys.len(), 1 | 2) && keys.iter().all(good)) {
        return Err(section.error(key, "must be one or two keys of 1 to 128 characters"));
    }
    Ok(keys)
}

fn destination(section: &Section, kind: Kind, context: &Context) -> Result<Destination, ConfigError> {
    Ok(match kind {
        Kind::Stdout => Destination::Stdout,
        Kind::Directory => Destination::Directory {
            root: directory(section)?,
            layout: layout(section, 0)?,
            retention: retention(section)?,
        },
        Kind::S3 => Destination::S3(s3(section, context)?),
        Kind::CloudWatchLogs => Destination::CloudWatchLogs(cloud_watch_logs(section, context)?),
        Kind::Firehose => Destination::Firehose(firehose(section, context)?),
    })
}

/// What must be said; `shape` is what it looks like.
fn log_destination(section: &Section, shape: &str) -> Result<String, ConfigError> {
    let key = "log-destination";
    section.text(key)?.ok_or_else(|| {
        let why = "LogDestination can't be empty if LogGroupName is not provided.";
        section.error(key, format_args!("{why} Give {shape}"))
    })
}

fn directory(section: &Section) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(log_destination(section, "a path such as /var/lib/flowlogd/records")?);
    let is_plain = !path.components().any(|part| part == Component::ParentDir);
    match section.place("log-destination") {
        Place::File { .. } if !is_plain => {
            // It could lead anywhere, into our own spool too, and be another place once a link in it changes.
            Err(section.error("log-destination", format_args!("{} has `..` in it; say where it leads", path.display())))
        }
        _ if path.is_absolute() => Ok(path),
        // As everywhere on a command line.
        Place::Flag(_) => std::path::absolute(&path).map_err(|error| section.error("log-destination", error)),
        Place::File { .. } => {
            Err(section.error("log-destination", format_args!("{} is not an absolute path", path.display())))
        }
    }
}

fn layout(section: &Section, default: u32) -> Result<Layout, ConfigError> {
    let file_formats = [FileFormat::PlainText, FileFormat::Parquet].map(|it| (it.name(), it));
    let file_format = section.choice("destination-options.file-format", &file_formats)?.unwrap_or_default();
    let key = "object-interval";
    let interval = section.number(key)?.unwrap_or(default.into());
    let Some(interval) = OBJECT_INTERVALS.into_iter().find(|known| i64::from(*known) == interval) else {
        let known = OBJECT_INTERVALS.map(|known| known.to_string()).join(", ");
        let why = format!("{interval} is not allowed; allowed: {known} (0: an object for each window)");
        return Err(section.error(key, why));
    };
    Ok(Layout {
        file_format,
        hive_compatible_partitions: section.flag("destination-options.hive-compatible-partitions")?,
        per_hour_partition: section.flag("destination-options.per-hour-partition")?,
        object_interval: interval,
    })
}

fn s3(section: &Section, context: &Context) -> Result<S3, ConfigError> {
    let text = log_destination(section, "the bucket's ARN, arn:aws:s3:::bucket/folder/")?;
    let Some((bucket, folder)) = Arn::parse(&text).as_ref().and_then(Arn::bucket) else {
        let why =
            format_args!("{text:?} is not a bucket's ARN, such as arn:aws:s3:::bucket or arn:aws:s3:::bucket/folder/");
        return Err(section.error("log-destination", why));
    };
    if folder.split('/').any(|part| part == "AWSLogs") {
        let why = "the folder must not be AWSLogs, a reserved name: it is added below the folder";
        return Err(section.error("log-destination", why));
    }
    let kms_key = section.text("kms-key")?;
    if let Some(key) = kms_key.as_deref().filter(|key| !Arn::parse(key).is_some_and(|arn| arn.is_key())) {
        let why = format_args!(
            "{key:?} is not the ARN of a key, arn:aws:kms:region:account:key/id; LogDestination {bucket} would be undeliverable"
        );
        return Err(section.error("kms-key", why));
    }
    Ok(S3 {
        bucket: bucket.to_owned(),
        folder: folder.to_owned(),
        layout: layout(section, OBJECT_INTERVAL_DEFAULT)?,
        kms_key,
        bucket_owner_full_control: section.flag("bucket-owner-full-control")?,
        endpoint: endpoint(section, context, None)?,
    })
}

fn cloud_watch_logs(section: &Section, context: &Context) -> Result<CloudWatchLogs, ConfigError> {
    let name = section.text("log-group-name")?;
    if let Some(name) = name.as_deref().filter(|name| !arn::is_log_group(name)) {
        let why =
            format_args!("{name:?} is not 1 to 512 of the letters, digits and ._/#- that does not begin with aws/");
        return Err(section.error("log-group-name", why));
    }
    let (group, region) = match (name, section.has("log-destination")) {
        (Some(name), false) => (name, None),
        (name, _) => {
            let text = log_destination(section, "log-group-name")?;
            let arn = Arn::parse(&text);
            let Some((arn, group)) = arn.as_ref().and_then(|arn| Some((arn, arn.log_group()?))) else {
                let why = format_args!("{text:?} is not a log group's ARN, arn:aws:logs:region:account:log-group:name");
                return Err(section.error("log-destination", why));
            };
            if name.is_some_and(|name| name != group) {
                return Err(
                    section.error("log-group-name", format_args!("is not the group of log-destination, {group:?}"))
                );
            }
            (group.to_owned(), Some(arn.region.to_owned()))
        }
    };
    let endpoint = endpoint(section, context, region.as_deref())?;
    Ok(CloudWatchLogs { group, retention_days: log_group_retention(section)?, endpoint })
}

fn retention(section: &Section) -> Result<Retention, ConfigError> {
    let days = section.within("retention-days", 1, RETENTION_DAYS_MOST)?;
    Ok(Retention { days, bytes: section.bytes("retention-bytes", RETENTION_BYTES_LEAST)? })
}

fn log_group_retention(section: &Section) -> Result<Option<u16>, ConfigError> {
    let key = "retention-days";
    let Some(days) = section.number(key)? else { return Ok(None) };
    let known = LOG_GROUP_RETENTION_DAYS.iter().copied().find(|known| i64::from(*known) == days);
    known.map(Some).ok_or_else(|| {
        let known = LOG_GROUP_RETENTION_DAYS.map(|days| days.to_string()).join(", ");
        section.error(key, format_args!("{days} is not allowed; allowed: {known}"))
    })
}

fn firehose(section: &Section, context: &Context) -> Result<Firehose, ConfigError> {
    let text = log_destination(section, "the stream's ARN, arn:aws:firehose:region:account:deliverystream/name")?;
    let arn = Arn::parse(&text);
    let Some((arn, stream)) = arn.as_ref().and_then(|arn| Some((arn, arn.delivery_stream()?))) else {
        let why = format_args!("{text:?} is not a stream's ARN, arn:aws:firehose:region:account:deliverystream/name");
        return Err(section.error("log-destination", why));
    };
    let framing = section.choice("framing", &[("json", Framing::Json), ("lines", Framing::Lines)])?;
    Ok(Firehose {
        stream: stream.to_owned(),
        framing: framing.unwrap_or_default(),
        endpoint: endpoint(section, context, Some(arn.region))?,
    })
}

fn endpoint(section: &Section, context: &Context, of_arn: Option<&str>) -> Result<Endpoint, ConfigError> {
    let url = section.text("endpoint-url")?;
    if url.as_deref().is_some_and(|url| !is_url(url)) {
        // Not quoted: it may hold a password.
        let why = "is not an address such as https://minio.example.net:9000, without a query";
        return Err(section.error("endpoint-url", why));
    }
    Ok(Endpoint {
        region: region(section, context, of_arn, url.is_some())?,
        url,
        path_style: section.flag("path-style")?,
        profile: section.text("profile")?,
    })
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split('/').next().and_then(|authority| authority.rsplit('@').next()).unwrap_or_default();
    !host.is_empty() && !url.contains(|c: char| c.is_whitespace() || matches!(c, '?' | '#'))
}

/// What is said, else the ARN's, else the host's, else the environment's.
fn region(section: &Section, context: &Context, of_arn: Option<&str>, own_url: bool) -> Result<String, ConfigError> {
    let said = section.text("region")?;
    if let Some(said) = &said {
        if said.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            return Err(section.error("region", format_args!("{said:?} is not a region, such as eu-west-1")));
        }
        if let Some(other) = of_arn.filter(|region| region != said) {
            return Err(section.error("region", format_args!("{said:?} is not that of log-destination, {other:?}")));
        }
    }
    let host = Some(&context.host.identity.region).filter(|region| *region != STAND_IN_REGION);
    said.or(of_arn.map(str::to_owned))
        .or(host.cloned())
        .or(context.surroundings.region.clone())
        // A service of one's own has mostly no regions; this is what its clients say.
        .or(own_url.then(|| "us-east-1".to_owned()))
        .ok_or_else(|| section.error("region", "is missing, and this host is in no region; give the destination's"))
}

/// AWS's rules; S3 takes fewer on an object than a flow log may have.
fn tags(section: &Section, kind: Kind) -> Result<BTreeMap<String, String>, ConfigError> {
    let tags = section.map("tags")?;
    let most = if kind == Kind::S3 { 10 } else { 50 };
    if tags.len() > most {
        return Err(section.error("tags", format_args!("{} tags are too many; allowed: {most}", tags.len())));
    }
    let allowed = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c));
    for (key, value) in &tags {
        let why = match () {
            () if !(1..=127).contains(&key.chars().count()) => "must have a key of 1 to 127 characters",
            () if value.chars().count() > 256 => "must have a value of at most 256 characters",
            () if key.to_ascii_lowercase().starts_with("aws:") => "must not begin with aws:, which is reserved",
            () if !allowed(key) || !allowed(value) => "must be of letters, digits, spaces and _.:/=+-@",
            () => continue,
        };
        return Err(section.error("tags", format_args!("tag {key:?} {why}")));
    }
    Ok(tags)
}
