//! What the scenarios on verdicts share: traffic that may be refused, and records split by action.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::agent::Stopped;
use crate::netns::Netns;
use crate::{Flow, Totals, UDP, records};

/// Sends `count` datagrams of `size` bytes that nobody has to take: errors of the socket are part of the test.
pub fn datagrams(ns: &Netns, to: &str, port: u16, size: usize, count: u64) -> Result<()> {
    send(ns, to, port, &vec![0; size], count, |_| Ok(()))
}

/// As [`datagrams`], each buffer of `segments` datagrams by segmentation offload.
pub fn super_datagrams(ns: &Netns, to: &str, port: u16, size: u16, segments: u16, count: u64) -> Result<()> {
    let buffer = vec![0; usize::from(size) * usize::from(segments)];
    send(ns, to, port, &buffer, count, |socket| {
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::from(size)).context("UDP_SEGMENT")
    })
}

fn send(
    ns: &Netns,
    to: &str,
    port: u16,
    buffer: &[u8],
    count: u64,
    prepare: impl FnOnce(&UdpSocket) -> Result<()> + Send,
) -> Result<()> {
    let to = SocketAddr::new(to.parse()?, port);
    ns.enter(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        prepare(&socket)?;
        for _ in 0..count {
            // Refused by our own firewall (EPERM) or told by the other side's (ECONNREFUSED).
            let _ = socket.send_to(buffer, to);
        }
        Ok(())
    })
}

/// Sends a flood from one CPU.
pub fn flood(ns: &Netns, to: &str, port: u16, size: usize, count: u64) -> Result<()> {
    let sent = flood_while(ns, to, port, size, count, &AtomicBool::new(true))?;
    ensure!(sent == count, "sent {sent} of {count}");
    Ok(())
}

/// As [`flood`], while `on`; says how many were sent.
pub fn flood_while(ns: &Netns, to: &str, port: u16, size: usize, most: u64, on: &AtomicBool) -> Result<u64> {
    let to = SocketAddr::new(to.parse()?, port);
    ns.enter(|| {
        pin()?;
        let socket = UdpSocket::bind((if to.is_ipv4() { IpAddr::from([0; 4]) } else { [0; 16].into() }, 0))?;
        socket.connect(to)?;
        let payload = vec![0; size];
        let mut sent = 0;
        while sent < most && on.load(Ordering::Relaxed) {
            socket.send(&payload)?;
            sent += 1;
        }
        Ok(sent)
    })
}

/// The CPUs that this thread may use.
pub fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

/// Keeps this thread on one CPU.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

fn pin() -> Result<()> {
    pin_to(*cpus()?.last().context("no CPU")?)
}

/// What the records say of the traffic to one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub accept: Totals,
    pub reject: Totals,
}

impl Split {
    /// UDP of one address family.
    pub fn udp(stopped: &Stopped, port: u16, v4: bool) -> Self {
        Self::of(stopped, |flow| flow.protocol == UDP && flow.dport == port && flow.src.is_ipv4() == v4)
    }

    pub fn of(stopped: &Stopped, wanted: impl Fn(&Flow) -> bool) -> Self {
        let sum = |action| {
            let flows: BTreeMap<Flow, Totals> = records::by_action(&stopped.records, action);
            flows.into_iter().filter(|(flow, _)| wanted(flow)).map(|(_, totals)| totals).sum()
        };
        Self { accept: sum("ACCEPT"), reject: sum("REJECT") }
    }

    pub fn rejected(reject: Totals) -> Self {
        Self { reject, ..Self::default() }
    }

    pub fn both(self) -> Totals {
        [self.accept, self.reject].into_iter().sum()
    }

    pub fn expect(self, what: &str, want: Self) -> Result<()> {
        ensure!(
            self == want,
            "{what}: ACCEPT {} REJECT {}, not ACCEPT {} REJECT {}",
            self.accept,
            self.reject,
            want.accept,
            want.reject
        );
        Ok(())
    }
}

/// Fails unless nothing was lost and every drop found its packet.
pub fn expect_all_matched(stopped: &Stopped) -> Result<()> {
    stopped.expect_nothing_lost()?;
    ensure!(stopped.count("drops_unmatched_packets")? == 0, "{:?}", stopped.stderr);
    Ok(())
}
