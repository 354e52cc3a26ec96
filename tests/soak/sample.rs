//! What an agent takes at a moment, and whether that grows.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery;
use flowlogd_tests::netns::Netns;
use flowlogd_tests::status::{number, status};
use serde_json::Value;

/// Memory that an allocator may keep without any leak; a leak of a hundred bytes a window is found in half an hour.
const SLACK_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Duration,
    /// Of the process alone: no tables, no program text.
    anonymous_bytes: u64,
    descriptors: usize,
    threads: usize,
    /// In spools.
    pub(crate) segments: usize,
    windows: u64,
    drained: u64,
    sum_errors: u64,
    lost: u64,
}

/// A line of /proc/PID/status.
pub(crate) fn kib(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Sample {
    pub(crate) const HEADER: &str =
        "seconds\tanonymous KiB\tdescriptors\tthreads\tsegments\twindows\tdrains\tsum errors\tlost";

    pub(crate) fn take(ns: &Netns, agent: &Agent, at: Duration) -> Result<Self> {
        let told = status(ns, agent)?;
        let (descriptors, threads) = agent.resources()?;
        let losses = told["losses"].as_array().context("losses")?;
        let lost = losses.iter().filter_map(|loss| loss["count"].as_u64()).sum();
        let files = delivery::files(&agent.state_directory().join("spool")).unwrap_or_default();
        let sum_rule = &told["sum_rule"];
        Ok(Self {
            at,
            anonymous_bytes: kib(agent.pid(), "RssAnon:")? << 10,
            descriptors,
            threads,
            segments: files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "seg")).count(),
            windows: number(sum_rule, "/windows")?,
            drained: number(&told, "/drains/count")?,
            sum_errors: number(sum_rule, "/windows_with_error")?,
            lost: if losses.iter().all(|loss| loss["count"].is_u64()) { lost } else { bad(&told)? },
        })
    }
}

fn bad(told: &Value) -> Result<u64> {
    anyhow::bail!("losses without a count: {:#}", told["losses"])
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.at.as_secs(),
            self.anonymous_bytes >> 10,
            self.descriptors,
            self.threads,
            self.segments,
            self.windows,
            self.drained,
            self.sum_errors,
            self.lost
        )
    }
}

/// The second quarter, when all that comes once has come, and the last.
#[derive(Debug)]
pub(crate) struct Trend {
    anonymous_bytes: [u64; 2],
    descriptors: [usize; 2],
    threads: [usize; 2],
    sum_errors: u64,
    lost: u64,
}

impl Trend {
    pub(crate) fn of(samples: &[Sample]) -> Result<Self> {
        let quarter = samples.len() / 4;
        ensure!(quarter >= 2, "{} samples are too few", samples.len());
        let parts = [&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]];
        let last = samples.last().context("no sample")?;
        let middle = |of: fn(&Sample) -> u64| parts.map(|part| median(part.iter().map(of)));
        let most = |of: fn(&Sample) -> usize| parts.map(|part| part.iter().map(of).max().unwrap_or(0));
        Ok(Self {
            anonymous_bytes: middle(|sample| sample.anonymous_bytes),
            descriptors: most(|sample| sample.descriptors),
            threads: most(|sample| sample.threads),
            sum_errors: last.sum_errors,
            lost: last.lost,
        })
    }

    pub(crate) fn expect_flat(&self) -> Result<()> {
        let [early, late] = self.anonymous_bytes;
        ensure!(late <= early + SLACK_BYTES, "memory grows: {self}");
        // A reload or a call that is under way at one moment and not at another.
        let is_flat = |[early, late]: [usize; 2], slack: usize| late <= early + slack;
        ensure!(is_flat(self.descriptors, 4) && is_flat(self.threads, 2), "descriptors or threads grow: {self}");
        ensure!(self.sum_errors == 0 && self.lost == 0, "{self}");
        Ok(())
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [early, late] = self.anonymous_bytes.map(|bytes| bytes >> 10);
        write!(
            f,
            "second quarter and last: anonymous {early} and {late} KiB, descriptors {:?}, threads {:?}; sum errors {}, lost {}",
            self.descriptors, self.threads, self.sum_errors, self.lost
        )
    }
}
