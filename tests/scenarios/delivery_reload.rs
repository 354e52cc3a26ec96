//! SIGHUP adds and removes flow logs under traffic: the others notice nothing, and no packet is in neither or in both.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::{self, Pair};
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::{records, status, traffic, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;

#[test]
fn one_added_one_removed_one_unchanged() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let url = format!("http://{}", moto.address);
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let log = |folder: &str| delivery::s3_in(folder, &url);
    let config = ConfigFile::new(&[log("kept"), delivery::s3_in("removed", &proxy.url())])?;
    // What is taken out has not delivered anything yet.
    proxy.set(Mode::Down)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(2 * WINDOW)?;
    config.write(&[log("added"), log("kept")])?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_said("reloaded")?;
    // It is seen until it has delivered all.
    let removed = |status: &Value| {
        let logs = status["flow_logs"].as_array().into_iter().flatten();
        logs.filter(|log| log["removed"] == true).map(|log| log["waiting"]["windows"].clone()).collect::<Vec<_>>()
    };
    let waits = removed(&status::status(&pair.a, &agent)?);
    ensure!(waits.len() == 1 && waits[0].as_u64() > Some(0), "{waits:?}");
    proxy.set(Mode::Pass)?;
    traffic.wait(2 * WINDOW)?;
    wait_for("the end of the removed flow log", Duration::from_secs(20), || {
        Ok(removed(&status::status(&pair.a, &agent)?).is_empty().then_some(()))
    })?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    sent.expect_each_once(&delivery::objects_in(&moto, "kept")?)?;
    // One has everything until the reload, and the other everything after it.
    let (removed, added) = (delivery::objects_in(&moto, "removed")?, delivery::objects_in(&moto, "added")?);
    ensure!(!removed.is_empty() && !added.is_empty(), "{} and {} objects", removed.len(), added.len());
    sent.expect_each_once(&[removed, added].concat())
}

#[test]
fn a_bad_file_is_refused_whole() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let url = format!("http://{}", moto.address);
    let config = ConfigFile::new(&[delivery::s3_in("kept", &url)])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(WINDOW)?;
    config.write(&[delivery::s3_in("added", &url), delivery::s3_in("kept", &url) + "trafic-type = \"ALL\"\n"])?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_said("not reloaded")?;
    let said = agent.said();
    let named = ["flowlogd.toml", "trafic-type", "traffic-type"];
    ensure!(said.iter().any(|line| named.iter().all(|word| line.contains(word))), "{said:?}");
    traffic.wait(WINDOW)?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    ensure!(delivery::objects_in(&moto, "added")?.is_empty(), "a part of a bad file was taken");
    sent.expect_each_once(&delivery::objects_in(&moto, "kept")?)
}

/// A pipe in conf.d is not waited for, which would hold up the windows of all.
#[test]
fn what_is_no_file_is_refused() -> Result<()> {
    let (pair, logs) = (Pair::new()?, TempDir::new()?);
    let config = ConfigFile::new(&[delivery::directory(logs.path())])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let beside = config.path().with_file_name("conf.d");
    fs::create_dir(&beside)?;
    netns::run(&["mkfifo".to_owned(), beside.join("pipe.toml").display().to_string()])?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_said("conf.d/pipe.toml: cannot be read: not a regular file")?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    agent.stop()?.expect_nothing_lost()?;
    ensure!(!records::read_directory(logs.path())?.is_empty(), "no records");
    Ok(())
}

/// One flow log whose directory cannot be made: it says so, and the others are recorded.
#[test]
fn a_directory_in_the_way_stops_nobody_else() -> Result<()> {
    let (pair, logs) = (Pair::new()?, TempDir::new()?);
    let in_the_way = logs.path().join("file");
    fs::write(&in_the_way, "")?;
    let good = logs.path().join("good");
    let config = ConfigFile::new(&[delivery::directory(&in_the_way), delivery::directory(&good)])?;
    let agent = Agent::start(&pair.a, &config.options())?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    agent.wait_said("move the file that is in the way")?;
    // What waits is delivered when it can be, and at a stop it is tried once more.
    fs::remove_file(&in_the_way)?;
    agent.stop()?.expect_nothing_lost()?;
    let sorted = |root: &Path| -> Result<Vec<String>> {
        let mut lines: Vec<String> = records::read_directory(root)?.iter().map(|it| format!("{it:?}")).collect();
        lines.sort();
        Ok(lines)
    };
    let (late, good) = (sorted(&in_the_way)?, sorted(&good)?);
    ensure!(!good.is_empty() && late == good, "{late:?} {good:?}");
    Ok(())
}
