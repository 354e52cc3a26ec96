//! Filters on the clsact queueing discipline, as kernels without TCX have them: as exact, beside the filters of others,
//! and gone with the agent.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::foreign::{Direction, Foreign, tcx_programs};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::{Flow, ICMP, Totals, expect_equal, records, traffic};

/// Everything about traffic control on a0, without counters.
fn configuration(ns: &Netns) -> Result<[String; 3]> {
    Ok([
        ns.sh("tc qdisc show dev a0")?,
        ns.sh("tc filter show dev a0 ingress")?,
        ns.sh("tc filter show dev a0 egress")?,
    ])
}

/// An agent on a0 by clsact, for one window.
fn start(pair: &Pair) -> Result<Agent> {
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).args("--attach clsact"))?;
    for direction in Direction::BOTH {
        ensure!(tcx_programs(&pair.a, "a0", direction)?.is_empty(), "attached by TCX");
    }
    Ok(agent)
}

/// Fails unless four echoes each way, and nothing else of that kind, are logged.
fn expect_four_echoes(stopped: &Stopped) -> Result<()> {
    stopped.expect_nothing_lost()?;
    let flow = |src: &str, dst: &str| -> Result<(Flow, Totals)> {
        let flow = Flow { src: src.parse()?, dst: dst.parse()?, protocol: ICMP, sport: 0, dport: 0 };
        Ok((flow, Totals { packets: 4, bytes: 336 }))
    };
    let expected = BTreeMap::from([flow(Pair::A4, Pair::B4)?, flow(Pair::B4, Pair::A4)?]);
    let logged = records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| flow.protocol == ICMP).collect();
    expect_equal(&expected, &logged)
}

#[test]
fn counts_exactly_and_leaves_nothing() -> Result<()> {
    let pair = Pair::new()?;
    let before = configuration(&pair.a)?;
    let agent = start(&pair)?;
    let during = configuration(&pair.a)?;
    ensure!(during[0].contains("clsact"), "{during:?}");
    ensure!(during[1].contains("direct-action") && during[2].contains("direct-action"), "{during:?}");
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    expect_four_echoes(&stopped)?;
    let after = configuration(&pair.a)?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    Ok(())
}

#[test]
fn what_was_there_stays() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.sh("tc qdisc add dev a0 clsact")?;
    let mut programs = Vec::new();
    for direction in Direction::BOTH {
        // In the place that the agent wants, and whoever comes after it sees nothing.
        programs.push((direction, Foreign::clsact(&pair.a, "a0", direction, "foreign_ok", 1)?));
    }
    for direction in ["ingress", "egress"] {
        // As above, of another kind.
        pair.a.sh(&format!("tc filter add dev a0 {direction} pref 2 protocol ip u32 match u32 0 0 classid 1:1"))?;
    }
    let before = configuration(&pair.a)?;
    let agent = start(&pair)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    expect_four_echoes(&stopped)?;
    let after = configuration(&pair.a)?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    traffic::ping(&pair.a, Pair::B4, 2)?;
    for (direction, program) in programs {
        let counted = program.done()?;
        ensure!(counted == 6, "{direction:?}: the program that was there counted {counted} of 6 packets");
    }
    Ok(())
}

#[test]
fn a_taken_priority_is_passed_over() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.sh("tc qdisc add dev a0 clsact")?;
    for direction in ["ingress", "egress"] {
        // No program can be attached beside a filter of another kind. It does not match what is sent here.
        pair.a.sh(&format!("tc filter add dev a0 {direction} pref 1 protocol ip u32 match ip protocol 17 0xff"))?;
    }
    let before = configuration(&pair.a)?;
    let agent = start(&pair)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    expect_four_echoes(&stopped)?;
    let warned = stopped.stderr.iter().filter(|line| line.contains("a filter comes first")).count();
    ensure!(warned == 2, "{warned} warnings: {:?}", stopped.stderr);
    let after = configuration(&pair.a)?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    Ok(())
}

/// The agent made the qdisc, and then somebody else came to use it.
#[test]
fn a_qdisc_in_use_is_not_deleted() -> Result<()> {
    let pair = Pair::new()?;
    let agent = start(&pair)?;
    let program = Foreign::clsact(&pair.a, "a0", Direction::Egress, "foreign", 7)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    expect_four_echoes(&agent.stop()?)?;
    let [qdiscs, ingress, egress] = configuration(&pair.a)?;
    ensure!(qdiscs.contains("clsact") && ingress.is_empty(), "{qdiscs}\n{ingress}");
    ensure!(egress.matches("direct-action").count() == 1 && egress.contains("pref 7"), "{egress}");
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let counted = program.done()?;
    ensure!(counted == 6, "the other program counted {counted} of 6 packets");
    Ok(())
}

/// The older `ingress` qdisc sits in the place of clsact and would run egress filters on ingress.
#[test]
fn an_ingress_qdisc_is_left_alone() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.sh("tc qdisc add dev a0 ingress")?;
    let before = configuration(&pair.a)?;
    let agent = start(&pair)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    ensure!(stopped.stderr.iter().any(|line| line.contains("cannot attach") && line.contains("ingress")));
    ensure!(stopped.records.iter().all(|record| record.flow().is_none()), "{:?}", stopped.records);
    let after = configuration(&pair.a)?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    Ok(())
}

#[test]
fn an_interface_that_goes_takes_all_along() -> Result<()> {
    let pair = Pair::new()?;
    let agent = start(&pair)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    pair.a.ip("link del a0")?;
    let stopped = agent.stop()?;
    expect_four_echoes(&stopped)?;
    ensure!(!stopped.stderr.iter().any(|line| line.contains("stays behind")), "{:?}", stopped.stderr);
    Ok(())
}
