//! Super-packets with VLAN tags are logged as the packets they are on the wire, without their tags. The tags come from
//! another program, which shows that the agent measures what the kernel holds at that moment.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::foreign::{Direction, Foreign};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, expect_equal, records};

/// The link between A and R carries tags; S, behind R, sees the same packets without.
fn equals_wire(push: &str, tags: u64, near: &str, far: &str) -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let ends = [(&path.a, "a0"), (&path.r, "r0")];
    let on = |direction, program: &str| -> Result<Vec<Foreign>> {
        ends.iter().map(|(ns, device)| Foreign::tcx(ns, device, direction, program)).collect()
    };
    // Who takes tags off comes first: the kernels send packets of their own.
    let popping = on(Direction::Ingress, "pop_tags")?;
    // Before the first of these.
    let agents = [Agent::start(&path.a, &Options::on(&["a0"]))?, Agent::start(&path.r, &Options::on(&["r0"]))?];
    // And after these, so that what leaves has its tags already.
    let pushing: Vec<Foreign> = ends
        .iter()
        .map(|(ns, device)| Foreign::tcx_first(ns, device, Direction::Egress, push))
        .collect::<Result<_>>()?;
    traffic::iperf_tcp(&path.a, &path.c, far, 5201, "-n 20M")?;
    traffic::iperf_tcp(&path.a, &path.c, far, 5202, "-n 20M -R")?;
    let sink = Sink::new(&path.c, far, 9000)?;
    traffic::udp_gso(&path.a, near, 40000, &sink, 1200, 30, 50)?;
    path.settle()?;
    ledger.expect_wire_sized()?;
    let wire = ledger.flows()?;
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let (pushed, popped) = (pushing[sender].done()?, popping[receiver].done()?);
        ensure!(pushed == popped, "{pushed} tags pushed, {popped} popped");
        let source: std::net::IpAddr = if sender == 0 { near } else { far }.parse()?;
        let sent: Totals = wire.iter().filter(|(flow, _)| flow.src == source).map(|(_, totals)| *totals).sum();
        ensure!(pushed > 0 && pushed < tags * sent.packets, "{pushed} tags on {sent}: no super-packets");
    }
    for (side, agent) in ["A", "R"].into_iter().zip(agents) {
        let stopped = agent.stop()?;
        stopped.expect_nothing_lost()?;
        let logged =
            records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| wire.contains_key(flow)).collect();
        expect_equal(&wire, &logged).with_context(|| format!("at {side}"))?;
    }
    Ok(())
}

#[test]
fn one_tag_ipv4() -> Result<()> {
    equals_wire("push_tag", 1, Path::A4, Path::C4)
}

#[test]
fn one_tag_ipv6() -> Result<()> {
    equals_wire("push_tag", 1, Path::A6, Path::C6)
}

#[test]
fn two_tags_ipv4() -> Result<()> {
    equals_wire("push_two_tags", 2, Path::A4, Path::C4)
}

#[test]
fn two_tags_ipv6() -> Result<()> {
    equals_wire("push_two_tags", 2, Path::A6, Path::C6)
}
