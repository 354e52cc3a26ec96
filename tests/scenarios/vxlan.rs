//! A tunnel and its underlay are each logged as their own wire carries them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Path;
use flowlogd_tests::nft::Ledger;
use flowlogd_tests::{Flow, TCP, Totals, UDP, expect_equal, records, traffic};

#[test]
fn overlay_and_underlay() -> Result<()> {
    let path = Path::new()?;
    for (ns, local, remote, host) in [(&path.a, Path::A4, Path::C4, 1), (&path.c, Path::C4, Path::A4, 2)] {
        let other = 3 - host;
        ns.ip_batch(&format!(
            "link add vx0 address 02:00:00:78:00:0{host} type vxlan id 42 \
             local {local} remote {remote} dstport 4789\n\
             link set vx0 mtu 1450 addrgenmode none\n\
             link set vx0 up\n\
             addr add 10.78.0.{host}/24 dev vx0\n\
             neigh replace 10.78.0.{other} lladdr 02:00:00:78:00:0{other} nud permanent dev vx0\n"
        ))?;
    }
    path.c.sh("ethtool -K vx0 gro off")?;
    let underlay = Ledger::received(&path.s, &["s0", "s1"])?;
    let overlay = Ledger::received_and_sent(&path.c, &["vx0"])?;
    let agent = Agent::start(&path.a, &Options::on(&["a0", "vx0"]))?;
    traffic::iperf_tcp(&path.a, &path.c, "10.78.0.2", 5201, "-n 20M")?;
    path.settle()?;
    let stopped = agent.stop()?;
    underlay.expect_wire_sized()?;
    overlay.expect_wire_sized()?;
    stopped.expect_nothing_lost()?;
    let mut expected: BTreeMap<Flow, Totals> = underlay.flows()?;
    ensure!(expected.keys().all(|flow| flow.protocol == UDP && flow.dport == 4789));
    expected.extend(overlay.flows()?);
    let logged = records::by_flow(&stopped.records)
        .into_iter()
        .filter(|(flow, _)| [TCP, UDP].contains(&flow.protocol))
        .collect();
    expect_equal(&expected, &logged)
}
