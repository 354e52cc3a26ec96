//! What the agent tells a service manager, and what it does with a stop that comes early.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::wait_for;
use nix::sys::signal::Signal;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// Listens where systemd would.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, _directory: directory })
    }

    fn options(&self) -> Options {
        Options::on(&["a0"]).env("NOTIFY_SOCKET", &self.path.to_string_lossy()).env("WATCHDOG_USEC", "200000")
    }

    /// What the next datagram says, line by line.
    fn next(&self) -> Result<Vec<String>> {
        let mut buffer = [0; 4096];
        let length = wait_for("word from the agent", LIMIT, || match self.socket.recv(&mut buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        Ok(String::from_utf8(buffer[..length].to_vec())?.lines().map(str::to_owned).collect())
    }

    /// The next one that is not the watchdog's food.
    fn next_but_watchdog(&self) -> Result<Vec<String>> {
        loop {
            let said = self.next()?;
            if said != ["WATCHDOG=1"] {
                return Ok(said);
            }
        }
    }
}

#[test]
fn it_is_told_of_each_state() -> Result<()> {
    let (pair, manager) = (Pair::new()?, Manager::new()?);
    let agent = Agent::start(&pair.a, &manager.options())?;
    let ready = manager.next()?;
    ensure!(ready[0] == "READY=1" && ready[1].starts_with("STATUS=1 interface, 1 flow log; "), "{ready:?}");
    for _ in 0..3 {
        let fed = manager.next()?;
        ensure!(fed == ["WATCHDOG=1"], "{fed:?}");
    }
    let status = manager.next_but_watchdog()?;
    ensure!(status.len() == 1 && status[0].starts_with("STATUS=1 interface"), "{status:?}");
    agent.signal(Signal::SIGHUP)?;
    let reloading = manager.next_but_watchdog()?;
    ensure!(reloading[0] == "RELOADING=1" && reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    let ready = manager.next_but_watchdog()?;
    ensure!(ready[0] == "READY=1" && ready[1].contains("; configuration not reloaded: "), "{ready:?}");
    agent.stop()?;
    let stopping = manager.next_but_watchdog()?;
    let want = ["STOPPING=1", "STATUS=delivering what waits", "EXTEND_TIMEOUT_USEC=60000000"];
    ensure!(stopping == want, "{stopping:?}");
    Ok(())
}

#[test]
fn it_is_told_of_a_hand_over() -> Result<()> {
    let (pair, manager) = (Pair::new()?, Manager::new()?);
    let agent = Agent::start(&pair.a, &manager.options())?;
    agent.signal(Signal::SIGUSR1)?;
    agent.ended("handed over")?;
    ensure!(manager.next()?[0] == "READY=1");
    let stopping = manager.next_but_watchdog()?;
    ensure!(stopping[..2] == ["STOPPING=1", "STATUS=handing over"], "{stopping:?}");
    Ok(())
}

/// Bits of a mask in /proc/PID/status.
fn blocked(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).context("no SigBlk")?;
    Ok(u64::from_str_radix(mask.trim(), 16)?)
}

/// What a killed agent left counting goes also when the next one is stopped before it is ready.
#[test]
fn a_stop_before_it_is_ready_detaches() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let options = Options::on(&["a0"]).pins_in(&pins);
    Agent::start(&pair.a, &options)?.kill()?;
    ensure!(!pins.contents()?.is_empty(), "nothing was pinned");
    // Whoever has it without a name in it is waited for.
    let lock = File::create(pins.state().join("lock"))?;
    lock.lock()?;
    let agent = Agent::spawn(&pair.a, &options.clone().args("--take-over"))?;
    let stop = 1 << (Signal::SIGTERM as u32 - 1);
    wait_for("a process that keeps a stop", LIMIT, || Ok((blocked(&agent)? & stop != 0).then_some(())))?;
    agent.signal(Signal::SIGTERM)?;
    drop(lock);
    agent.ended("stopped")?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}
