//! Programs that somebody else takes off an interface are put back, and the gap is said.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records::{Record, Status};
use flowlogd_tests::{ICMP, python, traffic, wait_for};

fn echoes(records: &[Record]) -> u64 {
    let flows = records.iter().filter_map(Record::flow).filter(|(flow, _)| flow.protocol == ICMP);
    flows.map(|(_, totals)| totals.packets).sum()
}

/// `take_off` leaves a0 with no program on ingress at least.
fn comes_back(options: &Options, take_off: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    let pair = Pair::new()?;
    let before = pair.a.sh("tc qdisc show dev a0")?;
    let agent = Agent::start(&pair.a, options)?;
    traffic::ping(&pair.a, Pair::B4, 2)?;
    take_off(&pair)?;
    wait_for("the programs' return", Duration::from_secs(5), || {
        let said = agent.said().iter().filter(|line| line.contains("hooked again")).count();
        ensure!(said < 2, "{:?}", agent.said());
        Ok((said == 1).then_some(()))
    })?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    ensure!(echoes(&stopped.records) == 12, "{:?}", stopped.records);
    let skipped = stopped.records.iter().filter(|record| record.status == Status::SkipData).count();
    ensure!(skipped == 1, "{:?}", stopped.records);
    ensure!(python::tcx_programs(&pair.a, "a0")? == (0, 0), "still attached");
    ensure!(pair.a.sh("tc qdisc show dev a0")? == before, "not the qdiscs that were there");
    Ok(())
}

#[test]
fn after_a_link_is_detached() -> Result<()> {
    let pins = BpfFs::new()?;
    comes_back(&Options::on(&["a0"]).interval(600).pins_in(&pins), |pair| {
        let index = pair.a.sh("cat /sys/class/net/a0/ifindex")?;
        let pin = pins.directory().join(format!("v1/links/{}-ingress", index.trim()));
        python::detach_link(&pin)?;
        ensure!(python::tcx_programs(&pair.a, "a0")?.1 == 1, "the other one is gone too");
        Ok(())
    })?;
    ensure!(pins.contents()?.is_empty(), "left behind: {:?}", pins.contents()?);
    Ok(())
}

#[test]
fn after_the_qdisc_is_deleted() -> Result<()> {
    comes_back(&Options::on(&["a0"]).interval(600).args("--attach clsact"), |pair| {
        pair.a.sh("tc qdisc del dev a0 clsact").map(drop)
    })
}

#[test]
fn after_a_filter_is_deleted() -> Result<()> {
    comes_back(&Options::on(&["a0"]).interval(600).args("--attach clsact"), |pair| {
        pair.a.sh("tc filter del dev a0 ingress").map(drop)
    })
}
