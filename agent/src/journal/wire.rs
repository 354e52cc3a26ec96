//! How a flow is written: the derived form takes about 33 bytes for IPv4, this one 27.
//! What is rare in number and small is derived, beside its type.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::capture::flow::{Direction, Flow, FlowKey, Verdict};

/// Both addresses under one tag. Bytes where a varint would take more than the number itself.
#[derive(Serialize, Deserialize)]
enum Addresses {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
    /// Nothing on the wire is like this, but a key can say it.
    Mixed(IpAddr, IpAddr),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    addresses: Addresses,
    src_port: [u8; 2],
    dst_port: [u8; 2],
    ifindex: u32,
    direction: Direction,
    verdict: Verdict,
    protocol: u8,
    tcp_flags: u8,
    reason: u16,
    packets: u64,
    bytes: u64,
    first: i64,
    /// Since `first`: one byte instead of five.
    duration: u64,
}

impl From<&Flow> for Wire {
    fn from(flow: &Flow) -> Self {
        let key = &flow.key;
        let addresses = match (key.src, key.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4(src.octets(), dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Addresses::V6(src.octets(), dst.octets()),
            (src, dst) => Addresses::Mixed(src, dst),
        };
        Self {
            addresses,
            src_port: key.src_port.to_le_bytes(),
            dst_port: key.dst_port.to_le_bytes(),
            ifindex: key.ifindex,
            direction: key.direction,
            verdict: key.verdict,
            protocol: key.protocol,
            tcp_flags: flow.tcp_flags,
            reason: flow.reason,
            packets: flow.packets,
            bytes: flow.bytes,
            first: flow.first,
            // Wrapping, so that any two times come back as they were.
            duration: flow.last.wrapping_sub(flow.first).cast_unsigned(),
        }
    }
}

impl From<Wire> for Flow {
    fn from(wire: Wire) -> Self {
        let (src, dst) = match wire.addresses {
            Addresses::V4(src, dst) => (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into()),
            Addresses::V6(src, dst) => (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into()),
            Addresses::Mixed(src, dst) => (src, dst),
        };
        let key = FlowKey {
            ifindex: wire.ifindex,
            direction: wire.direction,
            verdict: wire.verdict,
            protocol: wire.protocol,
            src,
            dst,
            src_port: u16::from_le_bytes(wire.src_port),
            dst_port: u16::from_le_bytes(wire.dst_port),
        };
        Self {
            key,
            packets: wire.packets,
            bytes: wire.bytes,
            first: wire.first,
            last: wire.first.wrapping_add(wire.duration.cast_signed()),
            tcp_flags: wire.tcp_flags,
            reason: wire.reason,
        }
    }
}

impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Flow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wire::deserialize(deserializer).map(Self::from)
    }
}
