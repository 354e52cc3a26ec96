//! Packet -> addresses, ports, protocol, flags. VLAN tags, devices without Ethernet header, IPv6 header chains
//! (bounded). Knows no maps and no helpers. Reads nothing outside the packet and never panics.
use crate::packet::Packet;
use agent_common::interface::Cause;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

pub const ETHER_LEN: u32 = 14;
const VLAN_LEN: u32 = 4;
/// 802.1Q in 802.1ad, and one more than anybody documents.
const VLAN_TAGS_MAX: u32 = 3;
const TYPE_IPV4: u16 = 0x0800u16.to_be();
const TYPE_IPV6: u16 = 0x86ddu16.to_be();
const TYPE_VLAN: u16 = 0x8100u16.to_be();
const TYPE_QINQ: u16 = 0x88a8u16.to_be();

/// RFC 8200 chains are short; Linux itself accepts eight options headers. Longer ones are counted as such.
pub const IPV6_HEADERS_MAX: u32 = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Where the network header is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    V4(u32),
    V6(u32),
}

/// A packet's place in its datagram. Not an enum with the id in it: what has no id would leave a register undefined,
/// which the compiler may copy and the verifier then refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub part: Part,
    /// 0 for what is whole.
    pub id: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Whole,
    /// Carries the ports; the others are found by the id.
    First,
    Later,
}

impl Fragment {
    pub const WHOLE: Self = Self { part: Part::Whole, id: 0 };

    #[inline(always)]
    #[must_use]
    pub fn first(id: u32) -> Self {
        Self { part: Part::First, id }
    }

    #[inline(always)]
    #[must_use]
    pub fn later(id: u32) -> Self {
        Self { part: Part::Later, id }
    }
}

/// What is the same for both address families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// First word of the L4 header as loaded; 0 for protocols without ports and later fragments.
    pub ports: u32,
    pub protocol: u8,
    /// Reduced TCP flags, see [`aws_flags`].
    pub flags: u8,
    /// IP bytes: L3 header and up, without link-layer padding.
    pub ip_len: u32,
    pub fragment: Fragment,
    /// IPv6 jumbo option of a BIG TCP packet: 8 bytes that never reach the wire.
    pub jumbo: bool,
}

/// IPv4 packet. `addresses` = source | destination << 32, as loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4 {
    pub addresses: u64,
    pub transport: Transport,
}

/// IPv6 packet. Address words as loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6 {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub transport: Transport,
}

/// Finds the network header behind an Ethernet header and its VLAN tags (a tag in the skb's metadata is not here).
#[inline(always)]
pub fn ethernet<P: Packet>(packet: &P) -> Result<Network, Cause> {
    let mut at = ETHER_LEN - 2;
    let mut tags = 0;
    loop {
        let ethertype = packet.load_u16(at).ok_or(Cause::Truncated)?;
        at += 2;
        match ethertype {
            TYPE_IPV4 => return Ok(Network::V4(at)),
            TYPE_IPV6 => return Ok(Network::V6(at)),
            TYPE_VLAN | TYPE_QINQ if P::WALKS && tags < VLAN_TAGS_MAX => {
                tags += 1;
                at += VLAN_LEN - 2;
            }
            _ => return Err(Cause::NonIp),
        }
    }
}

/// Devices without a link-layer header: the version nibble decides.
#[inline(always)]
pub fn bare<P: Packet>(packet: &P) -> Result<Network, Cause> {
    // Four bytes, not one: the verifier takes no range from a comparison of the packet's very start with its end.
    match u32::from_be(packet.load_u32(0).ok_or(Cause::Truncated)?) >> 28 {
        4 => Ok(Network::V4(0)),
        6 => Ok(Network::V6(0)),
        _ => Err(Cause::NonIp),
    }
}

