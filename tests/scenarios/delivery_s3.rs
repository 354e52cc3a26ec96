//! What arrives in S3 is what AWS's own flow logs put there, and holds every packet once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::delivery::{self, ACCOUNT, BUCKET, ConfigFile, FOLDER, Name, REGION};
use flowlogd_tests::flowlogs_reader;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::Proxy;
use flowlogd_tests::steady::Steady;
use flowlogd_tests::wait_for;
use nix::sys::signal::Signal;

#[test]
fn names_and_contents_are_those_of_aws() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[delivery::s3(&proxy.url())])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(2500)?;
    let sent = traffic.stop()?;
    agent.stop_by(Signal::SIGTERM)?.expect_nothing_lost()?;

    let objects = delivery::objects_in(&moto, FOLDER)?;
    sent.expect_each_once(&objects)?;
    let windows: BTreeSet<u64> = objects.iter().flatten().map(|record| record.start).collect();
    ensure!(windows.len() >= 2, "records of {} seconds", windows.len());
    let names: Vec<Name> = moto.keys(BUCKET)?.iter().map(|key| Name::parse(key)).collect::<Result<_>>()?;
    let stamps: BTreeSet<&str> = names.iter().map(|name| name.stamp.as_str()).collect();
    ensure!(stamps.len() == names.len(), "an object per five minutes, not {names:?}");

    let reading = flowlogs_reader::s3(&pair.a, &moto, BUCKET, FOLDER)?;
    let count: usize = objects.iter().map(Vec::len).sum();
    ensure!(reading.records == count, "flowlogs-reader read {} of {count}", reading.records);
    sent.expect_flows(&reading.flows)?;
    let put = proxy.seen().into_iter().find(|seen| seen.operation == "PutObject").context("PutObject")?;
    let names: Vec<String> = put.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    ensure!(names.iter().any(|name| name.starts_with("x-amz-checksum-")), "no checksum in {names:?}");
    ensure!(!names.iter().any(|name| name == "x-amz-acl" || name == "x-amz-tagging"), "not asked for: {names:?}");
    Ok(())
}

#[test]
fn folders_by_hive_and_hour_and_tags() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let url = format!("http://{}", moto.address);
    let options = |hive: bool| {
        let hive = if hive { "true" } else { "false" };
        format!("destination-options = {{ hive-compatible-partitions = {hive}, per-hour-partition = true }}\n")
    };
    let config = ConfigFile::new(&[
        delivery::s3_in("hive", &url) + &options(true) + "tags = { team = \"network\", cost = \"4 2\" }\n",
        delivery::s3_in("hour", &url) + &options(false),
    ])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    let objects = moto.objects(BUCKET)?;
    let mut logs = BTreeSet::new();
    for folder in ["hive", "hour"] {
        let mut records = Vec::new();
        for object in objects.iter().filter(|object| object.key.starts_with(folder)) {
            let name = Name::parse(&object.key)?;
            let ([year, month, day], hour) = (name.day(), name.hour());
            let path = if folder == "hive" {
                format!(
                    "hive/AWSLogs/aws-account-id={ACCOUNT}/aws-service=vpcflowlogs/aws-region={REGION}/\
                     year={year}/month={month}/day={day}/hour={hour}/"
                )
            } else {
                format!("hour/AWSLogs/{ACCOUNT}/vpcflowlogs/{REGION}/{year}/{month}/{day}/{hour}/")
            };
            ensure!(
                object.key.strip_prefix(&path).is_some_and(|rest| !rest.contains('/')),
                "{} not in {path}",
                object.key
            );
            let tags = moto.tags(BUCKET, &object.key)?;
            let expected: &[&str] = if folder == "hive" { &["cost=4 2", "team=network"] } else { &[] };
            ensure!(tags == expected, "{tags:?}");
            records.push(flowlogd_tests::records::parse_object(&object.body)?);
            logs.insert(name.log);
        }
        sent.expect_each_once(&records).context(folder)?;
    }
    ensure!(logs.len() == 2, "two flow logs have the ids {logs:?}");
    Ok(())
}

#[test]
fn flags_make_a_flow_log() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let options = Options::on(&["a0"]).elsewhere().args(&format!(
        "--log-destination-type s3 --log-destination arn:aws:s3:::{BUCKET}/{FOLDER}/ --region {REGION} \
         --account-id {ACCOUNT} --interface-id a0={} --endpoint-url http://{} --path-style",
        delivery::ENI,
        moto.address
    ));
    let agent = Agent::start(&pair.a, &delivery::with_credentials(options))?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(500)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}

/// The agent's clock is set to shortly before the end of five minutes.
#[test]
fn an_object_at_the_end_of_five_minutes() -> Result<()> {
    const SLOT: u64 = 300;
    const BEFORE: u64 = 8;
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let log = delivery::s3(&format!("http://{}", moto.address));
    let config = ConfigFile::new(&[log])?;
    let offset = 2 * SLOT - BEFORE - flowlogd_tests::now()?.as_secs() % SLOT;
    let options = config.options().fake_time("FAKETIME", &format!("+{offset}"))?;
    let agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    // 8 s until then, 5 s to be there, and a machine that is busy with other things.
    wait_for("object", Duration::from_secs(30), || Ok((!moto.keys(BUCKET)?.is_empty()).then_some(())))?;
    let early = delivery::objects_in(&moto, FOLDER)?.concat();
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    let ends: BTreeSet<u64> = early.iter().map(|record| record.end / SLOT).collect();
    ensure!(ends.len() == 1, "records of {} times five minutes in the first object", ends.len());
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}
