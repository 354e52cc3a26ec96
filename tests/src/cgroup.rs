//! A cgroup (version 2) for the senders of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::netns::{Netns, run};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Removed on drop, when nobody is in it any more.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

/// Where the unified hierarchy is mounted.
fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    });
    points.next().context("no cgroup2 is mounted: `mount -t cgroup2 none DIRECTORY`")
}

impl Cgroup {
    pub fn new() -> Result<Self> {
        let mount = mount()?;
        reap(&mount);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = mount.join(format!("flowlogd-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command in this cgroup and a namespace, to success.
    pub fn run(&self, ns: &Netns, argv: &[String]) -> Result<String> {
        let procs = self.path.join("cgroup.procs");
        let join = ["sh", "-c", "echo $$ >\"$0\" && exec \"$@\"", procs.to_str().context("cgroup path")?];
        let net = format!("--net={}", ns.path());
        let line: Vec<&str> =
            join.into_iter().chain(["nsenter", &net]).chain(argv.iter().map(String::as_str)).collect();
        run(&line)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes what killed runs left: cgroups named after dead processes.
fn reap(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("flowlogd-test-")) else { continue };
        let Some((pid, _)) = rest.split_once('-') else { continue };
        if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
