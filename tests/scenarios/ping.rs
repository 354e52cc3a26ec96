//! A ping is one record each way, with the packets and IP bytes of the echoes.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records::{Record, Status};
use flowlogd_tests::{Flow, ICMP, ICMPV6, Totals, traffic};

fn one_record_each_way(from: &str, to: &str, protocol: u8, bytes: u64) -> Result<()> {
    let pair = Pair::new()?;
    // One window holds the whole test: the agent's last one.
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).interval(600))?;
    traffic::ping(&pair.a, to, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    for (src, dst) in [(from, to), (to, from)] {
        let (src, dst) = (src.parse()?, dst.parse()?);
        let records: Vec<&Record> = stopped
            .records
            .iter()
            .filter(|record| record.flow().is_some_and(|(flow, _)| flow.src == src && flow.dst == dst))
            .collect();
        let expected = Status::Ok {
            flow: Flow { src, dst, protocol, sport: 0, dport: 0 },
            totals: Totals { packets: 4, bytes },
            action: "ACCEPT".to_owned(),
        };
        ensure!(records.len() == 1 && records[0].status == expected, "{src} to {dst}: {records:?}, not {expected:?}");
    }
    Ok(())
}

#[test]
fn ipv4() -> Result<()> {
    one_record_each_way(Pair::A4, Pair::B4, ICMP, 336)
}

#[test]
fn ipv6() -> Result<()> {
    one_record_each_way(Pair::A6, Pair::B6, ICMPV6, 416)
}
