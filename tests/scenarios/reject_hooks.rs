//! Refusals at the edges of the stack: nftables' device hooks, the reverse-path filter, a filter on a socket.

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::{Netns, Pair, Path};
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::{Totals, python, traffic, wait_for};

const DATAGRAMS: u64 = 100;

const RULES: [(&str, &str, &str); 2] =
    [("four", "meta protocol ip udp dport 7001", "drop"), ("six", "meta protocol ip6 udp dport 7001", "drop")];

/// Refuses at a device of `at`; the agent there says so, once.
fn at_device(at: &Netns, device: &str, hook: &str, from: &Netns, to: [&str; 2], logged_on: &str) -> Result<()> {
    let chain = format!("type filter hook {hook} device \"{device}\" priority 0");
    let firewall = Firewall::new(at, &chain, &RULES)?;
    let agent = Agent::start(at, &Options::on(&[logged_on]).interval(600))?;
    for address in to {
        policy::datagrams(from, address, 7001, 333, DATAGRAMS)?;
        // And some that nobody refuses.
        policy::datagrams(from, address, 7002, 333, DATAGRAMS)?;
    }
    let four = firewall.wait_matched("four", DATAGRAMS)?;
    let six = firewall.wait_matched("six", DATAGRAMS)?;
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    for (v4, matched) in [(true, four), (false, six)] {
        ensure!(matched.packets == DATAGRAMS, "matched {matched}");
        Split::udp(&stopped, 7001, v4).expect(hook, Split::rejected(matched))?;
        Split::udp(&stopped, 7002, v4).expect("let through", Split { accept: matched, ..Split::default() })?;
    }
    Ok(())
}

#[test]
fn netdev_ingress() -> Result<()> {
    let pair = Pair::new()?;
    at_device(&pair.b, "b0", "ingress", &pair.a, [Pair::B4, Pair::B6], "b0")
}

/// Before our classifier, which never sees these.
#[test]
fn netdev_egress() -> Result<()> {
    let pair = Pair::new()?;
    at_device(&pair.a, "a0", "egress", &pair.a, [Pair::B4, Pair::B6], "a0")
}

/// A forwarded packet is refused where it came in, wherever on its way through the host that happens.
#[test]
fn netdev_egress_of_a_router() -> Result<()> {
    let path = Path::new()?;
    at_device(&path.r, "r1", "egress", &path.a, [Path::C4, Path::C6], "r0")
}

/// A source that cannot come from here, by the kernel's own count.
#[test]
fn reverse_path_filter() -> Result<()> {
    let pair = Pair::new()?;
    pair.add_link("a1", "b1", 9)?;
    pair.b.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.b1.rp_filter=1")?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0", "b1"]).interval(600))?;
    // B knows A's address behind b0; it comes by the other link.
    pair.a.ip("route add 10.77.0.2/32 via 10.77.9.2 dev a1 src 10.77.0.1")?;
    policy::datagrams(&pair.a, Pair::B4, 7001, 100, DATAGRAMS)?;
    pair.a.ip("route del 10.77.0.2/32")?;
    policy::datagrams(&pair.a, Pair::B4, 7002, 100, DATAGRAMS)?;
    let refused = wait_for("refused packets", std::time::Duration::from_secs(10), || {
        let refused = reverse_path_drops(&pair.b)?;
        Ok((refused >= DATAGRAMS).then_some(refused))
    })?;
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    let all = Totals { packets: refused, bytes: refused * 128 };
    ensure!(refused == DATAGRAMS, "refused {refused}");
    Split::udp(&stopped, 7001, true).expect("spoofed", Split::rejected(all))?;
    Split::udp(&stopped, 7002, true).expect("from its own link", Split { accept: all, ..Split::default() })
}

fn reverse_path_drops(ns: &Netns) -> Result<u64> {
    let table = ns.sh("cat /proc/net/netstat")?;
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(name, _)| *name == "IPReversePathFilter").context("IPReversePathFilter")?;
    Ok(value.parse()?)
}

/// A process refuses for its own socket. The sender's arithmetic is the count.
#[test]
fn socket_filter() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(600))?;
    for (address, port) in [(Pair::B4, 7001), (Pair::B6, 7002)] {
        let _deaf = python::deaf_socket(&pair.b, address, port)?;
        policy::datagrams(&pair.a, address, port, 100, DATAGRAMS)?;
        // A round trip behind them: all have arrived.
        traffic::ping(&pair.a, address, 1)?;
    }
    let stopped = agent.stop()?;
    policy::expect_all_matched(&stopped)?;
    for (port, v4, size) in [(7001, true, 128), (7002, false, 148)] {
        let all = Totals { packets: DATAGRAMS, bytes: DATAGRAMS * size };
        Split::udp(&stopped, port, v4).expect("filtered", Split::rejected(all))?;
    }
    Ok(())
}
