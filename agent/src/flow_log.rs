//! A flow log: one subscription to what the host counts. Immutable, as AWS's are: other settings are another flow log.
//! Knows nothing of files, flags or how records are made.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capture::flow::{Flow, Verdict};
use crate::format::Format;
use crate::select::Selection;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowLog {
    /// `fl-` and 17 hex digits, a digest of the host's identity and of all the settings below but `spool_bytes_max` and
    /// [`Retention`].
    pub(crate) id: String,
    pub(crate) selection: Selection,
    pub(crate) traffic_type: TrafficType,
    /// Seconds.
    pub(crate) interval: u32,
    pub(crate) format: Format,
    pub(crate) destination: Destination,
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) fields: Fields,
    pub(crate) spool_bytes_max: u64,
}

/// What fields hold, where a flow log may choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fields {
    pub(crate) rewriting: Rewriting,
    /// Labels of the host for `instance-tag` and `instance-tag-2`; at most two.
    pub(crate) instance_tags: Vec<String>,
    /// Labels of the interface for `interface-tag` and `interface-tag-2`; at most two.
    pub(crate) interface_tags: Vec<String>,
}

/// What `srcaddr` and `dstaddr` say of the interface's own end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rewriting {
    /// What is in the packet.
    #[default]
    None,
    /// The interface's primary IPv4 address, also of what is only forwarded.
    Aws,
}

/// AWS's `--traffic-type`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum TrafficType {
    #[default]
    All,
    Accept,
    Reject,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Destination {
    Stdout,
    Directory {
        root: PathBuf,
        layout: Layout,
        #[serde(default)]
        retention: Retention,
    },
    S3(S3),
    CloudWatchLogs(CloudWatchLogs),
    Firehose(Firehose),
}

/// What objects are, how they are named and how long one is collected for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    #[serde(default)]
    pub(crate) file_format: FileFormat,
    pub(crate) hive_compatible_partitions: bool,
    pub(crate) per_hour_partition: bool,
    /// Seconds, 300 times a divisor of 12, so that no object spans two hours; 0: an object for each window.
    pub(crate) object_interval: u32,
}

/// AWS's `FileFormat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FileFormat {
    /// Lines, in gzip.
    #[default]
    PlainText,
    Parquet,
}

/// How much is kept of a directory's objects: what is older or too much goes, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retention {
    pub(crate) days: Option<u32>,
    /// On disk.
    pub(crate) bytes: Option<u64>,
}

/// AWS names objects after multiples of five minutes.
const SLOT_SECONDS: u32 = 300;

impl FileFormat {
    /// As AWS spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PlainText => "plain-text",
            Self::Parquet => "parquet",
        }
    }

    /// What the names of objects end with.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::PlainText => ".log.gz",
            Self::Parquet => ".log.parquet",
        }
    }
}

impl Layout {
    /// Seconds of `end` that one object's name stands for.
    pub(crate) fn slot_seconds(self) -> u32 {
        self.object_interval.max(SLOT_SECONDS)
    }

    /// First second of the slot that is stamped into the name. A file stamped HH:mm holds the records whose `end` is in
    /// HH:mm:00 to HH:mm+4:59 (flow-logs-s3-path), or as many minutes as `object_interval` has.
    pub(crate) fn slot_of(self, end: i64) -> i64 {
        end - end.rem_euclid(self.slot_seconds().into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    /// Without slashes at either end; may be empty.
    pub(crate) folder: String,
    pub(crate) layout: Layout,
    /// Key ARN for SSE-KMS.
    pub(crate) kms_key: Option<String>,
    /// Sends the canned ACL `bucket-owner-full-control`.
    pub(crate) bucket_owner_full_control: bool,
    pub(crate) endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloudWatchLogs {
    pub(crate) group: String,
    /// Set when the group is made.
    pub(crate) retention_days: Option<u16>,
    pub(crate) endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Firehose {
    pub(crate) stream: String,
    pub(crate) framing: Framing,
    pub(crate) endpoint: Endpoint,
}

/// What a Firehose record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Framing {
    /// `{"message":"…"}`, a line each, without a newline: AWS's own.
    #[default]
    Json,
    /// Many lines with newlines.
    Lines,
}

/// Which service to talk to, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) region: String,
    /// Instead of AWS's own: MinIO, a private endpoint.
    pub(crate) url: Option<String>,
    /// Bucket in the path and not in the host name.
    pub(crate) path_style: bool,
    /// Of the AWS configuration files.
    pub(crate) profile: Option<String>,
}

impl TrafficType {
    pub(crate) fn admits(self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Accept => flow.key.verdict == Verdict::Accept,
            Self::Reject => flow.key.verdict == Verdict::Reject,
        }
    }

    /// As AWS spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::Accept => "ACCEPT",
            Self::Reject => "REJECT",
        }
    }
}

impl Destination {
    /// AWS's `--log-destination-type`, and two of ours.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Directory { .. } => "directory",
            Self::S3(_) => "s3",
            Self::CloudWatchLogs(_) => "cloud-watch-logs",
            Self::Firehose(_) => "kinesis-data-firehose",
        }
    }
}

/// In a line for people.
impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Directory { root, .. } => write!(f, "{}", root.display()),
            Self::S3(S3 { bucket, folder, .. }) if folder.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3(S3 { bucket, folder, .. }) => write!(f, "s3://{bucket}/{folder}"),
            Self::CloudWatchLogs(CloudWatchLogs { group, .. }) => write!(f, "log-group:{group}"),
            Self::Firehose(Firehose { stream, .. }) => write!(f, "firehose:{stream}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_five_minutes_of_ends_or_more() {
        for (object_interval, end, slot) in [
            (0, 299, 0),
            (300, 299, 0),
            (300, 300, 300),
            (300, 1_418_530_199, 1_418_529_900),
            (300, 1_418_530_200, 1_418_530_200),
            (900, 899, 0),
            (900, 900, 900),
            (3600, 7199, 3600),
            (300, -1, -300),
        ] {
            let layout = Layout { object_interval, ..Layout::default() };
            assert_eq!(layout.slot_of(end), slot, "{end} by {object_interval}");
        }
    }
}
