//! SIGHUP adds and removes flow logs under traffic: the others notice nothing, and no packet is in neither or in both.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::steady::Steady;
use nix::sys::signal::Signal;

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
    proxy.set(Mode::Pass)?;
    traffic.wait(2 * WINDOW)?;
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