/// What AWS reports of one packet: FIN 1, SYN 2, RST 4, SYN-ACK 18; a lone ACK, PSH, URG, ECE, CWR add nothing.
/// Reduced per packet, because an OR of raw flags cannot tell SYN-ACK from a SYN and an ACK.
#[inline(always)]
#[must_use]
pub fn aws_flags(raw: u8) -> u8 {
    (raw & 7) | if raw & 0x12 == 0x12 { 0x10 } else { 0 }
}

#[inline(always)]
#[must_use]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// Ports and flags at `at`. An L4 header cut short is still traffic of that protocol: what is missing is 0.
#[inline(always)]
fn l4<P: Packet>(packet: &P, at: u32, protocol: u8, ip_end: u32) -> Option<(u32, u8)> {
    if protocol == TCP && at + 16 <= ip_end {
        let words = packet.load_words::<4>(at)?;
        return Some((words[0], aws_flags((words[3].to_le() >> 8) as u8)));
    }
    if has_ports(protocol) && at + 4 <= ip_end {
        return Some((packet.load_u32(at)?, 0));
    }
    Some((0, 0))
}

/// Parses an IPv4 packet whose header is at `l3`. `gso`: the length field does not bind (BIG TCP writes 0).
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &P, l3: u32, gso: bool) -> Result<Ipv4, Cause> {
    let (words, [addresses]) = packet.load_head::<3, 1>(l3).ok_or(Cause::Truncated)?;
    // Version and header length are the first byte in memory.
    let head = words[0].to_le() & 0xff;
    let header_len = if P::WALKS {
        if head >> 4 != 4 || head & 0xf < 5 {
            return Err(Cause::BadHeader);
        }
        (head & 0xf) * 4
    } else if head == 0x45 {
        20
    } else {
        // Options are left to a reader that walks: the fast path knows its offsets.
        return Err(Cause::BadHeader);
    };
    let available = packet.len().wrapping_sub(l3);
    let total = u32::from_be(words[0]) & 0xffff;
    let ip_len = if gso { available } else { total };
    if ip_len < header_len {
        return Err(Cause::BadHeader);
    }
    if ip_len > available {
        return Err(Cause::Truncated);
    }
    let protocol = (u32::from_be(words[2]) >> 16) as u8;
    let fragmentation = u32::from_be(words[1]);
    if !P::WALKS && fragmentation & 0x3fff != 0 {
        // So are fragments.
        return Err(Cause::BadHeader);
    }
    let id = fragmentation >> 16;
    // More-fragments flag and offset (RFC 791).
    let fragment = match (fragmentation & 0x2000, fragmentation & 0x1fff) {
        (0, 0) => Fragment::WHOLE,
        (_, 0) => Fragment::first(id),
        _ => Fragment::later(id),
    };
    let (ports, flags) = match fragment.part {
        Part::Later => (0, 0),
        _ => l4(packet, l3 + header_len, protocol, l3 + ip_len).ok_or(Cause::Truncated)?,
    };
    Ok(Ipv4 { addresses, transport: Transport { ports, protocol, flags, ip_len, fragment, jumbo: false } })
}

/// Parses an IPv6 packet whose header is at `l3`.
#[inline(always)]
pub fn ipv6<P: Packet>(packet: &P, l3: u32, gso: bool) -> Result<Ipv6, Cause> {
    let (words, addresses) = packet.load_head::<2, 4>(l3).ok_or(Cause::Truncated)?;
    if u32::from_be(words[0]) >> 28 != 6 {
        return Err(Cause::BadHeader);
    }
    let available = packet.len().wrapping_sub(l3);
    let second = u32::from_be(words[1]);
    let next = (second >> 8) as u8;
    let payload = second >> 16;
    // RFC 2675: a jumbogram has payload length 0 and a hop-by-hop header.
    let jumbo = payload == 0 && next == HOP_BY_HOP;
    let ip_len = if gso || jumbo { available } else { payload + 40 };
    if ip_len > available {
        return Err(Cause::Truncated);
    }
    let end = l3 + ip_len;
    let (at, protocol, fragment) = if P::WALKS {
        packet.walk(l3 + 40, next, end)?
    } else if is_extension(next) {
        return Err(Cause::LongChain);
    } else {
        (l3 + 40, next, Fragment::WHOLE)
    };
    let (ports, flags) = match fragment.part {
        Part::Later => (0, 0),
        _ => l4(packet, at, protocol, end).ok_or(Cause::Truncated)?,
    };
    Ok(Ipv6 {
        src: [addresses[0], addresses[1]],
        dst: [addresses[2], addresses[3]],
        transport: Transport { ports, protocol, flags, ip_len, fragment, jumbo: gso && jumbo },
    })
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY)
}

