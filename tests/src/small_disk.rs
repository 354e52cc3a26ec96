//! A file system that is soon full: a tmpfs, unmounted on drop.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::netns::run;

const DIRECTORY: &str = "/run";
const PREFIX: &str = "flsmall-";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static REAPER: Once = Once::new();

#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    pub fn new(kilobytes: u32) -> Result<Self> {
        REAPER.call_once(reap);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let disk = Self { path: Path::new(DIRECTORY).join(format!("{PREFIX}{}-{number}", std::process::id())) };
        fs::create_dir(&disk.path)?;
        let path = disk.path.to_str().context("path")?;
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={kilobytes}k,mode=700"), "tmpfs", path])?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }

    /// Gives it back.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    // Lazily: an agent that is ending may have files open.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_until_it_is_cleared() -> Result<()> {
        let disk = SmallDisk::new(256)?;
        let path = disk.path().to_owned();
        disk.fill()?;
        let error = fs::write(path.join("x"), "x").expect_err("there was room");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.clear()?;
        fs::write(path.join("x"), "x")?;
        drop(disk);
        assert!(!path.exists());
        Ok(())
    }
}
