//! Link types (tcpdump.org/linktypes.html): where the IP header of a captured packet is, and what the link's own header
//! says of its direction and interface.
//! Must not know of files or flows.
//! Always: what is found is within the packet.
#![forbid(unsafe_code)]

use agent_common::interface::Cause;
use agent_ebpf_parse::packet::Packet as _;
use agent_ebpf_parse::parse::{self, Network};

use super::cut::Cut;
use crate::capture::flow::Direction;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Ethernet,
    /// Nothing before the IP header.
    Raw,
    /// An address family of four bytes, in one byte order or the other.
    Null,
    /// `tcpdump -i any`.
    Cooked,
    Cooked2,
}

/// What precedes the network header.
pub(super) struct Found {
    /// Where it is in the packet.
    pub(super) network: Result<Network, Cause>,
    pub(super) header_len: u32,
    pub(super) direction: Option<Direction>,
    /// Of the capturing host.
    pub(super) ifindex: Option<u32>,
}

const COOKED_LEN: u32 = 16;
const COOKED2_LEN: u32 = 20;
/// `PACKET_OUTGOING`: all others came in.
const OUTGOING: u16 = 4;

pub(super) const KNOWN: &str = "Ethernet, raw IP, null/loopback and Linux cooked v1 and v2";

impl Link {
    /// RAW has different numbers on different systems.
    pub(super) fn of(number: i32) -> Option<Self> {
        match number & 0xffff {
            0 | 108 => Some(Self::Null),
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::Cooked),
            276 => Some(Self::Cooked2),
            _ => None,
        }
    }

    pub(super) fn find(self, packet: &Cut) -> Found {
        let plain = |network, header_len| Found { network, header_len, direction: None, ifindex: None };
        match self {
            Self::Ethernet => plain(parse::ethernet(packet), parse::ETHER_LEN),
            Self::Raw => plain(parse::bare(packet), 0),
            Self::Null => plain(behind(4, parse::bare(&packet.skip(4))), 4),
            Self::Cooked => Found {
                // Its ethertype is two bytes later than Ethernet's.
                network: behind(2, parse::ethernet(&packet.skip(2))),
                header_len: COOKED_LEN,
                direction: packet.load_u16(0).map(|kind| direction(u16::from_be(kind))),
                ifindex: None,
            },
            Self::Cooked2 => Found {
                network: cooked2(packet),
                header_len: COOKED2_LEN,
                direction: packet.load_u8(10).map(|kind| direction(kind.into())),
                ifindex: packet.load_u32(4).map(u32::from_be),
            },
        }
    }
}

fn direction(kind: u16) -> Direction {
    if kind == OUTGOING { Direction::Egress } else { Direction::Ingress }
}

/// The ethertype comes first; what a tag's would say is behind the header, after two bytes.
fn cooked2(packet: &Cut) -> Result<Network, Cause> {
    match packet.load_u16(0).map(u16::from_be).ok_or(Cause::Truncated)? {
        0x0800 => Ok(Network::V4(COOKED2_LEN)),
        0x86dd => Ok(Network::V6(COOKED2_LEN)),
        0x8100 | 0x88a8 => {
            let tagged = COOKED2_LEN + 2 - (parse::ETHER_LEN - 2);
            behind(tagged, parse::ethernet(&packet.skip(tagged)))
        }
        _ => Err(Cause::NonIp),
    }
}

fn behind(skipped: u32, network: Result<Network, Cause>) -> Result<Network, Cause> {
    Ok(match network? {
        Network::V4(at) => Network::V4(at + skipped),
        Network::V6(at) => Network::V6(at + skipped),
    })
}
