//! What AWS does not log is not logged, unless asked for, and counted as left out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, TCP, Totals, UDP, expect_equal, records};

const NETWORK: &str = "--vpc-cidr 10.77.0.0/24 --subnet-cidr 10.77.0.0/24";
/// Neither the base's first (the router) nor its second (the DNS server).
const SELF4: &str = "10.77.0.5";
const PAYLOAD: u64 = 20;

/// From, source port, to, destination port, whether AWS leaves it out. All UDP.
const DATAGRAMS: [(&str, u16, &str, u16, bool); 14] = [
    (SELF4, 40000, Pair::B4, 53, true),
    (SELF4, 40000, Pair::B4, 5353, true),
    (SELF4, 40000, "10.77.0.9", 53, false),
    (SELF4, 40000, "169.254.169.253", 53, true),
    (SELF4, 40000, "169.254.169.254", 80, true),
    (SELF4, 40000, "169.254.169.123", 123, true),
    (SELF4, 40000, "10.77.0.9", 123, false),
    (SELF4, 40000, "169.254.169.250", 1688, false),
    (SELF4, 68, "10.77.0.9", 67, true),
    (SELF4, 40000, "10.77.0.9", 67, false),
    // The router speaks.
    (Pair::A4, 40000, "10.77.0.9", 7000, true),
    (Pair::A6, 40000, "fd00:ec2::253", 53, true),
    (Pair::A6, 40000, "fd00:ec2::254", 80, true),
    (Pair::A6, 40000, Pair::B6, 53, false),
];

fn pair() -> Result<Pair> {
    let pair = Pair::new()?;
    pair.a.ip(&format!("addr add {SELF4}/24 dev a0"))?;
    pair.a.ip("route add 169.254.169.0/24 dev a0 src 10.77.0.5")?;
    pair.a.ip("-6 route add fd00:ec2::/64 dev a0")?;
    pair.b.ip(&format!("neigh replace {SELF4} lladdr 02:00:00:77:00:01 nud permanent dev b0"))?;
    let mut far = vec!["169.254.169.250"];
    far.extend(DATAGRAMS.map(|(_, _, to, ..)| to));
    far.sort_unstable();
    far.dedup();
    far.retain(|address| ![Pair::B4, Pair::B6].contains(address));
    let (mut ours, mut theirs) = (String::new(), String::new());
    for address in far {
        writeln!(ours, "neigh replace {address} lladdr 02:00:00:77:00:02 nud permanent dev a0")?;
        let (bits, nodad) = if address.contains(':') { (128, "nodad") } else { (32, "") };
        writeln!(theirs, "addr add {address}/{bits} dev b0 {nodad}")?;
    }
    pair.a.ip_batch(&ours)?;
    pair.b.ip_batch(&theirs)?;
    Ok(pair)
}

/// Sends one more datagram of each kind than of the one before.
fn send(pair: &Pair) -> Result<[BTreeMap<Flow, Totals>; 2]> {
    let mut sent = [BTreeMap::new(), BTreeMap::new()];
    for (count, (from, sport, to, dport, left_out)) in (1u64..).zip(DATAGRAMS) {
        let sink = Sink::new(&pair.b, to, dport)?;
        traffic::udp(&pair.a, from, sport, &sink, PAYLOAD.try_into()?, count)?;
        let flow = Flow { src: from.parse()?, dst: to.parse()?, protocol: UDP, sport, dport };
        let headers = if to.contains(':') { 48 } else { 28 };
        sent[usize::from(left_out)].insert(flow, Totals { packets: count, bytes: count * (headers + PAYLOAD) });
    }
    // Windows activation is TCP: a SYN, and the reset of a port without a listener.
    let server: SocketAddr = "169.254.169.250:1688".parse()?;
    let refused = pair.a.enter(|| Ok(TcpStream::connect_timeout(&server, Duration::from_secs(5)).is_err()))?;
    ensure!(refused, "somebody listens at {server}");
    Ok(sent)
}

fn logged(records: &[records::Record]) -> [BTreeMap<Flow, Totals>; 2] {
    let of = |protocol| {
        records::by_flow(records).into_iter().filter(|(flow, _)| flow.protocol == protocol).collect::<BTreeMap<_, _>>()
    };
    [of(UDP), of(TCP)]
}

#[test]
fn left_out_and_counted() -> Result<()> {
    let pair = pair()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).args(NETWORK))?;
    let [kept, left_out] = send(&pair)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let [udp, tcp] = logged(&stopped.records);
    expect_equal(&kept, &udp)?;
    ensure!(tcp.is_empty(), "{tcp:?}");
    let sum = left_out.values().copied().sum::<Totals>().packets + 2;
    let said = stopped.count("excluded_packets")?;
    ensure!(said == sum, "{sum} excluded packets sent, {said} counted");
    Ok(())
}

#[test]
fn logged_on_demand() -> Result<()> {
    let pair = pair()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]).args(NETWORK).args("--log-excluded all"))?;
    let [mut all, left_out] = send(&pair)?;
    all.extend(left_out);
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let [udp, tcp] = logged(&stopped.records);
    expect_equal(&all, &udp)?;
    let packets: Vec<u64> = tcp.values().map(|totals| totals.packets).collect();
    ensure!(packets == [1, 1], "{tcp:?}");
    ensure!(stopped.count("excluded_packets")? == 0, "{:?}", stopped.stderr);
    Ok(())
}
