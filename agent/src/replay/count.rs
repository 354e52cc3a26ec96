//! What the kernel side does with a packet, for one of a capture: parse, find a fragment's ports, count.
//! Must not know of files or windows.
//! Always: every packet is counted once, under its flow or under the cause why not.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::interface::Cause;
use agent_ebpf_parse::packet::Packet as _;
use agent_ebpf_parse::parse::{self, Network, Part, Transport};

use super::cut::Cut;
use super::file::Frame;
use crate::capture::flow::{Buffers, Direction, Drained, Flow, FlowKey, InterfaceTotals, Total, Verdict};

/// The IP bytes of a jumbo frame: no link carries more.
const LINK_BYTES_MAX: u32 = 9216;

/// Of one window.
#[derive(Default)]
pub(super) struct Counter {
    flows: HashMap<FlowKey, Flow>,
    totals: BTreeMap<(u32, Direction), InterfaceTotals>,
    joined: u64,
}

/// Ports of first fragments. Of the whole capture: a datagram may lie across a window's end.
#[derive(Default)]
pub(super) struct Fragments(HashMap<(IpAddr, IpAddr, u8, u32), (u16, u16)>);

struct Parsed {
    src: IpAddr,
    dst: IpAddr,
    transport: Transport,
}

impl Counter {
    pub(super) fn count(&mut self, frame: &Frame, fragments: &mut Fragments) {
        let parsed = frame.network.and_then(|network| parse(&frame.packet, network));
        // A capture of which no packet says it has it from the host's addresses.
        let is_own = |parsed: &Parsed| frame.addresses.contains(&parsed.src);
        let guess = || if parsed.as_ref().is_ok_and(is_own) { Direction::Egress } else { Direction::Ingress };
        let direction = frame.direction.unwrap_or_else(guess);
        let totals = self.totals.entry((frame.ifindex, direction)).or_insert_with(|| none(frame.ifindex, direction));
        let seen = |bytes: u32| Total { packets: 1, bytes: bytes.into() };
        match parsed {
            Ok(parsed) => {
                let Transport { protocol, flags, ip_len, .. } = parsed.transport;
                totals.seen += seen(ip_len);
                self.joined += u64::from(ip_len > LINK_BYTES_MAX);
                let (src_port, dst_port) = fragments.ports(&parsed);
                let (ifindex, verdict, Parsed { src, dst, .. }) = (frame.ifindex, Verdict::Accept, parsed);
                let key = FlowKey { ifindex, direction, verdict, protocol, src, dst, src_port, dst_port };
                let (first, last) = (frame.seconds, frame.seconds);
                let flow = Flow { key, packets: 1, bytes: ip_len.into(), first, last, tcp_flags: flags, reason: 0 };
                self.flows.entry(key).and_modify(|sum| sum.merge(&flow)).or_insert(flow);
            }
            Err(cause) => {
                let bytes = seen(frame.packet.len().saturating_sub(frame.header_len));
                totals.seen += bytes;
                match cause {
                    Cause::NonIp => totals.non_ip += bytes,
                    Cause::Truncated => totals.unparsable[0] += bytes,
                    Cause::BadHeader => totals.unparsable[1] += bytes,
                    Cause::LongChain => totals.unparsable[2] += bytes,
                    Cause::Skipped => totals.skipped += bytes,
                }
            }
        }
    }

    pub(super) fn unparsable(&self) -> u64 {
        self.totals.values().flat_map(|totals| totals.unparsable).map(|total| total.packets).sum()
    }

    /// Packets that no link carries.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    pub(super) fn into_drained(self) -> Drained {
        let flows = self.flows.into_values().collect();
        Drained { batches: vec![flows], totals: self.totals.into_values().collect(), drops: Vec::new() }
    }
}

impl Fragments {
    /// As `agent-ebpf/src/classify.rs`: the first fragment leaves its ports behind for the later ones.
    fn ports(&mut self, parsed: &Parsed) -> (u16, u16) {
        let Transport { ports, protocol, fragment, .. } = parsed.transport;
        // As loaded: the bytes are in network order.
        let [a, b, c, d] = ports.to_ne_bytes();
        let own = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if !parse::has_ports(protocol) {
            return own;
        }
        let key = (parsed.src, parsed.dst, protocol, fragment.id);
        match fragment.part {
            Part::Whole => own,
            Part::First => {
                self.0.insert(key, own);
                own
            }
            Part::Later => self.0.get(&key).copied().unwrap_or(own),
        }
    }
}

fn none(ifindex: u32, direction: Direction) -> InterfaceTotals {
    let (seen, non_ip, skipped, drops_skipped) = Default::default();
    let (unparsable, buffers) = ([Total::default(); 3], Buffers::default());
    InterfaceTotals { ifindex, direction, seen, non_ip, unparsable, skipped, drops_skipped, buffers }
}

fn parse(packet: &Cut, network: Network) -> Result<Parsed, Cause> {
    match network {
        Network::V4(at) => {
            let ip = parse::ipv4(packet, at, false)?;
            let (src, dst) = (v4(ip.addresses as u32), v4((ip.addresses >> 32) as u32));
            Ok(Parsed { src, dst, transport: ip.transport })
        }
        Network::V6(at) => {
            let ip = parse::ipv6(packet, at, false)?;
            Ok(Parsed { src: v6(ip.src), dst: v6(ip.dst), transport: ip.transport })
        }
    }
}

/// The lowest byte of the word is the address's first, whatever the byte order: see [`agent_ebpf_parse::packet::Head`].
fn v4(word: u32) -> IpAddr {
    Ipv4Addr::from(word.to_le_bytes()).into()
}

fn v6(words: [u64; 2]) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    Ipv6Addr::from(bytes).into()
}
