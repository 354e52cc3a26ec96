//! What the firewall refuses is REJECT, to the packet and byte, and nothing else is. The independent count is nftables'
//! own: a counter on each rule.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::netns::{Netns, Pair, Path};
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, ICMP, TCP, Totals, policy, records};

const DROPPED: u16 = 7001;
const REFUSED: u16 = 7002;
const RESET: u16 = 7003;
const DATAGRAMS: u64 = 200;
const CONNECTIONS: u64 = 5;

/// One rule for each way to refuse and each address family.
const RULES: [(&str, &str, &str); 6] = [
    ("dropped4", "meta nfproto ipv4 udp dport 7001", "drop"),
    ("dropped6", "meta nfproto ipv6 udp dport 7001", "drop"),
    ("refused4", "meta nfproto ipv4 udp dport 7002", "reject"),
    ("refused6", "meta nfproto ipv6 udp dport 7002", "reject"),
    ("reset4", "meta nfproto ipv4 tcp dport 7003", "reject with tcp reset"),
    ("reset6", "meta nfproto ipv6 tcp dport 7003", "reject with tcp reset"),
];

fn connect(ns: &Netns, to: &str, port: u16, count: u64) -> Result<()> {
    let to = SocketAddr::new(to.parse()?, port);
    ns.enter(|| {
        for _ in 0..count {
            let result = TcpStream::connect_timeout(&to, Duration::from_secs(5));
            ensure!(result.is_err(), "connected to {to} through a rule that refuses it");
        }
        Ok(())
    })
}

/// Records to this port, split by address family.
fn to_port(flows: &BTreeMap<Flow, Totals>, port: u16, v4: bool) -> Totals {
    let wanted = flows.iter().filter(|(flow, _)| flow.dport == port && flow.src.is_ipv4() == v4);
    wanted.map(|(_, totals)| *totals).sum()
}

/// Every rule's count is under REJECT and none of it under ACCEPT.
fn expect_rules(firewall: &Firewall, stopped: &Stopped) -> Result<()> {
    let rejected = records::by_action(&stopped.records, "REJECT");
    let accepted = records::by_action(&stopped.records, "ACCEPT");
    for (name, port) in [("dropped", DROPPED), ("refused", REFUSED), ("reset", RESET)] {
        for v4 in [true, false] {
            let rule = format!("{name}{}", if v4 { 4 } else { 6 });
            let matched = firewall.matched(&rule)?;
            let (reject, accept) = (to_port(&rejected, port, v4), to_port(&accepted, port, v4));
            ensure!(reject == matched, "{rule}: matched {matched}, REJECT {reject}: {:?}", stopped.stderr);
            ensure!(accept == Totals::default(), "{rule}: ACCEPT {accept}");
        }
    }
    // What the firewall's own refusals and the neighbours' traffic came to was let through.
    let others: Vec<&Flow> = rejected.keys().filter(|flow| ![DROPPED, REFUSED, RESET].contains(&flow.dport)).collect();
    ensure!(others.is_empty(), "REJECT without a rule: {others:?}");
    stopped.expect_nothing_lost()?;
    ensure!(stopped.count("drops_unmatched_packets")? == 0, "{:?}", stopped.stderr);
    Ok(())
}

fn refuse_everything(from: &Netns, to: [&str; 2], firewall: &Firewall) -> Result<()> {
    for (address, family) in to.iter().zip([4, 6]) {
        policy::datagrams(from, address, DROPPED, 300, DATAGRAMS)?;
        policy::datagrams(from, address, REFUSED, 64, DATAGRAMS)?;
        connect(from, address, RESET, CONNECTIONS)?;
        firewall.wait_matched(&format!("dropped{family}"), DATAGRAMS)?;
        firewall.wait_matched(&format!("refused{family}"), DATAGRAMS)?;
        firewall.wait_matched(&format!("reset{family}"), CONNECTIONS)?;
    }
    Ok(())
}

#[test]
fn input() -> Result<()> {
    let pair = Pair::new()?;
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &RULES)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    refuse_everything(&pair.a, [Pair::B4, Pair::B6], &firewall)?;
    expect_rules(&firewall, &agent.stop()?)
}

#[test]
fn output() -> Result<()> {
    let pair = Pair::new()?;
    let firewall = Firewall::new(&pair.a, "type filter hook output priority 0", &RULES)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    refuse_everything(&pair.a, [Pair::B4, Pair::B6], &firewall)?;
    expect_rules(&firewall, &agent.stop()?)
}

#[test]
fn forward() -> Result<()> {
    let path = Path::new()?;
    let firewall = Firewall::new(&path.r, "type filter hook forward priority 0", &RULES)?;
    let agent = Agent::start(&path.r, &Options::on(&["r0", "r1"]).interval(600))?;
    refuse_everything(&path.a, [Path::C4, Path::C6], &firewall)?;
    expect_rules(&firewall, &agent.stop()?)
}

