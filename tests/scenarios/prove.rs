//! `flowlogd prove` finds no difference where there is none, and each where there is one; it leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use flowlogd_tests::agent::{self, Agent, Options, binary};
use flowlogd_tests::foreign::{Direction, Foreign};
use flowlogd_tests::netns::{Netns, Pair, Path};
use flowlogd_tests::nft::{Firewall, Ledger};
use flowlogd_tests::prove::{Proof, Prove};
use flowlogd_tests::status::number;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, python, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Neighbours are looked up by ARP alone.
fn without_ipv6(namespaces: &[&Netns]) -> Result<()> {
    namespaces.iter().try_for_each(|ns| ns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1").map(drop))
}

/// Nor are there reports of multicast groups (RFC 3810), which come when they like and are in no ledger.
fn without_reports(namespaces: &[&Netns]) -> Result<()> {
    for ns in namespaces {
        ns.run(&["nft", "add table inet quiet"])?;
        ns.run(&["nft", "add chain inet quiet out { type filter hook output priority 0; }"])?;
        ns.run(&["nft", "add rule inet quiet out icmpv6 type 143 drop"])?;
    }
    Ok(())
}

fn wire(proof: &Proof, direction: &str) -> Result<Totals> {
    totals(proof.at("a0", direction)?, "wire")
}

fn totals(one: &Value, what: &str) -> Result<Totals> {
    let of = |unit: &str| number(one, &format!("/found/{what}/{unit}"));
    Ok(Totals { packets: of("packets")?, bytes: of("bytes")? })
}

/// A difference of exactly this much.
fn expect_difference(proof: &Proof, direction: &str, packets: i64, bytes: i64) -> Result<()> {
    let one = proof.at("a0", direction)?;
    let exactly = |value: i64| json!({ "min": value, "max": value });
    ensure!(one["found"]["packets"] == exactly(packets) && one["found"]["bytes"] == exactly(bytes), "{one:#}");
    Ok(())
}

/// All that the observer saw from this host.
fn from(ledger: &Ledger<'_>, address: &str) -> Result<Totals> {
    let address: std::net::IpAddr = address.parse()?;
    Ok(ledger.hosts()?.into_iter().filter(|(hosts, _)| hosts.src == address).map(|(_, totals)| totals).sum())
}

/// Super-packets both ways, fragments, and what is smaller than a frame: the totals are the observer's.
#[test]
fn a_right_agent_is_proved_to_the_byte() -> Result<()> {
    let path = Path::new()?;
    without_reports(&[&path.a, &path.r])?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let ends = [(Path::A4, Path::C4), (Path::A6, Path::C6)];
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    let prove = Prove::start(&path.a, &agent)?;
    for ((near, far), port) in ends.into_iter().zip([5201, 5211]) {
        traffic::iperf_tcp(&path.a, &path.c, far, port, "-n 20M")?;
        traffic::iperf_tcp(&path.a, &path.c, far, port + 1, "-n 20M -R")?;
        let (sink, back) = (Sink::new(&path.c, far, port + 2)?, Sink::new(&path.a, near, port + 3)?);
        traffic::udp_gso(&path.a, near, 40000, &sink, 1200, 30, 50)?;
        traffic::udp(&path.a, near, 40001, &sink, 4000, 50)?;
        traffic::udp(&path.c, far, 40002, &back, 4000, 50)?;
        traffic::udp(&path.a, near, 40003, &sink, 3, 50)?;
        traffic::udp(&path.c, far, 40004, &back, 0, 50)?;
        traffic::ping(&path.a, far, 2)?;
    }
    path.settle()?;
    let proof = prove.finish()?;
    ledger.expect_wire_sized()?;
    proof.expect_exact()?;
    for (direction, [v4, v6]) in [("egress", [Path::A4, Path::A6]), ("ingress", [Path::C4, Path::C6])] {
        let observed: Totals = [from(&ledger, v4)?, from(&ledger, v6)?].into_iter().sum();
        let proved = wire(&proof, direction)?;
        ensure!(proved == observed, "{direction}: proved {proved}, on the wire {observed}");
        let one = proof.at("a0", direction)?;
        ensure!(totals(one, "counter")?.packets < proved.packets, "no super-packets: {one:#}");
        ensure!(one["device_agrees"] == true, "{one:#}");
    }
    agent.stop()?.expect_nothing_lost()
}

/// An Ethernet frame to a0 that holds a UDP datagram without payload, behind `tags`, padded to 60 bytes.
fn padded(tags: &[u16]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0x77, 0, 1, 2, 0, 0, 0x77, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(100u16.to_be_bytes());
    }
    frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([10, 77, 0, 2, 10, 77, 0, 1]);
    frame.extend([0x9c, 0x40, 0x23, 0x28, 0, 8, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// ARP, tags in the metadata and in the data, and padding, which is no IP byte.
#[test]
fn what_is_around_a_packet_is_no_difference() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let prove = Prove::start(&pair.a, &agent)?;
    pair.a.ip(&format!("neigh del {} dev a0", Pair::B4))?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let kinds: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8, 0x8100], &[0x8100, 0x8100, 0x8100]];
    let frames: Vec<Vec<u8>> = kinds.iter().map(|tags| padded(tags)).collect();
    python::send_frames(&pair.b, "b0", &frames)?;
    // Tags are in the data on the way out.
    python::send_frames(&pair.a, "a0", &frames)?;
    let proof = prove.finish()?;
    proof.expect_exact()?;
    // Two answers and one to ARP, and the frames; the other way the same.
    let arp = 46;
    let received = wire(&proof, "ingress")?;
    ensure!(received.packets >= 7 && received.bytes >= 2 * 84 + 28 + 4 * 28, "{received}");
    ensure!(received.bytes <= received.packets * 84 + arp, "{received}");
    agent.stop()?.expect_nothing_lost()
}

