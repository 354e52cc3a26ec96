//! Refused fragments: one by one where the firewall sees them so, and reassembled where the kernel did that first.
//! Nothing is lost either way: ACCEPT + REJECT is what was sent.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Path};
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::{Totals, UDP};

const DATAGRAMS: u64 = 50;
/// Three fragments.
const SIZE: usize = 4000;
const FRAGMENTS: u64 = 3 * DATAGRAMS;

/// Whole datagrams, with one IP header each.
fn datagrams(v4: bool) -> Totals {
    Totals { packets: DATAGRAMS, bytes: DATAGRAMS * (SIZE as u64 + if v4 { 28 } else { 48 }) }
}

/// Fragments: an IPv4 header of 20 bytes each, or an IPv6 header of 40 and a fragment header of 8.
fn fragments(v4: bool) -> Totals {
    let headers = if v4 { 20 } else { 48 };
    Totals { packets: FRAGMENTS, bytes: FRAGMENTS * headers + DATAGRAMS * (SIZE as u64 + 8) }
}

struct Seen {
    split: Split,
    matched: Totals,
}

/// Sends fragments from A; `at` refuses and logs on `device`. An observer counts them if they pass one before.
fn refuse(at: &Netns, device: &str, chain: &str, extra: Option<&str>, from: &Netns, to: &str) -> Result<Seen> {
    if let Some(rule) = extra {
        at.sh("nft add table inet tracking")?;
        at.run(&["nft", "add chain inet tracking early { type filter hook prerouting priority 0; }"])?;
        at.run(&["nft", &format!("add rule inet tracking early {rule}")])?;
    }
    let hosts = Ledger::received(at, &[device])?;
    let v4 = !to.contains(':');
    // Later fragments have no ports.
    let matching = if v4 { "ip protocol udp" } else { "ip6 daddr fd77::/16 meta l4proto udp" };
    let firewall = Firewall::new(at, chain, &[("all", matching, "drop")])?;
    let agent = Agent::start(at, &Options::on(&[device]).interval(600))?;
    policy::datagrams(from, to, 7001, SIZE, DATAGRAMS)?;
    let from = if v4 { Path::A4 } else { Path::A6 };
    hosts.wait_packets(from, to, UDP, FRAGMENTS)?;
    let arrived = hosts.between(from, to, UDP)?;
    ensure!(arrived == fragments(v4), "arrived {arrived}, not {}", fragments(v4));
    let matched = firewall.matched("all")?;
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    let split = Split::udp(&stopped, 7001, v4);
    ensure!(split.both() == fragments(v4), "{split:?}, not {}", fragments(v4));
    Ok(Seen { split, matched })
}

/// A router without connection tracking refuses each.
#[test]
fn one_by_one() -> Result<()> {
    for to in [Path::C4, Path::C6] {
        let path = Path::new()?;
        let v4 = to == Path::C4;
        let seen = refuse(&path.r, "r0", "type filter hook forward priority 0", None, &path.a, to)?;
        ensure!(seen.matched == fragments(v4), "matched {}", seen.matched);
        seen.split.expect("one by one", Split::rejected(seen.matched))?;
    }
    Ok(())
}

/// Reassembled by connection tracking on a router.
#[test]
fn reassembled_by_connection_tracking() -> Result<()> {
    for to in [Path::C4, Path::C6] {
        let path = Path::new()?;
        let v4 = to == Path::C4;
        let chain = "type filter hook forward priority 0";
        let seen = refuse(&path.r, "r0", chain, Some("ct state invalid counter"), &path.a, to)?;
        ensure!(seen.matched == datagrams(v4), "matched {}", seen.matched);
        expect_reassembled(seen, v4)?;
    }
    Ok(())
}

/// Reassembled because the host is the destination.
#[test]
fn reassembled_for_input() -> Result<()> {
    let path = Path::new()?;
    let chain = "type filter hook input priority 0";
    let seen = refuse(&path.r, "r0", chain, None, &path.a, "10.77.1.2")?;
    ensure!(seen.matched == datagrams(true), "matched {}", seen.matched);
    expect_reassembled(seen, true)
}

fn expect_reassembled(seen: Seen, v4: bool) -> Result<()> {
    seen.split.expect("reassembled", Split::rejected(fragments(v4)))
}