/// Follows the extension headers: offset and number of the upper-layer header. After a later fragment's header
/// nothing is followed: what comes next is payload.
#[inline(always)]
pub fn walk<P: Packet>(packet: &P, start: u32, first: u8, end: u32) -> Result<(u32, u8, Fragment), Cause> {
    let (mut at, mut next, mut fragment) = (start, first, Fragment::WHOLE);
    for _ in 0..=IPV6_HEADERS_MAX {
        if !is_extension(next) {
            return Ok((at, next, fragment));
        }
        if at + 8 > end {
            return Err(Cause::Truncated);
        }
        let [head, second] = packet.load_words::<2>(at).ok_or(Cause::Truncated)?;
        let head = u32::from_be(head);
        let (len_field, number) = (head >> 16 & 0xff, next);
        next = (head >> 24) as u8;
        if number == FRAGMENT {
            let (offset, more) = (head & 0xfff8, head & 1);
            let id = u32::from_be(second);
            at += 8;
            if offset != 0 {
                return Ok((at, next, Fragment::later(id)));
            }
            // Offset 0 without more: an atomic fragment (RFC 6946) is a whole packet.
            if more != 0 {
                fragment = Fragment::first(id);
            }
        } else if number == AUTHENTICATION {
            at += (len_field + 2) * 4;
        } else {
            at += (len_field + 1) * 8;
        }
    }
    Err(Cause::LongChain)
}

/// A walk's result in one register: id, offset, header number, kind.
#[inline(always)]
#[must_use]
pub fn pack_walk(result: Result<(u32, u8, Fragment), Cause>) -> u64 {
    let (at, next, kind, id) = match result {
        Ok((at, next, Fragment { part, id })) => (at, next, part as u64, id),
        Err(Cause::LongChain) => (0, 0, 3, 0),
        Err(_) => (0, 0, 4, 0),
    };
    u64::from(id) << 32 | u64::from(at & 0xffff) << 16 | u64::from(next) << 8 | kind
}

/// Undoes [`pack_walk`]. Every cause but a long chain is a packet cut short.
#[inline(always)]
pub fn unpack_walk(word: u64) -> Result<(u32, u8, Fragment), Cause> {
    let (id, at, next) = ((word >> 32) as u32, (word >> 16) as u32 & 0xffff, (word >> 8) as u8);
    match word & 0xff {
        0 => Ok((at, next, Fragment { part: Part::Whole, id })),
        1 => Ok((at, next, Fragment { part: Part::First, id })),
        2 => Ok((at, next, Fragment { part: Part::Later, id })),
        3 => Err(Cause::LongChain),
        _ => Err(Cause::Truncated),
    }
}

/// The network header's place in one register: offset, and above it 4, 6 or a cause.
#[inline(always)]
#[must_use]
pub fn pack_network(result: Result<Network, Cause>) -> u64 {
    match result {
        Ok(Network::V4(at)) => u64::from(at) | 4 << 32,
        Ok(Network::V6(at)) => u64::from(at) | 6 << 32,
        Err(Cause::NonIp) => 0,
        Err(_) => 1 << 32,
    }
}

/// Undoes [`pack_network`]. Every cause but "not IP" is a packet cut short.
#[inline(always)]
pub fn unpack_network(word: u64) -> Result<Network, Cause> {
    match word >> 32 {
        4 => Ok(Network::V4(word as u32)),
        6 => Ok(Network::V6(word as u32)),
        0 => Err(Cause::NonIp),
        _ => Err(Cause::Truncated),
    }
}
