//! A bpf file system and a state directory of a test's own: what agents pin and keep goes with them, also when they were
//! killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::netns::run;

const DIRECTORY: &str = "/run";
const PREFIX: &str = "flbpf-";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static REAPER: Once = Once::new();

/// Unmounted on drop, which frees and detaches all that is pinned.
#[derive(Debug)]
pub struct BpfFs {
    path: PathBuf,
    state: TempDir,
}

impl BpfFs {
    pub fn new() -> Result<Self> {
        REAPER.call_once(reap);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(DIRECTORY).join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        let file_system = Self { path, state: TempDir::new()? };
        run(&["mount", "-t", "bpf", "bpf", file_system.mount()?])?;
        Ok(file_system)
    }

    fn mount(&self) -> Result<&str> {
        self.path.to_str().context("path")
    }

    /// What to give an agent as `--bpf-directory`.
    pub fn directory(&self) -> PathBuf {
        self.path.join("flowlogd")
    }

    /// What to give it as `--state-directory`.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Nobody can write any more.
    pub fn make_read_only(&self) -> Result<()> {
        run(&["mount", "-o", "remount,ro", self.mount()?])?;
        Ok(())
    }

    /// Everything that was put into it, as paths below the mount point, sorted.
    pub fn contents(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        list(&self.path, "", &mut found)?;
        // The kernel's own (CONFIG_BPF_PRELOAD).
        found.retain(|path| !["maps.debug", "progs.debug"].contains(&path.as_str()));
        found.sort();
        Ok(found)
    }
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), found)?;
        }
        found.push(name);
    }
    Ok(())
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    // Lazily: an agent that is ending may have it open.
    let _ = run(&["umount", "--lazy", &path.to_string_lossy()]);
    let _ = fs::remove_dir(path);
}

/// Removes what killed test runs left.
fn reap() {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|owner| !fs::exists(format!("/proc/{owner}")).unwrap_or(true)) {
            unmount(&entry.path());
        }
    }
}
