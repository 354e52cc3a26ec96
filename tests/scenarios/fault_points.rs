//! Killed where a crash could lose or double something, the agent does neither.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options, faults_binary};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records;
use flowlogd_tests::steady::Steady;
use tempfile::TempDir;

/// Places and which pass of them, as `agent/src/fault.rs` has them. Each agent recovers from what the one before it left,
/// so the order is part of it: what is passed at a start comes after what leaves something to do there.
const DEATHS: [&str; 33] = [
    // Between the two words of the switch, and behind them. The next takes over two epochs, and dies in the midst.
    "switched:1",
    "adopted:1",
    "switched:1",
    "adopted:2",
    "switched:2",
    "released:1",
    "scanned:1",
    "adopted:1",
    "adopted:1",
    // The first appends say names, those after them what was drained.
    "journal-half-written:1",
    "journal-half-written:2",
    "journal-half-written:3",
    "journal-half-written:4",
    "journal-made:1",
    "journal-named:1",
    "journal-named:2",
    "journal-appended:1",
    "journal-appended:2",
    "cleared:1",
    "cleared:2",
    "journal-closed:1",
    "republished:1",
    "journal-closed:2",
    "adopted:1",
    // In the spool, and still in the journal.
    "spool-written:1",
    "spool-named:1",
    "republished:1",
    // Out, and still in the spool.
    "batch-made:1",
    "revealed:1",
    "segment-removed:1",
    "revealed:3",
    "forgotten:1",
    "forgotten:2",
];

#[test]
fn killed_at_each_place() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let program = faults_binary()?;
    let options = Options::on(&["a0"]).interval(1).into(logs.path()).pins_in(&pins).program(&program);
    let first = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    traffic.wait(100)?;
    first.kill()?;
    for death in DEATHS {
        let agent = Agent::spawn(&pair.a, &options.clone().env("FLOWLOGD_FAULT", death))?;
        agent.wait_killed().with_context(|| death.to_owned())?;
        traffic.wait(50)?;
    }
    let last = Agent::start(&pair.a, &options)?;
    let sent = traffic.stop()?;
    last.stop()?.expect_nothing_lost()?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    ensure!(is_empty(&pins.state().join("journal"))?, "the journal is not empty");
    sent.expect_each_once(&records::read_objects(logs.path())?)
}

fn is_empty(directory: &Path) -> Result<bool> {
    Ok(directory.read_dir()?.next().is_none())
}