/// Without an Ethernet header.
#[test]
fn devices_without_link_layer_headers() -> Result<()> {
    let ns = Netns::new()?;
    ns.ip_batch("tuntap add mode tun name t0\nlink set t0 up\naddr add 10.77.9.1/24 dev t0\n")?;
    let echo = python::tun_echo(&ns, "t0", 50)?;
    wait_for("reader of the tun device", Duration::from_secs(10), || {
        Ok(ns.ip("-o link show dev t0")?.contains("LOWER_UP").then_some(()))
    })?;
    let agent = Agent::start(&ns, &Options::on(&["t0", "lo"]))?;
    let prove = Prove::start(&ns, &agent)?;
    ns.enter(|| {
        let socket = std::net::UdpSocket::bind("10.77.9.1:40000")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        for size in 0..50 {
            socket.send_to(&vec![7; size], "10.77.9.2:9000")?;
            socket.recv(&mut [0; 2048])?;
        }
        Ok(())
    })?;
    echo.finish(Duration::from_secs(10))?;
    traffic::ping(&ns, "127.0.0.1", 2)?;
    let proof = prove.finish()?;
    proof.expect_exact()?;
    let sent = Totals { packets: 50, bytes: (0..50).map(|size| 28 + size).sum() };
    let read = totals(proof.at("t0", "ingress")?, "wire")?;
    ensure!(read == sent, "{read}, not {sent}");
    let pinged = Totals { packets: 4, bytes: 4 * 84 };
    ensure!(totals(proof.at("lo", "egress")?, "wire")? == pinged, "{:#}", proof.report);
    agent.stop()?.expect_nothing_lost()
}

const DROPPED: u64 = 13;
const SIZE: u64 = 100;

/// Datagrams that the program of somebody else's drops, and some that it lets through.
fn send_and_drop(from: &Netns, to: &str, sink: &Sink) -> Result<()> {
    from.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:40001")?;
        for _ in 0..DROPPED {
            socket.send_to(&[0; SIZE as usize], (to, 7001))?;
        }
        Ok(())
    })?;
    let near = if to == Pair::B4 { Pair::A4 } else { Pair::B4 };
    traffic::udp(from, near, 40000, sink, 200, 50)
}

/// The agent does not see what is dropped ahead of it, and nftables does.
#[test]
fn what_the_agent_misses_is_found() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let thief = Foreign::tcx_first(&pair.a, "a0", Direction::Egress, "drop_port")?;
    let prove = Prove::start(&pair.a, &agent)?;
    send_and_drop(&pair.a, Pair::B4, &sink)?;
    let proof = prove.finish()?;
    ensure!(thief.done()? == DROPPED, "{} dropped", thief.done()?);
    ensure!(proof.code == Some(1) && proof.report["proved"] == false, "{:?} {:#}", proof.code, proof.report);
    let (packets, bytes) = (DROPPED.cast_signed(), (DROPPED * (SIZE + 28)).cast_signed());
    expect_difference(&proof, "egress", -packets, -bytes)?;
    expect_difference(&proof, "ingress", 0, 0)?;
    let verdict = proof.report["verdict"].as_str().context("verdict")?;
    ensure!(verdict.contains("a0 egress by -13 packets, -1,664 bytes"), "{verdict}");
    // The device has sent what the agent has seen.
    let egress = proof.at("a0", "egress")?;
    ensure!(egress["other_programs"] == 1 && egress["device_agrees"] == true, "{egress:#}");
    agent.stop()?;
    Ok(())
}

