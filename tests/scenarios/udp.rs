//! UDP segmentation counts datagrams; fragments count under their flow's ports.

use std::collections::BTreeMap;

use anyhow::Result;
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, Totals, UDP, expect_equal, records};

fn logged_udp(records: &[records::Record]) -> BTreeMap<Flow, Totals> {
    records::by_flow(records).into_iter().filter(|(flow, _)| flow.protocol == UDP).collect()
}

fn segments(from: &str, to: &str) -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let sink = Sink::new(&path.c, to, 9000)?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    traffic::udp_gso(&path.a, from, 40000, &sink, 1200, 30, 200)?;
    path.settle()?;
    let stopped = agent.stop()?;
    ledger.expect_wire_sized()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&ledger.flows()?, &logged_udp(&stopped.records))
}

/// Sent, and received: a0 sees every fragment in either direction.
fn fragments(near: &str, far: &str) -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let sink = Sink::new(&path.c, far, 9000)?;
    let back = Sink::new(&path.a, near, 9001)?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    traffic::udp(&path.a, near, 40001, &sink, 4000, 300)?;
    traffic::udp(&path.c, far, 40002, &back, 4000, 300)?;
    path.settle()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let flow = |src: &str, dst: &str, sport, dport| -> Result<Flow> {
        Ok(Flow { src: src.parse()?, dst: dst.parse()?, protocol: UDP, sport, dport })
    };
    // No other port pair was used, so the host totals are the flows' totals.
    let expected = BTreeMap::from([
        (flow(near, far, 40001, 9000)?, ledger.between(near, far, UDP)?),
        (flow(far, near, 40002, 9001)?, ledger.between(far, near, UDP)?),
    ]);
    expect_equal(&expected, &logged_udp(&stopped.records))
}

#[test]
fn segments_ipv4() -> Result<()> {
    segments(Path::A4, Path::C4)
}

#[test]
fn segments_ipv6() -> Result<()> {
    segments(Path::A6, Path::C6)
}

#[test]
fn fragments_ipv4() -> Result<()> {
    fragments(Path::A4, Path::C4)
}

#[test]
fn fragments_ipv6() -> Result<()> {
    fragments(Path::A6, Path::C6)
}
