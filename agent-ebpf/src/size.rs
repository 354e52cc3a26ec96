//! Wire packets and IP bytes of a GSO/GRO super-packet: every segment repeats the headers.
//! Knows no maps and no helpers.
use crate::packet::Packet;
use crate::parse::{self, Network};

/// Tunnels in tunnels that are followed for their inner headers.
const NESTING_MAX: u32 = 3;
const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;

/// Link-layer bytes that programs may have added to or taken from a packet since the kernel summed it: three VLAN tags.
const LINK_CHANGE_MAX: u64 = 12;

/// What the kernel says of a packet's segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// L4 payload bytes of a segment.
    pub size: u32,
    /// Number of segments; 0 when the source of the packet did not say (`SKB_GSO_DODGY`).
    pub segments: u32,
}

/// Wire packets and IP bytes, from the packet's own headers. `headers` = bytes that each segment repeats, L3 and up.
#[inline(always)]
#[must_use]
pub fn segments(ip_len: u32, headers: u32, gso: Gso) -> (u32, u64) {
    let payload = ip_len.saturating_sub(headers);
    let count = if gso.segments != 0 {
        gso.segments
    } else if gso.size != 0 {
        payload.div_ceil(gso.size)
    } else {
        1
    };
    let count = if count == 0 { 1 } else { count };
    (count, u64::from(ip_len) + u64::from(count - 1) * u64::from(headers))
}

/// IP bytes of a super-packet that leaves, given `bytes` from [`segments`]. The kernel has summed the headers of every
/// segment as well, from the MAC header on (net/core/dev.c, `qdisc_pkt_len_segs_init`), and knows tunnels that
/// [`header_len`] does not; but it did so before any program ran, and one may have pushed tags since. Inner headers
/// are never as short as the tags, so the size of the difference tells the two apart. `link_len`: bytes of a segment
/// that are not IP bytes.
#[inline(always)]
#[must_use]
pub fn with_kernel_sum(bytes: u64, packets: u32, wire_len: u32, link_len: u32) -> u64 {
    let packets = u64::from(packets);
    let summed = u64::from(wire_len).wrapping_sub(packets * u64::from(link_len));
    let difference = summed.wrapping_sub(bytes);
    if difference.cast_signed() > (packets * LINK_CHANGE_MAX).cast_signed() { summed } else { bytes }
}

/// Header bytes of a segment from `network` to the end of the innermost TCP or UDP header.
#[inline(always)]
pub fn header_len<P: Packet>(packet: &P, network: Network) -> Option<u32> {
    let start = match network {
        Network::V4(at) | Network::V6(at) => at,
    };
    let mut network = network;
    for _ in 0..NESTING_MAX {
        let (at, protocol) = upper(packet, network)?;
        network = match protocol {
            parse::TCP => return Some(at + u32::from(packet.load_u8(at + 12)? >> 4) * 4 - start),
            parse::UDP => match vxlan(packet, at + 8) {
                Some(inner) => inner,
                None => return Some(at + 8 - start),
            },
            IPIP => Network::V4(at),
            IPV6_IN_IP => Network::V6(at),
            GRE => gre(packet, at)?,
            _ => return Some(at - start),
        };
    }
    None
}

#[inline(always)]
fn upper<P: Packet>(packet: &P, network: Network) -> Option<(u32, u8)> {
    match network {
        Network::V4(at) => {
            let header_len = u32::from(packet.load_u8(at)? & 0xf) * 4;
            Some((at + header_len, packet.load_u8(at + 9)?))
        }
        Network::V6(at) => {
            let next = packet.load_u8(at + 6)?;
            let (at, protocol, _) = packet.walk(at + 40, next, packet.len()).ok()?;
            Some((at, protocol))
        }
    }
}

/// The network header inside VXLAN (RFC 7348: flags 0x08, reserved zero) or GENEVE (RFC 8926: version 0, Ethernet
/// inside). Recognised by content, since ports are configurable; a segmented UDP payload that looks like both the
/// tunnel header and an inner IP packet is one.
#[inline(always)]
fn vxlan<P: Packet>(packet: &P, at: u32) -> Option<Network> {
    let [first, second] = packet.load_words::<2>(at)?;
    let (first, second) = (u32::from_be(first), u32::from_be(second));
    if second & 0xff != 0 {
        return None;
    }
    let ether = if first == 0x0800_0000 {
        at + 8
    } else if first & 0xc000_ffff == 0x6558 {
        at + 8 + (first >> 24 & 0x3f) * 4
    } else {
        return None;
    };
    let ethertype = u16::from_be(packet.load_u16(ether + 12)?);
    let version = packet.load_u8(ether + 14)? >> 4;
    match (ethertype, version) {
        (0x0800, 4) => Some(Network::V4(ether + 14)),
        (0x86dd, 6) => Some(Network::V6(ether + 14)),
        _ => None,
    }
}

/// RFC 2784 and 2890: 4 bytes, and 4 more for each of checksum, key and sequence number.
#[inline(always)]
fn gre<P: Packet>(packet: &P, at: u32) -> Option<Network> {
    let head = u32::from_be(packet.load_u32(at)?);
    let options = (head >> 31 & 1) + (head >> 29 & 1) + (head >> 28 & 1);
    let inner = at + 4 + 4 * options;
    match head & 0xffff {
        0x0800 => Some(Network::V4(inner)),
        0x86dd => Some(Network::V6(inner)),
        // Transparent Ethernet bridging.
        0x6558 => match u16::from_be(packet.load_u16(inner + 12)?) {
            0x0800 => Some(Network::V4(inner + 14)),
            0x86dd => Some(Network::V6(inner + 14)),
            _ => None,
        },
        _ => None,
    }
}
