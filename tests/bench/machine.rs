//! What the benchmark runs on.

use std::fs;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread on the first CPU that may be used: the tables are per CPU.
pub(crate) fn pin() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// Possible CPUs.
pub(crate) fn cpus() -> u32 {
    let range = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    range.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok()).map_or(1, |last| last + 1)
}

pub(crate) fn ram_bytes() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    table.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(1 << 20) * 1024
}

pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The processor's name, or vendor and model when a hypervisor hides it.
pub(crate) fn processor() -> String {
    let table = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = table.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim()).to_owned()
    };
    format!("{} (family {} model {})", field("model name"), field("cpu family"), field("model"))
}

/// The most memory that this process has had since [`forget_peak`].
pub(crate) fn peak_bytes() -> Result<u64> {
    status_bytes("VmHWM:")
}

pub(crate) fn resident_bytes() -> Result<u64> {
    status_bytes("VmRSS:")
}

pub(crate) fn forget_peak() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn status_bytes(name: &str) -> Result<u64> {
    let table = fs::read_to_string("/proc/self/status")?;
    let line = table.lines().find_map(|line| line.strip_prefix(name)).context("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
