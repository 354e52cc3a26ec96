//! Another program's traffic control works on, during the agent's run and after.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::{ICMP, Totals, python, records, traffic};

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
