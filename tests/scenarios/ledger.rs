//! The observer itself is right: its counts equal what the senders computed,
//! while the interface under test carries super-packets. Needs no agent.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use flowlogd_tests::netns::{Pair, Path};
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{ICMP, ICMPV6, TCP, Totals, UDP};

#[test]
fn ping_is_four_echoes_each_way() -> Result<()> {
    let pair = Pair::new()?;
    let near = Ledger::received(&pair.a, &["a0"])?;
    let far = Ledger::received(&pair.b, &["b0"])?;
    for (from, to, protocol, bytes) in [(Pair::A4, Pair::B4, ICMP, 336), (Pair::A6, Pair::B6, ICMPV6, 416)] {
        traffic::ping(&pair.a, to, 4)?;
        let expected = Totals { packets: 4, bytes };
        ensure!(far.between(from, to, protocol)? == expected);
        ensure!(near.between(to, from, protocol)? == expected);
    }
    Ok(())
}

#[test]
fn udp_segments_are_counted_on_the_wire() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    for (from, to, header) in [(Path::A4, Path::C4, 28), (Path::A6, Path::C6, 48)] {
        let sink = Sink::new(&path.c, to, 9000)?;
        let before = path.a.device_packets("a0")?.1;
        traffic::udp_gso(&path.a, from, 40000, &sink, 1200, 30, 50)?;
        let buffers = path.a.device_packets("a0")?.1 - before;
        ensure!(buffers < 100, "{buffers} buffers left a0: no offload");
        let expected = Totals { packets: 1500, bytes: 1500 * (1200 + header) };
        let seen = ledger.between(from, to, UDP)?;
        ensure!(seen == expected, "{seen}, not {expected}");
        let source: IpAddr = from.parse()?;
        let by_flow: Totals =
            ledger.flows()?.iter().filter(|(flow, _)| flow.src == source).map(|(_, totals)| *totals).sum();
        ensure!(by_flow == expected, "{by_flow} by flow, not {expected}");
    }
    path.settle()?;
    ledger.expect_wire_sized()
}

#[test]
fn udp_fragments_are_counted_by_host() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    // 4000 + 8 bytes: IPv4 fragments carry up to 1480 bytes of them, IPv6 1448.
    for (from, to, bytes) in [(Path::A4, Path::C4, 4008 + 3 * 20), (Path::A6, Path::C6, 4008 + 3 * 48)] {
        let sink = Sink::new(&path.c, to, 9000)?;
        traffic::udp(&path.a, from, 40001, &sink, 4000, 200)?;
        let expected = Totals { packets: 600, bytes: 200 * bytes };
        let seen = ledger.between(from, to, UDP)?;
        ensure!(seen == expected, "{seen}, not {expected}");
    }
    path.settle()
}

#[test]
fn tcp_super_packets_cross_a0_both_ways() -> Result<()> {
    let path = Path::new()?;
    let merged = Ledger::received(&path.r, &["r0"])?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    traffic::iperf_tcp(&path.a, &path.c, Path::C4, 5201, "-n 50M")?;
    let (_, sent) = path.a.device_packets("a0")?;
    let wire = ledger.between(Path::A4, Path::C4, TCP)?;
    ensure!(wire.bytes > 50 << 20 && sent * 4 < wire.packets, "{sent} buffers, {wire}");

    traffic::iperf_tcp(&path.a, &path.c, Path::C4, 5202, "-n 50M -R")?;
    let (received, _) = path.a.device_packets("a0")?;
    let wire = ledger.between(Path::C4, Path::A4, TCP)?;
    ensure!(wire.bytes > 50 << 20, "{wire}");
    ensure!(received < wire.packets, "{received} buffers, {wire}: GRO merged none");
    let flows: Totals = ledger.flows()?.values().copied().sum();
    let hosts: Totals = ledger.hosts()?.iter().filter(|(key, _)| key.protocol == TCP).map(|(_, totals)| *totals).sum();
    path.settle()?;
    ensure!(flows == hosts, "{flows} by flow, {hosts} by host");
    ensure!(merged.expect_wire_sized().is_err(), "super-packets pass for wire packets");
    ledger.expect_wire_sized()
}
