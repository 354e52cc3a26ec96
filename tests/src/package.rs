//! The packages that `cargo xtask test` made: of the release build, and a later version, which is the build with fault
//! points.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Of the later one; nobody's.
pub const LATER: &str = "9.0.0";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `$FLOWLOGD_PACKAGES`, or else target/package.
pub fn directory() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/package");
    env::var_os("FLOWLOGD_PACKAGES").map_or_else(default, PathBuf::from)
}

pub fn deb(version: &str) -> Result<PathBuf> {
    named(&format!("flowlogd_{version}-"), ".deb")
}

fn named(start: &str, end: &str) -> Result<PathBuf> {
    let directory = directory();
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_meant = |path: &&PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    };
    let found: Vec<&PathBuf> = paths.iter().filter(is_meant).collect();
    ensure!(found.len() == 1, "{start}*{end} in {}: {found:?}; cargo xtask test makes it", directory.display());
    Ok(found[0].clone())
}
