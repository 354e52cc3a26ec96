//! Builds and runs the benchmark.
use std::ffi::OsString;

use anyhow::Result;

use crate::{cargo, need_root, run, setup, step};

const PACKAGES: [&str; 3] = ["iproute2", "nftables", "iperf3"];
/// Other flow exporters, measured on the same traffic.
const PEERS: [&str; 2] = ["softflowd", "pmacct"];

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    need_root("cargo xtask bench")?;
    run::build(true)?;
    setup::packages(&PACKAGES)?;
    if args.iter().any(|arg| arg == "--peers") {
        setup::packages(&PEERS)?;
    }
    let mut bench = cargo(["run", "--release", "--package", "flowlogd-tests", "--bin", "bench", "--"]);
    step("benchmark", bench.args(args))
}
