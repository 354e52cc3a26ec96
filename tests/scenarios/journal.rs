//! What becomes of a journal does not stop the agent: what is whole is kept, what is not is said, what is not ours stays.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{ICMP, records, traffic};

/// Sizes of a journal's own parts.
const FILE_HEADER: usize = 40;
const ENTRY_HEAD: usize = 12;

/// One destination for all agents of a test: what is in a journal is the flow log's that was there.
fn options(pins: &BpfFs) -> Options {
    Options::on(&["a0"]).interval(600).into(&pins.state().join("records")).pins_in(pins)
}

/// Leaves a journal with the interface's name, four echoes and three, in this order.
fn journalled(pair: &Pair, pins: &BpfFs) -> Result<()> {
    for echoes in [4, 3, 0] {
        // It takes over what the one before it has counted.
        let agent = Agent::start(&pair.a, &options(pins))?;
        if echoes > 0 {
            traffic::ping(&pair.a, Pair::B4, echoes)?;
        }
        agent.kill()?;
    }
    Ok(())
}

fn file(pins: &BpfFs) -> Result<PathBuf> {
    let mut files = pins.state().join("journal").read_dir()?;
    let file = files.next().context("no journal")??.path();
    ensure!(files.next().is_none(), "more than one journal");
    Ok(file)
}

fn entries(bytes: &[u8]) -> Result<Vec<Range<usize>>> {
    let (mut found, mut at) = (Vec::new(), FILE_HEADER);
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes.get(at..at + 4).context("head")?.try_into()?);
        let end = at + ENTRY_HEAD + usize::try_from(length)?;
        found.push(at..end);
        at = end;
    }
    ensure!(at == bytes.len() && found.len() == 3, "{found:?} of {} bytes", bytes.len());
    Ok(found)
}

fn echoes(stopped: &Stopped) -> u64 {
    let hosts = records::by_hosts(&stopped.records);
    hosts.iter().filter(|(hosts, _)| hosts.protocol == ICMP).map(|(_, totals)| totals.packets).sum()
}

/// Starts on what is there, adds two echoes, and fails unless so many are logged and one line of this level is said.
fn goes_on(pair: &Pair, options: &Options, want: u64, level: &str, words: &[&str]) -> Result<()> {
    let agent = Agent::start(&pair.a, options)?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let lines: Vec<_> = stopped.stderr.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    ensure!(lines.len() == 1 && lines[0].contains(level), "{:?}", stopped.stderr);
    ensure!(words.iter().all(|word| lines[0].contains(word)), "{:?}", stopped.stderr);
    // Each has an answer.
    ensure!(echoes(&stopped) == 2 * (want + 2), "{:?}", stopped.records);
    Ok(())
}

#[test]
fn a_truncated_journal() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    journalled(&pair, &pins)?;
    let file = file(&pins)?;
    let bytes = fs::read(&file)?;
    entries(&bytes)?;
    fs::write(&file, &bytes[..bytes.len() - 5])?;
    goes_on(&pair, &options(&pins), 4, "WARN", &["dropped an unfinished append", ".journal"])
}

#[test]
fn a_corrupted_journal() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    journalled(&pair, &pins)?;
    let file = file(&pins)?;
    let mut bytes = fs::read(&file)?;
    let first = entries(&bytes)?.swap_remove(1);
    let middle = (first.start + ENTRY_HEAD + first.end) / 2;
    bytes[middle..middle + 3].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&file, &bytes)?;
    goes_on(&pair, &options(&pins), 3, "WARN", &["dropped", "damaged bytes", ".journal"])
}

#[test]
fn a_file_that_is_no_journal_stays() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    journalled(&pair, &pins)?;
    let notes = pins.state().join("journal/notes");
    fs::write(&notes, "mine")?;
    goes_on(&pair, &options(&pins), 7, "WARN", &["journal/notes", "alone"])?;
    ensure!(fs::read(&notes)? == b"mine", "changed");
    Ok(())
}

#[test]
fn a_file_in_the_place_of_the_journal() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    fs::write(pins.state().join("journal"), "mine")?;
    goes_on(&pair, &options(&pins), 0, "ERROR", &["journal", "File exists"])
}

/// Windows wait, it is said once, and all are delivered when there is room.
#[test]
fn a_full_disk() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let state = pins.state().display();
    let full = format!(
        "mount -t tmpfs -o size=64k none {state} && {{ head -c 256k /dev/zero > {state}/fill 2>/dev/null || true; }}"
    );
    let options = Options::on(&["a0"]).interval(1).pins_in(&pins).after(&full);
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    agent.wait_said("not spooled")?;
    agent.wait_said("until it is mended")?;
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_secs(1));
        traffic::ping(&pair.a, Pair::B4, 1)?;
    }
    // In the agent's own mount namespace.
    std::fs::remove_file(format!("/proc/{}/root{state}/fill", agent.pid()))?;
    agent.wait_said("the spool can be written again")?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let said = |words: &str| stopped.stderr.iter().filter(|line| line.contains(words)).count();
    ensure!((said("not spooled"), said("until it is mended")) == (1, 1), "{:?}", stopped.stderr);
    ensure!(stopped.count("journal_errors")? >= 3, "{:?}", stopped.stderr);
    let echoes: u64 = records::by_flow(&stopped.records).values().map(|totals| totals.packets).sum();
    ensure!(echoes >= 14, "{echoes} packets logged: {:?}", stopped.stderr);
    Ok(())
}
