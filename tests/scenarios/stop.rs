//! However the agent ends, what it has written is whole and nothing stays attached.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::traffic::Sink;
use flowlogd_tests::{Hosts, ICMP, Totals, expect_equal, python, records, traffic, wait_for};
use nix::sys::signal::Signal;

/// What so many echoes are, both ways.
fn echoes(count: u64) -> Result<BTreeMap<Hosts, Totals>> {
    let totals = Totals { packets: count, bytes: count * 84 };
    let hosts =
        |src: &str, dst: &str| -> Result<Hosts> { Ok(Hosts { src: src.parse()?, dst: dst.parse()?, protocol: ICMP }) };
    Ok(BTreeMap::from([(hosts(Pair::A4, Pair::B4)?, totals), (hosts(Pair::B4, Pair::A4)?, totals)]))
}

fn icmp(records: &[records::Record]) -> BTreeMap<Hosts, Totals> {
    records::by_hosts(records).into_iter().filter(|(hosts, _)| hosts.protocol == ICMP).collect()
}

fn flushes_by(signal: Signal) -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (1, 1), "not attached by TCX");
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop_by(signal)?;
    stopped.expect_nothing_lost()?;
    expect_equal(&echoes(4)?, &icmp(&stopped.records))?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (0, 0), "still attached");
    Ok(())
}

#[test]
fn an_interrupt_flushes_the_window() -> Result<()> {
    flushes_by(Signal::SIGINT)
}

#[test]
fn a_termination_flushes_the_window() -> Result<()> {
    flushes_by(Signal::SIGTERM)
}

#[test]
fn a_kill_leaves_whole_files() -> Result<()> {
    let pair = Pair::new()?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    for _ in 0..3 {
        let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
        // Windows of many flows, so that a kill is likely to hit one being written.
        wait_for("first records", Duration::from_secs(10), || {
            traffic::udp_flows(&pair.a, Pair::A4, 20000..22000, &sink, 10, 1)?;
            Ok((!agent.records()?.is_empty()).then_some(()))
        })?;
        // Reads every object below the destination to its end.
        let left = agent.kill()?;
        ensure!(!left.is_empty(), "records went away");
    }
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&echoes(4)?, &icmp(&stopped.records))
}