/// What is dropped behind the agent on ingress was seen by it and by the device, and not by nftables.
#[test]
fn what_the_agent_has_too_many_is_found() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let sink = Sink::new(&pair.a, Pair::A4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let thief = Foreign::tcx(&pair.a, "a0", Direction::Ingress, "drop_port")?;
    let prove = Prove::start(&pair.a, &agent)?;
    send_and_drop(&pair.b, Pair::A4, &sink)?;
    let proof = prove.finish()?;
    ensure!(thief.done()? == DROPPED && proof.code == Some(1), "{:?} {:#}", proof.code, proof.report);
    expect_difference(&proof, "ingress", DROPPED.cast_signed(), (DROPPED * (SIZE + 28)).cast_signed())?;
    expect_difference(&proof, "egress", 0, 0)?;
    agent.stop()?;
    Ok(())
}

/// Under traffic that never stops, what is under way is no difference, and what is missing still is one.
#[test]
fn a_host_that_is_never_idle() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let (sink, other) = (Sink::new(&pair.b, Pair::B4, 9000)?, Sink::new(&pair.b, Pair::B4, 9001)?);
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let _thief = Foreign::tcx_first(&pair.a, "a0", Direction::Egress, "drop_port")?;
    let stop = AtomicBool::new(false);
    let (right, wrong) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| traffic::udp_until(&pair.a, Pair::A4, 40002, &sink, 64, &stop));
        let proofs = || -> Result<_> {
            let sent =
                || -> Result<u64> { Ok(pair.a.sh("cat /sys/class/net/a0/statistics/tx_packets")?.trim().parse()?) };
            let prove = Prove::start(&pair.a, &agent)?;
            let before = sent()?;
            wait_for("traffic under the proof", Duration::from_secs(20), || Ok((sent()? > before).then_some(())))?;
            let right = prove.finish()?;
            let prove = Prove::start(&pair.a, &agent)?;
            let missing = 100_000;
            pair.a.enter(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:40001")?;
                (0..missing).try_for_each(|_| socket.send_to(&[0; 8], (Pair::B4, 7001)).map(drop))?;
                Ok(())
            })?;
            traffic::udp(&pair.a, Pair::A4, 40000, &other, 200, 50)?;
            Ok((right, prove.finish()?))
        };
        let proofs = proofs();
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("flood"))??;
        proofs
    })?;
    right.expect_proved()?;
    ensure!(wire(&right, "egress")?.packets > 0, "{:#}", right.report);
    let egress = wrong.at("a0", "egress")?;
    let range = &egress["found"]["packets"];
    let (min, max) = (range["min"].as_i64().context("min")?, range["max"].as_i64().context("max")?);
    ensure!((min..=max).contains(&-100_000), "{egress:#}");
    // On a host that is slow enough more is under way than was taken away.
    ensure!(wrong.code == Some(i32::from(max < 0)), "{:?}: {egress:#}", wrong.code);
    agent.stop()?;
    Ok(())
}

/// Its own table goes with it, also when it is killed, and others' stay as they are.
#[test]
fn it_leaves_nothing_behind() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let other = [("all", "meta length > 0", "accept")];
    let _other = Firewall::new(&pair.a, "type filter hook ingress device \"a0\" priority 0", &other)?;
    let rules = || pair.a.sh("nft --stateless list ruleset");
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let before = rules()?;
    let restored = |what: &str| {
        // A table that goes while it is listed is an error of nft.
        let same = || Ok(rules().is_ok_and(|now| now == before).then_some(()));
        wait_for(&format!("end of the table after {what}"), Duration::from_secs(5), same)
    };
    let prove = Prove::start(&pair.a, &agent)?;
    ensure!(rules()?.contains(&format!("table netdev flowlogd_prove_{}", prove.pid())), "{}", rules()?);
    prove.kill()?;
    restored("kill -9")?;
    let prove = Prove::start(&pair.a, &agent)?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    prove.finish()?.expect_exact()?;
    restored("its end")?;
    agent.stop()?.expect_nothing_lost()
}

