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
    /// `fl-` and 17 hex digits, a digest of the host's identity and of all the settings below but `spool_bytes_max`.
    pub(crate) id: String,
    pub(crate) selection: Selection,
    pub(crate) traffic_type: TrafficType,
    /// Seconds.
    pub(crate) interval: u32,
    pub(crate) format: Format,
    pub(crate) destination: Destination,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) spool_bytes_max: u64,
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
    Directory { root: PathBuf, layout: Layout },
    S3(S3),
    CloudWatchLogs(CloudWatchLogs),
    Firehose(Firehose),
}

/// How objects are named and how long one is collected for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) hive_compatible_partitions: bool,
    pub(crate) per_hour_partition: bool,
    /// Seconds, a multiple of 300; 0: an object for each window.
    pub(crate) object_interval: u32,
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
