//! A host with a container behind a bridge and address translation: each interface logs what nftables counts at that
//! very interface, and what the host refuses is REJECT where it came in.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::container::Container;
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, ICMP, TCP, Totals, UDP, expect_equal, records};

const DATAGRAMS: u64 = 100;
const SIZE: usize = 172;
const SENT: Totals = Totals { packets: DATAGRAMS, bytes: DATAGRAMS * 200 };

fn agent_on(ns: &Netns, device: &str) -> Result<Agent> {
    Agent::start(ns, &Options::on(&[device]).interval(600))
}

fn accepted(totals: Totals) -> Split {
    Split { accept: totals, ..Split::default() }
}

/// Out by masquerade and in by a published port, TCP and UDP, both directions.
#[test]
fn every_interface_logs_its_own() -> Result<()> {
    let net = Container::new()?;
    net.publish(8080, 5202)?;
    let host = net.host();
    let watched: Vec<_> = ["v0", "br0", "b0"].into_iter().map(|device| watch(host, device)).collect::<Result<_>>()?;
    // At the ends TCP makes super-packets; their wire is what the other end of the link receives and sends.
    let ends = [(agent_on(&net.inside, "c0")?, 0), (agent_on(&net.pair.a, "a0")?, 2)];
    traffic::iperf_tcp(&net.inside, &net.pair.a, Pair::A4, 5201, "-n 5M")?;
    traffic::iperf_tcp(&net.inside, &net.pair.a, Pair::A4, 5203, "-n 5M -R")?;
    let server = traffic::iperf_server(&net.inside, 5202)?;
    net.pair.a.sh(&traffic::iperf_line(Pair::B4, 8080, "-n 5M"))?;
    server.finish(std::time::Duration::from_secs(10))?;
    let sink = Sink::new(&net.pair.a, Pair::A4, 9000)?;
    traffic::udp(&net.inside, Container::INSIDE, 40000, &sink, SIZE, 200)?;
    for ns in [&net.inside, &net.pair.a] {
        ns.wait_tcp_closed()?;
    }
    let mut wires = Vec::new();
    for (ledgers, agent) in watched {
        let mut wire = BTreeMap::new();
        for ledger in ledgers {
            ledger.expect_wire_sized()?;
            wire.extend(ledger.flows()?);
        }
        // Two connections of each transfer, both ways, and the datagrams.
        ensure!(wire.len() == 13, "{} flows: {wire:?}", wire.len());
        expect_logged(agent, &wire)?;
        wires.push(wire);
    }
    for (agent, link) in ends {
        expect_logged(agent, &wires[link])?;
    }
    Ok(())
}

/// Counters and an agent at one interface; no flow is in both counters.
fn watch<'a>(ns: &'a Netns, device: &str) -> Result<([Ledger<'a>; 2], Agent)> {
    Ok(([Ledger::arriving(ns, device)?, Ledger::leaving(ns, device)?], agent_on(ns, device)?))
}

fn expect_logged(agent: Agent, wire: &BTreeMap<Flow, Totals>) -> Result<()> {
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    let ported = |flow: &Flow| [TCP, UDP].contains(&flow.protocol);
    let logged = records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| ported(flow)).collect();
    expect_equal(wire, &logged).with_context(|| stopped.stderr.join("; "))
}

/// What a container sends is refused on the bridge, where it came in; its port and the uplink refuse nothing.
#[test]
fn a_containers_traffic_refused_in_forward() -> Result<()> {
    let net = Container::new()?;
    let rules = [("out", "udp dport 7001", "drop")];
    let firewall = Firewall::new(net.host(), "type filter hook forward priority 0", &rules)?;
    let [port, bridge, uplink] = ["v0", "br0", "b0"].map(|device| agent_on(net.host(), device));
    let (port, bridge, uplink) = (port?, bridge?, uplink?);
    policy::datagrams(&net.inside, Pair::A4, 7001, SIZE, DATAGRAMS)?;
    let matched = firewall.wait_matched("out", DATAGRAMS)?;
    ensure!(matched == SENT, "matched {matched}");
    for (agent, want) in [(port, accepted(SENT)), (bridge, Split::rejected(SENT)), (uplink, Split::default())] {
        let stopped = agent.stop()?;
        policy::expect_all_matched(&stopped)?;
        Split::udp(&stopped, 7001, true).expect("to 7001", want)?;
    }
    Ok(())
}

/// Refused behind the translation, the packet has other addresses than it came with.
fn published(chain: &str, matching: &str) -> Result<(Stopped, Totals)> {
    let net = Container::new()?;
    net.publish(7001, 7002)?;
    let firewall = Firewall::new(net.host(), chain, &[("in", matching, "drop")])?;
    let agent = agent_on(net.host(), "b0")?;
    policy::datagrams(&net.pair.a, Pair::B4, 7001, SIZE, DATAGRAMS)?;
    let matched = firewall.wait_matched("in", DATAGRAMS)?;
    Ok((agent.stop()?, matched))
}

