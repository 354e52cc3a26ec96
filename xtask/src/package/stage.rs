//! target/package/stage: what packages hold and the repository does not have, where assets in agent/Cargo.toml name it.
//! Must not know package formats.
//! Made anew each time; nothing in it depends on the day or the directory.
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Package;
use crate::{command, output, root, setup, step};

pub(crate) fn directory() -> PathBuf {
    // Not below a target directory that is elsewhere: the assets' paths are fixed.
    root().join("target/package/stage")
}

pub(crate) fn fill(binary: &Path, package: &Package<'_>) -> Result<()> {
    let stage = setup::empty(&directory())?;
    // By its own name: man pages and errors have it.
    let stripped = stage.join("flowlogd");
    step("strip the agent", command("strip").arg("-o").arg(&stripped).arg(binary))?;
    step("make man pages and completions", command(&stripped).arg("generate").arg(&stage))?;
    let pages = fs::read_dir(stage.join("man"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    gzip(&pages)?;
    fs::write(stage.join("changelog"), changelog(package)?).context("changelog")
}

/// Debian wants one.
fn changelog(package: &Package<'_>) -> Result<String> {
    let date = output("date", &["--utc", "--rfc-email", "--date", &format!("@{}", package.date)]);
    let date = date.context("date --rfc-email fails")?;
    let (version, release) = (package.version, super::RELEASE);
    Ok(format!(
        "flowlogd ({version}-{release}) unstable; urgency=medium\n\n  * flowlogd {version}.\n\n -- {}  {date}",
        super::MAINTAINER
    ))
}

/// In place, without name and time.
pub(crate) fn gzip<P: AsRef<OsStr>>(paths: impl IntoIterator<Item = P>) -> Result<()> {
    step("compress", command("gzip").args(["-9", "--no-name", "--force", "--"]).args(paths))
}
