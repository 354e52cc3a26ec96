//! The kernel counts on while no agent runs, and the next agent takes its counts over: each packet once.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use flowlogd_tests::agent::{Agent, Options, Pins, Stopped, binary, refusal};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::records::Record;
use flowlogd_tests::traffic::Sink;
use flowlogd_tests::{ICMP, Totals, UDP, expect_equal, python, records, traffic, wait_for};
use tempfile::TempDir;

/// Sends without a pause while `work` runs.
fn under_traffic<T>(pair: &Pair, sink: &Sink, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| traffic::udp_until(&pair.a, Pair::A4, 7000, sink, 100, &stop));
        let result = work();
        stop.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("sender panicked"))??;
        result
    })
}

/// Waits until so many more datagrams have arrived.
fn wait_for_traffic(sink: &Sink, count: u64) -> Result<()> {
    let until = sink.received() + count;
    wait_for("traffic", Duration::from_secs(20), || Ok((sink.received() >= until).then_some(())))
}

fn filters(ns: &Netns) -> Result<[usize; 2]> {
    let count = |side: &str| -> Result<usize> {
        Ok(ns.sh(&format!("tc filter show dev a0 {side}"))?.matches("direct-action").count())
    };
    Ok([count("ingress")?, count("egress")?])
}

fn programs(ns: &Netns, hook: &str) -> Result<[usize; 2]> {
    if hook == "clsact" {
        return filters(ns);
    }
    let (ingress, egress) = python::tcx_programs(ns, "a0")?;
    Ok([ingress as usize, egress as usize])
}

/// Kills three agents in a row under traffic. The fourth's records hold what each left.
fn killed_under_traffic(hook: &str) -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    let logs = TempDir::new()?;
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins).args("--attach").args(hook);
    let before = pair.a.sh("tc qdisc show dev a0")?;
    // A flow's tables differ from one agent to the next.
    let sizes = ["4096", "64", "16384", "1024"].map(|slots| options.clone().args("--flow-table-slots").args(slots));
    let first = Agent::start(&pair.a, &sizes[0])?;
    let last = under_traffic(&pair, &sink, || {
        let mut agent = first;
        for next in &sizes[1..] {
            wait_for_traffic(&sink, 2000)?;
            ensure!(programs(&pair.a, hook)? == [1, 1], "{hook}: {:?}", programs(&pair.a, hook)?);
            agent.kill()?;
            wait_for_traffic(&sink, 2000)?;
            agent = Agent::start(&pair.a, next)?;
        }
        wait_for_traffic(&sink, 2000)?;
        Ok(agent)
    })?;
    let stopped = last.stop()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&ledger.flows()?, &udp(&stopped.records))?;
    // The kernel's counters were the third's; what the others had counted is in the journal of the window.
    let said = |what: &str| stopped.stderr.iter().filter(|line| line.contains(what)).count();
    ensure!(said("took over") == 1 && said("going on with") == 1, "{:?}", stopped.stderr);
    ensure!(programs(&pair.a, hook)? == [0, 0], "still attached");
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    ensure!(pair.a.sh("tc qdisc show dev a0")? == before, "not the qdiscs that were there");
    Ok(())
}

fn udp(records: &[Record]) -> std::collections::BTreeMap<flowlogd_tests::Flow, Totals> {
    records::by_flow(records).into_iter().filter(|(flow, _)| flow.protocol == UDP).collect()
}

#[test]
fn killed_under_traffic_by_tcx() -> Result<()> {
    killed_under_traffic("tcx")
}

#[test]
fn killed_under_traffic_by_clsact() -> Result<()> {
    killed_under_traffic("clsact")
}

/// Kills agents while they take over: some have updated none of the links yet, some have only one.
#[test]
fn killed_while_taking_over() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins).args("--flow-table-slots 64");
    let first = Agent::start(&pair.a, &options)?;
    let last = under_traffic(&pair, &sink, || {
        first.kill()?;
        for milliseconds in (0..).step_by(10) {
            let agent = Agent::spawn(&pair.a, &options)?;
            thread::sleep(Duration::from_millis(milliseconds));
            let was_ready = agent.said().iter().any(|line| line.starts_with("flowlogd ready:"));
            agent.kill()?;
            if was_ready {
                break;
            }
        }
        Agent::start(&pair.a, &options)
    })?;
    let stopped = last.stop()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&ledger.flows()?, &udp(&stopped.records))?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

