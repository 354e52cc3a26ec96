//! An interface that falls silent has one NODATA line a window, in AWS's form.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records::Status;
use flowlogd_tests::{traffic, wait_for};

const IDLE: &str = "eni-0000000a";
const BUSY: &str = "eni-0000000b";

/// Windows in which an interface had a line of this kind, in order.
fn windows(agent: &Agent, interface: &str, is: fn(&Status) -> bool) -> Result<Vec<(u64, u64)>> {
    let mut windows: Vec<_> = agent
        .records()?
        .iter()
        .filter(|record| record.interface == interface && is(&record.status))
        .map(|record| (record.start, record.end))
        .collect();
    windows.sort_unstable();
    Ok(windows)
}

fn ok(status: &Status) -> bool {
    matches!(status, Status::Ok { .. })
}

fn nodata(status: &Status) -> bool {
    *status == Status::NoData
}

/// AWS's example: `2 123456789010 eni-1235b8ca123456789 - - - - - - - 1431280876 1431280934 - NODATA`.
fn has_the_form(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("2 123456789012 eni-0000000a - - - - - - - ") else { return false };
    let Some(times) = rest.strip_suffix(" - NODATA") else { return false };
    let Some((start, end)) = times.split_once(' ') else { return false };
    [start, end].iter().all(|time| time.len() == 10 && time.bytes().all(|byte| byte.is_ascii_digit()))
}

#[test]
fn silence_is_nodata_after_the_first_traffic() -> Result<()> {
    let pair = Pair::new()?;
    pair.add_link("a1", "b1", 1)?;
    for ns in [&pair.a, &pair.b] {
        // Router solicitations and multicast reports are traffic.
        ns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
    }
    let identity = format!("--account-id 123456789012 --interface-id a0={IDLE} a1={BUSY}");
    let agent = Agent::start(&pair.a, &Options::on(&["a0", "a1"]).to_stdout().args(&identity))?;
    // Another interface's windows go by and a0 has none.
    wait_for("windows of the busy interface", Duration::from_secs(15), || {
        traffic::ping(&pair.a, "10.77.1.2", 1)?;
        let mut seen = windows(&agent, BUSY, ok)?;
        seen.dedup();
        Ok((seen.len() >= 3).then_some(()))
    })?;
    let early = agent.records()?.into_iter().filter(|record| record.interface == IDLE).count();
    ensure!(early == 0, "{early} lines before the first traffic");
    traffic::ping(&pair.a, Pair::B4, 1)?;
    wait_for("silent windows", Duration::from_secs(15), || {
        Ok((windows(&agent, IDLE, nodata)?.len() >= 3).then_some(()))
    })?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let active = windows(&agent, IDLE, ok)?.len();
    wait_for("a second active window", Duration::from_secs(15), || {
        Ok((windows(&agent, IDLE, ok)?.len() >= active.max(4)).then_some(()))
    })?;
    let (silent, active) = (windows(&agent, IDLE, nodata)?, windows(&agent, IDLE, ok)?);
    ensure!(silent.iter().all(|(start, end)| start == end), "windows of one second: {silent:?}");
    ensure!(silent.windows(2).all(|pair| pair[0].1 < pair[1].0), "overlapping windows {silent:?}");
    let both: Vec<_> =
        active.iter().filter(|(start, end)| silent.iter().any(|(first, last)| start <= last && first <= end)).collect();
    ensure!(both.is_empty(), "OK and NODATA at {both:?}");
    ensure!(active.iter().any(|(_, end)| *end < silent[0].0), "NODATA {silent:?} before traffic {active:?}");
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let lines: Vec<&String> = stopped.stdout.iter().filter(|line| line.ends_with("NODATA")).collect();
    ensure!(lines.len() >= 3 && lines.iter().all(|line| has_the_form(line) || line.contains(BUSY)), "{lines:#?}");
    Ok(())
}
