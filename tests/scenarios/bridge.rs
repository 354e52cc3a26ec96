//! The interfaces chosen by default count a bridged host's packet once.

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{ICMP, Totals, records, traffic};

#[test]
fn a_bridge_port_is_not_counted_again() -> Result<()> {
    let pair = Pair::new()?;
    let mac = "02:00:00:77:00:01";
    pair.a.ip_batch(&format!(
        "addr flush dev a0\n\
         link add br0 address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set a0 address 02:00:00:77:00:11\n\
         link set a0 master br0\n\
         link set br0 addrgenmode none\n\
         link set br0 up\n\
         addr add 10.77.0.1/24 dev br0\n\
         neigh replace 10.77.0.2 lladdr 02:00:00:77:00:02 nud permanent dev br0\n"
    ))?;
    let agent = Agent::start(&pair.a, &Options::on(&[]))?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let logged: Vec<_> =
        records::by_hosts(&stopped.records).into_iter().filter(|(hosts, _)| hosts.protocol == ICMP).collect();
    let expected = Totals { packets: 4, bytes: 336 };
    ensure!(logged.len() == 2 && logged.iter().all(|(_, totals)| *totals == expected), "{logged:?}");
    Ok(())
}
