//! On a disk or in a spool that is full the agent goes on, and what it had to give up is counted.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, FOLDER};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::records::{self, Record};
use flowlogd_tests::small_disk::SmallDisk;
use flowlogd_tests::steady::Steady;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::wait_for;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;

#[test]
fn a_full_disk() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let disk = SmallDisk::new(4096)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&format!("http://{}", moto.address))])?;
    let agent = Agent::start(&pair.a, &config.options().state_in(disk.path()))?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(WINDOW)?;
    disk.fill()?;
    agent.wait_said("No space left on device")?;
    traffic.wait(4 * WINDOW)?;
    let while_full = delivery::objects_in(&moto, FOLDER)?.len();
    disk.clear()?;
    // It recovers by itself, and not when it stops.
    wait_for("objects", Duration::from_secs(30), || {
        Ok((delivery::objects_in(&moto, FOLDER)?.len() >= while_full + 2).then_some(()))
    })?;
    let sent = traffic.stop()?;
    let stopped = agent.stop()?;
    let said = stopped.stderr.iter().filter(|line| line.contains("No space left on device")).count();
    ensure!(said <= 4, "said {said} times: {:?}", stopped.stderr);
    // The kernel counts on meanwhile: nothing had to be given up.
    stopped.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}

/// The spool takes what is left of the disk while S3 is away; what S3 then takes makes room for what waits in memory.
#[test]
fn delivery_makes_room() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let disk = SmallDisk::new(4096)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&proxy.url())])?;
    let agent = Agent::start(&pair.a, &config.options().state_in(disk.path()))?;
    let traffic = Steady::start(&pair)?;
    proxy.set(Mode::Down)?;
    traffic.wait(6 * WINDOW)?;
    disk.fill()?;
    agent.wait_said("not spooled, waits in memory")?;
    traffic.wait(2 * WINDOW)?;
    proxy.set(Mode::Pass)?;
    agent.wait_said("the spool can be written again")?;
    let sent = traffic.stop()?;
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}

/// Neither spool nor journal have room, and the agent is to stop: what is lost with it is counted.
#[test]
fn a_stop_on_a_full_disk() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let disk = SmallDisk::new(4096)?;
    let config = ConfigFile::new(&[])?;
    let logs = [delivery::s3_by_window(&format!("http://{}", moto.address))];
    config.write_with("[agent]\nshutdown-seconds = 2\n", &logs)?;
    let options = config.options().state_in(disk.path());
    let agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    disk.fill()?;
    agent.wait_said("not spooled, waits in memory")?;
    traffic.wait(3 * WINDOW)?;
    traffic.stop()?;
    agent.signal(Signal::SIGTERM)?;
    let (code, said) = agent.wait_exit()?;
    let lost =
        said.iter().filter_map(|line| line.strip_prefix("flowlogd: lost up to ")?.split(' ').next()?.parse().ok());
    let lost: Vec<u64> = lost.collect();
    ensure!(code == Some(1) && lost.len() == 1 && lost[0] >= 3, "{code:?} {said:?}");
    // Nothing that is left is in the way of the next one.
    disk.clear()?;
    let agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(WINDOW)?;
    traffic.stop()?;
    agent.stop()?.expect_nothing_lost()
}

fn lines(objects: &[Vec<Record>]) -> BTreeSet<String> {
    objects.iter().flatten().map(|record| format!("{record:?}")).collect()
}

#[test]
fn a_full_spool() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let (state, beside) = (TempDir::new()?, TempDir::new()?);
    let config = ConfigFile::new(&[])?;
    let logs = [delivery::s3_by_window(&proxy.url()), delivery::directory(beside.path())];
    config.write_with("[spool]\nmax-bytes = \"64KiB\"\n", &logs)?;
    proxy.set(Mode::Down)?;
    let agent = Agent::start(&pair.a, &config.options().state_in(state.path()))?;
    let steady = Steady::start(&pair)?;
    let sink = Sink::new(&pair.b, Pair::B4, 9500)?;
    // Some 12 bytes a record on disk.
    for _ in 0..8 {
        traffic::udp_flows(&pair.a, Pair::A4, 20_000..23_000, &sink, 100, 1)?;
        steady.wait(WINDOW)?;
    }
    agent.wait_said("is full (65536 bytes)")?;
    proxy.set(Mode::Pass)?;
    let sent = steady.stop()?;
    agent.stop()?.expect_nothing_lost()?;

    let all = records::read_objects(beside.path())?;
    sent.expect_each_once(&all)?;
    let arrived = delivery::objects_in(&moto, FOLDER)?;
    let (all, arrived) = (lines(&all), lines(&arrived));
    ensure!(arrived.is_subset(&all), "S3 has records that the directory has not");
    let status = delivery::status(state.path(), FOLDER)?;
    let missing = all.len() - arrived.len();
    ensure!(missing > 0 && status["dropped"]["records"] == missing, "{missing} records are missing: {status}");
    ensure!(delivery::is_delivered(state.path())?, "something is left in the spool");
    Ok(())
}
