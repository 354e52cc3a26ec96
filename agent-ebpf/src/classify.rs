//! One packet: parse, measure, count. The fast path reads the linear area directly and takes whole IPv4 and IPv6
//! packets without extension headers, VLAN tags in the data or segmentation; the slow path takes all others.
#![allow(unsafe_code)]
use crate::count::{self, Place, Sample};
use crate::maps::{FRAGMENTS, FragmentKey};
use crate::reader::{Copying, Direct};
use agent_common::EGRESS;
use agent_common::interface::Cause;
use agent_ebpf_parse::packet::Packet;
use agent_ebpf_parse::parse::{self, Fragment, Network, Part, Transport};
use agent_ebpf_parse::size::{self, Gso};
use aya_ebpf::bindings::__sk_buff;

/// Where the network header is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Ethernet = 0,
    None = 1,
}

impl Link {
    #[inline(always)]
    fn header_len(self) -> u32 {
        if self == Self::Ethernet { parse::ETHER_LEN } else { 0 }
    }
}

#[inline(always)]
fn network<P: Packet>(packet: &P, link: Link) -> Result<Network, Cause> {
    match link {
        Link::Ethernet => parse::ethernet(packet),
        Link::None => parse::bare(packet),
    }
}

#[inline(always)]
pub fn sample(skb: *mut __sk_buff, direction: u8, transport: &Transport) -> Sample {
    Sample {
        place: Place::now(),
        // SAFETY: context field, checked by the verifier.
        ifindex: unsafe { (*skb).ifindex },
        direction,
        protocol: transport.protocol,
        flags: transport.flags,
        ports: transport.ports,
        packets: 1,
        bytes: u64::from(transport.ip_len),
    }
}

/// Counts the packet. Never fails and never changes it.
#[inline(always)]
pub fn classify<const DIRECTION: u8, const BARE: bool>(skb: *mut __sk_buff) {
    let link = if BARE { Link::None } else { Link::Ethernet };
    match fast(skb, DIRECTION, link) {
        Some(true) => {}
        Some(false) => crowded(skb, u32::from(DIRECTION), link as u32),
        None => slow(skb, u32::from(DIRECTION), link as u32),
    }
}

/// Counts a packet of the common shape: all of it in registers, nothing lent to other functions. `Some(false)`: its
/// set is full and it is not counted yet. `None`: another shape.
#[inline(always)]
fn fast(skb: *mut __sk_buff, direction: u8, link: Link) -> Option<bool> {
    // SAFETY: context field, checked by the verifier.
    if unsafe { (*skb).gso_size } != 0 {
        return None;
    }
    let packet = Direct::new(skb);
    match network(&packet, link).ok()? {
        Network::V4(l3) => {
            let ip = parse::ipv4(&packet, l3, false).ok()?;
            let sample = sample(skb, direction, &ip.transport);
            if !count::flow4(ip.addresses, &sample) {
                return Some(false);
            }
            count::seen(&sample);
        }
        Network::V6(l3) => {
            let ip = parse::ipv6(&packet, l3, false).ok()?;
            let sample = sample(skb, direction, &ip.transport);
            if !count::flow6(ip.src, ip.dst, &sample) {
                return Some(false);
            }
            count::seen(&sample);
        }
    }
    Some(true)
}

/// A packet of the common shape whose set is full: parsed once more, because what [`fast`] knew was in registers.
#[inline(never)]
fn crowded(skb: *mut __sk_buff, direction: u32, link: u32) {
    let packet = Direct::new(skb);
    let link = if link == Link::Ethernet as u32 { Link::Ethernet } else { Link::None };
    match network(&packet, link) {
        Ok(Network::V4(l3)) => {
            let Ok(ip) = parse::ipv4(&packet, l3, false) else { return };
            let sample = sample(skb, direction as u8, &ip.transport);
            count::seen(&sample);
            count::overflow(&count::wide4(ip.addresses, &sample), &sample);
        }
        Ok(Network::V6(l3)) => {
            let Ok(ip) = parse::ipv6(&packet, l3, false) else { return };
            let sample = sample(skb, direction as u8, &ip.transport);
            count::seen(&sample);
            count::overflow(&count::wide6(ip.src, ip.dst, &sample), &sample);
        }
        Err(_) => {}
    }
}

// Two global functions: the verifier checks each once, and takes what it returns for any number. Inlined, it would
// explore all that follows for every VLAN tag and tunnel.

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_network(skb: *mut __sk_buff, link: u64) -> u64 {
    let link = if link == Link::Ethernet as u64 { Link::Ethernet } else { Link::None };
    parse::pack_network(network(&Copying::new(skb), link))
}

/// 0 when the headers cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn header_len(skb: *mut __sk_buff, l3: u64, family: u64) -> u64 {
    let network = if family == 4 { Network::V4(l3 as u32) } else { Network::V6(l3 as u32) };
    u64::from(size::header_len(&Copying::new(skb), network).unwrap_or(0))
}