/// The other hooks, IPv4 datagrams: all are REJECT where they were dropped.
#[test]
fn prerouting_and_postrouting() -> Result<()> {
    let path = Path::new()?;
    let early =
        Firewall::new(&path.r, "type filter hook prerouting priority 0", &[("early", "udp dport 7001", "drop")])?;
    let late =
        Firewall::new(&path.a, "type filter hook postrouting priority 0", &[("late", "udp dport 7002", "drop")])?;
    let router = Agent::start(&path.r, &Options::on(&["r0"]).interval(600))?;
    let sender = Agent::start(&path.a, &Options::on(&["a0"]).interval(600))?;
    policy::datagrams(&path.a, Path::C4, 7001, 200, 50)?;
    policy::datagrams(&path.a, Path::C4, 7002, 200, 50)?;
    for (firewall, rule, agent, port) in [(early, "early", router, 7001), (late, "late", sender, 7002)] {
        let matched = firewall.wait_matched(rule, 50)?;
        let stopped = agent.stop()?;
        stopped.expect_nothing_lost()?;
        let rejected = to_port(&records::by_action(&stopped.records, "REJECT"), port, true);
        let accepted = to_port(&records::by_action(&stopped.records, "ACCEPT"), port, true);
        ensure!(rejected == matched && accepted == Totals::default(), "{rule}: {matched}, {rejected}, {accepted}");
    }
    Ok(())
}

/// AWS's example of a stateless ACL: the echo comes in, its reply is refused on the way out.
#[test]
fn an_echo_let_in_and_its_reply_refused() -> Result<()> {
    let pair = Pair::new()?;
    let rule = ("reply", "icmp type echo-reply", "drop");
    let _firewall = Firewall::new(&pair.b, "type filter hook output priority 0", &[rule])?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    // Fails, as no reply comes.
    let _ = pair.a.run(&["ping", "-c", "4", "-i", "0.2", "-W", "1", Pair::B4]);
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let four = Totals { packets: 4, bytes: 336 };
    let flow = |src: &str, dst: &str| -> Result<Flow> {
        Ok(Flow { src: src.parse()?, dst: dst.parse()?, protocol: ICMP, sport: 0, dport: 0 })
    };
    let accepted = records::by_action(&stopped.records, "ACCEPT");
    let rejected = records::by_action(&stopped.records, "REJECT");
    ensure!(accepted.get(&flow(Pair::A4, Pair::B4)?) == Some(&four), "{accepted:?}");
    ensure!(rejected.get(&flow(Pair::B4, Pair::A4)?) == Some(&four), "{rejected:?}");
    ensure!(!accepted.contains_key(&flow(Pair::B4, Pair::A4)?), "{accepted:?}");
    Ok(())
}

/// A rule that changes in the middle of a window: two records of one 5-tuple, and their sum is what was sent.
#[test]
fn a_rule_flipped_within_a_window() -> Result<()> {
    let pair = Pair::new()?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 472, 300)?;
    let firewall =
        Firewall::new(&pair.b, "type filter hook input priority 0", &[("flipped", "udp dport 9000", "drop")])?;
    pair.a.enter(|| {
        let socket = UdpSocket::bind((Pair::A4, 40000))?;
        for _ in 0..200 {
            socket.send_to(&[0; 472], (Pair::B4, 9000))?;
        }
        Ok(())
    })?;
    firewall.wait_matched("flipped", 200)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let of = |action| to_port(&records::by_action(&stopped.records, action), 9000, true);
    ensure!(of("ACCEPT") == Totals { packets: 300, bytes: 150_000 }, "ACCEPT {}", of("ACCEPT"));
    ensure!(of("REJECT") == Totals { packets: 200, bytes: 100_000 }, "REJECT {}", of("REJECT"));
    Ok(())
}

/// `--traffic-type` writes one side and leaves the sums alone.
#[test]
fn traffic_types() -> Result<()> {
    let pair = Pair::new()?;
    let _firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &RULES)?;
    let start =
        |kind| Agent::start(&pair.b, &Options::on(&["b0"]).interval(600).args(&format!("--traffic-type {kind}")));
    let agents = [("ACCEPT", start("ACCEPT")?), ("REJECT", start("REJECT")?)];
    policy::datagrams(&pair.a, Pair::B4, DROPPED, 100, 20)?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    for (kind, agent) in agents {
        let stopped = agent.stop()?;
        stopped.expect_nothing_lost()?;
        let other = if kind == "ACCEPT" { "REJECT" } else { "ACCEPT" };
        ensure!(!records::by_action(&stopped.records, kind).is_empty(), "{kind}: {:?}", stopped.records);
        ensure!(records::by_action(&stopped.records, other).is_empty(), "{kind}: {:?}", stopped.records);
    }
    Ok(())
}

