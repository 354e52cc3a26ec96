//! iptables' DROP and REJECT, by both of its backends, against its own counters.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::Totals;
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::wait_for;

const DATAGRAMS: u64 = 100;

/// Packets and bytes of the rule for a port.
fn matched(ns: &Netns, program: &str, port: u16) -> Result<Totals> {
    let rules = ns.sh(&format!("{program} -vxnL INPUT"))?;
    let wanted = format!("dpt:{port}");
    let line = rules.lines().find(|line| line.contains(&wanted)).context(wanted)?;
    let mut words = line.split_whitespace();
    let (packets, bytes) = (words.next().context("packets")?, words.next().context("bytes")?);
    Ok(Totals { packets: packets.parse()?, bytes: bytes.parse()? })
}

fn drop_and_reject(backend: &str) -> Result<()> {
    let pair = Pair::new()?;
    let families = [(format!("iptables-{backend}"), Pair::B4), (format!("ip6tables-{backend}"), Pair::B6)];
    for (program, _) in &families {
        pair.b.sh(&format!("{program} -A INPUT -p udp --dport 7001 -j DROP"))?;
        pair.b.sh(&format!("{program} -A INPUT -p udp --dport 7002 -j REJECT"))?;
    }
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    let mut expected = Vec::new();
    for (program, to) in &families {
        for port in [7001, 7002, 7003] {
            policy::datagrams(&pair.a, to, port, 100, DATAGRAMS)?;
        }
        for port in [7001, 7002] {
            let counted = wait_for("refused packets", std::time::Duration::from_secs(10), || {
                let counted = matched(&pair.b, program, port)?;
                Ok((counted.packets >= DATAGRAMS).then_some(counted))
            })?;
            ensure!(counted.packets == DATAGRAMS, "{program}, port {port}: {counted}");
            expected.push((*to == Pair::B4, port, Split::rejected(counted)));
        }
        let last = expected.last().context("two rules")?.2.reject;
        expected.push((*to == Pair::B4, 7003, Split { accept: last, ..Split::default() }));
    }
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    for (v4, port, want) in expected {
        Split::udp(&stopped, port, v4).expect(&format!("port {port}"), want)?;
    }
    Ok(())
}

#[test]
fn nft_backend() -> Result<()> {
    drop_and_reject("nft")
}

#[test]
fn legacy_backend() -> Result<()> {
    drop_and_reject("legacy")
}
