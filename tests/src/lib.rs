//! Harness for the end-to-end scenarios: namespaces, traffic, the agent under
//! test, and a packet ledger that shares no code with it.
//!
//! Needs root, iproute2, nftables, ethtool, iperf3, ping, nsenter, setpriv, curl,
//! promtool and python3 (what Rust has no safe interface for: tun, raw frames, bpf queries).
//! Delivery is tested against services that stand in for AWS's; some are Python
//! packages, which `cargo xtask test` installs.

pub mod agent;
pub mod bpffs;
pub mod cgroup;
pub mod consumers;
pub mod container;
pub mod delivery;
pub mod faketime;
pub mod flowlogs_reader;
pub mod foreign;
pub mod http;
pub mod imds;
pub mod listener;
pub mod machine;
pub mod moto;
pub mod netns;
pub mod nft;
pub mod packages;
pub mod policy;
pub mod prove;
pub mod proxy;
pub mod python;
pub mod records;
pub mod small_disk;
pub mod status;
pub mod steady;
pub mod strict_logs;
pub mod terminal;
pub mod traffic;
pub mod venv;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// A directed 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
}

impl Flow {
    pub fn hosts(&self) -> Hosts {
        Hosts { src: self.src, dst: self.dst, protocol: self.protocol }
    }
}

/// A directed host pair and protocol; the finest key later fragments carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hosts {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub packets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, item| {
            sum += item;
            sum
        })
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets {} bytes", self.packets, self.bytes)
    }
}

/// Fails, naming each differing key, unless both maps are exactly equal.
pub fn expect_equal<K: Ord + fmt::Debug>(expected: &BTreeMap<K, Totals>, actual: &BTreeMap<K, Totals>) -> Result<()> {
    let zero = Totals::default();
    let keys: std::collections::BTreeSet<&K> = expected.keys().chain(actual.keys()).collect();
    let differences: Vec<String> = keys
        .into_iter()
        .filter_map(|key| {
            let want = expected.get(key).unwrap_or(&zero);
            let got = actual.get(key).unwrap_or(&zero);
            (want != got).then(|| format!("{key:?}: on the wire {want}, logged {got}"))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
    bail!("{} of {} keys differ:\n  {shown}", differences.len(), expected.len());
}

/// Since the epoch, by the wall clock.
pub fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// Polls `condition` until it yields a value or `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("no {what} within {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
