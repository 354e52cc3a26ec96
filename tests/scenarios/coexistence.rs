//! Another program's traffic control works on, during the agent's run and after.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::foreign::{Direction, Foreign, tcx_programs};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::traffic::Sink;
use flowlogd_tests::{Hosts, ICMP, Totals, expect_equal, python, records, traffic};

/// Packets through the clsact queueing discipline, both directions.
fn clsact_packets(ns: &Netns) -> Result<u64> {
    let text = ns.sh("tc -s qdisc show dev a0 clsact")?;
    let (_, rest) = text.split_once("bytes ").with_context(|| text.clone())?;
    let (count, _) = rest.split_once(" pkt").with_context(|| text.clone())?;
    Ok(count.parse()?)
}

fn configuration(ns: &Netns) -> Result<[String; 4]> {
    Ok([
        ns.sh("tc qdisc show dev a0")?,
        ns.sh("tc filter show dev a0 ingress")?,
        ns.sh("tc filter show dev a0 egress")?,
        ns.ip("-d link show dev a0")?,
    ])
}

#[test]
fn classifiers_see_every_packet_and_stay() -> Result<()> {
    let pair = Pair::new()?;
    let ledger = Ledger::received(&pair.a, &["a0"])?;
    pair.a.sh("tc qdisc add dev a0 clsact")?;
    for direction in ["ingress", "egress"] {
        pair.a.sh(&format!("tc filter add dev a0 {direction} protocol ip u32 match u32 0 0 classid 1:1"))?;
    }
    let before = configuration(&pair.a)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let start = clsact_packets(&pair.a)?;
    traffic::ping(&pair.a, Pair::B4, 10)?;
    let during = clsact_packets(&pair.a)? - start;
    ensure!(during >= 20, "the classifiers saw {during} of 20 packets");
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let after = configuration(&pair.a)?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    let echoes = ledger.between(Pair::B4, Pair::A4, ICMP)?;
    ensure!(echoes == Totals { packets: 10, bytes: 840 }, "{echoes}");
    let logged: Vec<_> =
        records::by_hosts(&stopped.records).into_iter().filter(|(hosts, _)| hosts.protocol == ICMP).collect();
    ensure!(logged.len() == 2 && logged.iter().all(|(_, totals)| *totals == echoes), "{logged:?}");
    let start = clsact_packets(&pair.a)?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    ensure!(clsact_packets(&pair.a)? >= start + 4, "classifiers stopped with the agent");
    Ok(())
}

/// Two agents are each other's foreign TCX program.
#[test]
fn two_agents_count_the_same() -> Result<()> {
    let pair = Pair::new()?;
    let options = Options::on(&["a0"]).interval(600);
    let first = Agent::start(&pair.a, &options)?;
    let second = Agent::start(&pair.a, &options)?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (2, 2), "not two programs each way");
    traffic::ping(&pair.a, Pair::B4, 5)?;
    let first = first.stop()?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (1, 1), "the first took the second along");
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let second = second.stop()?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (0, 0), "still attached");
    for (stopped, packets) in [(first, 5), (second, 9)] {
        stopped.expect_nothing_lost()?;
        let logged: Vec<_> =
            records::by_hosts(&stopped.records).into_iter().filter(|(hosts, _)| hosts.protocol == ICMP).collect();
        let echoes = Totals { packets, bytes: packets * 84 };
        ensure!(logged.len() == 2 && logged.iter().all(|(_, totals)| *totals == echoes), "{logged:?}, not {echoes}");
    }
    Ok(())
}

fn ipv4(hosts: BTreeMap<Hosts, Totals>) -> BTreeMap<Hosts, Totals> {
    hosts.into_iter().filter(|(hosts, _)| hosts.src.is_ipv4()).collect()
}

/// Fails unless each program has counted what the far end has seen in its direction.
fn expect_counted(programs: &[(Direction, Foreign)], ledger: &Ledger, when: &str) -> Result<()> {
    let a0: std::net::IpAddr = Pair::A4.parse()?;
    let hosts = ipv4(ledger.hosts()?);
    for (direction, program) in programs {
        let wire: Totals = hosts
            .iter()
            .filter(|(hosts, _)| (hosts.src == a0) == (*direction == Direction::Egress))
            .map(|(_, totals)| *totals)
            .sum();
        let counted = program.done()?;
        ensure!(counted == wire.packets, "{when}, {direction:?}: counted {counted}, on the wire {wire}");
    }
    Ok(())
}

/// A TCX program of somebody else's counts the same packets as the far end before, during and after the agent's run,
/// and so does the agent.
#[test]
fn a_tcx_program_counts_on() -> Result<()> {
    let pair = Pair::new()?;
    let all = Ledger::received_and_sent(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let mut programs = Vec::new();
    for direction in Direction::BOTH {
        programs.push((direction, Foreign::tcx(&pair.a, "a0", direction, "foreign")?));
    }
    let ids = programs.iter().map(|(_, program)| program.ids()).collect::<Result<Vec<_>>>()?;
    let send = |count| -> Result<()> {
        traffic::ping(&pair.a, Pair::B4, 3)?;
        traffic::udp(&pair.a, Pair::A4, 40000, &sink, 700, count)
    };

    send(50)?;
    expect_counted(&programs, &all, "before")?;
    let before = ipv4(all.hosts()?);

    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    for ((direction, _), (_, program)) in programs.iter().zip(&ids) {
        let order = tcx_programs(&pair.a, "a0", *direction)?;
        ensure!(order.len() == 2 && order.contains(program), "{direction:?}: {order:?} without {program}");
        ensure!(order[1] == *program, "{direction:?}: {order:?}, the agent is not first");
    }
    send(500)?;
    expect_counted(&programs, &all, "during")?;
    let mut expected = ipv4(all.hosts()?);
    for (hosts, totals) in before {
        let now = expected.entry(hosts).or_default();
        *now = Totals { packets: now.packets - totals.packets, bytes: now.bytes - totals.bytes };
    }
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&expected, &ipv4(records::by_hosts(&stopped.records)))?;

    send(50)?;
    expect_counted(&programs, &all, "after")?;
    for ((direction, program), ids) in programs.iter().zip(ids) {
        ensure!(program.ids()? == ids, "{direction:?}: another link or program");
        let left = tcx_programs(&pair.a, "a0", *direction)?;
        ensure!(left == [ids.1], "{direction:?}: {left:?} attached, not {} alone", ids.1);
    }
    Ok(())
}

/// A program that says "accept" and not "next" ends the chain: behind it nobody sees a packet.
#[test]
fn a_program_that_ends_the_chain_hides_nothing() -> Result<()> {
    let pair = Pair::new()?;
    let attach = |direction| Foreign::tcx(&pair.a, "a0", direction, "foreign_ok");
    let programs = [attach(Direction::Ingress)?, attach(Direction::Egress)?];
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let logged = records::by_hosts(&stopped.records);
    let echoes = logged.iter().filter(|(hosts, _)| hosts.protocol == ICMP).map(|(_, totals)| *totals);
    ensure!(echoes.clone().count() == 2 && echoes.clone().all(|totals| totals.bytes == 336), "{logged:?}");
    ensure!(programs[0].done()? >= 4 && programs[1].done()? >= 4, "the foreign programs have counted less");
    Ok(())
}
