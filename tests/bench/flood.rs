//! Packets a second between two namespaces: with the agent on the sender's interface, with an empty program, and bare.
//!
//! One thread sends small datagrams of many flows; a veth hands each over on the sender's CPU, up to a full socket
//! that drops it. So the rate is the cost of the whole way, and a program's cost is the difference.

use std::fs;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowlogd::capture::{Capture, interfaces};
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::records;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use crate::packet_sizes;
use crate::report::{Cell, Table};
use crate::{Settings, machine, min_median};

const PORT: u16 = 9;
const BURST: usize = 64;

/// The flows of a flood: every source port to every target port, a burst from one source port at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flows {
    pub(crate) sources: u16,
    pub(crate) targets: u16,
}

const FLOWS: Flows = Flows { sources: 512, targets: 1 };

impl Flows {
    pub(crate) fn count(self) -> u32 {
        u32::from(self.sources) * u32::from(self.targets)
    }

    /// Sockets that are bound and never read: they fill up and drop, and no ICMP error comes back.
    pub(crate) fn full_sockets(self, pair: &Pair) -> Result<Vec<UdpSocket>> {
        pair.b.enter(|| bind(Pair::B4, PORT, self.targets))
    }
}

fn bind(address: &str, first: u16, ports: u16) -> Result<Vec<UdpSocket>> {
    Ok((first..first + ports).map(|port| UdpSocket::bind((address, port))).collect::<std::io::Result<_>>()?)
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Nothing,
    Empty,
    NoVerdicts,
    Agent,
}

/// The flood ends in full sockets, so every packet is freed for a reason that the programs on drops look at.
const LOADS: [(Load, &str); 4] = [
    (Load::Nothing, "no program"),
    (Load::Empty, "empty program"),
    (Load::NoVerdicts, "flowlogd --no-verdicts"),
    (Load::Agent, "flowlogd"),
];

/// How long this thread has waited for its CPU, which others on the machine may use; nothing where the kernel does not
/// tell.
pub(crate) fn waited() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or_default())
}

/// Sends about `count` datagrams and returns how many a second of its time on the CPU.
pub(crate) fn flood(pair: &Pair, flows: Flows, count: u64) -> Result<f64> {
    pair.a.enter(|| {
        machine::pin()?;
        let sockets = bind(Pair::A4, 20_000, flows.sources)?;
        let target = |at: usize| -> Result<Option<SockaddrIn>> {
            let port = PORT + u16::try_from(at % usize::from(flows.targets))?;
            Ok(Some(std::net::SocketAddrV4::new(Pair::B4.parse()?, port).into()))
        };
        let targets = (0..BURST.max(flows.targets.into())).map(target).collect::<Result<Vec<_>>>()?;
        let payload = [0; 18];
        let buffers = [[IoSlice::new(&payload)]; BURST];
        let mut headers = MultiHeaders::preallocate(BURST, None);
        let bursts = targets.chunks(BURST).flat_map(|targets| sockets.iter().map(move |socket| (targets, socket)));
        let (mut sent, before, start) = (0, waited(), Instant::now());
        for (targets, socket) in bursts.cycle() {
            if sent >= count {
                break;
            }
            sent +=
                sendmmsg(socket.as_raw_fd(), &mut headers, &buffers, targets, [], MsgFlags::empty())?.count() as u64;
        }
        Ok(sent as f64 / (start.elapsed() - (waited() - before)).as_secs_f64())
    })
}

fn measure(pair: &Pair, load: Load, count: u64) -> Result<f64> {
    match load {
        Load::Nothing => flood(pair, FLOWS, count),
        Load::Empty => {
            let mut capture = Capture::open(packet_sizes())?;
            pair.a.enter(|| {
                let interfaces = interfaces::list()?;
                let a0 = interfaces.iter().find(|interface| interface.name == "a0").context("no a0")?;
                Ok(capture.attach_empty(a0)?)
            })?;
            flood(pair, FLOWS, count)
        }
        Load::NoVerdicts | Load::Agent => {
            let mut options = Options::on(&["a0"]).interval(60);
            if matches!(load, Load::NoVerdicts) {
                options = options.args("--no-verdicts");
            }
            let before = pair.a.device_packets("a0")?.1;
            let agent = Agent::start(&pair.a, &options)?;
            let rate = flood(pair, FLOWS, count)?;
            let sent = pair.a.device_packets("a0")?.1 - before;
            let stopped = agent.stop()?;
            stopped.expect_nothing_lost()?;
            let logged: u64 = records::by_flow(&stopped.records).values().map(|totals| totals.packets).sum();
            ensure!(logged >= count && logged >= sent, "{logged} packets logged of {sent} sent");
            Ok(rate)
        }
    }
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (count, rounds) = if settings.quick { (200_000, 1) } else { (1_500_000, 3) };
    let pair = Pair::new()?;
    let _full = FLOWS.full_sockets(&pair)?;
    flood(&pair, FLOWS, count / 10)?;
    let mut nanoseconds: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        for (load, _) in LOADS {
            nanoseconds[load as usize].push(1e9 / measure(&pair, load, count)?);
        }
    }
    let mut table = Table::new(
        &format!("flood: {count} UDP datagrams of {} flows over a veth, median of {rounds}", FLOWS.count()),
        &["on the interface", "packets/s", "ns per packet", "over empty"],
    );
    let empty = min_median(&nanoseconds[Load::Empty as usize]).1;
    for (load, name) in LOADS {
        let median = min_median(&nanoseconds[load as usize]).1;
        table.row(vec![
            Cell::text(name),
            Cell::number(1e9 / median, 0),
            Cell::number(median, 0),
            Cell::number(median - empty, 0),
        ]);
    }
    Ok(table)
}
