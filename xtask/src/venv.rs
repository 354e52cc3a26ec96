//! The Python packages that tests talk to and are read by (tests/requirements.txt), in a virtual environment of their
//! own. Does nothing when it is all there.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{command, output, root, setup, step};

/// Debian's own, not one that a version manager shadows.
const PYTHON: &str = "/usr/bin/python3";

pub(crate) fn install() -> Result<()> {
    let (venv, requirements) = (directory(), root().join("tests/requirements.txt"));
    let wanted = fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    // Written last: without it the environment may be half made.
    let stamp = venv.join("installed.txt");
    let python = venv.join("bin/python");
    let is_current = fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted);
    // Its Python is a link, which an upgrade of the system breaks.
    if is_current
        && output(&python.to_string_lossy(), &["-c", "import moto, flask_cors, flowlogs_reader, duckdb, pyarrow"])
            .is_some()
    {
        eprintln!("==> Python packages: {}", venv.display());
        return Ok(());
    }
    setup::packages(&["python3-venv"])?;
    step("make a Python environment", command(PYTHON).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = command(&python);
    // Complete as it is: what it does not name is not wanted.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]);
    step("install Python packages (half a minute)", pip.arg(&requirements))?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())
}

/// Where tests/src/venv.rs looks.
fn directory() -> PathBuf {
    root().join("target/tools/venv")
}
