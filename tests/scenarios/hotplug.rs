//! Interfaces that appear are logged within seconds; ones that go leave nothing.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{traffic, wait_for};

#[test]
fn a_new_interface_is_logged() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["hp*"]).to_stdout())?;
    pair.add_link("hp0", "hq0", 5)?;
    let target = "10.77.5.2".parse::<std::net::IpAddr>()?;
    wait_for("record of the new interface", Duration::from_secs(8), || {
        traffic::ping(&pair.a, "10.77.5.2", 1)?;
        let records = agent.records()?;
        let seen = records.iter().any(|r| r.flow().is_some_and(|(flow, _)| flow.src == target));
        Ok(seen.then_some(()))
    })?;
    agent.stop()?.expect_nothing_lost()
}

#[test]
fn a_thousand_interfaces_leave_nothing() -> Result<()> {
    const ROUNDS: usize = 10;
    const EACH: usize = 100;
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["hp*"]))?;
    let (descriptors, threads) = agent.resources()?;
    for round in 0..ROUNDS {
        let mut lines = String::new();
        for number in 0..EACH {
            writeln!(lines, "link add hp{number} group 77 type veth peer name hq{number} group 77")?;
        }
        pair.a.ip_batch(&lines)?;
        if round == 0 {
            // The measure is not empty: attachments hold descriptors.
            wait_for("attachment", Duration::from_secs(20), || {
                Ok((agent.resources()?.0 >= descriptors + EACH).then_some(()))
            })?;
        }
        pair.a.ip("link del group 77")?;
    }
    wait_for("return to the first descriptor and thread counts", Duration::from_secs(30), || {
        let (now, tasks) = agent.resources()?;
        Ok((now <= descriptors + 2 && tasks <= threads + 2).then_some(()))
    })?;
    let stopped = agent.stop()?;
    ensure!(stopped.count("windows_with_error")? == 0, "{:?}", stopped.stderr);
    Ok(())
}
