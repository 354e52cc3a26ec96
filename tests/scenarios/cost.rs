//! What delivery comes to: counted as it is on the disk, and told for a day.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent};
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::{self, Pair};
use flowlogd_tests::status::{self, number};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{records, wait_for};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn bytes_are_counted_and_a_day_is_estimated() -> Result<()> {
    let pair = Pair::new()?;
    let (state, logs) = (TempDir::new()?, TempDir::new()?);
    let config = ConfigFile::new(&[])?;
    let tables = format!("[agent]\nstate-directory = \"{}\"", state.path().display());
    let running = delivery::directory(logs.path());
    config.write_with(&tables, std::slice::from_ref(&running))?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let path = config.path();
    let check = |args: &[&str]| -> Result<String> {
        let line = [&["check", "--config", path.to_str().context("path")?], args].concat();
        Ok(agent::output(&pair.a, &line)?.join("\n"))
    };
    ensure!(!check(&[])?.contains("estimate"), "an estimate without an agent");
    let agent = Agent::start(&pair.a, &config.options().state_in(state.path()))?;
    traffic::udp_flows(&pair.a, Pair::A4, 41000..41100, &sink, 100, 1)?;
    wait_for("a delivery", Duration::from_secs(20), || {
        let said = status::status(&pair.a, &agent)?;
        let count = |what: &str| number(&said, &format!("/flow_logs/0/{what}"));
        Ok((count("made/records")? >= 100 && count("delivery/delivered/records")? >= 100).then_some(()))
    })?;
    // One that does not run yet, beside the one that does.
    let planned = TempDir::new()?;
    config.write_with(&tables, &[running, delivery::directory(planned.path())])?;
    let text = check(&[])?;
    ensure!(text.matches("  estimate      about ").count() == 2, "{text}");
    ensure!(text.contains("records of its") && text.contains("flows of its interfaces in"), "{text}");
    let answer: Value = serde_json::from_str(&check(&["--json"])?)?;
    for (at, has_calls) in [(0, true), (1, false)] {
        let of = |what: &str| number(&answer, &format!("/FlowLogs/{at}/Estimate/{what}"));
        ensure!(of("Records")? >= 100 && of("TextBytes")? > of("Bytes")? && of("Bytes")? > 0, "{answer:#}");
        ensure!(of("Calls").is_ok() == has_calls, "{answer:#}");
    }
    agent.stop()?.expect_nothing_lost()?;
    let said = delivery::status(state.path(), logs.path().to_str().context("path")?)?;
    let files = delivery::files(logs.path())?;
    let count = |what: &str| number(&said, &format!("/delivered/{what}"));
    let (mut bytes, mut text_bytes) = (0, 0);
    for file in &files {
        bytes += fs::metadata(file)?.len();
        text_bytes += netns::run(&["zcat", file.to_str().context("path")?])?.len() as u64;
    }
    let records = records::read_directory(logs.path())?.len() as u64;
    let want = (files.len() as u64, records, bytes, text_bytes);
    let got = (count("calls")?, count("records")?, count("bytes")?, count("text_bytes")?);
    ensure!(got == want, "said {got:?}, on the disk {want:?}");
    Ok(())
}
