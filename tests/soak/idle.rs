//! An agent with nothing to do: what it takes all the same.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use nix::unistd::{SysconfVar, sysconf};

use crate::sample::kib;

/// What a host's owner may expect.
const RESIDENT_KIB_MOST: u64 = 25 << 10;
const CPU_PERCENT_MOST: f64 = 0.1;

#[derive(Debug)]
pub(crate) struct Idle {
    resident_kib: u64,
    /// Pages of the kernel's tables that the process has looked at.
    tables_kib: u64,
    anonymous_kib: u64,
    cpu_percent: f64,
}

pub(crate) fn measure(length: Duration) -> Result<Idle> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    // What happens once after a start has happened.
    thread::sleep(Duration::from_secs(5));
    let (start, before) = (Instant::now(), ticks(agent.pid())?);
    thread::sleep(length);
    let (elapsed, after) = (start.elapsed(), ticks(agent.pid())?);
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    let idle = Idle {
        resident_kib: kib(agent.pid(), "VmRSS:")?,
        tables_kib: tables_kib(agent.pid())?,
        anonymous_kib: kib(agent.pid(), "RssAnon:")?,
        cpu_percent: (after - before) as f64 / hertz as f64 / elapsed.as_secs_f64() * 100.0,
    };
    agent.stop()?.expect_nothing_lost()?;
    Ok(idle)
}

/// User and system time.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn tables_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut is_table, mut sum) = (false, 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kib: u64 = rest.trim().trim_end_matches(" kB").parse()?;
            sum += if is_table { kib } else { 0 };
        } else if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            is_table = line.contains("bpf-map");
        }
    }
    Ok(sum)
}

impl Idle {
    pub(crate) fn expect_small(&self) -> Result<()> {
        let beside = self.resident_kib - self.tables_kib;
        ensure!(beside <= RESIDENT_KIB_MOST && self.cpu_percent <= CPU_PERCENT_MOST, "too much: {self}");
        Ok(())
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "idle: {} KiB resident beside {} KiB of tables, {} of it anonymous; {:.3} % of a CPU",
            self.resident_kib - self.tables_kib,
            self.tables_kib,
            self.anonymous_kib,
            self.cpu_percent
        )
    }
}
