//! More flows than the table holds: still counted, or their loss is declared.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::records::{self, Status};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Totals, UDP, python};

const PORTS: std::ops::Range<u16> = 20000..30000;
const PAYLOAD: usize = 100;

/// What one flow is that sends `rounds` datagrams: known from the sender, since nft's dynamic sets can miss elements
/// when ten thousand are added at once. That all of them were on the wire is nft's plain count per host pair.
fn sent(rounds: u64) -> Totals {
    Totals { packets: rounds, bytes: rounds * (20 + 8 + PAYLOAD as u64) }
}

fn all_sent(ledger: &Ledger, rounds: u64) -> Result<()> {
    let (wire, one, flows) = (ledger.between(Path::A4, Path::C4, UDP)?, sent(rounds), PORTS.len() as u64);
    let all = Totals { packets: flows * one.packets, bytes: flows * one.bytes };
    ensure!(wire == all, "on the wire {wire}, sent {all}");
    Ok(())
}

const LLDP: u16 = 0x88cc;
const IPV4: u16 = 0x0800;

/// A frame with ten bytes behind the Ethernet header: too few for IP.
fn frame(ethertype: u16) -> Vec<u8> {
    let addresses = [2, 0, 0, 0x77, 1, 2, 2, 0, 0, 0x77, 1, 1];
    [addresses.as_slice(), &ethertype.to_be_bytes(), &[0x45; 10]].concat()
}

#[test]
fn ten_thousand_flows_in_a_small_table() -> Result<()> {
    let path = Path::new()?;
    let ledger = Ledger::received(&path.s, &["s0"])?;
    let sink = Sink::new(&path.c, Path::C4, 9000)?;
    let agent = Agent::start(&path.a, &Options::on(&["a0"]).args("--flow-table-slots 1024"))?;
    traffic::udp_flows(&path.a, Path::A4, PORTS, &sink, PAYLOAD, 2)?;
    path.settle()?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    all_sent(&ledger, 2)?;
    let mut logged = records::by_flow(&stopped.records);
    logged.retain(|flow, _| flow.protocol == UDP);
    ensure!(logged.len() == PORTS.len(), "{} flows logged", logged.len());
    for (flow, totals) in logged {
        ensure!(PORTS.contains(&flow.sport) && totals == sent(2), "{flow:?}: logged {totals}");
    }
    Ok(())
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
    // One window, and so one epoch.
    let agent = Agent::start(&path.a, &Options::on(&["a0"]).interval(600).args(limits))?;
    traffic::udp_flows(&path.a, Path::A4, PORTS, &sink, PAYLOAD, 1)?;
    path.settle()?;
    let frames = [vec![frame(LLDP); 3], vec![frame(IPV4); 5]].concat();
    python::send_frames(&path.a, "a0", &frames)?;
    let stopped = agent.stop()?;
    let skipped = stopped.count("skipped_packets")?;
    ensure!(skipped > 0, "nothing overflowed: {:?}", stopped.stderr);
    ensure!(
        stopped.records.iter().any(|record| record.status == Status::SkipData),
        "{skipped} packets skipped and no SKIPDATA record"
    );
    // The program itself says so, once in an epoch however many packets it skips.
    let said = stopped.stderr.iter().filter(|line| line.contains("no room for a flow of interface")).count();
    ensure!(said == 1, "said {said} times: {:?}", stopped.stderr);
    let logged: Totals = records::by_hosts(&stopped.records).into_values().sum();
    all_sent(&ledger, 1)?;
    let wire = sent(PORTS.len() as u64).packets;
    ensure!(logged.packets + skipped == wire, "logged {}, skipped {skipped}, on the wire {wire}", logged.packets);
    // What is in no record is said as well.
    for (name, sent) in [("non_ip_packets", 3), ("unparsable_packets", 5), ("seen_packets", wire + 8)] {
        ensure!(stopped.count(name)? == sent, "{name}, not {sent}: {:?}", stopped.stderr);
    }
    // What is logged is logged whole.
    for (flow, totals) in records::by_flow(&stopped.records) {
        ensure!(PORTS.contains(&flow.sport) && totals == sent(1), "{flow:?}: logged {totals}");
    }
    for name in ["sum_error_packets", "sum_error_bytes", "windows_with_error"] {
        ensure!(stopped.count(name)? == 0, "{name}: {:?}", stopped.stderr);
    }
    Ok(())
}
