//! The parser against packets that another library builds, and against noise.

use agent_common::interface::Cause;
use agent_ebpf_parse::packet::{Packet, Slice};
use agent_ebpf_parse::parse::{self, Fragment, Network, Part, Transport};
use agent_ebpf_parse::size::{self, Gso};
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder, TcpHeader, VlanId,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
enum Address {
    /// With this many words of options.
    V4([u8; 4], [u8; 4], u8),
    /// With hop-by-hop, routing and destination options of this many extra 8-byte units each.
    V6([u8; 16], [u8; 16], [Option<u8>; 3]),
}

#[derive(Clone, Debug)]
enum Upper {
    /// Ports, flag bits, words of options.
    Tcp(u16, u16, u8, usize),
    Udp(u16, u16),
    Echo(u16, u16),
}

#[derive(Clone, Debug)]
struct Spec {
    tags: [Option<u16>; 2],
    address: Address,
    upper: Upper,
    /// Offset in 8-byte units, more to come, identification.
    fragment: (u16, bool, u16),
    payload: Vec<u8>,
}

/// The header is built by etherparse; only the arithmetic of the expectation is ours.
struct Built {
    bytes: Vec<u8>,
    l3: u32,
    /// From L3 to the end of the L4 header.
    headers: u32,
}

impl Spec {
    fn is_v4(&self) -> bool {
        matches!(self.address, Address::V4(..))
    }

    fn protocol(&self) -> u8 {
        match self.upper {
            Upper::Tcp(..) => 6,
            Upper::Udp(..) => 17,
            Upper::Echo(..) if self.is_v4() => 1,
            Upper::Echo(..) => 58,
        }
    }

    fn ip(&self) -> IpHeaders {
        let (offset, more, id) = self.fragment;
        let offset = IpFragOffset::try_new(offset).unwrap();
        match &self.address {
            Address::V4(src, dst, words) => {
                let mut header = Ipv4Header::new(0, 64, IpNumber(self.protocol()), *src, *dst).unwrap();
                header.fragment_offset = offset;
                header.more_fragments = more;
                header.identification = id;
                header.options = Ipv4Options::try_from(&vec![1; usize::from(*words) * 4][..]).unwrap();
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            Address::V6(src, dst, chain) => {
                let header = Ipv6Header { source: *src, destination: *dst, hop_limit: 64, ..Ipv6Header::default() };
                let raw = |units: u8| {
                    let zeros = vec![0; 6 + 8 * usize::from(units)];
                    Ipv6RawExtHeader::new_raw(IpNumber(0), &zeros).unwrap()
                };
                let fragmented = self.fragment.0 != 0 || more;
                let extensions = Ipv6Extensions {
                    hop_by_hop_options: chain[0].map(raw),
                    destination_options: chain[2].map(raw),
                    routing: chain[1]
                        .map(|units| Ipv6RoutingExtensions { routing: raw(units), final_destination_options: None }),
                    fragment: fragmented.then(|| Ipv6FragmentHeader::new(IpNumber(0), offset, more, id.into())),
                    auth: None,
                };
                IpHeaders::Ipv6(header, extensions)
            }
        }
    }

    fn build(&self) -> Built {
        let ether = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let id = |tag: u16| VlanId::try_new(tag).unwrap();
        let (l3, ip) = match self.tags {
            [None, None] => (14, ether.ip(self.ip())),
            [Some(tag), None] | [None, Some(tag)] => (18, ether.single_vlan(id(tag)).ip(self.ip())),
            [Some(outer), Some(inner)] => (22, ether.double_vlan(id(outer), id(inner)).ip(self.ip())),
        };
        let mut bytes = Vec::new();
        match self.upper {
            Upper::Tcp(sport, dport, flags, words) => {
                let mut header = TcpHeader::new(sport, dport, 1, 1024);
                let bit = |at: u8| flags >> at & 1 == 1;
                header.fin = bit(0);
                header.syn = bit(1);
                header.rst = bit(2);
                header.psh = bit(3);
                header.ack = bit(4);
                header.urg = bit(5);
                header.ece = bit(6);
                header.cwr = bit(7);
                header.set_options_raw(&vec![1; words * 4]).unwrap();
                ip.tcp_header(header).write(&mut bytes, &self.payload).unwrap();
            }
            Upper::Udp(sport, dport) => ip.udp(sport, dport).write(&mut bytes, &self.payload).unwrap(),
            Upper::Echo(id, seq) if self.is_v4() => {
                ip.icmpv4_echo_request(id, seq).write(&mut bytes, &self.payload).unwrap();
            }
            Upper::Echo(id, seq) => ip.icmpv6_echo_request(id, seq).write(&mut bytes, &self.payload).unwrap(),
        }
        let headers = (bytes.len() - self.payload.len()) as u32 - l3;
        let (offset, more, _) = self.fragment;
        if !self.is_v4() && (offset != 0 || more) {
            // etherparse 0.18 has the M flag and the offset in the wrong bits; RFC 8200, 4.5: offset, 2 reserved, M.
            let l4_len = match self.upper {
                Upper::Tcp(_, _, _, words) => 20 + 4 * words,
                Upper::Udp(..) | Upper::Echo(..) => 8,
            };
            let at = bytes.len() - self.payload.len() - l4_len - 6;
            bytes[at..at + 2].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
        }
        Built { bytes, l3, headers }
    }

    fn expected(&self, built: &Built) -> Transport {
        let (offset, more, id) = self.fragment;
        let id = u32::from(id);
        let fragment = match (offset, more) {
            (0, false) => Fragment::WHOLE,
            (0, true) => Fragment::first(id),
            _ => Fragment::later(id),
        };
        let word = |high: u16, low: u16| {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            u32::from_ne_bytes([a, b, c, d])
        };
        let (ports, flags) = match self.upper {
            _ if fragment.part == Part::Later => (0, 0),
            Upper::Tcp(sport, dport, flags, _) => {
                // AWS's table: FIN 1, SYN 2, RST 4, and SYN with ACK 18.
                let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|bit| flags & bit != 0);
                let mut reduced = u8::from(fin) + 2 * u8::from(syn) + 4 * u8::from(rst);
                if syn && ack {
                    reduced += 16;
                }
                (word(sport, dport), reduced)
            }
            Upper::Udp(sport, dport) => (word(sport, dport), 0),
            Upper::Echo(..) => (0, 0),
        };
        let ip_len = built.headers + self.payload.len() as u32;
        Transport { ports, protocol: self.protocol(), flags, ip_len, fragment, jumbo: false }
    }
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>(), 0..=10u8).prop_map(|(src, dst, words)| Address::V4(src, dst, words)),
        (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[Option<bool>; 3]>()).prop_map(|(src, dst, chain)| {
            Address::V6(src, dst, chain.map(|header| header.map(|long| if long { 31 } else { 0 })))
        }),
    ]
}

