//! Killed while it delivers, while it cannot, and where a crash could lose or double something, the agent does neither.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, faults_binary};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::delivery::{self, ConfigFile, FOLDER};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::records;
use flowlogd_tests::steady::Steady;
use tempfile::TempDir;

/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;

#[test]
fn in_an_outage() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&proxy.url()), delivery::cloud_watch_logs(&proxy.url())])?;
    let pins = BpfFs::new()?;
    let options = config.options_in(&pins);
    proxy.set(Mode::Down)?;
    let mut agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    for _ in 0..4 {
        traffic.wait(WINDOW + WINDOW / 2)?;
        agent.kill()?;
        traffic.wait(100)?;
        agent = Agent::start(&pair.a, &options)?;
    }
    proxy.set(Mode::Pass)?;
    traffic.wait(WINDOW)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    ensure!(delivery::is_delivered(pins.state())?, "something is left in the spool");
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)?;
    // No call was under way at a kill: none is repeated.
    sent.expect_each_once(&[delivery::events(&moto)?])
}

#[test]
fn in_uploads() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[
        delivery::s3_by_window(&proxy.url()),
        delivery::cloud_watch_logs(&proxy.url()),
        delivery::firehose(&proxy.url()),
    ])?;
    let pins = BpfFs::new()?;
    let options = config.options_in(&pins);
    let mut agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    for _ in 0..5 {
        proxy.set(Mode::Latency(Duration::from_secs(1)))?;
        let count = |operation: &str| proxy.seen().iter().filter(|seen| seen.operation == operation).count();
        // Its answer is a second away: the agent never knows whether it was done.
        proxy.wait_seen("PutObject", count("PutObject") + 1)?;
        agent.kill()?;
        proxy.set(Mode::Pass)?;
        agent = Agent::start(&pair.a, &options)?;
        traffic.wait(WINDOW)?;
    }
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    ensure!(delivery::is_delivered(pins.state())?, "something is left in the spool");
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)?;
    sent.expect_each_once(&[delivery::distinct(delivery::events(&moto)?)])?;
    sent.expect_each_once(&[delivery::distinct(delivery::hosed(&moto)?)])
}

/// As in `fault_points.rs`, in the spool and in what makes objects of it.
const DEATHS: [&str; 14] = [
    "spool-written:1",
    "spool-named:1",
    "spool-written:3",
    "spool-named:3",
    "batch-made:1",
    "batch-made:2",
    "revealed:1",
    "revealed:2",
    "segment-removed:1",
    "segment-removed:2",
    "batch-made:1",
    "segment-removed:1",
    "spool-named:2",
    "spool-written:2",
];

#[test]
fn at_each_place() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let beside = TempDir::new()?;
    let url = format!("http://{}", moto.address);
    let config = ConfigFile::new(&[delivery::s3_by_window(&url), delivery::directory(beside.path())])?;
    let pins = BpfFs::new()?;
    let options = config.options_in(&pins).program(&faults_binary()?);
    let first = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(100)?;
    first.kill()?;
    for death in DEATHS {
        let agent = Agent::spawn(&pair.a, &options.clone().env("FLOWLOGD_FAULT", death))?;
        agent.wait_killed().with_context(|| death.to_owned())?;
        traffic.wait(50)?;
    }
    let last = Agent::start(&pair.a, &options)?;
    let sent = traffic.stop()?;
    last.stop()?.expect_nothing_lost()?;
    ensure!(delivery::is_delivered(pins.state())?, "something is left in the spool");
    sent.expect_each_once(&records::read_objects(beside.path())?)?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}