#[test]
fn a_published_port_refused_in_forward() -> Result<()> {
    let (stopped, matched) = published("type filter hook forward priority 0", "udp dport 7002")?;
    ensure!(matched == SENT, "matched {matched}");
    policy::expect_all_matched(&stopped)?;
    Split::udp(&stopped, 7001, true).expect("as it came", Split::rejected(SENT))?;
    Split::udp(&stopped, 7002, true).expect("as translated", Split::default())
}

/// Before the translation: the control of the one above.
#[test]
fn a_published_port_refused_before_translation() -> Result<()> {
    let (stopped, matched) = published("type filter hook prerouting priority -150", "udp dport 7001")?;
    ensure!(matched == SENT, "matched {matched}");
    policy::expect_all_matched(&stopped)?;
    Split::udp(&stopped, 7001, true).expect("as it came", Split::rejected(SENT))
}

/// The answer to a masqueraded packet, refused behind the translation back.
#[test]
fn an_answer_refused_in_forward() -> Result<()> {
    let net = Container::new()?;
    let rules = [("answer", "udp sport 9000", "drop")];
    let firewall = Firewall::new(net.host(), "type filter hook forward priority 0", &rules)?;
    let [uplink, bridge] = ["b0", "br0"].map(|device| agent_on(net.host(), device));
    let (uplink, bridge) = (uplink?, bridge?);
    let server = net.pair.a.enter(|| Ok(std::net::UdpSocket::bind((Pair::A4, 9000))?))?;
    net.inside.enter(|| {
        let client = std::net::UdpSocket::bind((Container::INSIDE, 40000))?;
        client.send_to(&[0; SIZE], (Pair::A4, 9000))?;
        Ok(())
    })?;
    server.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let (_, from) = server.recv_from(&mut [0; SIZE])?;
    ensure!(from.ip().to_string() == Pair::B4, "not masqueraded: {from}");
    for _ in 0..DATAGRAMS {
        server.send_to(&[0; SIZE], from)?;
    }
    let matched = firewall.wait_matched("answer", DATAGRAMS)?;
    ensure!(matched == SENT, "matched {matched}");
    let uplink = uplink.stop()?;
    policy::expect_all_matched(&uplink)?;
    let answers = |flow: &Flow| flow.sport == 9000 && flow.dst.to_string() == Pair::B4;
    Split::of(&uplink, answers).expect("as it came", Split::rejected(SENT))?;
    let others = Split::of(&uplink, |flow| flow.sport == 9000 && flow.dst.to_string() != Pair::B4);
    others.expect("as translated", Split::default())?;
    let bridge = bridge.stop()?;
    Split::of(&bridge, |flow| flow.sport == 9000).expect("never reached the bridge", Split::default())
}

/// Both address families: what is redirected to another port of this host and refused there.
#[test]
fn a_redirected_port_refused_at_input() -> Result<()> {
    let pair = Pair::new()?;
    pair.b.run(&["nft", "add table inet nat"])?;
    pair.b.run(&["nft", "add chain inet nat in { type nat hook prerouting priority dstnat; }"])?;
    pair.b.run(&["nft", "add rule inet nat in udp dport 7001 redirect to :7002"])?;
    let rules =
        [("four", "meta nfproto ipv4 udp dport 7002", "drop"), ("six", "meta nfproto ipv6 udp dport 7002", "drop")];
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
    let agent = agent_on(&pair.b, "b0")?;
    for (to, rule) in [(Pair::B4, "four"), (Pair::B6, "six")] {
        policy::datagrams(&pair.a, to, 7001, SIZE, DATAGRAMS)?;
        firewall.wait_matched(rule, DATAGRAMS)?;
    }
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    for (v4, rule) in [(true, "four"), (false, "six")] {
        Split::udp(&stopped, 7001, v4).expect(rule, Split::rejected(firewall.matched(rule)?))?;
        Split::udp(&stopped, 7002, v4).expect(rule, Split::default())?;
    }
    Ok(())
}

/// A protocol without ports, whose identifier connection tracking keeps where ports would be.
#[test]
fn an_echo_reply_refused_in_forward() -> Result<()> {
    let net = Container::new()?;
    let rules = [("reply", "icmp type echo-reply", "drop")];
    let firewall = Firewall::new(net.host(), "type filter hook forward priority 0", &rules)?;
    let agent = agent_on(net.host(), "b0")?;
    // Fails, as no reply comes.
    let _ = net.inside.run(&["ping", "-c", "4", "-i", "0.2", "-W", "1", Pair::A4]);
    let matched = firewall.wait_matched("reply", 4)?;
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    let (outside, host) = (Pair::A4.parse()?, Pair::B4.parse()?);
    let reply = Flow { src: outside, dst: host, protocol: ICMP, sport: 0, dport: 0 };
    let request = Flow { src: host, dst: outside, ..reply };
    Split::of(&stopped, |flow| *flow == reply).expect("reply", Split::rejected(matched))?;
    Split::of(&stopped, |flow| *flow == request).expect("request", accepted(matched))
}
