//! What arrives in CloudWatch Logs is what AWS's own flow logs put there, and holds every packet.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, ENI, GROUP};
use flowlogd_tests::flowlogs_reader;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records::{Record, Status};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::strict_logs::StrictLogs;
use serde_json::json;

#[test]
fn a_stream_for_an_interface() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let log = delivery::cloud_watch_logs(&format!("http://{}", moto.address));
    let config = ConfigFile::new(&[log + "retention-days = 30\ntags = { team = \"network\" }\n"])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(2500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    let streams = moto.streams(GROUP)?;
    ensure!(streams == [format!("{ENI}-all")], "{streams:?}");
    let records = delivery::events(&moto)?;
    let count = records.len();
    sent.expect_each_once(&[records])?;
    let reading = flowlogs_reader::logs(&pair.a, &moto, GROUP)?;
    ensure!(reading.records == count, "flowlogs-reader read {} of {count}", reading.records);
    sent.expect_flows(&reading.flows)?;
    let groups = moto.logs("DescribeLogGroups", &json!({}))?;
    ensure!(groups["logGroups"][0]["retentionInDays"] == 30, "{groups}");
    let tags = moto.logs("ListTagsLogGroup", &json!({"logGroupName": GROUP}))?;
    ensure!(tags["tags"] == json!({"team": "network"}), "{tags}");
    Ok(())
}

#[test]
fn accepted_and_rejected_in_streams_of_their_own() -> Result<()> {
    let pair = Pair::new()?;
    let server = StrictLogs::start(&pair.a, "127.0.0.1:4001".parse()?)?;
    let log = |kind: &str| delivery::cloud_watch_logs(&server.url()) + &format!("traffic-type = \"{kind}\"\n");
    let config = ConfigFile::new(&[log("ACCEPT"), log("REJECT")])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(1500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    server.expect_no_violation()?;
    let streams = server.group(GROUP).unwrap_or_default().streams;
    let mut records: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
    for (name, events) in &streams {
        records.insert(name, events.iter().map(delivery::check_event).collect::<Result<_>>()?);
    }
    let names: Vec<String> = records.keys().map(ToString::to_string).collect();
    ensure!(names == [format!("{ENI}-accept"), format!("{ENI}-reject")], "{names:?}");
    for (name, records) in &records {
        let wanted = if name.ends_with("reject") { "REJECT" } else { "ACCEPT" };
        let is_other = |record: &&Record| matches!(&record.status, Status::Ok { action, .. } if action != wanted);
        let other = records.iter().find(is_other);
        ensure!(other.is_none(), "{other:?} in {name}");
    }
    sent.expect_each_once(&records.into_values().collect::<Vec<_>>())
}
