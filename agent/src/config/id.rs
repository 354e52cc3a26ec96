//! A flow log's id: a digest of the host and of every setting that changes what is written or where. Named one by one,
//! so that a new version of this program goes on under the same ids.
#![forbid(unsafe_code)]

use super::Host;
use super::describe::without_password;
use crate::flow_log::{Destination, Endpoint, FileFormat, FlowLog, Framing, Layout, Rewriting};
use crate::identity;

pub(super) fn of(log: &FlowLog, host: &Host) -> String {
    let mut parts = vec![
        host.machine_id.clone(),
        host.identity.account_id.clone(),
        host.identity.region.clone(),
        format!("traffic-type={}", log.traffic_type.name()),
        format!("max-aggregation-interval={}", log.interval),
        format!("log-format={}", log.format),
    ];
    parts.extend(log.selection.globs.iter().map(|glob| format!("interface={glob}")));
    parts.extend(log.selection.subnets.iter().map(|subnet| format!("subnet={subnet}")));
    parts.extend(log.tags.iter().map(|(key, value)| format!("tag={key}={value}")));
    // What is not set is not in the digest: ids from before there were such settings go on.
    if log.fields.rewriting == Rewriting::Aws {
        parts.push("address-rewriting=aws".to_owned());
    }
    parts.extend(log.fields.instance_tags.iter().map(|key| format!("instance-tag={key}")));
    parts.extend(log.fields.interface_tags.iter().map(|key| format!("interface-tag={key}")));
    parts.extend(destination(&log.destination));
    identity::flow_log_id(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn destination(destination: &Destination) -> Vec<String> {
    match destination {
        Destination::Stdout => vec!["stdout".to_owned()],
        // Without retention: what is there would outlive a change of it.
        Destination::Directory { root, layout: it, retention: _ } => {
            let mut parts = vec![format!("directory={}", root.display())];
            parts.extend(layout(*it));
            parts
        }
        Destination::S3(s3) => {
            let mut parts = vec![format!("s3={}/{}", s3.bucket, s3.folder)];
            parts.extend(s3.kms_key.iter().map(|key| format!("kms-key={key}")));
            parts.push(format!("bucket-owner-full-control={}", s3.bucket_owner_full_control));
            parts.extend(layout(s3.layout));
            parts.extend(endpoint(&s3.endpoint));
            parts
        }
        Destination::CloudWatchLogs(logs) => {
            let mut parts = vec![format!("cloud-watch-logs={}", logs.group)];
            parts.extend(logs.retention_days.iter().map(|days| format!("retention-days={days}")));
            parts.extend(endpoint(&logs.endpoint));
            parts
        }
        Destination::Firehose(firehose) => {
            let framing = match firehose.framing {
                Framing::Json => "json",
                Framing::Lines => "lines",
            };
            let mut parts = vec![format!("kinesis-data-firehose={}", firehose.stream), format!("framing={framing}")];
            parts.extend(endpoint(&firehose.endpoint));
            parts
        }
    }
}

fn layout(layout: Layout) -> Vec<String> {
    let mut parts = vec![
        format!("hive-compatible-partitions={}", layout.hive_compatible_partitions),
        format!("per-hour-partition={}", layout.per_hour_partition),
        format!("object-interval={}", layout.object_interval),
    ];
    // Text has never been named.
    if layout.file_format == FileFormat::Parquet {
        parts.push("file-format=parquet".to_owned());
    }
    parts
}

fn endpoint(endpoint: &Endpoint) -> Vec<String> {
    let mut parts = vec![format!("region={}", endpoint.region), format!("path-style={}", endpoint.path_style)];
    // Another password is the same place.
    parts.extend(endpoint.url.iter().map(|url| format!("endpoint-url={}", without_password(url))));
    parts.extend(endpoint.profile.iter().map(|profile| format!("profile={profile}")));
    parts
}
