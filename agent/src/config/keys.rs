//! The table of keys: what may be said where.
#![forbid(unsafe_code)]

/// AWS's `--log-destination-type`, and two of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    CloudWatchLogs,
    Firehose,
    Directory,
    Stdout,
}

use Kind::{CloudWatchLogs, Directory, Firehose, S3, Stdout};

pub(super) const KINDS: [(&str, Kind); 5] = [
    ("s3", S3),
    ("cloud-watch-logs", CloudWatchLogs),
    ("kinesis-data-firehose", Firehose),
    ("directory", Directory),
    ("stdout", Stdout),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

const ALL: &[Kind] = &[S3, CloudWatchLogs, Firehose, Directory, Stdout];
const AWS: &[Kind] = &[S3, CloudWatchLogs, Firehose];
const OBJECTS: &[Kind] = &[S3, Directory];

/// With the destinations that each is for. The names of `aws ec2 create-flow-logs` first.
pub(super) const FLOW_LOG: &[(&str, &[Kind])] = &[
    ("traffic-type", ALL),
    ("log-destination-type", ALL),
    ("log-destination", &[S3, CloudWatchLogs, Firehose, Directory]),
    ("log-group-name", &[CloudWatchLogs]),
    ("log-format", ALL),
    ("tag-field-specifications.instance", ALL),
    ("tag-field-specifications.network-interface", ALL),
    ("max-aggregation-interval", ALL),
    ("destination-options.file-format", OBJECTS),
    ("destination-options.hive-compatible-partitions", OBJECTS),
    ("destination-options.per-hour-partition", OBJECTS),
    ("tags", ALL),
    ("address-rewriting", ALL),
    ("interfaces", ALL),
    ("subnets", ALL),
    ("object-interval", OBJECTS),
    ("kms-key", &[S3]),
    ("bucket-owner-full-control", &[S3]),
    ("retention-days", &[CloudWatchLogs, Directory]),
    ("retention-bytes", &[Directory]),
    ("framing", &[Firehose]),
    ("region", AWS),
    ("endpoint-url", AWS),
    ("path-style", &[S3]),
    ("profile", AWS),
];

/// Tables that are there once.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    (
        "host",
        &[
            "account-id",
            "region",
            "vpc-id",
            "subnet-id",
            "instance-id",
            "az-id",
            "sublocation-type",
            "sublocation-id",
            "traffic-path",
            "ip-ranges",
            "labels",
            "interface-labels",
            "vpc-cidrs",
            "subnet-cidrs",
            "interface-ids",
        ],
    ),
    ("spool", &["max-bytes"]),
    ("exclusions", &["log-excluded"]),
    (
        "agent",
        &[
            "state-directory",
            "bpf-directory",
            "socket",
            "no-verdicts",
            "flow-table-slots",
            "overflow-slots",
            "shutdown-seconds",
        ],
    ),
    ("metrics", &["listen", "textfile"]),
];

/// What people bring along from AWS, and what there is instead.
const INSTEAD: &[(&str, &str)] = &[
    ("deliver-logs-permission-arn", "a host has no such role; its permissions are those of the AWS credential chain"),
    ("deliver-cross-account-role", "a host has no such role; use a profile with role_arn"),
    ("resource-ids", "a host's resources are chosen with interfaces and subnets"),
    ("resource-type", "a host's resources are chosen with interfaces and subnets"),
    ("tag-specifications", "use tags = { key = \"value\" }"),
];

/// The keys of a table.
pub(super) fn of(table: &str) -> Vec<&'static str> {
    match TABLES.iter().find(|(name, _)| *name == table) {
        Some((_, keys)) => keys.to_vec(),
        None => FLOW_LOG.iter().map(|(key, _)| *key).collect(),
    }
}

/// Why a key is not taken, and which one is meant.
pub(super) fn unknown(table: &str, key: &str) -> String {
    let key = key.to_ascii_lowercase().replace('_', "-");
    if is_credential(&key) {
        return "credentials do not belong here, use the AWS credential chain: profile, environment, \
                credential_process or instance role"
            .to_owned();
    }
    if let Some((_, instead)) = INSTEAD.iter().find(|(name, _)| *name == key) {
        return format!("is not known; {instead}");
    }
    let tables = TABLES.iter().map(|(name, _)| *name).chain(["flow-log"]);
    if let Some(other) = tables.filter(|other| *other != table).find(|other| of(other).contains(&key.as_str())) {
        return format!("is not known here; it belongs in {}", bracketed(other));
    }
    format!("is not known; did you mean {}?", nearest(&key, of(table)).unwrap_or_default())
}

pub(super) fn is_credential(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('_', "-");
    ["secret", "access-key", "session-token", "password", "credential"].iter().any(|word| key.contains(word))
}

/// As it is written in a file.
fn bracketed(table: &str) -> String {
    if table == "flow-log" { "[[flow-log]]".to_owned() } else { format!("[{table}]") }
}

/// By edit distance; of a dotted key the last part counts as well.
pub(super) fn nearest(key: &str, known: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let last = |text: &'static str| text.rsplit('.').next().unwrap_or(text);
    known.into_iter().min_by_key(|known| {
        strsim::osa_distance(key, known).min(strsim::osa_distance(key.rsplit('.').next().unwrap_or(key), last(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_key_is_named() {
        for (table, key, said) in [
            ("flow-log", "trafic-type", "is not known; did you mean traffic-type?"),
            ("flow-log", "TrafficType", "is not known; did you mean traffic-type?"),
            ("flow-log", "max_aggregation_interval", "is not known; did you mean max-aggregation-interval?"),
            ("flow-log", "per-hour-partitions", "is not known; did you mean destination-options.per-hour-partition?"),
            (
                "flow-log",
                "destination-options.fileformat",
                "is not known; did you mean destination-options.file-format?",
            ),
            ("flow-log", "account-id", "is not known here; it belongs in [host]"),
            ("host", "log-format", "is not known here; it belongs in [[flow-log]]"),
            ("flow-log", "resource_ids", "is not known; a host's resources are chosen with interfaces and subnets"),
        ] {
            assert_eq!(unknown(table, key), said, "{key}");
        }
        assert!(unknown("flow-log", "aws_secret_access_key").contains("credential chain"));
    }
}
