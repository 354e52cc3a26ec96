//! Network namespaces and the topologies the scenarios use.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

const DIRECTORY: &str = "/run/netns";

/// Seconds after which `timeout` ends any command the harness runs.
const COMMAND_LIMIT: &str = "90";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static REAPER: Once = Once::new();

/// Runs a command to success and returns its standard output.
pub fn run<S: AsRef<str>>(argv: &[S]) -> Result<String> {
    let output = output(argv)?;
    let line = argv.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
    ensure!(
        output.status.success(),
        "`{line}`: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn output<S: AsRef<str>>(argv: &[S]) -> Result<Output> {
    Command::new("timeout")
        .args(["--kill-after=2", COMMAND_LIMIT])
        .args(argv.iter().map(AsRef::as_ref))
        .stdin(Stdio::null())
        .output()
        .with_context(|| argv[0].as_ref().to_owned())
}

/// A child that does not outlive its owner.
#[derive(Debug)]
pub struct Background(Child);

impl Background {
    /// Waits for success and returns standard output.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let status = wait_for("exit of a background command", limit, || Ok(self.0.try_wait()?))?;
        let mut text = String::new();
        if let Some(mut stream) = self.0.stdout.take() {
            stream.read_to_string(&mut text)?;
        }
        if let Some(mut stream) = self.0.stderr.take() {
            stream.read_to_string(&mut text)?;
        }
        ensure!(status.success(), "background command: {status}\n{text}");
        Ok(text)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new() -> Result<Self> {
        REAPER.call_once(reap);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fl{}-{number}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let ns = Self { name };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> String {
        format!("{DIRECTORY}/{}", self.name)
    }

    /// Runs a command in the namespace to success.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<String> {
        let mut line = vec!["ip", "netns", "exec", &self.name];
        line.extend(argv.iter().map(AsRef::as_ref));
        run(&line)
    }

    /// Like [`Self::run`], for a command written as one line without quoting.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn ip(&self, line: &str) -> Result<String> {
        let mut argv = vec!["ip", "-n", &self.name];
        argv.extend(line.split_whitespace());
        run(&argv)
    }

    /// Runs many `ip` commands in one process.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, lines.as_bytes())?;
        let path = file.path().to_str().context("temporary path")?;
        run(&["ip", "-n", &self.name, "-batch", path])?;
        Ok(())
    }

    pub fn spawn(&self, line: &str) -> Result<Background> {
        self.spawn_argv(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn spawn_argv(&self, argv: &[&str]) -> Result<Background> {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(argv)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Background(child))
    }

    /// Runs `work` on a thread inside the namespace; its sockets stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.path())?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Waits until every TCP connection is closed, so that no more packets come.
    pub fn wait_tcp_closed(&self) -> Result<()> {
        wait_for("end of TCP connections", Duration::from_secs(20), || {
            let open = self.sh("ss -Htan state connected exclude time-wait")?;
            Ok(open.trim().is_empty().then_some(()))
        })
    }

    /// Packets each interface has dropped, on receive and on transmit.
    fn drops(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let table = self.sh("cat /proc/net/dev")?;
        let mut drops = BTreeMap::new();
        for line in table.lines().skip(2) {
            let (name, values) = line.split_once(':').context("/proc/net/dev")?;
            let values: Vec<u64> = values.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            drops.insert(format!("{} in {}", name.trim(), self.name), (values[3], values[11]));
        }
        Ok(drops)
    }

    /// The device's own packet counters: (received, transmitted) buffers.
    pub fn device_packets(&self, device: &str) -> Result<(u64, u64)> {
        let table = self.sh("cat /proc/net/dev")?;
        for line in table.lines() {
            if let Some((name, values)) = line.split_once(':')
                && name.trim() == device
            {
                let values: Vec<u64> = values.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
                return Ok((values[1], values[9]));
            }
        }
        bail!("no device {device}")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "del", &self.name]);
    }
}

/// Removes what killed runs of this harness left: namespaces named after dead
/// processes, with the processes still inside them.
fn reap() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix("fl")
            .and_then(|rest| rest.split_once('-'))
            .filter(|(_, number)| number.parse::<u32>().is_ok())
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        if fs::exists(format!("/proc/{owner}")).unwrap_or(true) {
            continue;
        }
        for pid in run(&["ip", "netns", "pids", &name]).unwrap_or_default().lines() {
            if let Ok(pid) = pid.trim().parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = run(&["ip", "netns", "del", &name]);
    }
}

/// Creates a veth pair with stable MACs, permanent neighbours and no addresses
/// of its own, so that nothing but the test's traffic crosses it.
fn veth(left: (&Netns, &str, u8), right: (&Netns, &str, u8), net: u8) -> Result<()> {
    let mac = |host: u8| format!("02:00:00:77:{net:02x}:{host:02x}");
    run(&[
        "ip",
        "link",
        "add",
        left.1,
        "netns",
        left.0.name(),
        "type",
        "veth",
        "peer",
        "name",
        right.1,
        "netns",
        right.0.name(),
    ])?;
    for ((ns, device, host), (.., other)) in [(left, right), (right, left)] {
        ns.ip_batch(&format!(
            "link set {device} address {} addrgenmode none\n\
             link set {device} up\n\
             addr add 10.77.{net}.{host}/24 dev {device}\n\
             addr add fd77:{net}::{host}/64 dev {device} nodad\n\
             neigh replace 10.77.{net}.{other} lladdr {other_mac} nud permanent dev {device}\n\
             neigh replace fd77:{net}::{other} lladdr {other_mac} nud permanent dev {device}\n",
            mac(host),
            other_mac = mac(other),
        ))?;
    }
    Ok(())
}