/// Drops that are nobody's policy stay ACCEPT.
#[test]
fn no_false_reject() -> Result<()> {
    let path = Path::new()?;
    let agents = [
        Agent::start(&path.r, &Options::on(&["r0"]).interval(600))?,
        Agent::start(&path.c, &Options::on(&["c0"]).interval(600))?,
    ];
    // No listener, then a time to live that ends at R, then a receive buffer that is never read.
    policy::datagrams(&path.a, Path::C4, 9, 100, 50)?;
    connect(&path.a, Path::C4, 9, 3)?;
    let _ = path.a.run(&["ping", "-c", "3", "-i", "0.2", "-W", "1", "-t", "1", Path::C4]);
    path.c.enter(|| {
        let full = UdpSocket::bind((Path::C4, 9001))?;
        policy::datagrams(&path.a, Path::C4, 9001, 1000, 2000)?;
        drop(full);
        Ok(())
    })?;
    // And a checksum that is wrong, to somebody who listens.
    let wrong = "import socket, struct, sys\n\
                 raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)\n\
                 for _ in range(20): raw.sendto(struct.pack('!HHHH', 40000, 9002, 12, 0xdead) + b'abcd', (sys.argv[1], 0))";
    path.c.enter(|| {
        let listener = UdpSocket::bind((Path::C4, 9002))?;
        listener.set_read_timeout(Some(Duration::from_millis(200)))?;
        path.a.run(&["python3", "-c", wrong, Path::C4])?;
        ensure!(listener.recv(&mut [0; 16]).is_err(), "a wrong checksum was delivered");
        Ok(())
    })?;
    path.a.wait_tcp_closed()?;
    for agent in agents {
        let stopped = agent.stop()?;
        stopped.expect_nothing_lost()?;
        let rejected = records::by_action(&stopped.records, "REJECT");
        ensure!(rejected.is_empty(), "{rejected:?}");
        let accepted = records::by_action(&stopped.records, "ACCEPT");
        ensure!(to_port(&accepted, 9001, true).packets == 2000, "{accepted:?}");
        ensure!(to_port(&accepted, 9002, true) == Totals { packets: 20, bytes: 20 * 32 }, "{accepted:?}");
        ensure!(accepted.keys().any(|flow| flow.dport == 9 && flow.protocol == TCP), "{accepted:?}");
    }
    Ok(())
}

/// Another namespace with the same addresses and interface index drops; this one logs nothing of it.
#[test]
fn drops_of_another_namespace_are_not_ours() -> Result<()> {
    let (ours, theirs) = (Pair::new()?, Pair::new()?);
    let firewall = Firewall::new(&theirs.b, "type filter hook input priority 0", &RULES)?;
    let agent = Agent::start(&ours.b, &Options::on(&["b0"]).interval(600))?;
    policy::datagrams(&ours.a, Pair::B4, DROPPED, 100, 30)?;
    policy::datagrams(&theirs.a, Pair::B4, DROPPED, 100, 30)?;
    firewall.wait_matched("dropped4", 30)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(records::by_action(&stopped.records, "REJECT").is_empty(), "{:?}", stopped.records);
    let accepted = to_port(&records::by_action(&stopped.records, "ACCEPT"), DROPPED, true);
    ensure!(accepted == Totals { packets: 30, bytes: 30 * 128 }, "{accepted}");
    Ok(())
}

/// A kernel that does not tell why it drops: everything is ACCEPT, and that is said once.
fn everything_is_accept(options: Options, warnings: usize) -> Result<()> {
    let pair = Pair::new()?;
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &RULES)?;
    let agent = Agent::start(&pair.b, &options.interval(600))?;
    policy::datagrams(&pair.a, Pair::B4, DROPPED, 100, 20)?;
    let matched = firewall.wait_matched("dropped4", 20)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(stopped.count("verdicts")? == 0, "{:?}", stopped.stderr);
    let said = stopped.stderr.iter().filter(|line| line.contains("every record will be ACCEPT")).count();
    ensure!(said == warnings, "said {said} times: {:?}", stopped.stderr);
    ensure!(records::by_action(&stopped.records, "REJECT").is_empty(), "{:?}", stopped.records);
    let accepted = to_port(&records::by_action(&stopped.records, "ACCEPT"), DROPPED, true);
    ensure!(accepted == matched, "{accepted}, not {matched}");
    Ok(())
}

#[test]
fn a_kernel_without_btf() -> Result<()> {
    everything_is_accept(Options::on(&["b0"]).after("mount -t tmpfs none /sys/kernel/btf"), 1)
}

#[test]
fn verdicts_turned_off() -> Result<()> {
    everything_is_accept(Options::on(&["b0"]).args("--no-verdicts"), 0)
}
