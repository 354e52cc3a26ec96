//! The agent's socket: who may use it, whose it is, and that no client can disturb the agent.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::status::{self, interface, ip_seen, number, socket};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, UDP, wait_for};
use tempfile::TempDir;

/// As many clients as the agent takes in at a time.
const CLIENTS: usize = 16;

fn open_directory() -> Result<TempDir> {
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

fn stuck(path: &Path, clients: usize) -> Result<Vec<UnixStream>> {
    let one = |_| -> Result<UnixStream> {
        let mut stream = UnixStream::connect(path)?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\n")?;
        Ok(stream)
    };
    (0..clients).map(one).collect()
}

#[test]
fn stuck_clients_disturb_nobody() -> Result<()> {
    let pair = Pair::new()?;
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let almost_all = stuck(&socket(&agent), CLIENTS - 1)?;
    status::status(&pair.a, &agent)?;
    let all = stuck(&socket(&agent), 2 * CLIENTS)?;
    // Windows end and are delivered meanwhile.
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 1000)?;
    ledger.wait_packets(Pair::A4, Pair::B4, UDP, 1000)?;
    wait_for("records", Duration::from_secs(10), || Ok((!agent.records()?.is_empty()).then_some(())))?;
    // The agent gives up on clients that do not ask, and those who do get their turn.
    wait_for("an answer", Duration::from_secs(30), || Ok(status::status(&pair.a, &agent).ok()))?;
    drop((almost_all, all));
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let logged: u64 = flowlogd_tests::records::by_flow(&stopped.records)
        .into_iter()
        .filter(|(flow, _)| flow.protocol == UDP)
        .map(|(_, totals)| totals.packets)
        .sum();
    ensure!(logged == 1000, "{logged} of 1000 logged");
    Ok(())
}

#[test]
fn a_stopped_loop_is_said_and_costs_nothing_after() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let mut stream = UnixStream::connect(socket(&agent))?;
    stream.write_all(b"DELETE /v1/status HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    ensure!(status::get(&socket(&agent), "/v1/nothing")?.contains("there is no /v1/nothing"));
    // Nobody asks: the thread that answers does not run.
    let switches = || -> Result<u64> {
        for task in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim() == "serve" {
                let text = fs::read_to_string(task.join("status"))?;
                let mut lines = text.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                return Ok(lines.next().context("voluntary_ctxt_switches")?.trim().parse()?);
            }
        }
        anyhow::bail!("no thread serve")
    };
    let settled = wait_for("a quiet thread", Duration::from_secs(10), || {
        let before = switches()?;
        thread::sleep(Duration::from_millis(200));
        Ok((switches()? == before).then_some(before))
    })?;
    thread::sleep(Duration::from_secs(3));
    let woken = switches()? - settled;
    ensure!(woken == 0, "woken {woken} times for nobody");
    agent.stop()?;
    Ok(())
}

#[test]
fn members_of_the_group_may_ask() -> Result<()> {
    const GROUP: u32 = 54_321;
    const USER: u32 = 54_322;
    let pair = Pair::new()?;
    let state = open_directory()?;
    let groups = state.path().join("group");
    fs::write(&groups, format!("root:x:0:\nflowlogd:x:{GROUP}:\n"))?;
    let mount = format!("mount --bind {} /etc/group", groups.display());
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).state_in(state.path()).after(&mount))?;
    let found = fs::metadata(socket(&agent))?;
    ensure!((found.mode() & 0o7777, found.uid(), found.gid()) == (0o660, 0, GROUP), "{found:?}");
    // A copy: the build's directory may be nobody else's.
    let program = state.path().join("flowlogd");
    fs::copy(binary()?, &program)?;
    let ask = |group: u32, line: &str| -> Result<_> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &USER.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        command.arg(&program).args(line.split_whitespace()).arg("--state-directory").arg(state.path());
        Ok(command.output()?)
    };
    for line in ["status", "top --once", "top --json"] {
        let member = ask(GROUP, line)?;
        ensure!(member.status.success() && member.stderr.is_empty(), "{line}: {member:?}");
        let other = ask(USER, line)?;
        let said = String::from_utf8(other.stderr)?;
        ensure!(other.status.code() == Some(1) && said.lines().count() == 1, "{line}: {:?} {said}", other.status);
        ensure!(said.contains("not allowed to ask") && said.contains("join the group flowlogd"), "{line}: {said}");
    }
    agent.stop()?;
    Ok(())
}

#[test]
fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() -> Result<()> {
    let pair = Pair::new()?;
    let shared = TempDir::new()?;
    let path = shared.path().join("s");
    let args = format!("--socket {}", path.display());
    let options = Options::on(&["a0"]).args(&args);
    let first = Agent::start(&pair.a, &options)?;
    let pid = |path: &Path| -> Result<u64> {
        let text = status::get(path, "/v1/status")?;
        number(&serde_json::from_str(&text)?, "/pid")
    };
    ensure!(pid(&path)? == u64::from(first.pid()));
    // Another one, with a state of its own, runs without.
    let second = Agent::start(&pair.b, &Options::on(&["b0"]).args(&args))?;
    let line = second.said().into_iter().find(|line| line.contains("another process answers there"));
    ensure!(line.is_some_and(|line| line.contains(&path.display().to_string())), "{:?}", second.said());
    second.stop()?;
    ensure!(pid(&path)? == u64::from(first.pid()), "the second one took the socket along");
    first.kill()?;
    ensure!(path.exists(), "removed by a killed agent");
    let third = Agent::start(&pair.a, &options)?;
    ensure!(pid(&path)? == u64::from(third.pid()));
    third.stop()?;
    ensure!(!path.exists(), "left by a stopped agent");
    Ok(())
}

#[test]
fn a_path_that_no_socket_can_have_is_said_once() -> Result<()> {
    let pair = Pair::new()?;
    let state = TempDir::new()?;
    let long = state.path().join("x".repeat(100));
    fs::create_dir(&long)?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).state_in(&long))?;
    let said: Vec<String> =
        agent.said().into_iter().filter(|line| line.contains("nobody can ask this agent")).collect();
    ensure!(said.len() == 1 && said[0].contains("longer than 107 bytes"), "{said:?}");
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 10)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(stopped.records.iter().any(|record| record.account.len() == 12), "nothing was logged");
    Ok(())
}

/// A takeover: the next agent has the socket, and counts go on.
#[test]
fn the_next_agent_answers() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
    pair.b.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let pins = flowlogd_tests::bpffs::BpfFs::new()?;
    let options = Options::on(&["a0"]).pins_in(&pins).interval(600);
    let first = Agent::start(&pair.a, &options)?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 200)?;
    let second = Agent::start(&pair.a, &options.clone().args("--take-over"))?;
    first.ended("handed over")?;
    traffic::udp(&pair.a, Pair::A4, 40000, &sink, 100, 300)?;
    ledger.wait_packets(Pair::A4, Pair::B4, UDP, 500)?;
    let said = status::status(&pair.a, &second)?;
    ensure!(number(&said, "/pid")? == u64::from(second.pid()) && said["pinned"] == true, "{said:#}");
    let (wire, seen): (Totals, _) =
        (ledger.between(Pair::A4, Pair::B4, UDP)?, ip_seen(interface(&said, "a0")?, "egress")?);
    // What the first one counted was in the kernel and in the journal.
    ensure!(wire == seen, "on the wire {wire}, said {seen}");
    second.stop()?.expect_nothing_lost()
}
