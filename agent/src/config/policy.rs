//! Which AWS permissions a flow log's calls need, and the policy document that grants them and nothing else.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::arn::partition;
use crate::flow_log::{CloudWatchLogs, Destination, Firehose, FlowLog, S3};
use crate::identity::{Identity, STAND_IN_ACCOUNT_ID};

/// One action on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permission {
    pub(crate) action: &'static str,
    pub(crate) resource: String,
}

pub(crate) fn permissions(log: &FlowLog, identity: &Identity) -> Vec<Permission> {
    match &log.destination {
        Destination::Stdout | Destination::Directory { .. } => Vec::new(),
        Destination::S3(s3) => of_s3(s3, !log.tags.is_empty(), identity),
        Destination::CloudWatchLogs(logs) => of_logs(logs, !log.tags.is_empty(), identity),
        Destination::Firehose(firehose) => of_firehose(firehose, identity),
    }
}

fn of_s3(s3: &S3, tags: bool, identity: &Identity) -> Vec<Permission> {
    let folder = if s3.folder.is_empty() { String::new() } else { format!("{}/", s3.folder) };
    let hive = if s3.layout.hive_compatible_partitions { "aws-account-id=" } else { "" };
    let (bucket, account) = (&s3.bucket, &identity.account_id);
    let partition = partition(&s3.endpoint.region);
    let objects = format!("arn:{partition}:s3:::{bucket}/{folder}AWSLogs/{hive}{account}/*");
    let mut actions = vec!["s3:PutObject"];
    actions.extend(tags.then_some("s3:PutObjectTagging"));
    actions.extend(s3.bucket_owner_full_control.then_some("s3:PutObjectAcl"));
    let mut all = on(&actions, &objects);
    if let Some(key) = &s3.kms_key {
        all.extend(on(&["kms:GenerateDataKey"], key));
    }
    all
}

fn of_logs(logs: &CloudWatchLogs, tags: bool, identity: &Identity) -> Vec<Permission> {
    let group = arn("logs", &logs.endpoint.region, identity, &format!("log-group:{}", logs.group));
    let mut actions = vec!["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"];
    actions.extend(logs.retention_days.map(|_| "logs:PutRetentionPolicy"));
    let mut all = on(&actions, &format!("{group}:*"));
    // Policies name a group with `:*`, but for tagging.
    all.extend(tags.then(|| on(&["logs:TagResource"], &group)).into_iter().flatten());
    all
}

fn of_firehose(firehose: &Firehose, identity: &Identity) -> Vec<Permission> {
    let stream = format!("deliverystream/{}", firehose.stream);
    on(&["firehose:PutRecordBatch"], &arn("firehose", &firehose.endpoint.region, identity, &stream))
}

/// A host that belongs to no account delivers to that of its credentials, which we do not know.
fn arn(service: &str, region: &str, identity: &Identity, resource: &str) -> String {
    let account = if identity.account_id == STAND_IN_ACCOUNT_ID { "*" } else { &identity.account_id };
    format!("arn:{}:{service}:{region}:{account}:{resource}", partition(region))
}

fn on(actions: &[&'static str], resource: &str) -> Vec<Permission> {
    actions.iter().map(|action| Permission { action, resource: resource.to_owned() }).collect()
}

/// An identity policy, in the order that people write one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Document {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    action: BTreeSet<&'static str>,
    resource: Vec<String>,
}

/// For all of them. Resources with the same actions share a statement.
pub(crate) fn document(logs: &[FlowLog], identity: &Identity) -> Document {
    let mut by_resource: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for permission in logs.iter().flat_map(|log| permissions(log, identity)) {
        by_resource.entry(permission.resource).or_default().insert(permission.action);
    }
    let mut by_actions: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for (resource, actions) in by_resource {
        by_actions.entry(actions).or_default().push(resource);
    }
    let statement = |(action, resource)| Statement { effect: "Allow", action, resource };
    Document { version: "2012-10-17", statement: by_actions.into_iter().map(statement).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, Tables};
    use serde_json::{Value, json};

    /// Of flow logs as they are written in a file.
    fn policy(text: &str) -> Value {
        let path = std::path::Path::new("f");
        let mut tables = Tables::empty(path);
        crate::config::file::parse(&mut tables, path, text, true).unwrap();
        let config = tables.build(&Surroundings::default()).unwrap();
        serde_json::to_value(document(&config.logs, &config.host.identity)).unwrap()
    }

    #[test]
    fn nothing_more_than_the_calls_need() {
        let text = r#"
            [[flow-log]]
            log-destination-type = "s3"
            log-destination = "arn:aws:s3:::logs"
            [[flow-log]]
            log-destination-type = "s3"
            log-destination = "arn:aws:s3:::logs/hive/"
            destination-options.hive-compatible-partitions = true
            [[flow-log]]
            log-destination-type = "s3"
            log-destination = "arn:aws:s3:::other"
            kms-key = "arn:aws:kms:eu-west-1:123456789012:key/k"
            bucket-owner-full-control = true
            tags = { a = "b" }
            [[flow-log]]
            log-destination-type = "kinesis-data-firehose"
            log-destination = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/s"
            [[flow-log]]
            log-destination-type = "stdout"
            [host]
            account-id = "123456789012"
            region = "eu-west-1"
        "#;
        let statements = policy(text)["Statement"].clone();
        let statement = |actions: &[&str], resources: &[&str]| json!({ "Effect": "Allow", "Action": actions, "Resource": resources });
        let expected = [
            statement(&["firehose:PutRecordBatch"], &["arn:aws:firehose:eu-west-1:123456789012:deliverystream/s"]),
            statement(&["kms:GenerateDataKey"], &["arn:aws:kms:eu-west-1:123456789012:key/k"]),
            statement(
                &["s3:PutObject"],
                &[
                    "arn:aws:s3:::logs/AWSLogs/123456789012/*",
                    "arn:aws:s3:::logs/hive/AWSLogs/aws-account-id=123456789012/*",
                ],
            ),
            statement(
                &["s3:PutObject", "s3:PutObjectAcl", "s3:PutObjectTagging"],
                &["arn:aws:s3:::other/AWSLogs/123456789012/*"],
            ),
        ];
        assert_eq!(statements, json!(expected));
    }

    #[test]
    fn of_a_log_group() {
        let group = "[[flow-log]]\nlog-destination-type = \"cloud-watch-logs\"\nlog-group-name = \"g\"\nregion = \"cn-north-1\"\n";
        let statement =
            |actions: &[&str], resource: &str| json!({ "Effect": "Allow", "Action": actions, "Resource": [resource] });
        // The account is not known.
        let whole = "arn:aws-cn:logs:cn-north-1:*:log-group:g";
        let actions = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"];
        let plain = json!([statement(&actions, &format!("{whole}:*"))]);
        assert_eq!(policy(group)["Statement"], plain);
        let actions = [actions.as_slice(), &["logs:PutRetentionPolicy"]].concat();
        let more = json!([statement(&actions, &format!("{whole}:*")), statement(&["logs:TagResource"], whole)]);
        assert_eq!(policy(&format!("{group}retention-days = 1\ntags = {{ a = \"b\" }}"))["Statement"], more);
        let nothing = policy("[[flow-log]]\nlog-destination-type = \"stdout\"");
        assert_eq!(nothing, json!({ "Version": "2012-10-17", "Statement": [] }));
    }
}