/// Each agent hangs its programs on another hook than the one before.
#[test]
fn another_hook() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins);
    for (hook, other) in [("tcx", "clsact"), ("clsact", "tcx"), ("tcx", "clsact")] {
        let agent = Agent::start(&pair.a, &options.clone().args("--attach").args(hook))?;
        ensure!(programs(&pair.a, hook)? == [1, 1] && programs(&pair.a, other)? == [0, 0], "{hook}");
        traffic::ping(&pair.a, Pair::B4, 2)?;
        agent.kill()?;
    }
    let stopped = Agent::start(&pair.a, &options)?.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(echoes(&stopped.records) == [6, 6], "{:?}", stopped.records);
    ensure!(!pair.a.sh("tc qdisc show dev a0")?.contains("clsact"), "a qdisc was left behind");
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

/// Echo packets logged from either end.
fn echoes(records: &[Record]) -> [u64; 2] {
    let mut counts = [0, 0];
    for (flow, totals) in records.iter().filter_map(Record::flow).filter(|(flow, _)| flow.protocol == ICMP) {
        counts[usize::from(flow.src.to_string().ends_with(".2"))] += totals.packets;
    }
    counts
}

fn interfaces(records: &[Record]) -> BTreeSet<&str> {
    records.iter().map(|record| record.interface.as_str()).collect()
}

/// Flows that found no room in their set are in the overflow hash.
#[test]
fn what_overflowed_is_taken_over() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let ledger = Ledger::received(&pair.b, &["b0"])?;
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins);
    let small = options.clone().args("--flow-table-slots 8 --overflow-slots 4096 --hold-drain");
    let agent = Agent::start(&pair.a, &small)?;
    traffic::udp_flows(&pair.a, Pair::A4, 20000..21000, &sink, 10, 1)?;
    agent.kill()?;
    traffic::udp_flows(&pair.a, Pair::A4, 20500..21500, &sink, 10, 2)?;
    let stopped = Agent::start(&pair.a, &options)?.stop()?;
    stopped.expect_nothing_lost()?;
    expect_equal(&ledger.flows()?, &udp(&stopped.records))
}

#[test]
fn an_interface_made_again_while_no_agent_ran() -> Result<()> {
    let pair = Pair::new()?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(&pins);
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    agent.kill()?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    pair.a.ip("link del a0")?;
    pair.add_link("a0", "b0", 0)?;
    // Nobody counts here.
    traffic::ping(&pair.a, Pair::B4, 3)?;
    let agent = Agent::start(&pair.a, &options)?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (1, 1), "not attached");
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(echoes(&stopped.records) == [12, 12], "{:?}", stopped.records);
    ensure!(interfaces(&stopped.records).len() == 1, "{:?}", stopped.records);
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

#[test]
fn an_interface_that_went_while_no_agent_ran() -> Result<()> {
    let pair = Pair::new()?;
    pair.add_link("a5", "b5", 5)?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let options = Options::on(&["a*"]).interval(600).into(logs.path()).pins_in(&pins);
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, "10.77.5.2", 4)?;
    agent.kill()?;
    pair.a.ip("link del a5")?;
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(echoes(&stopped.records) == [8, 8], "{:?}", stopped.records);
    ensure!(interfaces(&stopped.records).len() == 2, "{:?}", stopped.records);
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

/// A former agent's interface that the next one is not to capture.
#[test]
fn an_interface_that_is_no_longer_wanted() -> Result<()> {
    let pair = Pair::new()?;
    pair.add_link("a5", "b5", 5)?;
    let (pins, logs) = (BpfFs::new()?, TempDir::new()?);
    let on = |name| Options::on(&[name]).interval(600).into(logs.path()).pins_in(&pins);
    let agent = Agent::start(&pair.a, &on("a5"))?;
    traffic::ping(&pair.a, "10.77.5.2", 4)?;
    agent.kill()?;
    let agent = Agent::start(&pair.a, &on("a0"))?;
    ensure!(python::tcx_programs(&pair.a, "a5")? == (0, 0), "still attached");
    let stopped = agent.stop()?;
    ensure!(echoes(&stopped.records) == [4, 4], "{:?}", stopped.records);
    Ok(())
}

/// Starts on the pins, sees that four echoes are logged, and returns what was said.
fn start_over(pair: &Pair, pins: &BpfFs) -> Result<Stopped> {
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).pins_in(pins))?;
    ensure!(python::tcx_programs(&pair.a, "a0")? == (1, 1), "{:?}", agent.said());
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(echoes(&stopped.records) == [4, 4], "{:?}", stopped.records);
    ensure!(python::tcx_programs(&pair.a, "a0")? == (0, 0), "still attached");
    Ok(stopped)
}