fn wait_carrier(ns: &Netns, device: &str) -> Result<()> {
    wait_for(&format!("carrier on {device}"), Duration::from_secs(5), || {
        let link = ns.ip(&format!("-o link show dev {device}"))?;
        let addresses = ns.ip(&format!("-6 -o addr show dev {device} tentative"))?;
        Ok((link.contains("LOWER_UP") && addresses.trim().is_empty()).then_some(()))
    })
}

/// Two namespaces joined by one veth pair: a0 (.1) and b0 (.2).
#[derive(Debug)]
pub struct Pair {
    pub a: Netns,
    pub b: Netns,
}

impl Pair {
    pub const A4: &'static str = "10.77.0.1";
    pub const B4: &'static str = "10.77.0.2";
    pub const A6: &'static str = "fd77:0::1";
    pub const B6: &'static str = "fd77:0::2";

    pub fn new() -> Result<Self> {
        let pair = Self { a: Netns::new()?, b: Netns::new()? };
        veth((&pair.a, "a0", 1), (&pair.b, "b0", 2), 0)?;
        wait_carrier(&pair.a, "a0")?;
        wait_carrier(&pair.b, "b0")?;
        Ok(pair)
    }

    /// Adds a second link between the namespaces, net 10.77.`net`.0/24.
    pub fn add_link(&self, left: &str, right: &str, net: u8) -> Result<()> {
        veth((&self.a, left, 1), (&self.b, right, 2), net)?;
        wait_carrier(&self.a, left)?;
        wait_carrier(&self.b, right)
    }
}

/// a0 – r0 R r1 – s0 S s1 – c0: the sender A behind a segmenting router, an
/// observer S on the wire, and the far end C.
///
/// A's link keeps its offloads, so super-packets cross a0 in both directions:
/// A's own by TSO or UDP GSO, C's merged by GRO on r1. R segments in software
/// towards S. C and S neither merge nor send super-packets, so S forwards and
/// counts exactly the packets of a physical wire.
#[derive(Debug)]
pub struct Path {
    pub a: Netns,
    pub r: Netns,
    pub s: Netns,
    pub c: Netns,
    /// What was dropped while the links came up.
    drops: BTreeMap<String, (u64, u64)>,
}

impl Path {
    pub const A4: &'static str = "10.77.1.1";
    pub const C4: &'static str = "10.77.3.2";
    pub const A6: &'static str = "fd77:1::1";
    pub const C6: &'static str = "fd77:3::2";

    pub fn new() -> Result<Self> {
        let mut path =
            Self { a: Netns::new()?, r: Netns::new()?, s: Netns::new()?, c: Netns::new()?, drops: BTreeMap::new() };
        for router in [&path.r, &path.s] {
            router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        }
        veth((&path.a, "a0", 1), (&path.r, "r0", 2), 1)?;
        veth((&path.r, "r1", 1), (&path.s, "s0", 2), 2)?;
        veth((&path.s, "s1", 1), (&path.c, "c0", 2), 3)?;
        let routes = [
            (&path.a, "10.77.1.2", "fd77:1::2", "default"),
            (&path.c, "10.77.3.1", "fd77:3::1", "default"),
            (&path.r, "10.77.2.2", "fd77:2::2", "3"),
            (&path.s, "10.77.2.1", "fd77:2::1", "1"),
        ];
        for (ns, via4, via6, net) in routes {
            let (to4, to6) = match net {
                "default" => ("default".to_owned(), "default".to_owned()),
                net => (format!("10.77.{net}.0/24"), format!("fd77:{net}::/64")),
            };
            ns.ip(&format!("route add {to4} via {via4}"))?;
            ns.ip(&format!("-6 route add {to6} via {via6}"))?;
        }
        let no_transmit_offload = "tso off gso off tx-udp-segmentation off \
            tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off";
        path.r.sh(&format!("ethtool -K r1 gro on {no_transmit_offload}"))?;
        for (ns, device) in [(&path.s, "s0"), (&path.s, "s1"), (&path.c, "c0")] {
            ns.sh(&format!("ethtool -K {device} gro off {no_transmit_offload}"))?;
        }
        for (ns, device) in
            [(&path.a, "a0"), (&path.r, "r0"), (&path.r, "r1"), (&path.s, "s0"), (&path.s, "s1"), (&path.c, "c0")]
        {
            wait_carrier(ns, device)?;
        }
        path.drops = path.all_drops()?;
        Ok(path)
    }

    fn all_drops(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let mut drops = BTreeMap::new();
        for ns in [&self.a, &self.r, &self.s, &self.c] {
            drops.extend(ns.drops()?);
        }
        Ok(drops)
    }

    /// Waits for both ends to finish and checks that nothing was lost since the
    /// links came up: a packet dropped past a0 cannot be in both counts.
    pub fn settle(&self) -> Result<()> {
        self.a.wait_tcp_closed()?;
        self.c.wait_tcp_closed()?;
        for (interface, now) in self.all_drops()? {
            let before = self.drops.get(&interface).copied().unwrap_or_default();
            ensure!(
                now == before,
                "{interface} dropped {} on receive, {} on transmit",
                now.0 - before.0,
                now.1 - before.1
            );
        }
        Ok(())
    }
}
