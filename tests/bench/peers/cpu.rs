//! Processor time of a recorder: of its process, its threads and its descendants, user and system.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// What a process and its living descendants have used so far.
pub(crate) fn of_tree(pid: u32) -> Result<Duration> {
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks(pid)? as f64 / ticks_a_second as f64))
}

fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything. User and system time, then the same of reaped children.
    let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat")?;
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    let mut sum = times.sum::<Result<u64, _>>()?;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        for child in children.split_whitespace() {
            sum += ticks(child.parse()?)?;
        }
    }
    Ok(sum)
}

/// Runs `work`, which stops and reaps one child and no other, and returns what the child used in all its life.
pub(crate) fn of_reaped<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let before = of_children()?;
    let result = work()?;
    Ok((result, of_children()? - before))
}

fn of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| -> Result<Duration> {
        Ok(Duration::new(time.tv_sec().try_into()?, u32::try_from(time.tv_usec())? * 1_000))
    };
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

/// Waits until the process has used nothing for so long: then it has worked off what it was given.
pub(crate) fn wait_idle(pid: u32, quiet: Duration) -> Result<()> {
    let start = Instant::now();
    let (mut used, mut since) = (ticks(pid)?, start);
    while since.elapsed() < quiet {
        ensure!(start.elapsed() < IDLE_LIMIT, "process {pid} is still busy after {IDLE_LIMIT:?}");
        thread::sleep(Duration::from_millis(20));
        let now = ticks(pid)?;
        if now != used {
            (used, since) = (now, Instant::now());
        }
    }
    Ok(())
}
