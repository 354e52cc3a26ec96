//! No packet is lost or counted twice where one window follows another.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::{TCP, UDP, expect_equal, records, traffic};

#[test]
fn twenty_windows_under_load() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0", "s1"])?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]))?;
    let servers = [traffic::iperf_server(&path.c, 5201)?, traffic::iperf_server(&path.c, 5202)?];
    let clients = [
        path.a.spawn(&traffic::iperf_line(Path::C4, 5201, "-w 128K -b 200M -t 22"))?,
        path.a.spawn(&traffic::iperf_line(Path::C6, 5202, "-u -l 1200 -b 20M -t 22"))?,
    ];
    for process in clients.into_iter().chain(servers) {
        process.finish(Duration::from_secs(40))?;
    }
    path.settle()?;
    let stopped = agent.stop()?;
    ledger.expect_wire_sized()?;
    stopped.expect_nothing_lost()?;
    let windows = stopped.count("windows")?;
    ensure!(windows >= 20, "{windows} windows");
    let starts: BTreeSet<u64> = stopped.records.iter().map(|record| record.start).collect();
    ensure!(starts.len() >= 20, "records of {} windows", starts.len());
    let logged = records::by_flow(&stopped.records)
        .into_iter()
        .filter(|(flow, _)| [TCP, UDP].contains(&flow.protocol))
        .collect();
    expect_equal(&ledger.flows()?, &logged)
}
