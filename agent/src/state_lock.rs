//! One agent for each state directory: a lock, whose file says which process holds it, and the way to ask that one for it.
//! Knows nothing of what is in the directory, nor of what the other one leaves behind.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::Failure;

/// Asks an agent to leave everything as it is, so that another can go on with it.
pub(crate) const HAND_OVER: Signal = Signal::SIGUSR1;

/// How long an agent may take to hand over: it finishes the drain and the publication that it is in.
const LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: Flock<File>,
}

fn said(directory: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::Run(format!("--state-directory '{}': {why}", directory.display()))
}

fn open(directory: &Path) -> Result<File, Failure> {
    fs::create_dir_all(directory).map_err(|e| said(directory, e))?;
    let path: PathBuf = directory.join("lock");
    // Not truncated: it may be another's.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|e| said(directory, e))
}

/// Two agents on one state directory would each write half of a host's records under one name.
pub(crate) fn lock(directory: &Path) -> Result<StateLock, Failure> {
    try_lock(open(directory)?).map_err(|_| said(directory, "another flowlogd uses it"))
}

fn try_lock(file: File) -> Result<StateLock, File> {
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, _)| file)?;
    // Whoever is in there is gone.
    let _ = file.set_len(0);
    Ok(StateLock { file })
}

/// As [`lock`], and asks the agent that holds it to hand over.
pub(crate) fn take_over(directory: &Path) -> Result<StateLock, Failure> {
    let start = Instant::now();
    let mut file = open(directory)?;
    let mut asked = None;
    loop {
        file = match try_lock(file) {
            Ok(lock) => return Ok(lock),
            Err(file) => file,
        };
        let holder = holder(&mut file);
        // Again only when it is another: that one took over as well, and was faster.
        if let Some(pid) = holder.filter(|pid| asked != Some(*pid)) {
            ask(pid, directory)?;
            asked = Some(pid);
        }
        if start.elapsed() >= LIMIT {
            let seconds = LIMIT.as_secs();
            let why = match asked {
                Some(pid) => format!("flowlogd {pid} has not handed over within {seconds} s; stop it first"),
                None => format!("what holds its lock is no agent that could hand over; waited {seconds} s"),
            };
            return Err(said(directory, why));
        }
        thread::sleep(LOOK);
    }
}

fn holder(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
    // Without the end of the line it is still being written.
    text.strip_suffix('\n')?.parse().ok().filter(|&pid| pid > 0).map(Pid::from_raw)
}

fn ask(pid: Pid, directory: &Path) -> Result<(), Failure> {
    // Gone: the lock will be free at once.
    let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { return Ok(()) };
    if !name.starts_with("flowlogd") {
        let why =
            format_args!("its lock names process {pid}, which is {} and no flowlogd; not signalled", name.trim_end());
        return Err(said(directory, why));
    }
    match kill(pid, HAND_OVER) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(said(directory, format_args!("cannot ask flowlogd {pid} to hand over: {error}"))),
    }
}

impl StateLock {
    /// From now on we can be asked to hand over: to be called when the signal is blocked, as it would end us.
    pub(crate) fn sign(&mut self) {
        // On a full disk it stays empty, and nobody can ask.
        let _ = self.file.rewind().and_then(|()| writeln!(&mut *self.file, "{}", std::process::id()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_a_stranger_is_not_signalled() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        assert!(lock(directory.path()).is_err());
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // The kernel lets us go on a little before the child has its name.
        while fs::read_to_string(format!("/proc/{}/comm", sleep.id())).unwrap() != "sleep\n" {
            thread::yield_now();
        }
        fs::write(directory.path().join("lock"), format!("{}\n", sleep.id())).unwrap();
        let refused = take_over(directory.path()).unwrap_err();
        assert!(matches!(&refused, Failure::Run(why) if why.contains("which is sleep and no flowlogd")), "{refused:?}");
        assert!(sleep.try_wait().unwrap().is_none(), "it was signalled");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        drop(first);
        lock(directory.path()).unwrap().sign();
        let held = fs::read_to_string(directory.path().join("lock")).unwrap();
        assert_eq!(held, format!("{}\n", std::process::id()));
        take_over(directory.path()).unwrap();
    }
}
