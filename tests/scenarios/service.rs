//! As a package on a machine with a real systemd: installed, asked, reloaded, killed, upgraded, removed, purged; every
//! packet in one record all the while, and in the end nothing left.

use std::fs;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::foreign::{Direction, tcx_programs};
use flowlogd_tests::machine::{LIMIT, Machine};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::steady::Steady;
use flowlogd_tests::{packages, records, wait_for};

/// On the machine; not called after what is to be gone in the end.
const THIS: &str = "/srv/this.deb";
const LATER: &str = "/srv/later.deb";
const UNIT: &str = "flowlogd.service";
const RECORDS: &str = "/var/lib/flowlogd/records";
const PINS: &str = "/sys/fs/bpf/flowlogd";
const CONFIG: &str = "/etc/flowlogd/flowlogd.toml";
/// Windows of a second, so that a test sees some.
const FLOW_LOG: &str = "[[flow-log]]\nlog-destination-type = \"directory\"\n\
     log-destination = \"/var/lib/flowlogd/records\"\nmax-aggregation-interval = 1\n";
/// BPF, PERFMON and NET_ADMIN: bits 39, 38 and 12.
const CAPABILITIES: &str = "000000c000001000";
/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;

/// With the package on it, and a later one.
fn boot(pair: &Pair) -> Result<Machine> {
    let (this, later) = (packages::named(".deb")?, packages::of_version(packages::LATER, ".deb")?);
    Machine::boot(&pair.a, &[(&this, THIS), (&later, LATER)])
}

/// As people do it; nothing that it depends on is to be fetched.
fn install(machine: &Machine, package: &str) -> Result<()> {
    machine.run(&["apt-get", "install", "--yes", "--no-install-recommends", package]).map(drop)
}

fn wait_active(machine: &Machine) -> Result<u32> {
    let active = wait_for("the service", LIMIT, || Ok((machine.unit(UNIT, "SubState")? == "running").then_some(())));
    active.with_context(|| machine.journal(UNIT).unwrap_or_default())?;
    Ok(machine.unit(UNIT, "MainPID")?.parse()?)
}

/// A start that is not this process's.
fn wait_successor(machine: &Machine, pid: u32) -> Result<u32> {
    wait_for("another main process", LIMIT, || {
        let running = machine.unit(UNIT, "SubState")? == "running";
        let main: u32 = machine.unit(UNIT, "MainPID")?.parse()?;
        Ok((running && main != pid && main != 0).then_some(main))
    })
}

fn reload_with(machine: &Machine, config: &str) -> Result<()> {
    fs::write(machine.path(CONFIG), config)?;
    machine.run(&["systemctl", "reload", UNIT])?;
    machine.wait_logged(UNIT, "reloaded", 1)
}

fn hooks(pair: &Pair) -> Result<[usize; 2]> {
    let count = |direction| -> Result<usize> { Ok(tcx_programs(&pair.a, "a0", direction)?.len()) };
    Ok([count(Direction::Ingress)?, count(Direction::Egress)?])
}

