//! `flowlogd status` and the metrics say what was on the wire, at once and again when the windows have ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options};
use flowlogd_tests::netns::{Netns, Pair, Path};
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::status::{self, interface, ip_seen, number, series, socket, value};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, UDP, wait_for};
use serde_json::Value;

/// Neighbours are looked up by ARP alone, which is no IP.
fn without_ipv6(namespaces: &[&Netns]) -> Result<()> {
    namespaces.iter().try_for_each(|ns| ns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1").map(drop))
}

/// All that the observer saw from this host.
fn from(ledger: &Ledger<'_>, address: &str) -> Result<Totals> {
    let address: std::net::IpAddr = address.parse()?;
    Ok(ledger.hosts()?.into_iter().filter(|(hosts, _)| hosts.src == address).map(|(_, totals)| totals).sum())
}

fn same(what: &str, wire: Totals, said: Totals) -> Result<()> {
    ensure!(wire == said, "{what}: on the wire {wire}, said {said}");
    Ok(())
}

fn metric(ns: &Netns, agent: &Agent, direction: &str) -> Result<Totals> {
    let all = series(&status::get(&socket(agent), "/metrics")?)?;
    let said = status::status(ns, agent)?;
    let non_ip = |what| number(interface(&said, "a0")?, &format!("/{direction}/non_ip/{what}"));
    let of = |what: &str| {
        value(&all, &format!("flowlogd_interface_{what}_total{{interface=\"a0\",direction=\"{direction}\"}}"))
    };
    Ok(Totals { packets: of("packets")? - non_ip("packets")?, bytes: of("bytes")? - non_ip("bytes")? })
}

#[test]
fn super_packets_are_counted_while_their_window_is_open() -> Result<()> {
    let path = Path::new()?;
    without_ipv6(&[&path.a, &path.r])?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let sink = Sink::new(&path.c, Path::C4, 9000)?;
    let back = Sink::new(&path.a, Path::A4, 9001)?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]).interval(600))?;
    for round in 1..=2 {
        traffic::udp_gso(&path.a, Path::A4, 40000, &sink, 1200, 30, 100)?;
        traffic::udp(&path.c, Path::C4, 40001, &back, 700, 300)?;
        traffic::ping(&path.a, Path::C4, 3)?;
        path.settle()?;
        ledger.expect_wire_sized()?;
        let (sent, received) = (from(&ledger, Path::A4)?, from(&ledger, Path::C4)?);
        ensure!(sent.packets >= round * 3003 && received.packets >= round * 303, "{sent}, {received}");
        let said = status::status(&path.a, &agent)?;
        let a0 = interface(&said, "a0")?;
        same("sent", sent, ip_seen(a0, "egress")?)?;
        same("received", received, ip_seen(a0, "ingress")?)?;
        same("sent, as a metric", sent, metric(&path.a, &agent, "egress")?)?;
        same("received, as a metric", received, metric(&path.a, &agent, "ingress")?)?;
        // Two flows of UDP and both directions of ICMP.
        ensure!(a0["flows"] == 4 && a0["hook"] == "tcx", "{a0:#}");
        ensure!(a0["ingress"]["position"] == serde_json::json!({ "at": 1, "of": 1 }), "{a0:#}");
        let entries = number(&said, "/tables/0/entries")?;
        ensure!((4..=8).contains(&entries), "{entries} entries of two CPUs");
    }
    let (sent, received) = (from(&ledger, Path::A4)?, from(&ledger, Path::C4)?);
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let seen = stopped.count("seen_packets")? - stopped.count("non_ip_packets")?;
    ensure!(seen == sent.packets + received.packets, "{seen} seen, {sent} sent, {received} received");
    Ok(())
}

/// Waits until all windows with traffic have ended and are delivered.
fn delivered(ns: &Netns, agent: &Agent, packets: u64) -> Result<Value> {
    wait_for("delivery of everything", Duration::from_secs(15), || {
        let said = status::status(ns, agent)?;
        let a0 = interface(&said, "a0")?;
        let mut logged = 0;
        for side in ["ingress", "egress"] {
            for verdict in ["accepted", "rejected"] {
                logged += number(a0, &format!("/{side}/{verdict}/packets"))?;
            }
        }
        let waits = number(&said, "/flow_logs/0/waiting/windows")?;
        let is_idle = said["flow_logs"][0]["delivery"]["state"] == "idle";
        Ok((logged >= packets && waits == 0 && is_idle).then_some(said))
    })
}

