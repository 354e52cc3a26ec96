//! One agent goes on in the place of another that runs, without a packet missed, doubled or uncounted.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, refusal};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::small_disk::SmallDisk;
use flowlogd_tests::steady::Steady;
use flowlogd_tests::traffic::Sink;
use flowlogd_tests::{ICMP, python, records, traffic};
use tempfile::TempDir;

/// Looks without a pause at what is attached while `work` runs: always the two programs, never none and never more.
fn watched<T>(pair: &Pair, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| -> Result<u32> {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let found = python::tcx_programs(&pair.a, "a0")?;
                ensure!(found == (1, 1), "programs on a0: {found:?}");
                looks += 1;
            }
            Ok(looks)
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let looks = watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
        ensure!(looks > 0, "nobody looked");
        result
    })
}

fn taken_over_under_traffic(interval: u32) -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let options = Options::on(&["a0"]).interval(interval).into(logs.path()).pins_in(&pins);
    let next = options.clone().args("--take-over");
    let first = Agent::start(&pair.a, &options)?;
    let steady = Steady::start(&pair)?;
    let last = watched(&pair, || {
        steady.wait(1000)?;
        let second = Agent::start(&pair.a, &next)?;
        first.ended("handed over")?.expect_nothing_lost()?;
        steady.wait(1500)?;
        let third = Agent::start(&pair.a, &next)?;
        second.ended("handed over")?.expect_nothing_lost()?;
        steady.wait(1000)?;
        Ok(third)
    })?;
    let sent = steady.stop()?;
    last.stop()?.expect_nothing_lost()?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    sent.expect_each_once(&records::read_objects(logs.path())?)
}

#[test]
fn taken_over_within_a_window() -> Result<()> {
    taken_over_under_traffic(600)
}

#[test]
fn taken_over_between_many_windows() -> Result<()> {
    taken_over_under_traffic(1)
}

/// With settings that cannot be, or a lock that is somebody else's, the one that runs goes on.
#[test]
fn a_takeover_that_is_refused() -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).pins_in(&pins))?;
    let (state, directory) = (pins.state().to_owned(), pins.directory());
    let [state, directory] = [&state, &directory].map(|path| path.to_str().expect("path"));
    let common = ["run", "--interface", "a0", "--state-directory", state, "--bpf-directory", directory];
    let refused = |more: &[&str], code: i32, word: &str| -> Result<()> {
        let refusal = refusal(&pair.a, &[], &binary()?, &[&common, more].concat())?;
        ensure!(refusal.code == Some(code) && refusal.stderr.len() == 1, "{refusal:?}");
        ensure!(refusal.stderr[0].contains(word), "{refusal:?}");
        Ok(())
    };
    refused(&[], 1, "another flowlogd uses it")?;
    refused(&["--take-over", "--region", "nowhere"], 2, "--region")?;
    // Ours, which is no agent.
    let lock = pins.state().join("lock");
    let signed = fs::read_to_string(&lock)?;
    ensure!(signed.trim_end() == agent.pid().to_string(), "signed by {signed}");
    fs::write(&lock, format!("{}\n", std::process::id()))?;
    refused(&["--take-over"], 1, "no flowlogd")?;
    fs::write(&lock, signed)?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (1, 1), "{:?}", agent.said());
    agent.stop()?.expect_nothing_lost()
}

/// What only the one that runs has goes out before the other one begins.
#[test]
fn without_a_journal_the_window_is_flushed() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    fs::write(pins.state().join("journal"), "")?;
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins);
    let first = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let second = Agent::start(&pair.a, &options.clone().args("--take-over"))?;
    first.ended("handed over")?.expect_nothing_lost()?;
    traffic::ping(&pair.a, Pair::B4, 3)?;
    let records = second.stop()?.records;
    // Without what the kernel sends of its own.
    let echoes = records::by_hosts(&records).into_iter().filter(|(hosts, _)| hosts.protocol == ICMP);
    let packets: u64 = echoes.map(|(_, totals)| totals.packets).sum();
    ensure!(packets == 2 * (4 + 3), "{records:?}");
    Ok(())
}

/// A disk that was full for a while is no reason for a gap.
#[test]
fn taken_over_after_a_full_disk() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs, disk) = (BpfFs::new()?, TempDir::new()?, SmallDisk::new(4096)?);
    let options = Options::on(&["a0"]).into(logs.path()).pins_in(&pins).state_in(disk.path());
    let first = Agent::start(&pair.a, &options)?;
    let steady = Steady::start(&pair)?;
    steady.wait(1000)?;
    disk.fill()?;
    first.wait_said("a crash loses what was counted before it")?;
    disk.clear()?;
    first.wait_said("the journal can be written again")?;
    steady.wait(2500)?;
    let second = watched(&pair, || {
        let second = Agent::start(&pair.a, &options.clone().args("--take-over"))?;
        first.ended("handed over")?.expect_nothing_lost()?;
        steady.wait(1000)?;
        Ok(second)
    })?;
    let sent = steady.stop()?;
    second.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&records::read_objects(logs.path())?)
}

/// What is in memory alone is lost, and said; what comes meanwhile is not.
#[test]
fn taken_over_on_a_full_disk() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs, disk) = (BpfFs::new()?, TempDir::new()?, SmallDisk::new(4096)?);
    let options = Options::on(&["a0"]).into(logs.path()).pins_in(&pins).state_in(disk.path());
    let first = Agent::start(&pair.a, &options)?;
    let lost = Steady::start(&pair)?;
    disk.fill()?;
    first.wait_said("not spooled, waits in memory")?;
    lost.wait(1500)?;
    lost.stop()?;
    // Everything until now is drained before this is.
    let kept = Sink::new(&pair.b, Pair::B4, 9500)?;
    let second = watched(&pair, || {
        let second = Agent::spawn(&pair.a, &options.clone().args("--take-over"))?;
        let (code, said) = first.wait_exit()?;
        let is_said = |word: &str| said.iter().any(|line| line.starts_with(word));
        ensure!(code == Some(1) && is_said("flowlogd handed over:") && is_said("flowlogd: lost up to "), "{said:?}");
        // Nobody reads the tables at this moment.
        traffic::udp(&pair.a, Pair::A4, 7500, &kept, 100, 500)?;
        disk.clear()?;
        second.wait_said("flowlogd ready")?;
        Ok(second)
    })?;
    second.stop()?.expect_nothing_lost()?;
    let records = records::read_directory(logs.path())?;
    let logged = records::by_flow(&records).into_iter().filter(|(flow, _)| flow.sport == 7500);
    let packets: u64 = logged.map(|(_, totals)| totals.packets).sum();
    ensure!(packets == 500, "{packets} of 500 packets");
    Ok(())
}