/// Maps, links and programs that are pinned.
fn pins(machine: &Machine) -> Result<usize> {
    let found = machine.sh(&format!("test ! -d {PINS} || find {PINS} -type f"))?;
    Ok(found.lines().count())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Status and its like are for the group, and for nobody else.
fn expect_asked_by_the_group(machine: &Machine) -> Result<()> {
    machine.run(&["useradd", "--no-create-home", "someone"])?;
    for command in [&["flowlogd", "status"][..], &["flowlogd", "list"], &["flowlogd", "status", "--json"]] {
        let asked = machine.run_as("someone", "flowlogd", command)?;
        ensure!(asked.status.success(), "{command:?}: {}", text(&asked));
    }
    let status = text(&machine.run_as("someone", "flowlogd", &["flowlogd", "status"])?);
    ensure!(status.contains("a0") && status.contains(RECORDS), "{status}");
    let refused = machine.run_as("someone", "someone", &["flowlogd", "status"])?;
    ensure!(refused.status.code() == Some(1) && text(&refused).lines().count() == 1, "{}", text(&refused));
    ensure!(text(&refused).contains("group flowlogd"), "{}", text(&refused));
    let top = text(&machine.run_as("someone", "flowlogd", &["flowlogd", "top", "--once"])?);
    ensure!(top.contains(Pair::B4), "{top}");
    // Without privileges by the interfaces' own counters, and as root by nftables too.
    let proved = machine.run_as("someone", "flowlogd", &["flowlogd", "prove", "--for", "3s"])?;
    ensure!(proved.status.success() && text(&proved).contains("difference 0"), "{}", text(&proved));
    let proved = machine.run(&["flowlogd", "prove", "--for", "3s"])?;
    ensure!(proved.contains("nftables") && proved.contains("difference 0"), "{proved}");
    let doctor = machine.run_as("someone", "flowlogd", &["flowlogd", "doctor", "--json"])?;
    ensure!(serde_json::from_slice::<serde_json::Value>(&doctor.stdout).is_ok(), "{}", text(&doctor));
    Ok(())
}

/// What the kernel says of the process, and no port.
fn expect_confined(machine: &Machine, pid: u32) -> Result<()> {
    let status = fs::read_to_string(machine.path(&format!("/proc/{pid}/status")))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        ensure!(field(set) == Some(CAPABILITIES), "{set} {:?}", field(set));
    }
    ensure!(
        field("CapAmb:") == Some("0000000000000000")
            && field("NoNewPrivs:") == Some("1")
            && field("Seccomp:") == Some("2"),
        "{status}"
    );
    let user = machine.run(&["id", "--user", "flowlogd"])?;
    ensure!(field("Uid:").is_some_and(|ids| ids.split_whitespace().all(|id| id == user.trim())), "{status}");
    machine.wait_logged(UNIT, "capabilities", 1)?;
    let listening = machine.run(&["ss", "--no-header", "--listening", "--tcp", "--udp", "--raw"])?;
    ensure!(listening.trim().is_empty(), "{listening}");
    Ok(())
}

