//! What an agent says of itself: `flowlogd status --json`, and its metrics as curl gets them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Totals;
use crate::agent::{self, Agent};
use crate::netns::Netns;

pub fn socket(agent: &Agent) -> PathBuf {
    agent.state_directory().join("flowlogd.sock")
}

pub fn status(ns: &Netns, agent: &Agent) -> Result<Value> {
    let directory = agent.state_directory().to_str().context("path")?;
    let lines = agent::output(ns, &["status", "--json", "--state-directory", directory])?;
    Ok(serde_json::from_str(&lines.join("\n"))?)
}

/// An interface in it.
pub fn interface<'a>(status: &'a Value, name: &str) -> Result<&'a Value> {
    let all = status["interfaces"].as_array().context("interfaces")?;
    all.iter().find(|one| one["name"] == name).with_context(|| format!("no {name} in {status:#}"))
}

/// A number behind a JSON pointer.
pub fn number(value: &Value, pointer: &str) -> Result<u64> {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no number {pointer} in {value:#}"))
}

/// IP packets and bytes that an interface's side says to have seen.
pub fn ip_seen(interface: &Value, side: &str) -> Result<Totals> {
    let of = |what: &str| number(interface, &format!("/{side}/{what}"));
    Ok(Totals { packets: of("seen/packets")? - of("non_ip/packets")?, bytes: of("seen/bytes")? - of("non_ip/bytes")? })
}

/// The answer to GET over a Unix socket, whatever its status.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    curl(&["--unix-socket", socket.to_str().context("path")?, &format!("http://flowlogd{path}")])
}

pub fn curl(args: &[&str]) -> Result<String> {
    let output = Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(args).output()?;
    ensure!(output.status.success(), "curl {args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Values by series, as in the text.
pub fn series(text: &str) -> Result<BTreeMap<String, String>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        Ok((series.to_owned(), value.to_owned()))
    };
    lines.map(pair).collect()
}

/// A series' whole number.
pub fn value(series: &BTreeMap<String, String>, name: &str) -> Result<u64> {
    series.get(name).with_context(|| format!("no {name} in {series:#?}"))?.parse().with_context(|| name.to_owned())
}

/// Prometheus' own checks; `input` is what they read.
pub fn promtool(args: &[&str], input: Option<&Path>) -> Result<()> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin/promtool");
    let program = if unpacked.exists() { unpacked } else { PathBuf::from("promtool") };
    let stdin = match input {
        Some(path) => Stdio::from(fs::File::open(path)?),
        None => Stdio::null(),
    };
    let output = Command::new(&program).args(args).stdin(stdin).output();
    let output = output.with_context(|| format!("{}: cargo xtask test installs it", program.display()))?;
    // Its linter says what it does not like and succeeds.
    ensure!(output.status.success() && output.stderr.is_empty(), "promtool {args:?}: {output:?}");
    Ok(())
}
