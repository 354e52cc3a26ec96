//! A destination that is away delays nobody else, and gets everything when it is back: in order and, in S3, once.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, FOLDER, GROUP};
use flowlogd_tests::moto::Event;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::records::{self, Record};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::strict_logs::StrictLogs;
use flowlogd_tests::wait_for;
use std::time::Duration;
use tempfile::TempDir;

/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;

/// In the order of their arrival; fails unless that is the order of their time too.
fn in_order(server: &StrictLogs) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for (name, events) in server.group(GROUP).unwrap_or_default().streams {
        let late = events.windows(2).position(|pair: &[Event]| pair[0].timestamp > pair[1].timestamp);
        ensure!(late.is_none(), "event {late:?} of {name} is older than the one before");
        all.extend(events.iter().map(delivery::check_event).collect::<Result<Vec<_>>>()?);
    }
    Ok(all)
}

#[test]
fn down_for_many_windows() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let server = StrictLogs::start(&pair.a, "127.0.0.1:4001".parse()?)?;
    let (objects, events) =
        (Proxy::start(&pair.a, 4000, moto.address)?, Proxy::start(&pair.a, 4002, server.address())?);
    let beside = TempDir::new()?;
    let config = ConfigFile::new(&[
        delivery::s3_by_window(&objects.url()),
        delivery::cloud_watch_logs(&events.url()),
        delivery::directory(beside.path()),
    ])?;
    objects.set(Mode::Down)?;
    events.set(Mode::Down)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    for windows in 1..=8 {
        traffic.wait(WINDOW)?;
        // A directory is written to all the while.
        wait_for("objects in the directory", Duration::from_secs(10), || {
            Ok((records::read_objects(beside.path())?.len() >= windows).then_some(()))
        })?;
    }
    objects.set(Mode::Pass)?;
    events.set(Mode::Pass)?;
    // And not only when it stops.
    objects.wait_seen("PutObject", 8)?;
    events.wait_seen("PutLogEvents", 1)?;
    traffic.wait(WINDOW)?;
    let sent = traffic.stop()?;
    let state = agent.state_directory().to_owned();
    let keep = state.clone();
    agent.stop()?.expect_nothing_lost()?;
    drop(keep);
    sent.expect_each_once(&records::read_objects(beside.path())?)?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)?;
    server.expect_no_violation()?;
    sent.expect_each_once(&[in_order(&server)?])
}