#[test]
fn the_life_of_a_package() -> Result<()> {
    let pair = Pair::new()?;
    let machine = boot(&pair)?;
    install(&machine, THIS)?;
    let first = wait_active(&machine)?;
    ensure!(hooks(&pair)? == [1, 1] && pins(&machine)? > 0, "{:?} {}", hooks(&pair)?, pins(&machine)?);
    expect_confined(&machine, first)?;
    reload_with(&machine, FLOW_LOG)?;

    let traffic = Steady::start(&pair)?;
    traffic.wait(2 * WINDOW)?;
    expect_asked_by_the_group(&machine)?;
    machine.run(&["systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT])?;
    let second = wait_successor(&machine, first)?;
    traffic.wait(WINDOW)?;
    install(&machine, LATER)?;
    wait_successor(&machine, second)?;
    let version = machine.run(&["flowlogd", "--version"])?;
    let installed = machine.run(&["dpkg-query", "--show", "--showformat=${Version}", "flowlogd"])?;
    ensure!(installed.starts_with(packages::LATER), "{installed} {version}");
    machine.wait_logged(UNIT, "handed over", 1)?;
    traffic.wait(WINDOW)?;
    ensure!(hooks(&pair)? == [1, 1], "{:?}", hooks(&pair)?);
    let sent = traffic.stop()?;
    machine.run(&["systemctl", "stop", UNIT])?;
    ensure!(hooks(&pair)? == [0, 0] && pins(&machine)? == 0, "{:?} {}", hooks(&pair)?, pins(&machine)?);
    sent.expect_each_once(&records::read_objects(&machine.path(RECORDS))?)?;

    // Killed, and stopped before it was started again: what counts on goes with the package.
    machine.run(&["systemctl", "start", UNIT])?;
    wait_active(&machine)?;
    machine.sh(&format!("systemctl kill --kill-who=main --signal=KILL {UNIT}; systemctl stop {UNIT}"))?;
    ensure!(hooks(&pair)? == [1, 1], "{:?}", hooks(&pair)?);
    machine.run(&["apt-get", "remove", "--yes", "flowlogd"])?;
    ensure!(hooks(&pair)? == [0, 0] && pins(&machine)? == 0, "{:?} {}", hooks(&pair)?, pins(&machine)?);
    ensure!(machine.path(RECORDS).is_dir() && machine.path(CONFIG).exists(), "records or configuration are gone");
    machine.run(&["apt-get", "purge", "--yes", "flowlogd"])?;
    let left = machine.sh("find / -xdev -iname '*flowlogd*' -not -path '/proc/*' -not -path '/tmp/*'")?;
    ensure!(left.is_empty(), "left: {left}");
    let user = machine.output(&["getent", "passwd", "flowlogd"])?;
    let group = machine.output(&["getent", "group", "flowlogd"])?;
    ensure!(!user.status.success() && !group.status.success(), "{} {}", text(&user), text(&group));
    Ok(())
}

/// A drop-in of the unit, as `systemctl edit` makes it.
fn drop_in(machine: &Machine, text: &str) -> Result<()> {
    let path = machine.path(&format!("/etc/systemd/system/{UNIT}.d/test.conf"));
    fs::create_dir_all(path.parent().context("parent")?)?;
    fs::write(path, format!("[Service]\n{text}\n"))?;
    machine.run(&["systemctl", "daemon-reload"]).map(drop)
}

#[test]
fn a_loop_that_stands_is_restarted() -> Result<()> {
    let pair = Pair::new()?;
    let machine = boot(&pair)?;
    install(&machine, LATER)?;
    let first = wait_active(&machine)?;
    reload_with(&machine, FLOW_LOG)?;
    drop_in(&machine, "WatchdogSec=3\nEnvironment=FLOWLOGD_FAULT=loop-turns:40")?;
    machine.run(&["systemctl", "restart", UNIT])?;
    let second = wait_successor(&machine, first)?;
    // The next one is as it should be.
    fs::remove_file(machine.path(&format!("/etc/systemd/system/{UNIT}.d/test.conf")))?;
    machine.run(&["systemctl", "daemon-reload"])?;
    let traffic = Steady::start(&pair)?;
    wait_successor(&machine, second)?;
    machine.wait_logged(UNIT, "Watchdog timeout", 1)?;
    traffic.wait(WINDOW)?;
    let sent = traffic.stop()?;
    machine.run(&["systemctl", "stop", UNIT])?;
    sent.expect_each_once(&records::read_objects(&machine.path(RECORDS))?)
}

/// Who refuses is said: the unit's capabilities, or its system calls.
#[test]
fn a_refusal_is_called_by_its_name() -> Result<()> {
    let pair = Pair::new()?;
    let machine = boot(&pair)?;
    install(&machine, THIS)?;
    wait_active(&machine)?;
    for (change, said) in [
        (
            "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_BPF CAP_PERFMON\nAmbientCapabilities=\n",
            "CapabilityBoundingSet=",
        ),
        ("SystemCallFilter=\nSystemCallFilter=@system-service\nSystemCallFilter=~bpf\n", "seccomp"),
    ] {
        drop_in(&machine, change)?;
        let _ = machine.output(&["systemctl", "restart", UNIT])?;
        machine.wait_logged(UNIT, said, 1)?;
    }
    // Mended, it goes on.
    drop_in(&machine, "")?;
    wait_for("the service", Duration::from_secs(30), || {
        machine.output(&["systemctl", "restart", UNIT])?;
        Ok((machine.unit(UNIT, "SubState")? == "running").then_some(()))
    })
}