#[inline(never)]
fn slow(skb: *mut __sk_buff, direction: u32, link: u32) {
    let packet = Copying::new(skb);
    let direction = direction as u8;
    let link = if link == Link::Ethernet as u32 { Link::Ethernet } else { Link::None };
    // SAFETY: context field, checked by the verifier.
    let gso = unsafe { (*skb).gso_size } != 0;
    match parse::unpack_network(find_network(skb, link as u64)) {
        Ok(Network::V4(l3)) => match parse::ipv4(&packet, l3, gso) {
            Ok(ip) => {
                let addresses = ([ip.addresses & 0xffff_ffff, 0], [ip.addresses >> 32, 0]);
                let mut sample = sample(skb, direction, &ip.transport);
                sample.packets = measure(skb, l3, 4, &ip.transport, &mut sample);
                fragment(&addresses.0, &addresses.1, &ip.transport, &mut sample);
                count::seen_as(&sample, buffer(&packet, l3, link, &ip.transport));
                if !count::flow4(ip.addresses, &sample) {
                    count::overflow(&count::wide4(ip.addresses, &sample), &sample);
                }
            }
            Err(cause) => refuse(skb, direction, &packet, l3, link, cause),
        },
        Ok(Network::V6(l3)) => match parse::ipv6(&packet, l3, gso) {
            Ok(ip) => {
                let mut sample = sample(skb, direction, &ip.transport);
                sample.packets = measure(skb, l3, 6, &ip.transport, &mut sample);
                fragment(&ip.src, &ip.dst, &ip.transport, &mut sample);
                count::seen_as(&sample, buffer(&packet, l3, link, &ip.transport));
                if !count::flow6(ip.src, ip.dst, &sample) {
                    count::overflow(&count::wide6(ip.src, ip.dst, &sample), &sample);
                }
            }
            Err(cause) => refuse(skb, direction, &packet, l3, link, cause),
        },
        Err(cause) => {
            refuse(skb, direction, &packet, link.header_len(), link, cause);
        }
    }
}

/// Bytes of a packet behind its link-layer header, as other counters in the kernel know them. Tags in the data are part of
/// them. Padding is left out where `fast` would not see it either.
#[inline(always)]
fn buffer(packet: &Copying, l3: u32, link: Link, transport: &Transport) -> u32 {
    if l3 == link.header_len() { transport.ip_len } else { packet.len().saturating_sub(link.header_len()) }
}

/// Wire packets and IP bytes of a super-packet; the packets are returned, 1 for any other packet. A frame of its own:
/// the kernel sums the stack of a call chain.
#[inline(never)]
fn measure(skb: *mut __sk_buff, l3: u32, family: u32, transport: &Transport, sample: &mut Sample) -> u32 {
    // SAFETY: context fields, checked by the verifier.
    let (gso, wire_len) = unsafe { (Gso { size: (*skb).gso_size, segments: (*skb).gso_segs }, (*skb).wire_len) };
    if gso.size == 0 {
        return 1;
    }
    // The jumbo option is taken off before the wire.
    let jumbo = if transport.jumbo { 8 } else { 0 };
    let headers = (header_len(skb, u64::from(l3), u64::from(family)) as u32).saturating_sub(jumbo);
    let (packets, bytes) = size::segments(transport.ip_len - jumbo, headers, gso);
    // On ingress `wire_len` is what an earlier user of the packet left there.
    sample.bytes =
        if sample.direction == EGRESS { size::with_kernel_sum(bytes, packets, wire_len, l3 + jumbo) } else { bytes };
    packets
}

/// Later fragments carry no ports: the first one leaves them behind.
#[inline(never)]
fn fragment(src: &[u64; 2], dst: &[u64; 2], transport: &Transport, sample: &mut Sample) {
    let Fragment { part, id } = transport.fragment;
    if part == Part::Whole || !parse::has_ports(transport.protocol) {
        return;
    }
    let key = FragmentKey { src: *src, dst: *dst, id, protocol: transport.protocol, reserved: [0; 3] };
    if part == Part::First {
        // No room (never in an LRU map but for a failed allocation): the later fragments get ports 0.
        let _ = FRAGMENTS.insert(&key, &transport.ports, 0);
    } else if let Some(ports) = FRAGMENTS.get_ptr(&key) {
        // SAFETY: a live map value; a concurrent eviction leaves its memory valid until this program ends.
        sample.ports = unsafe { *ports };
    }
}

#[inline(always)]
fn refuse(skb: *mut __sk_buff, direction: u8, packet: &Copying, l3: u32, link: Link, cause: Cause) {
    let sample = Sample {
        place: Place::now(),
        // SAFETY: context field, checked by the verifier.
        ifindex: unsafe { (*skb).ifindex },
        direction,
        protocol: 0,
        flags: 0,
        ports: 0,
        packets: 1,
        bytes: u64::from(packet.len().saturating_sub(l3)),
    };
    count::seen_as(&sample, packet.len().saturating_sub(link.header_len()));
    count::interface_cause(&sample, cause);
}