fn expect_one_warning(stopped: &Stopped, words: &[&str]) -> Result<()> {
    let warnings: Vec<_> = stopped.stderr.iter().filter(|line| line.contains("WARN")).collect();
    ensure!(warnings.len() == 1 && words.iter().all(|word| warnings[0].contains(word)), "{:?}", stopped.stderr);
    Ok(())
}

/// An agent that counted four echoes and was killed.
fn killed(pair: &Pair) -> Result<BpfFs> {
    let pins = BpfFs::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).pins_in(&pins))?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    agent.kill()?;
    Ok(pins)
}

#[test]
fn what_is_not_ours_stays() -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    fs::create_dir_all(pins.directory().join("mine"))?;
    expect_one_warning(&start_over(&pair, &pins)?, &["flowlogd/mine", "left alone"])?;
    ensure!(pins.contents()? == ["flowlogd", "flowlogd/mine"], "{:?}", pins.contents()?);
    Ok(())
}

#[test]
fn a_map_that_is_another_is_not_read() -> Result<()> {
    let pair = Pair::new()?;
    let pins = killed(&pair)?;
    let contents = pins.contents()?;
    let generation = contents.iter().find_map(|path| path.strip_suffix("/FLOW4")).expect("a pinned table");
    let pin = |name: &str| pins.directory().join("..").join(generation).join(name);
    fs::remove_file(pin("FLOW4"))?;
    fs::rename(pin("FLOW6"), pin("FLOW4"))?;
    expect_one_warning(&start_over(&pair, &pins)?, &["FLOW4", "discarded"])?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

#[test]
fn another_layout_is_detached_and_discarded() -> Result<()> {
    let pair = Pair::new()?;
    let pins = killed(&pair)?;
    fs::rename(pins.directory().join("v1"), pins.directory().join("v999"))?;
    expect_one_warning(&start_over(&pair, &pins)?, &["v999", "discarded"])?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

/// Counters of interfaces with the same numbers in another namespace.
#[test]
fn another_namespace_is_not_mistaken_for_ours() -> Result<()> {
    let (theirs, ours) = (Pair::new()?, Pair::new()?);
    let pins = killed(&theirs)?;
    expect_one_warning(&start_over(&ours, &pins)?, &["namespace", "discarded"])?;
    ensure!(python::tcx_programs(&theirs.a, "a0")? == (0, 0), "still attached");
    Ok(())
}

#[test]
fn without_a_bpf_file_system_the_agent_runs() -> Result<()> {
    let pair = Pair::new()?;
    let mut options = Options::on(&["a0"]).interval(600);
    options.pins = Pins::Default("tmpfs");
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    ensure!(echoes(&stopped.records) == [4, 4], "{:?}", stopped.records);
    expect_one_warning(&stopped, &["cannot pin below /sys/fs/bpf/flowlogd", "counters will not survive a restart"])?;
    // Nothing holds the programs of an agent that pinned nothing.
    Agent::start(&pair.a, &options)?.kill()?;
    wait_for(
        "detachment",
        Duration::from_secs(5),
        || Ok((python::tcx_programs(&pair.a, "a0")? == (0, 0)).then_some(())),
    )
}

#[test]
fn the_default_directory_is_used() -> Result<()> {
    let pair = Pair::new()?;
    let mut options = Options::on(&["a0"]).interval(600);
    options.pins = Pins::Default("bpf");
    let stopped = Agent::start(&pair.a, &options)?.stop()?;
    ensure!(!stopped.stderr.iter().any(|line| line.contains("WARN")), "{:?}", stopped.stderr);
    Ok(())
}

/// Fails unless an agent told to pin there ends with this code and one line.
fn refuses(pair: &Pair, pins: &BpfFs, code: i32, word: &str) -> Result<()> {
    let (state, directory) = (TempDir::new()?, pins.directory());
    let [state, directory] = [state.path(), &directory].map(|path| path.to_str().expect("path"));
    let args = ["run", "--interface", "a0", "--state-directory", state, "--bpf-directory", directory];
    let refusal = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refusal.code == Some(code) && refusal.stderr.len() == 1, "{refusal:?}");
    ensure!(refusal.stderr[0].contains("--bpf-directory") && refusal.stderr[0].contains(word), "{refusal:?}");
    Ok(())
}

#[test]
fn a_read_only_file_system_is_refused() -> Result<()> {
    let pins = BpfFs::new()?;
    pins.make_read_only()?;
    refuses(&Pair::new()?, &pins, 2, "Read-only")
}

#[test]
fn a_directory_in_use_is_refused() -> Result<()> {
    let pair = Pair::new()?;
    let pins = BpfFs::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600).pins_in(&pins))?;
    refuses(&pair, &pins, 1, "another flowlogd")?;
    agent.stop()?.expect_nothing_lost()
}
