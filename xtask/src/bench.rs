//! Builds and runs the benchmark.
use std::ffi::OsString;

use anyhow::Result;

use crate::{cargo, command, need_root, output, run, setup, step};

const PACKAGES: [&str; 1] = ["iproute2"];
/// With the services that each would start, now and at every boot.
const PEERS: [(&str, &[&str]); 3] =
    [("nftables", &[]), ("softflowd", &["softflowd"]), ("pmacct", &["pmacctd", "nfacctd", "sfacctd", "uacctd"])];

pub(crate) fn run(peers: bool, args: &[OsString]) -> Result<()> {
    need_root("cargo xtask bench")?;
    run::build(true)?;
    setup::packages(&PACKAGES)?;
    let mut bench = cargo(["run", "--release", "--package", "flowlogd-tests", "--bin", "bench", "--"]);
    if peers {
        install_peers()?;
        bench.arg("--peers");
    }
    step("benchmark", bench.args(args))
}

/// Peers are installed to be measured, not to watch this host: what is not here yet is kept from starting.
fn install_peers() -> Result<()> {
    let missing = PEERS.iter().filter(|(package, _)| !setup::installed(package));
    let services: Vec<&str> = missing.flat_map(|(_, services)| services.iter().copied()).collect();
    if !services.is_empty() && output("systemctl", &["--version"]).is_some() {
        step(
            "keep the peers' services from starting (undo: systemctl unmask)",
            command("systemctl").arg("mask").args(services),
        )?;
    }
    setup::packages(&PEERS.map(|(package, _)| package))
}
