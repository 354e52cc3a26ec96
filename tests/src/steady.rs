//! Traffic that goes on, whatever becomes of agents, until it is stopped: over IPv4 and IPv6, out and in, and some that
//! the firewall refuses. Every datagram sent has arrived where it is counted when the stop returns.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::netns::{Netns, Pair};
use crate::nft::{Firewall, Ledger};
use crate::records::Record;
use crate::traffic::Sink;
use crate::{Flow, Totals, UDP, expect_equal, records, wait_for};

/// Between two datagrams of a flow: kills are to meet traffic, and not a machine without a free CPU.
const PAUSE: Duration = Duration::from_millis(1);
const REFUSED: u16 = 9009;

/// What has been sent when it is joined.
type Sender = JoinHandle<Result<u64>>;

/// Between the two ends of a pair, counted at `b`.
#[derive(Debug)]
pub struct Steady<'a> {
    ledger: Ledger<'a>,
    firewall: Firewall<'a>,
    sinks: Vec<(Sink, Sender)>,
    refused: Sender,
    stop: Arc<AtomicBool>,
}

fn send(ns: &Netns, from: (&str, u16), to: SocketAddr, size: usize, stop: &Arc<AtomicBool>) -> Result<Sender> {
    let source = SocketAddr::new(from.0.parse()?, from.1);
    let socket = ns.enter(|| Ok(UdpSocket::bind(source)?))?;
    let stop = Arc::clone(stop);
    Ok(thread::spawn(move || {
        let payload = vec![0; size];
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            socket.send_to(&payload, to)?;
            sent += 1;
            thread::sleep(PAUSE);
        }
        Ok(sent)
    }))
}

fn joined(sender: Sender) -> Result<u64> {
    sender.join().map_err(|_| anyhow!("a sender panicked"))?
}

impl<'a> Steady<'a> {
    pub fn start(pair: &'a Pair) -> Result<Self> {
        let ledger = Ledger::received_and_sent(&pair.b, &["b0"])?;
        let rule = format!("udp dport {REFUSED}");
        let firewall = Firewall::new(&pair.a, "type filter hook input priority 0", &[("refused", &rule, "drop")])?;
        let stop = Arc::<AtomicBool>::default();
        let mut sinks = Vec::new();
        for (from, to, source, destination, port) in [
            (&pair.a, &pair.b, Pair::A4, Pair::B4, 9000),
            (&pair.a, &pair.b, Pair::A6, Pair::B6, 9001),
            (&pair.b, &pair.a, Pair::B4, Pair::A4, 9002),
        ] {
            let sink = Sink::new(to, destination, port)?;
            let sender = send(from, (source, port - 2000), sink.address, 100, &stop)?;
            sinks.push((sink, sender));
        }
        let refused = SocketAddr::new(Pair::A4.parse()?, REFUSED);
        let refused = send(&pair.b, (Pair::B4, REFUSED - 2000), refused, 50, &stop)?;
        Ok(Self { ledger, firewall, sinks, refused, stop })
    }

    /// Waits until so many more datagrams of each flow have arrived.
    pub fn wait(&self, count: u64) -> Result<()> {
        for (sink, _) in &self.sinks {
            let until = sink.received() + count;
            wait_for("traffic", Duration::from_secs(20), || Ok((sink.received() >= until).then_some(())))?;
        }
        Ok(())
    }

    /// Ends it; what an agent counts from now on is only what it has not counted yet.
    pub fn stop(self) -> Result<Sent<'a>> {
        self.stop.store(true, Ordering::Relaxed);
        for (sink, sender) in self.sinks {
            let sent = joined(sender)?;
            wait_for("the last datagram", Duration::from_secs(5), || Ok((sink.received() == sent).then_some(())))?;
        }
        let refused = joined(self.refused)?;
        self.firewall.wait_matched("refused", refused)?;
        Ok(Sent { ledger: self.ledger, refused })
    }
}

/// A host's own packets, such as reports to multicast groups, are in no ledger.
fn of_udp(flows: &BTreeMap<Flow, Totals>) -> BTreeMap<Flow, Totals> {
    flows.iter().filter(|(flow, _)| flow.protocol == UDP).map(|(flow, totals)| (*flow, *totals)).collect()
}

/// What was on the wire.
#[derive(Debug)]
pub struct Sent<'a> {
    ledger: Ledger<'a>,
    refused: u64,
}

impl Sent<'_> {
    /// Fails unless these are the totals of all that was sent.
    pub fn expect_flows(&self, flows: &BTreeMap<Flow, Totals>) -> Result<()> {
        expect_equal(&self.ledger.flows()?, &of_udp(flows))
    }

    /// Packets on the wire.
    pub fn packets(&self) -> Result<u64> {
        Ok(self.ledger.flows()?.values().map(|totals| totals.packets).sum())
    }

    /// Fails unless each packet is in one record, each record in one line and each object written once.
    pub fn expect_each_once(&self, objects: &[Vec<Record>]) -> Result<()> {
        let all: Vec<Record> = objects.iter().flatten().cloned().collect();
        // Windows share no second, and a flow of ours crosses the interface one way: no line comes again, and so no
        // object. A host's own, such as the reports that both ends multicast from `::`, may be alike.
        let is_unique = |record: &&Record| record.flow().is_none_or(|(flow, _)| flow.protocol == UDP);
        let mut lines: Vec<String> = all.iter().filter(is_unique).map(|record| format!("{record:?}")).collect();
        lines.sort();
        let twice: Vec<_> = lines.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
        ensure!(twice.is_empty(), "{} lines are there twice: {:?}", twice.len(), &twice[..twice.len().min(5)]);
        let logged = records::by_flow(&all);
        self.expect_flows(&logged)?;
        let logged = of_udp(&logged);
        let packets: u64 = logged.values().map(|totals| totals.packets).sum();
        let rejected: u64 = records::by_action(&all, "REJECT").values().map(|totals| totals.packets).sum();
        ensure!(rejected == self.refused, "REJECT {rejected} of {} that were refused", self.refused);
        eprintln!(
            "{} objects, {} lines, {packets} packets; REJECT {rejected} of {} refused",
            objects.len(),
            all.len(),
            self.refused
        );
        Ok(())
    }
}