/// Who may only ask the agent gets what the devices counted, and is told so.
#[test]
fn without_privileges() -> Result<()> {
    const GROUP: u32 = 54_331;
    let pair = Pair::new()?;
    let state = TempDir::new()?;
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755))?;
    let groups = state.path().join("group");
    fs::write(&groups, format!("root:x:0:\nflowlogd:x:{GROUP}:\n"))?;
    let mount = format!("mount --bind {} /etc/group", groups.display());
    let options = Options::on(&["a0"]).state_in(state.path()).after(&mount);
    let agent = Agent::start(&pair.a, &options)?;
    // A copy: the build's directory may be nobody else's.
    let program = state.path().join("flowlogd");
    fs::copy(binary()?, &program)?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let group = GROUP.to_string();
    let wrapper = ["setpriv", "--reuid", "54332", "--regid", &group, "--clear-groups"];
    let prove = Prove::start_as(&pair.a, &agent, &wrapper, &program)?;
    let why = "only the interfaces' own counters are compared, and only packets: nft was not allowed to count";
    ensure!(prove.said.iter().any(|line| line.contains(why)), "{:?}", prove.said);
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 500)?;
    let proof = prove.finish()?;
    proof.expect_proved()?;
    let egress = proof.at("a0", "egress")?;
    ensure!(egress["counter"] == "device" && number(egress, "/found/counter/packets")? >= 500, "{egress:#}");
    ensure!(egress["found"]["packets"] == json!({ "min": 0, "max": 0 }), "{egress:#}");
    agent.stop()?.expect_nothing_lost()
}

/// For people; and not where the same names are other interfaces.
#[test]
fn lines_for_people_and_the_namespace_that_it_is() -> Result<()> {
    let pair = Pair::new()?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0", "lo"]))?;
    let directory = agent.state_directory().to_str().context("path")?;
    let prove = |ns: &Netns, more: &[&str]| {
        agent::call(ns, &[], &[&["prove", "--for", "1s", "--state-directory", directory], more].concat())
    };
    let done = prove(&pair.a, &["--interface", "a*"])?;
    let text = String::from_utf8(done.stdout)?;
    ensure!(done.status.success() && !text.contains('\x1b') && !text.contains("lo "), "{:?} {text}", done.status);
    ensure!(text.lines().filter(|line| line.starts_with("a0 ")).count() == 2, "{text}");
    ensure!(text.ends_with("no difference, but no packet passed either: run it while there is traffic\n"), "{text}");
    for (ns, more, why) in [
        (&pair.b, "*", "the agent is in another network namespace"),
        (&pair.a, "b0", "the agent counts on no interface by that name"),
    ] {
        let refused = prove(ns, &["--interface", more])?;
        let said = String::from_utf8(refused.stderr)?;
        ensure!(refused.status.code() == Some(1) && said.lines().count() == 1, "{:?} {said}", refused.status);
        ensure!(said.contains(why), "{said}");
    }
    agent.stop()?.expect_nothing_lost()
}

/// The next agent's numbers begin anew.
#[test]
fn another_agent_is_not_compared() -> Result<()> {
    let pair = Pair::new()?;
    let pins = flowlogd_tests::bpffs::BpfFs::new()?;
    let options = Options::on(&["a0"]).pins_in(&pins);
    let first = Agent::start(&pair.a, &options)?;
    let prove = Prove::start(&pair.a, &first)?;
    let second = Agent::start(&pair.a, &options.clone().args("--take-over"))?;
    first.ended("handed over")?;
    let proof = prove.wait()?;
    ensure!(proof.code == Some(1), "{:?} {:#}", proof.code, proof.report);
    let verdict = proof.report["verdict"].as_str().context("verdict")?;
    ensure!(verdict.contains("nothing could be compared: another agent answers"), "{verdict}");
    second.stop()?.expect_nothing_lost()
}

/// One interface that goes away takes nothing from the proof of the other.
#[test]
fn an_interface_that_goes_away() -> Result<()> {
    let pair = Pair::new()?;
    pair.add_link("a1", "b1", 1)?;
    without_ipv6(&[&pair.a, &pair.b])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0", "a1"]).interval(600))?;
    let prove = Prove::start(&pair.a, &agent)?;
    pair.a.ip("link del a1")?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 50)?;
    let proof = prove.finish()?;
    proof.expect_proved()?;
    let verdict = proof.report["verdict"].as_str().context("verdict")?;
    ensure!(verdict.ends_with("not compared: a1 ingress, a1 egress"), "{verdict}");
    ensure!(wire(&proof, "egress")? == Totals { packets: 50, bytes: 50 * 128 }, "{:#}", proof.report);
    agent.stop()?;
    Ok(())
}
