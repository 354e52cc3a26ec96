//! A wall clock that is stepped under a running agent. The step is libfaketime's: the agent alone sees it.

use std::fs;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::faketime::now;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{ICMP, records, traffic};

/// Echoes before and after the step: all are logged, each dated by the clock of its time, and no record spans it.
fn stepped_by(seconds: i64) -> Result<()> {
    let pair = Pair::new()?;
    let offset = tempfile::NamedTempFile::new()?;
    fs::write(&offset, "+0\n")?;
    let options = Options::on(&["a0"])
        .interval(600)
        .fake_time("FAKETIME_TIMESTAMP_FILE", offset.path().to_str().context("path")?)?
        .env("FAKETIME_NO_CACHE", "1");
    let start = now()?;
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    fs::write(&offset, format!("{seconds:+}\n"))?;
    agent.wait_said("the wall clock was stepped")?;
    let step = now()?;
    traffic::ping(&pair.a, Pair::B4, 3)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(stopped.count("clock_steps")? == 1, "{:?}", stopped.stderr);

    let shifted = |at: u64| at.checked_add_signed(seconds).context("time");
    let mut packets = [0, 0];
    for record in &stopped.records {
        let Some((flow, totals)) = record.flow() else { continue };
        if flow.protocol != ICMP {
            continue;
        }
        let window = [(start, step), (shifted(step)?, shifted(now()?)?)];
        // A second on either side: the kernel's ticks are coarse.
        let part = window.iter().position(|(from, to)| record.start + 1 >= *from && record.end <= *to + 1);
        packets[part.with_context(|| format!("{record:?} in neither of {window:?}"))?] += totals.packets;
    }
    ensure!(packets == [8, 6], "{packets:?} packets before and after, not 8 and 6");
    ensure!(records::by_flow(&stopped.records).len() >= 2, "{:?}", stopped.records);
    Ok(())
}

#[test]
fn an_hour_forwards() -> Result<()> {
    stepped_by(3_600)
}

#[test]
fn an_hour_backwards() -> Result<()> {
    stepped_by(-3_600)
}
