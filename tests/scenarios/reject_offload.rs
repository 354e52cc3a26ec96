//! A refused super-packet is REJECT as the packets that it is on the wire.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Path};
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::{Flow, TCP, Totals, traffic};

const SENDS: u64 = 50;
const SEGMENTS: u16 = 30;
const SIZE: u16 = 1200;

const RULES: [(&str, &str, &str); 2] =
    [("four", "meta nfproto ipv4 udp dport 7001", "drop"), ("six", "meta nfproto ipv6 udp dport 7001", "drop")];

/// Datagrams sent by segmentation offload and refused in one piece: the sender's arithmetic, and nftables' count of
/// super-packets.
fn datagrams(hook: &str, place: impl Fn(&Path) -> (&Netns, &'static str, [&'static str; 2])) -> Result<()> {
    let path = Path::new()?;
    let (at, device, to) = place(&path);
    let firewall = Firewall::new(at, &format!("type filter hook {hook} priority 0"), &RULES)?;
    let agent = Agent::start(at, &Options::on(&[device]).interval(600))?;
    for address in to {
        policy::super_datagrams(&path.a, address, 7001, SIZE, SEGMENTS, SENDS)?;
    }
    let payload = SENDS * u64::from(SEGMENTS) * u64::from(SIZE);
    for (rule, headers) in [("four", 28), ("six", 48)] {
        let matched = firewall.wait_matched(rule, SENDS)?;
        let pieces = Totals { packets: SENDS, bytes: SENDS * headers + payload };
        ensure!(matched == pieces, "{rule}: matched {matched}: no super-packets");
    }
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    for (v4, headers) in [(true, 28), (false, 48)] {
        let packets = SENDS * u64::from(SEGMENTS);
        let wire = Totals { packets, bytes: payload + packets * headers };
        Split::udp(&stopped, 7001, v4).expect(hook, Split::rejected(wire))?;
    }
    Ok(())
}

#[test]
fn datagrams_at_input() -> Result<()> {
    datagrams("input", |path| (&path.r, "r0", ["10.77.1.2", "fd77:1::2"]))
}

#[test]
fn datagrams_at_forward() -> Result<()> {
    datagrams("forward", |path| (&path.r, "r0", [Path::C4, Path::C6]))
}

#[test]
fn datagrams_at_output() -> Result<()> {
    datagrams("output", |path| (&path.a, "a0", [Path::C4, Path::C6]))
}

/// One in fifty super-packets of a transfer.
const SOME: &str = "tcp sport 5201 meta length > 3000 numgen inc mod 50 == 0";
const SOME_SENT: &str = "tcp dport 5201 meta length > 3000 numgen inc mod 50 == 0";

/// What C sends passes the observer S as on the wire, is merged by R, and refused at `hook`.
fn received(hook: &str, far: &str, place: impl Fn(&Path) -> (&Netns, &'static str)) -> Result<()> {
    let path = Path::new()?;
    let (at, device) = place(&path);
    let ledger = Ledger::received(&path.s, &["s1"])?;
    let firewall = Firewall::new(at, &format!("type filter hook {hook} priority 0"), &[("some", SOME, "drop")])?;
    let agent = Agent::start(at, &Options::on(&[device]))?;
    traffic::iperf_tcp(&path.a, &path.c, far, 5201, "-n 20M -R")?;
    path.settle()?;
    let refused = firewall.matched("some")?;
    let stopped = agent.stop()?;
    ledger.expect_wire_sized()?;
    policy::expect_all_matched(&stopped)?;
    let is_data = |flow: &Flow| flow.protocol == TCP && flow.sport == 5201;
    let wire: Totals = ledger.flows()?.iter().filter(|(flow, _)| is_data(flow)).map(|(_, totals)| *totals).sum();
    let logged = Split::of(&stopped, is_data);
    ensure!(logged.both() == wire, "on the wire {wire}, logged {logged:?}");
    expect_pieces(logged.reject, refused, far)
}

/// `refused` super-packets are `logged` as packets with headers of their own: IP, TCP and timestamps.
fn expect_pieces(logged: Totals, refused: Totals, far: &str) -> Result<()> {
    let headers = if far.contains(':') { 72 } else { 52 };
    ensure!(refused.packets > 5, "refused {refused}");
    ensure!(logged.packets >= 2 * refused.packets, "refused {refused}, logged {logged}");
    let more = (logged.packets - refused.packets) * headers;
    ensure!(logged.bytes == refused.bytes + more, "refused {refused}, logged {logged}: {more} bytes of headers");
    Ok(())
}

#[test]
fn merged_tcp_ipv4_at_forward() -> Result<()> {
    received("forward", Path::C4, |path| (&path.r, "r1"))
}

#[test]
fn merged_tcp_ipv6_at_forward() -> Result<()> {
    received("forward", Path::C6, |path| (&path.r, "r1"))
}

#[test]
fn merged_tcp_ipv4_at_input() -> Result<()> {
    received("input", Path::C4, |path| (&path.a, "a0"))
}

#[test]
fn merged_tcp_ipv6_at_input() -> Result<()> {
    received("input", Path::C6, |path| (&path.a, "a0"))
}

/// A's own super-packets: what is not refused reaches the observer.
fn sent(far: &str) -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0"])?;
    let rule = ("some", SOME_SENT, "drop");
    let firewall = Firewall::new(&path.a, "type filter hook output priority 0", &[rule])?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    traffic::iperf_tcp(&path.a, &path.c, far, 5201, "-n 20M")?;
    path.settle()?;
    let refused = firewall.matched("some")?;
    let stopped = agent.stop()?;
    ledger.expect_wire_sized()?;
    policy::expect_all_matched(&stopped)?;
    let is_data = |flow: &Flow| flow.protocol == TCP && flow.dport == 5201;
    let wire: Totals = ledger.flows()?.iter().filter(|(flow, _)| is_data(flow)).map(|(_, totals)| *totals).sum();
    let logged = Split::of(&stopped, is_data);
    ensure!(logged.accept == wire, "on the wire {wire}, logged {logged:?}");
    expect_pieces(logged.reject, refused, far).context("OUTPUT")
}

#[test]
fn own_tcp_ipv4_at_output() -> Result<()> {
    sent(Path::C4)
}

#[test]
fn own_tcp_ipv6_at_output() -> Result<()> {
    sent(Path::C6)
}
