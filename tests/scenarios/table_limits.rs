//! More flows than the table holds: still counted, or their loss is declared.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::records::{self, Status};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, UDP, expect_equal};

const PORTS: std::ops::Range<u16> = 20000..30000;

#[test]
fn ten_thousand_flows_in_a_small_table() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0"])?;
    let sink = Sink::new(&path.c, Path::C4, 9000)?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]).args("--flow-table-slots 1024"))?;
    traffic::udp_flows(&path.a, Path::A4, PORTS, &sink, 100, 2)?;
    path.settle()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let wire = ledger.flows()?;
    ensure!(wire.len() == PORTS.len(), "{} flows on the wire", wire.len());
    let logged = records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| flow.protocol == UDP).collect();
    expect_equal(&wire, &logged)
}

#[test]
fn an_overflow_is_declared() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0"])?;
    let sink = Sink::new(&path.c, Path::C4, 9000)?;
    // No other traffic on a0: every packet skipped is one of these.
    path.a.sh("sysctl -qw net.ipv6.conf.a0.disable_ipv6=1")?;
    path.r.sh("sysctl -qw net.ipv6.conf.r0.disable_ipv6=1")?;
    let limits = "--flow-table-slots 1024 --overflow-slots 64 --hold-drain";
    let agent = Agent::start(&path.a, &Options::on(&["a0"]).args(limits))?;
    traffic::udp_flows(&path.a, Path::A4, PORTS, &sink, 100, 1)?;
    path.settle()?;
    let stopped = agent.stop()?;
    let skipped = stopped.count("skipped_packets")?;
    ensure!(skipped > 0, "nothing overflowed: {:?}", stopped.stderr);
    ensure!(
        stopped.records.iter().any(|record| record.status == Status::SkipData),
        "{skipped} packets skipped and no SKIPDATA record"
    );
    let logged: Totals = records::by_hosts(&stopped.records).into_values().sum();
    let wire = ledger.between(Path::A4, Path::C4, UDP)?;
    ensure!(
        logged.packets + skipped == wire.packets,
        "logged {}, skipped {skipped}, on the wire {}",
        logged.packets,
        wire.packets
    );
    let wire = ledger.flows()?;
    for (flow, totals) in records::by_flow(&stopped.records) {
        ensure!(wire.get(&flow) == Some(&totals), "{flow:?}: logged {totals}");
    }
    for name in ["sum_error_packets", "sum_error_bytes", "windows_with_error"] {
        ensure!(stopped.count(name)? == 0, "{name}: {:?}", stopped.stderr);
    }
    Ok(())
}
