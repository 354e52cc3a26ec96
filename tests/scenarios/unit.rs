//! The unit as it ships: systemd finds nothing wrong with it, and what it leaves open is what it says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::binary;
use serde_json::Value;
use tempfile::TempDir;

/// Of `systemd-analyze security`, in tenths.
const EXPOSURE_MAX: u32 = 18;

/// What cannot be closed; the unit says why.
const OPEN: [&str; 13] = [
    "AmbientCapabilities",
    "CapabilityBoundingSet_CAP_BPF",
    "CapabilityBoundingSet_CAP_NET_ADMIN",
    "DeviceAllow",
    "IPAddressDeny",
    "PrivateNetwork",
    "PrivateUsers",
    "ProcSubset",
    "RestrictAddressFamilies_AF_INET_INET6",
    "RestrictAddressFamilies_AF_NETLINK",
    "RestrictAddressFamilies_AF_UNIX",
    "SystemCallFilter_privileged",
    "UMask",
];

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/flowlogd.service")
}

/// The agent need not be installed.
fn installed(directory: &TempDir) -> Result<PathBuf> {
    let text = fs::read_to_string(unit())?;
    let (program, there) = ("/usr/bin/flowlogd", binary()?);
    ensure!(text.contains(&format!("ExecStart={program} ")), "the unit starts another program");
    let path = directory.path().join("flowlogd.service");
    fs::write(&path, text.replace(program, there.to_str().context("path")?))?;
    Ok(path)
}

#[test]
fn nothing_is_wrong_with_it() -> Result<()> {
    let directory = TempDir::new()?;
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(installed(&directory)?).output()?;
    ensure!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn it_leaves_open_what_it_says() -> Result<()> {
    let analyze = |extra: &str| -> Result<String> {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["security", "--offline=yes", "--no-pager", extra]).arg(unit()).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = analyze("--threshold=100")?;
    let line = text.lines().find(|line| line.contains("Overall exposure level")).context("no score")?;
    let score = line.rsplit(": ").next().and_then(|rest| rest.split(' ').next()).context("no score")?;
    let (whole, tenth) = score.split_once('.').context("no tenths")?;
    let exposure = 10 * whole.parse::<u32>()? + tenth.parse::<u32>()?;
    ensure!(exposure <= EXPOSURE_MAX, "{line}");

    let checks: Vec<Value> = serde_json::from_str(&analyze("--json=short")?)?;
    let open = checks.iter().filter(|check| check["set"] == Value::Bool(false));
    let open: BTreeSet<&str> = open.filter_map(|check| check["json_field"].as_str()).collect();
    ensure!(open == BTreeSet::from(OPEN), "{open:#?}");
    Ok(())
}