#[test]
fn what_is_refused_logged_and_delivered() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let refused = [("refused", "udp dport 9009", "drop")];
    let firewall = Firewall::new(&pair.a, "type filter hook input priority 0", &refused)?;
    let ledger = Ledger::received_and_sent(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 500)?;
    pair.b.enter(|| {
        let socket = std::net::UdpSocket::bind((Pair::B4, 40001))?;
        for _ in 0..50 {
            socket.send_to(&[0; 200], (Pair::A4, 9009))?;
        }
        Ok(())
    })?;
    let rejected = firewall.wait_matched("refused", 50)?;
    let (sent, received) = (from(&ledger, Pair::A4)?, from(&ledger, Pair::B4)?);
    ensure!(ledger.between(Pair::B4, Pair::A4, UDP)?.packets == 50 && rejected.packets == 50, "{rejected}");
    let said = delivered(&pair.a, &agent, sent.packets + received.packets)?;
    let a0 = interface(&said, "a0")?;
    let logged = |side: &str, verdict: &str| -> Result<Totals> {
        let of = |what| number(a0, &format!("/{side}/{verdict}/{what}"));
        Ok(Totals { packets: of("packets")?, bytes: of("bytes")? })
    };
    same("refused", rejected, logged("ingress", "rejected")?)?;
    same("sent", sent, logged("egress", "accepted")?)?;
    let accepted = Totals { packets: received.packets - rejected.packets, bytes: received.bytes - rejected.bytes };
    same("let through", accepted, logged("ingress", "accepted")?)?;
    let all = series(&status::get(&socket(&agent), "/metrics")?)?;
    let reject = "{interface=\"a0\",direction=\"ingress\",action=\"REJECT\"}";
    let metric = Totals {
        packets: value(&all, &format!("flowlogd_flow_packets_total{reject}"))?,
        bytes: value(&all, &format!("flowlogd_flow_bytes_total{reject}"))?,
    };
    same("refused, as a metric", rejected, metric)?;
    ensure!(value(&all, "flowlogd_windows_with_error_total")? == 0, "{all:#?}");
    ensure!(value(&all, "flowlogd_windows_total")? > 0 && value(&all, "flowlogd_verdicts_available")? == 1, "{all:#?}");
    ensure!(said["losses"].as_array().context("losses")?.iter().all(|loss| loss["count"] == 0), "{said:#}");
    ensure!(said["verdicts"]["available"] == true && said["sum_rule"]["windows_with_error"] == 0, "{said:#}");
    // Windows without traffic go on being delivered, their NODATA: between two looks at the files.
    let before = agent.records()?.len() as u64;
    let said = status::status(&pair.a, &agent)?;
    let after = agent.records()?.len() as u64;
    let delivered = number(&said, "/flow_logs/0/delivery/delivered/records")?;
    ensure!(before >= 2 && (before..=after).contains(&delivered), "{before} <= {delivered} <= {after}: {said:#}");
    ensure!(number(&said, "/flow_logs/0/delivery/delivered/calls")? > 0, "{said:#}");
    agent.stop()?.expect_nothing_lost()
}

#[test]
fn people_get_lines() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).args("--no-verdicts"))?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let directory = agent.state_directory().to_str().context("path")?;
    let lines = agent::output(&pair.a, &["status", "--state-directory", directory])?;
    let text = lines.join("\n");
    ensure!(!text.contains('\x1b'), "colours in a pipe: {text}");
    let pid = format!("pid {}", agent.pid());
    for words in [&pid, "every record is ACCEPT: turned off", "a0 ", "tcx 1/1 1/1", "ipv4 ", "fl-", "nothing lost"] {
        ensure!(text.contains(words), "no {words} in {text}");
    }
    agent.stop()?;
    let gone = agent::call(&pair.a, &[], &["status", "--state-directory", "/nonexistent"])?;
    let said = String::from_utf8(gone.stderr)?;
    ensure!(gone.status.code() == Some(1) && said.lines().count() == 1, "{:?} {said}", gone.status);
    ensure!(said.starts_with("flowlogd: no agent answers at /nonexistent/flowlogd.sock: start one"), "{said}");
    Ok(())
}
