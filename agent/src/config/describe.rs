//! A flow log as `aws ec2 describe-flow-logs` shows it. Absent members are left out; secrets are never in it.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::arn::partition;
use super::{Host, authority};
use crate::flow_log::{CloudWatchLogs, Destination, Endpoint, Firehose, FlowLog, Layout, Rewriting, S3};
use crate::identity::STAND_IN_ACCOUNT_ID;

/// AWS's members, and at the end what only a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Description {
    pub(crate) flow_log_id: String,
    pub(crate) flow_log_status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource_id: Option<String>,
    pub(crate) traffic_type: String,
    pub(crate) log_destination_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_destination: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_group_name: Option<String>,
    pub(crate) log_format: String,
    pub(crate) max_aggregation_interval: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) destination_options: Option<Options>,
    pub(crate) tags: Vec<Tag>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tag_field_specifications: Vec<TagFields>,
    /// Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address_rewriting: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) subnets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Options {
    pub(crate) file_format: String,
    pub(crate) hive_compatible_partitions: bool,
    pub(crate) per_hour_partition: bool,
    /// Ours.
    pub(crate) object_interval: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Tag {
    pub(crate) key: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TagFields {
    pub(crate) resource_type: String,
    pub(crate) tag_keys: Vec<String>,
}

impl Description {
    pub(crate) fn of(log: &FlowLog, host: &Host) -> Self {
        let mut it = Self {
            flow_log_id: log.id.clone(),
            flow_log_status: "ACTIVE".to_owned(),
            resource_id: resource_id(log, host),
            traffic_type: log.traffic_type.name().to_owned(),
            log_destination_type: "stdout".to_owned(),
            log_destination: None,
            log_group_name: None,
            log_format: log.format.to_string(),
            max_aggregation_interval: log.interval,
            destination_options: None,
            tags: log.tags.iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect(),
            tag_field_specifications: tag_fields(log),
            address_rewriting: (log.fields.rewriting == Rewriting::Aws).then(|| "aws".to_owned()),
            interfaces: log.selection.globs.clone(),
            subnets: log.selection.subnets.iter().map(ToString::to_string).collect(),
            region: None,
            endpoint_url: None,
        };
        it.set_destination(&log.destination, host);
        it
    }

    fn set_destination(&mut self, destination: &Destination, host: &Host) {
        match destination {
            Destination::Stdout => {}
            Destination::Directory { root, layout, .. } => {
                "directory".clone_into(&mut self.log_destination_type);
                self.log_destination = Some(root.display().to_string());
                self.destination_options = Some((*layout).into());
            }
            Destination::S3(S3 { bucket, folder, layout, endpoint, .. }) => {
                "s3".clone_into(&mut self.log_destination_type);
                let end = if folder.is_empty() { "" } else { "/" };
                let partition = partition(&endpoint.region);
                self.log_destination = Some(format!("arn:{partition}:s3:::{bucket}/{folder}{end}"));
                self.destination_options = Some((*layout).into());
                self.set_endpoint(endpoint);
            }
            Destination::CloudWatchLogs(CloudWatchLogs { group, endpoint, .. }) => {
                "cloud-watch-logs".clone_into(&mut self.log_destination_type);
                self.log_group_name = Some(group.clone());
                self.log_destination = arn("logs", endpoint, host, &format!("log-group:{group}"));
                self.set_endpoint(endpoint);
            }
            Destination::Firehose(Firehose { stream, endpoint, .. }) => {
                "kinesis-data-firehose".clone_into(&mut self.log_destination_type);
                let resource = format!("deliverystream/{stream}");
                self.log_destination = arn("firehose", endpoint, host, &resource).or(Some(resource));
                self.set_endpoint(endpoint);
            }
        }
    }

    fn set_endpoint(&mut self, endpoint: &Endpoint) {
        self.region = Some(endpoint.region.clone());
        self.endpoint_url = endpoint.url.as_deref().map(without_password);
    }

    /// Where records go, in one word.
    pub(crate) fn destination(&self) -> &str {
        self.log_group_name.as_deref().or(self.log_destination.as_deref()).unwrap_or("-")
    }
}

impl From<Layout> for Options {
    fn from(layout: Layout) -> Self {
        Self {
            file_format: layout.file_format.name().to_owned(),
            hive_compatible_partitions: layout.hive_compatible_partitions,
            per_hour_partition: layout.per_hour_partition,
            object_interval: layout.object_interval,
        }
    }
}

fn tag_fields(log: &FlowLog) -> Vec<TagFields> {
    let all = [("instance", &log.fields.instance_tags), ("network-interface", &log.fields.interface_tags)];
    let one = |(resource_type, tag_keys): (&str, &Vec<String>)| TagFields {
        resource_type: resource_type.to_owned(),
        tag_keys: tag_keys.clone(),
    };
    all.into_iter().filter(|(_, keys)| !keys.is_empty()).map(one).collect()
}

/// The one interface that it records, else the host's VPC, else the host.
fn resource_id(log: &FlowLog, host: &Host) -> Option<String> {
    match log.selection.globs.as_slice() {
        [name] if log.selection.subnets.is_empty() && !name.contains(['*', '?']) => Some(host.interface_id(name)),
        _ => host.vpc_id.clone().or_else(|| host.instance_id.clone()),
    }
}

/// None: nobody knows the account.
fn arn(service: &str, endpoint: &Endpoint, host: &Host, resource: &str) -> Option<String> {
    let (region, account) = (&endpoint.region, &host.identity.account_id);
    (account != STAND_IN_ACCOUNT_ID)
        .then(|| format!("arn:{}:{service}:{region}:{account}:{resource}", partition(region)))
}

pub(super) fn without_password(url: &str) -> String {
    match authority(url).rsplit_once('@') {
        Some((secret, _)) => url.replacen(&format!("{secret}@"), "", 1),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out() {
        for (url, shown) in [
            ("https://user:p@ss@host:9000/a@b", "https://host:9000/a@b"),
            ("https://host/x", "https://host/x"),
            ("http://user@host", "http://host"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
