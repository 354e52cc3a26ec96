//! Builds and runs the soak test.
use std::ffi::OsString;

use anyhow::Result;

use crate::{cargo, need_root, run, setup, step, test, venv};

pub(crate) fn run(args: &[OsString]) -> Result<()> {
    need_root("cargo xtask soak")?;
    run::build(true)?;
    setup::packages(&test::PACKAGES)?;
    venv::install()?;
    let mut soak = cargo(["run", "--release", "--package", "flowlogd-tests", "--bin", "soak", "--"]);
    step("soak", soak.args(args))
}
