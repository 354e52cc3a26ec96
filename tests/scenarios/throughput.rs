//! TCP with segmentation and merging offloads is logged as on the wire, per
//! 5-tuple, in both directions.

use anyhow::Result;
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::{TCP, expect_equal, records, traffic};

fn equals_wire(target: &str, extra: &str) -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    traffic::iperf_tcp(&path.a, &path.c, target, 5201, extra)?;
    path.settle()?;
    let stopped = agent.stop()?;
    ledger.expect_wire_sized()?;
    stopped.expect_nothing_lost()?;
    let logged = records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| flow.protocol == TCP).collect();
    expect_equal(&ledger.flows()?, &logged)
}

#[test]
fn tcp_ipv4_sent() -> Result<()> {
    equals_wire(Path::C4, "-n 50M")
}

#[test]
fn tcp_ipv4_received() -> Result<()> {
    equals_wire(Path::C4, "-n 50M -R")
}

#[test]
fn tcp_ipv6_sent() -> Result<()> {
    equals_wire(Path::C6, "-n 50M")
}

#[test]
fn tcp_ipv6_received() -> Result<()> {
    equals_wire(Path::C6, "-n 50M -R")
}
