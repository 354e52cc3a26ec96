//! Builds and runs the benchmark.
use std::ffi::OsString;

use anyhow::Result;

use crate::{cargo, need_root, run, setup, step};

const PACKAGES: [&str; 1] = ["iproute2"];

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    need_root("cargo xtask bench")?;
    run::build(true)?;
    setup::packages(&PACKAGES)?;
    let mut bench = cargo(["run", "--release", "--package", "flowlogd-tests", "--bin", "bench", "--"]);
    step("benchmark", bench.args(args))
}