fn upper() -> impl Strategy<Value = Upper> {
    prop_oneof![
        (any::<u16>(), any::<u16>(), any::<u8>(), 0..=10usize)
            .prop_map(|(sport, dport, flags, words)| Upper::Tcp(sport, dport, flags, words)),
        (any::<u16>(), any::<u16>()).prop_map(|(sport, dport)| Upper::Udp(sport, dport)),
        (any::<u16>(), any::<u16>()).prop_map(|(id, seq)| Upper::Echo(id, seq)),
    ]
}

prop_compose! {
    fn spec()(
        tags in any::<[Option<u16>; 2]>(),
        address in address(),
        upper in upper(),
        fragment in prop_oneof![
            3 => Just((0, false, 7)),
            1 => Just((0, true, 8)),
            1 => (1..8000u16, any::<bool>(), any::<u16>()),
        ],
        payload in vec(any::<u8>(), 0..600),
    ) -> Spec {
        Spec { tags: tags.map(|tag| tag.map(|tag| tag & 0xfff)), address, upper, fragment, payload }
    }
}

/// Addresses in wire order, and the rest.
type Parsed = (Vec<u8>, Vec<u8>, Transport);

fn words(pair: [u64; 2]) -> Vec<u8> {
    pair.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn parse_at(packet: &Slice<'_>, network: Network) -> Result<Parsed, Cause> {
    match network {
        Network::V4(l3) => parse::ipv4(packet, l3, false).map(|ip| {
            let bytes = ip.addresses.to_ne_bytes();
            // The low half is the source, whatever the host's byte order.
            let (low, high) = if cfg!(target_endian = "little") { (0, 4) } else { (4, 0) };
            (bytes[low..low + 4].to_vec(), bytes[high..high + 4].to_vec(), ip.transport)
        }),
        Network::V6(l3) => parse::ipv6(packet, l3, false).map(|ip| (words(ip.src), words(ip.dst), ip.transport)),
    }
}

fn parse_frame(bytes: &[u8]) -> Result<Parsed, Cause> {
    let packet = Slice(bytes);
    parse_at(&packet, parse::ethernet(&packet)?)
}

/// Everything the kernel side runs over a packet. What it says of lengths is inside the packet.
fn run_all(bytes: &[u8]) {
    let packet = Slice(bytes);
    for network in [parse::ethernet(&packet), parse::bare(&packet)].into_iter().flatten() {
        let (Network::V4(l3) | Network::V6(l3)) = network;
        assert!(l3 <= packet.len());
        let _ = size::header_len(&packet, network);
        for gso in [false, true] {
            let ip_len = match network {
                Network::V4(_) => parse::ipv4(&packet, l3, gso).map(|ip| ip.transport.ip_len),
                Network::V6(_) => parse::ipv6(&packet, l3, gso).map(|ip| ip.transport.ip_len),
            };
            if let Ok(ip_len) = ip_len {
                assert!(l3 + ip_len <= packet.len(), "{ip_len} bytes at {l3} of {}", packet.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn built_packets_are_read_back(spec in spec(), padding in 0..50usize) {
        let built = spec.build();
        let (src, dst) = match &spec.address {
            Address::V4(src, dst, _) => (src.to_vec(), dst.to_vec()),
            Address::V6(src, dst, _) => (src.to_vec(), dst.to_vec()),
        };
        let expected = (src, dst, spec.expected(&built));
        prop_assert_eq!(parse_frame(&built.bytes), Ok(expected.clone()));
        // Without the Ethernet header.
        let bare = Slice(&built.bytes[built.l3 as usize..]);
        prop_assert_eq!(parse::bare(&bare).and_then(|network| parse_at(&bare, network)), Ok(expected.clone()));
        // Padding of short frames is not of the packet.
        let mut padded = built.bytes;
        padded.resize(padded.len() + padding, 0xee);
        prop_assert_eq!(parse_frame(&padded), Ok(expected));
    }

    #[test]
    fn header_length_is_l3_and_l4(spec in spec()) {
        // Later fragments have no L4 header.
        let spec = Spec { fragment: (0, spec.fragment.1, spec.fragment.2), ..spec };
        let built = spec.build();
        let packet = Slice(&built.bytes);
        let network = parse::ethernet(&packet).unwrap();
        // Nothing but TCP and UDP is segmented: the others end with their L3 headers.
        let echo = if matches!(spec.upper, Upper::Echo(..)) { 8 } else { 0 };
        prop_assert_eq!(size::header_len(&packet, network), Some(built.headers - echo));
    }

    #[test]
    fn cut_packets_are_truncated(spec in spec(), at in any::<Index>()) {
        let built = spec.build();
        let cut = &built.bytes[..at.index(built.bytes.len())];
        prop_assert_eq!(parse_frame(cut), Err(Cause::Truncated));
    }

    #[test]
    fn noise_does_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        run_all(&bytes);
    }

    #[test]
    fn damaged_packets_do_no_harm(
        spec in spec(), damage in vec((any::<Index>(), any::<u8>()), 1..12), length in any::<Index>(),
    ) {
        let mut bytes = spec.build().bytes;
        for (at, value) in damage {
            // The headers are where damage matters.
            let at = at.index(bytes.len().min(90));
            bytes[at] = value;
        }
        run_all(&bytes);
        run_all(&bytes[..length.index(bytes.len() + 1)]);
    }

    #[test]
    fn loads_are_inside_or_none(bytes in vec(any::<u8>(), 0..64), offset in 0..80u32) {
        let packet = Slice(&bytes);
        let fits = |width: u32| offset + width <= packet.len();
        let part = |width: usize| bytes[offset as usize..][..width].to_vec();
        prop_assert_eq!(packet.load_u8(offset).map(|value| vec![value]), fits(1).then(|| part(1)));
        prop_assert_eq!(packet.load_u16(offset).map(|value| value.to_ne_bytes().to_vec()), fits(2).then(|| part(2)));
        prop_assert_eq!(packet.load_u32(offset).map(|value| value.to_ne_bytes().to_vec()), fits(4).then(|| part(4)));
        let many = packet.load_words::<5>(offset).map(|words| words.iter().flat_map(|w| w.to_ne_bytes()).collect());
        prop_assert_eq!(many, fits(20).then(|| part(20)));
    }

    /// Counted, or told by the kernel: the same.
    #[test]
    fn every_segment_repeats_the_headers(headers in 20..200u32, payload in 1..500_000u32, size in 1..65_000u32) {
        // What a segmenter does, one segment at a time.
        let (mut left, mut packets, mut bytes) = (payload, 0u32, 0u64);
        while left > 0 {
            let part = left.min(size);
            left -= part;
            packets += 1;
            bytes += u64::from(headers + part);
        }
        for segments in [0, packets] {
            prop_assert_eq!(size::segments(headers + payload, headers, Gso { size, segments }), (packets, bytes));
        }
        prop_assert_eq!(bytes, u64::from(payload) + u64::from(packets) * u64::from(headers));
    }
}

#[test]
fn four_tags_are_not_followed() {
    let frame = |tags: usize| {
        let mut bytes = vec![0; 12];
        bytes.extend([0x81, 0, 0, 5].repeat(tags));
        bytes.extend([0x08, 0]);
        bytes
    };
    let network = |tags| parse::ethernet(&Slice(&frame(tags)));
    assert_eq!(network(3), Ok(Network::V4(26)));
    assert_eq!(network(4), Err(Cause::NonIp));
}
