//! A wall clock that the agent alone sees: libfaketime's.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::agent::Options;

/// Seconds of the machine's own clock.
pub fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

impl Options {
    /// Runs under libfaketime, which leaves the monotonic clock alone. `name` is a variable of its that says what time
    /// it is.
    pub fn fake_time(self, name: &str, value: &str) -> Result<Self> {
        let mut folders =
            fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")));
        let library = folders.find(|path| path.exists()).context("libfaketime is not installed")?;
        Ok(self
            .env("LD_PRELOAD", library.to_str().context("path")?)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env(name, value))
    }
}
