//! Clock, disk, memory, and where the kernel side is pinned.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::capture::{DEFAULT_DIRECTORY, clock_is_synchronised};
use crate::config::{Config, DEFAULT_STATE_DIRECTORY};
use crate::daemon::{available_bytes, sizes};
use crate::durable;

pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let agent = config.map(|config| &config.agent);
    let state = agent.map_or(Path::new(DEFAULT_STATE_DIRECTORY), |agent| &agent.state_directory);
    let pins = agent.and_then(|agent| agent.bpf_directory.as_deref()).unwrap_or(Path::new(DEFAULT_DIRECTORY));
    let spools = config.map_or(0, |config| config.logs.iter().map(|log| log.spool_bytes_max).sum());
    vec![pinned(pins), clock(), memory(config), disk(state, spools)]
}

/// The directory, or what there is of the way to it.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn pinned(directory: &Path) -> Check {
    let there = nearest(directory);
    let shown = directory.display();
    if !statfs(&there).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        let found = format!("{shown} is not on a bpf file system: counters will not survive a restart");
        let fix = "mount -t bpf bpf /sys/fs/bpf, or choose another place with --bpf-directory";
        return Check::limited("pins", found, fix);
    }
    let owner = fs::metadata(&there).map_or_else(|_| "?".to_owned(), |found| found.uid().to_string());
    let found = format!("{shown} is on a bpf file system; {} is user {owner}'s", there.display());
    match access(&there, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Check::good("pins", found),
        Err(error) => {
            let fix = format!("make {shown} beforehand, and give it to the agent's user");
            Check::limited("pins", format!("{found}: {error}; counters will not survive a restart"), fix)
        }
    }
}

fn clock() -> Check {
    match clock_is_synchronised() {
        Ok(true) => Check::good("clock", "synchronised"),
        Ok(false) => {
            let fix = "run chrony, systemd-timesyncd or another NTP client; AWS refuses calls of a clock 5 min off";
            Check::limited("clock", "the kernel does not know it to be synchronised", fix)
        }
        Err(error) => Check::limited("clock", format!("cannot be asked: {error}"), "look with timedatectl"),
    }
}

/// Tables may take so much of what is available now before it is said.
const MEMORY_SHARE: u64 = 4;

fn memory(config: Option<&Config>) -> Check {
    let sizes = sizes(config.map(|config| &config.agent));
    let (bytes, available) = (sizes.memory_bytes(), available_bytes());
    let found = format!("{} MiB for the tables, {} MiB available", bytes >> 20, available >> 20);
    if bytes > available / MEMORY_SHARE {
        return Check::limited(
            "memory",
            found,
            "lower flow-table-slots and overflow-slots: they are drained more often",
        );
    }
    Check::good("memory", found)
}

fn disk(state: &Path, spools: u64) -> Check {
    let there = nearest(state);
    let shown = state.display();
    if let Err(error) = access(&there, AccessFlags::W_OK | AccessFlags::X_OK) {
        let fix = "give the directory to the agent's user, or choose another with --state-directory";
        return Check::bad("disk", format!("{shown}: {error}"), fix);
    }
    let free = match statvfs(&there) {
        Ok(found) => found.blocks_available() * found.fragment_size(),
        Err(error) => return Check::limited("disk", format!("{shown}: {error}"), "look at the file system"),
    };
    let journal = durable::LIMIT_BYTES;
    let found = format!(
        "{shown}: {} MiB free; spools may take {} MiB and the journal {} MiB",
        free >> 20,
        spools >> 20,
        journal >> 20
    );
    if free < spools + journal {
        let fix = "free some, or lower max-bytes of [spool]: a full disk keeps windows in memory";
        return Check::limited("disk", found, fix);
    }
    Check::good("disk", found)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn room_for_the_spools() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("not/yet");
        assert_eq!(disk(&state, 0).verdict, Verdict::Good);
        let short = disk(&state, u64::MAX >> 1);
        assert_eq!(short.verdict, Verdict::Limited);
        assert!(short.found.starts_with(&format!("{}: ", state.display())), "{}", short.found);
    }

    #[test]
    fn no_bpf_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let check = pinned(directory.path());
        assert_eq!(check.verdict, Verdict::Limited);
        assert!(check.fix.unwrap().starts_with("mount -t bpf"));
    }
}
