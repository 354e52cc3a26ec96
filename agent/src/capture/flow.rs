//! What a drain yields: flows and per-interface totals. All that later stages may import from `capture`.
//! Knows nothing of AWS, windows or files.
#![forbid(unsafe_code)]

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Relative to the interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

/// The host firewall's verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Accept,
    Reject,
}

/// Interface, direction, 5-tuple and verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowKey {
    pub ifindex: u32,
    pub direction: Direction,
    pub verdict: Verdict,
    pub protocol: u8,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Host order; 0 for protocols without ports.
    pub src_port: u16,
    pub dst_port: u16,
}

/// In few and wide words: derived, each field, variant and length would be one of its own.
impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in [self.src, self.dst] {
            match address {
                IpAddr::V4(v4) => state.write_u32(v4.to_bits()),
                IpAddr::V6(v6) => state.write_u128(v6.to_bits()),
            }
        }
        let small = [self.protocol, self.direction as u8, self.verdict as u8, 0];
        state.write_u64(u64::from(self.ifindex) << 32 | u64::from(u32::from_ne_bytes(small)));
        state.write_u32(u32::from(self.src_port) << 16 | u32::from(self.dst_port));
    }
}

/// A flow within one drain, or merged over a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    pub key: FlowKey,
    /// Wire packets.
    pub packets: u64,
    /// IP bytes: L3 header and up, of every wire packet.
    pub bytes: u64,
    /// Unix seconds of the first packet.
    pub first: i64,
    /// Unix seconds of the last packet, never before `first`.
    pub last: i64,
    /// OR over the packets of FIN 1, SYN 2, RST 4, SYN-ACK 18.
    pub tcp_flags: u8,
    /// Of a rejected flow: the kernel's number of the drop reason (`enum skb_drop_reason`); else 0.
    pub reason: u16,
}

impl Flow {
    /// Adds what another CPU, table or drain counted under the same key.
    pub fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.tcp_flags |= other.tcp_flags;
        // The first one found names a flow that several policies dropped.
        if self.reason == 0 {
            self.reason = other.reason;
        }
    }
}

/// Packets and IP bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Total {
    pub packets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// One interface and direction within one drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceTotals {
    pub ifindex: u32,
    pub direction: Direction,
    /// Everything the program saw.
    pub seen: Total,
    pub non_ip: Total,
    /// Truncated, impossible or over-long headers.
    pub unparsable: [Total; 3],
    /// Good packets that could not be counted under their flow.
    pub skipped: Total,
    /// A policy's drops that could not be counted under their flow. Not part of what the program saw.
    pub drops_skipped: Total,
    /// Only of what was counted since this agent started: for whoever compares it with other counters now.
    #[serde(skip)]
    pub buffers: Buffers,
}

/// How the packets lay in the kernel's buffers, which is what its other counters count.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Buffers {
    /// Of what was seen, in no buffer of its own: packets and headers that super-packets (GSO, GRO) become on the wire.
    pub beyond: Total,
    /// Bytes behind the link-layer header that were not seen as IP: VLAN tags in the data.
    pub around: u64,
}

impl Buffers {
    /// Buffers and their bytes behind the link-layer header, of packets and IP bytes.
    #[must_use]
    pub fn of(&self, seen: Total) -> Total {
        Total {
            packets: seen.packets.saturating_sub(self.beyond.packets),
            bytes: (seen.bytes + self.around).saturating_sub(self.beyond.bytes),
        }
    }
}

impl std::ops::AddAssign for Buffers {
    fn add_assign(&mut self, other: Self) {
        self.beyond += other.beyond;
        self.around += other.around;
    }
}

/// What a policy dropped of a flow, with the verdict [`Verdict::Reject`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    pub flow: Flow,
    /// The packets are also in an accepted flow, of this drain or, for a few, of the next.
    pub counted: bool,
}

/// Result of one drain. Flows within one batch have distinct keys; a key may recur in another batch.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Drained {
    pub batches: Vec<Vec<Flow>>,
    pub totals: Vec<InterfaceTotals>,
    /// A key may recur.
    pub drops: Vec<Dropped>,
}

impl Drained {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.totals.is_empty() && self.drops.is_empty() && self.batches.iter().all(Vec::is_empty)
    }
}
