//! The Python packages of tests/requirements.txt: services that stand in for AWS's, and readers of flow logs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The environment's Python.
pub fn python() -> Result<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/python");
    // Not resolved: it knows its packages by where it is.
    python.metadata().with_context(|| format!("{}: run `cargo xtask test`, which sets it up", python.display()))?;
    Ok(python)
}
