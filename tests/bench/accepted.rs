//! What a flood that a firewall refuses takes from the traffic that is let through, and what the agent takes then.
//!
//! One thread on one CPU sends a burst of datagrams that are let through, some bursts that are refused, and receives the
//! former. So the flood is the same whatever else runs, and both sides of it are paid for by one CPU: the rate at which
//! datagrams are received is what is left of that CPU.

use std::io::IoSlice;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::Split;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use crate::flood::waited;
use crate::report::{Cell, Table};
use crate::{Settings, machine, min_median};

/// Where datagrams are let through, and where they are refused.
const OPEN: u16 = 7000;
const CLOSED: u16 = 9000;
const BURST: usize = 64;
/// Refused bursts to one that is let through.
const REFUSED: u64 = 4;

const AGENTS: [(&str, Option<&str>); 3] =
    [("none", None), ("flowlogd --no-verdicts", Some("--no-verdicts")), ("flowlogd", Some(""))];

/// Sends bursts from one socket to one port.
struct Sender {
    socket: UdpSocket,
    to: Vec<Option<SockaddrIn>>,
    headers: MultiHeaders<SockaddrIn>,
}

impl Sender {
    fn new(port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((Pair::A4, 0))?;
        let to = vec![Some(SocketAddrV4::new(Pair::B4.parse()?, port).into()); BURST];
        Ok(Self { socket, to, headers: MultiHeaders::preallocate(BURST, None) })
    }

    fn burst(&mut self) -> Result<()> {
        let payload = [0; 18];
        let buffers = [[IoSlice::new(&payload)]; BURST];
        let results = sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &buffers, &self.to, [], MsgFlags::empty())?;
        ensure!(results.count() == BURST, "a burst was cut short");
        Ok(())
    }
}

/// Datagrams that were let through, a second of this thread's time on the CPU. Each must arrive.
fn rate(pair: &Pair, bursts: u64, refused: u64) -> Result<f64> {
    let sink = pair.b.enter(|| Ok(UdpSocket::bind((Pair::B4, OPEN))?))?;
    sink.set_read_timeout(Some(Duration::from_secs(5)))?;
    pair.a.enter(|| {
        machine::pin()?;
        let (mut open, mut closed, mut buffer) = (Sender::new(OPEN)?, Sender::new(CLOSED)?, [0; 64]);
        let (before, start) = (waited(), Instant::now());
        for _ in 0..bursts {
            open.burst()?;
            for _ in 0..refused {
                closed.burst()?;
            }
            for _ in 0..BURST {
                sink.recv(&mut buffer)?;
            }
        }
        let seconds = (start.elapsed() - (waited() - before)).as_secs_f64();
        Ok((bursts * BURST as u64) as f64 / seconds)
    })
}

/// As [`rate`], with an agent on the receiver's side whose records must hold every packet.
fn measure(pair: &Pair, firewall: &Firewall, agent: Option<&str>, bursts: u64, refused: u64) -> Result<f64> {
    let Some(arguments) = agent else { return rate(pair, bursts, refused) };
    let before = firewall.matched("closed")?;
    let agent = Agent::start(&pair.b, &Options::on(&["b0"]).interval(60).args(arguments))?;
    let rate = rate(pair, bursts, refused)?;
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    let flood = firewall.matched("closed")?.packets - before.packets;
    let (let_through, closed) = (Split::udp(&stopped, OPEN, true), Split::udp(&stopped, CLOSED, true));
    ensure!(flood == bursts * BURST as u64 * refused, "{flood} packets were refused");
    ensure!(let_through.both().packets == bursts * BURST as u64, "{} packets let through", let_through.both());
    let as_refused = if arguments.is_empty() { closed.reject } else { closed.accept };
    ensure!(as_refused.packets == flood && closed.both() == as_refused, "{closed:?} of {flood} packets refused");
    Ok(rate)
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (bursts, rounds) = if settings.quick { (1_000, 1) } else { (6_000, 7) };
    let pair = Pair::new()?;
    let rules = [("closed", "udp dport 9000", "drop")];
    let firewall = Firewall::new(&pair.b, "type filter hook input priority 0", &rules)?;
    rate(&pair, bursts / 10, REFUSED)?;
    let mut rates: [[Vec<f64>; 2]; 3] = Default::default();
    for round in 0..rounds {
        // Each takes each place in turn.
        for turn in 0..AGENTS.len() {
            let at = (round + turn) % AGENTS.len();
            for (rates, refused) in rates[at].iter_mut().zip([0, REFUSED]) {
                rates.push(measure(&pair, &firewall, AGENTS[at].1, bursts, refused)?);
            }
        }
    }
    let median = |at: usize| [0, 1].map(|flood: usize| min_median(&rates[at][flood]).1);
    let mut table = Table::new(
        &format!(
            "accepted: datagrams/s let through one CPU, alone and beside {REFUSED} refused ones each, median of {rounds}"
        ),
        &["agent", "alone", "beside the flood", "the flood takes %", "the agent takes %, alone", "beside the flood"],
    );
    let without = median(0);
    for (at, (name, _)) in AGENTS.iter().enumerate() {
        let [alone, beside] = median(at);
        let less = |rate: f64, than: f64| Cell::number(100.0 * (1.0 - rate / than), 1);
        table.row(vec![
            Cell::text(*name),
            Cell::number(alone, 0),
            Cell::number(beside, 0),
            less(beside, alone),
            less(alone, without[0]),
            less(beside, without[1]),
        ]);
    }
    Ok(table)
}
