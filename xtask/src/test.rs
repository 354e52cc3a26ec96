//! Checks and tests, stopping at the first that fails.
use std::io::{self, Write as _};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{announce, cargo, need_root, output, package, run, setup, step, target_dir, venv};

pub(crate) const PACKAGES: [&str; 12] = [
    "iproute2",
    "nftables",
    "iptables",
    "iperf3",
    "iputils-ping",
    "tcpdump",
    "ethtool",
    "libfaketime",
    "curl",
    "rpm",
    "shellcheck",
    "systemd",
];

/// As in tests/src/packages.rs.
const LATER: &str = "9.0.0";

pub(crate) fn run(unit: bool, filter: Option<&str>) -> Result<()> {
    if !unit {
        need_root("cargo xtask test (all but --unit)")?;
    }
    let mut steps = Steps::default();
    let result = run_steps(&mut steps, unit, filter);
    eprintln!("==> {}", steps.summary());
    result
}

fn run_steps(steps: &mut Steps, unit: bool, filter: Option<&str>) -> Result<()> {
    steps.run("setup", setup::build_tools)?;
    if !unit {
        steps.run("Debian packages", || setup::packages(&PACKAGES))?;
        steps.run("promtool", || setup::unpacked("prometheus", "usr/bin/promtool"))?;
        steps.run("Python packages", venv::install)?;
        steps.run("Debian for containers", setup::debian)?;
    }
    steps.cargo("format", cargo(["fmt", "--all", "--check"]))?;
    // Their binaries are for BPF only; agent-ebpf's library is linted as the agent's dependency.
    let mut clippy = cargo(["clippy", "--profile", "checked", "--workspace", "--all-targets"]);
    clippy.args(["--exclude", "agent-ebpf", "--exclude", "flowlogd-tests-ebpf", "--exclude", "flowlogd-fuzz"]);
    clippy.args(["--", "-D", "warnings"]);
    steps.cargo("clippy", clippy)?;
    deny(steps)?;
    steps.cargo("unit tests", filtered(test(&[]), filter))?;
    steps.cargo("parser tests", filtered(test(&["--package", "agent-ebpf"]), filter))?;
    if unit {
        return Ok(());
    }
    steps.run("release build", || run::build_agent(true))?;
    steps.run("faults build", run::build_faults)?;
    let packages = package::default_directory().join("tests");
    // The later one is for upgrades, and has the fault points. First, as what is in the stage is the other's in the end.
    steps.run("packages", || {
        package::later(LATER, &target_dir().join("checked/flowlogd"), &packages)?;
        package::run(None, Some(&target_dir().join("release/flowlogd")), Some(&packages))
    })?;
    let scenarios = || {
        let mut scenarios = test(&["--package", "flowlogd-tests"]);
        scenarios.env("FLOWLOGD_PACKAGES", &packages);
        scenarios.env("FLOWLOGD_FAULTS_BIN", target_dir().join("checked/flowlogd"));
        scenarios
    };
    if filter.is_some() {
        let mut some = filtered(scenarios(), filter);
        some.arg("--test-threads=1");
        return steps.cargo("integration tests", some);
    }
    let mut build = scenarios();
    build.arg("--no-run");
    steps.cargo("integration tests' build", build)?;
    let (mut waiting, mut busy) = (scenarios(), scenarios());
    waiting.args(["--test", "scenarios", "--", "--test-threads=1"]).args(WAITING);
    busy.args(["--", "--test-threads=1"]).args(WAITING.iter().flat_map(|name| ["--skip", name]));
    steps.run("integration tests", || beside("integration tests that mostly wait", &mut waiting, &mut busy))
}

/// Scenarios that wait more than they work: for windows, outages, a second try. The others run one at a time beside them,
/// for they share the host's CPUs.
const WAITING: [&str; 6] = ["delivery_", "fault_points::", "journal::", "metrics::", "package::", "kill::"];

/// Runs one command while another runs. Its output comes when both have ended.
fn beside(what: &str, quiet: &mut Command, live: &mut Command) -> Result<()> {
    let (quietly, lively) = std::thread::scope(|scope| {
        let quietly = scope.spawn(|| quiet.output());
        let lively = step("integration tests", live);
        (quietly.join(), lively)
    });
    let quietly = quietly.map_err(|_| anyhow!("{what}: a thread panicked"))?.with_context(|| format!("run {what}"))?;
    announce(what, quiet);
    io::stdout().write_all(&quietly.stdout)?;
    io::stderr().write_all(&quietly.stderr)?;
    lively?;
    ensure!(quietly.status.success(), "{what} failed ({})", quietly.status);
    Ok(())
}

fn test(args: &[&str]) -> Command {
    let mut cargo = cargo(["test", "--profile", "checked"]);
    cargo.args(args);
    cargo
}

fn filtered(mut test: Command, filter: Option<&str>) -> Command {
    if let Some(filter) = filter {
        test.args(["--", filter]);
    }
    test
}

fn deny(steps: &mut Steps) -> Result<()> {
    if output("cargo-deny", &["--version"]).is_none() {
        eprintln!("==> licences: skipped, cargo-deny is not installed");
        return Ok(());
    }
    eprintln!("==> advisories: skipped, their database cannot be fetched offline (`cargo deny check advisories`)");
    steps.cargo("licences", cargo(["deny", "check", "licenses", "bans", "sources"]))
}

/// What was run, with seconds each.
#[derive(Default)]
struct Steps(Vec<(&'static str, u64)>);

impl Steps {
    fn cargo(&mut self, name: &'static str, mut command: Command) -> Result<()> {
        self.run(name, || step(name, &mut command))
    }

    fn run(&mut self, name: &'static str, task: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let result = task();
        self.0.push((name, start.elapsed().as_secs()));
        result
    }

    fn summary(&self) -> String {
        let seconds: Vec<String> = self.0.iter().map(|(name, seconds)| format!("{name} {seconds} s")).collect();
        seconds.join(", ")
    }
}
