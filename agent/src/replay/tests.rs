use super::*;
use crate::config::{Surroundings, Tables};
use proptest::prelude::*;
use toml::Value;

/// Captures, byte by byte.
mod make {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Order {
        Little,
        Big,
    }

    impl Order {
        pub(super) fn u16(self, value: u16) -> [u8; 2] {
            if self == Self::Little { value.to_le_bytes() } else { value.to_be_bytes() }
        }

        pub(super) fn u32(self, value: u32) -> [u8; 4] {
            if self == Self::Little { value.to_le_bytes() } else { value.to_be_bytes() }
        }
    }

    /// Seconds, bytes, and how many there were.
    pub(super) type Packet<'a> = (u32, &'a [u8], usize);

    pub(super) fn whole(seconds: u32, bytes: &[u8]) -> Packet<'_> {
        (seconds, bytes, bytes.len())
    }

    pub(super) fn pcap(order: Order, magic: u32, link: u32, packets: &[Packet]) -> Vec<u8> {
        let mut file =
            [order.u32(magic), order.u16(2).into_iter().chain(order.u16(4)).collect::<Vec<_>>().try_into().unwrap()]
                .concat();
        for word in [0, 0, 262_144, link] {
            file.extend(order.u32(word));
        }
        for (seconds, bytes, len) in packets {
            for word in [*seconds, 999_999, bytes.len() as u32, *len as u32] {
                file.extend(order.u32(word));
            }
            file.extend_from_slice(bytes);
        }
        file
    }

    fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
        let len = order.u32(body.len().next_multiple_of(4) as u32 + 12);
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        [&order.u32(kind)[..], &len, body, &padding, &len].concat()
    }

    fn option(order: Order, code: u16, value: &[u8]) -> Vec<u8> {
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&order.u16(code)[..], &order.u16(value.len() as u16), value, &padding].concat()
    }

    pub(super) fn section(order: Order) -> Vec<u8> {
        let body = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &[0xff; 8]].concat();
        block(order, 0x0a0d_0d0a, &body)
    }

    /// Options by number.
    pub(super) fn interface(order: Order, link: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = [&order.u16(link)[..], &[0, 0], &order.u32(0)].concat();
        options.iter().for_each(|(code, value)| body.extend(option(order, *code, value)));
        block(order, 1, &body)
    }

    /// `time`: in units of the interface.
    pub(super) fn enhanced(order: Order, interface: u32, time: u64, bytes: &[u8], flags: Option<u32>) -> Vec<u8> {
        let (high, low, len) = ((time >> 32) as u32, time as u32, bytes.len() as u32);
        let mut body = [interface, high, low, len, len].map(|word| order.u32(word)).concat();
        body.extend_from_slice(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(flags) = flags {
            body.extend(option(order, 2, &order.u32(flags)));
        }
        block(order, 6, &body)
    }

    pub(super) fn simple(order: Order, bytes: &[u8]) -> Vec<u8> {
        block(order, 3, &[&order.u32(bytes.len() as u32)[..], bytes].concat())
    }

    /// IPv4 and UDP. `fragment`: the word with id, flags and offset.
    pub(super) fn udp(last: (u8, u8), ports: (u16, u16), payload: usize, fragment: u32) -> Vec<u8> {
        let len = 28 + payload as u16;
        let mut packet = [&[0x45, 0][..], &len.to_be_bytes(), &fragment.to_be_bytes(), &[64, 17, 0, 0]].concat();
        packet.extend([10, 0, 0, last.0, 10, 0, 0, last.1]);
        packet.extend(
            [ports.0.to_be_bytes(), ports.1.to_be_bytes(), (8 + payload as u16).to_be_bytes(), [0; 2]].concat(),
        );
        packet.resize(len.into(), 0);
        packet
    }

    /// IPv6 and TCP with SYN.
    pub(super) fn syn6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        for last in [1, 2] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        packet.extend([0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        packet
    }

    pub(super) fn behind(header: &[u8], packet: &[u8]) -> Vec<u8> {
        [header, packet].concat()
    }
}

use make::Order::{Big, Little};
use make::{Packet, whole};

const MICRO: u32 = 0xa1b2_c3d4;
const NANO: u32 = 0xa1b2_3c4d;
const RAW: u32 = 101;

fn config(interval: u32) -> Config {
    let mut tables = Tables::of_flags();
    tables.set("flow-log.interfaces", "", vec!["*".to_owned()]);
    tables.set("flow-log.log-destination-type", "", "stdout");
    tables.set("flow-log.max-aggregation-interval", "", Value::Integer(interval.into()));
    tables.set("host.interface-ids", "", toml::Table::from_iter([("pcap".to_owned(), "eni-00000001".into())]));
    tables.build(&Surroundings::default()).unwrap()
}

fn records_of(file: &[u8], interval: u32) -> (Vec<String>, Report) {
    let unsaid = Unsaid { interface: "pcap".to_owned(), ..Unsaid::default() };
    let mut out = Vec::new();
    let report = replay(file, &config(interval), &unsaid, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    (text.lines().map(|line| line.trim_start_matches("2 000000000000 ").to_owned()).collect(), report)
}

fn raw(packets: &[Packet]) -> Vec<u8> {
    make::pcap(Little, MICRO, RAW, packets)
}

#[test]
fn every_kind_of_file_and_link_gives_the_same_records() {
    let (udp, syn) = (make::udp((1, 2), (5000, 53), 10, 0), make::syn6());
    let packets = [whole(100, &udp), whole(101, &syn)];
    let want = [
        "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 38 100 100 ACCEPT OK",
        "eni-00000001 fd00::1 fd00::2 40000 443 6 1 60 101 101 ACCEPT OK",
    ];
    let check = |file: &[u8], what: &str| {
        let (lines, report) = records_of(file, 60);
        assert_eq!(
            (lines, report),
            (want.map(str::to_owned).to_vec(), Report { packets: 2, ..Report::default() }),
            "{what}"
        );
    };
    for order in [Little, Big] {
        for magic in [MICRO, NANO] {
            check(&make::pcap(order, magic, RAW, &packets), &format!("{order:?} {magic:x}"));
        }
        // Units of a second: millionths when nothing is said, powers of ten, of two, and an offset.
        let offset = |seconds: i64| if order == Little { seconds.to_le_bytes() } else { seconds.to_be_bytes() };
        type Options<'a> = &'a [(u16, &'a [u8])];
        let cases: [(Options, u64, u64); 4] = [
            (&[], 1_000_000, 0),
            (&[(9, &[9])], 1_000_000_000, 0),
            (&[(9, &[0x8a])], 1024, 0),
            (&[(14, &offset(60)), (9, &[0])], 1, 60),
        ];
        for (options, units, offset) in cases {
            let mut file = [make::section(order), make::interface(order, RAW as u16, options)].concat();
            for (seconds, bytes, _) in packets {
                file.extend(make::enhanced(order, 0, (u64::from(seconds) - offset) * units, bytes, None));
            }
            check(&file, &format!("pcapng {order:?} {options:?}"));
        }
    }
    let mac = [2; 12];
    let tag = [0x81, 0, 0, 7];
    let cooked = [0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0];
    // (link type, before IPv4, before IPv6)
    let links: [(u32, Vec<u8>, Vec<u8>); 10] = [
        (12, vec![], vec![]),
        (14, vec![], vec![]),
        (0, vec![2, 0, 0, 0], vec![30, 0, 0, 0]),
        (108, vec![0, 0, 0, 2], vec![0, 0, 0, 24]),
        (1, [&mac[..], &[8, 0]].concat(), [&mac[..], &[0x86, 0xdd]].concat()),
        (1, [&mac[..], &tag, &[8, 0]].concat(), [&mac[..], &tag, &tag, &[0x86, 0xdd]].concat()),
        // With the length of a frame check sequence in the upper bits.
        (0x2400_0001, [&mac[..], &[8, 0]].concat(), [&mac[..], &[0x86, 0xdd]].concat()),
        (113, [&cooked[..], &[8, 0]].concat(), [&cooked[..], &[0x86, 0xdd]].concat()),
        (113, [&cooked[..], &tag, &[8, 0]].concat(), [&cooked[..], &tag, &[0x86, 0xdd]].concat()),
        (228, vec![], vec![]),
    ];
    for (link, before4, before6) in links {
        let (first, second) = (make::behind(&before4, &udp), make::behind(&before6, &syn));
        check(&make::pcap(Little, MICRO, link, &[whole(100, &first), whole(101, &second)]), &format!("link {link}"));
    }
}

/// `tcpdump -i any` says which interface it was, by number.
#[test]
fn interfaces_of_cooked_captures_stay_apart() {
    let udp = make::udp((1, 2), (5000, 53), 10, 0);
    let header = |index: u8, kind: u8, before: &[u8]| {
        [&before[..2], &[0, 0, 0, 0, 0, index, 0, 1, kind, 6], &[2; 8], &before[2..], &udp].concat()
    };
    let packets = [header(3, 0, &[8, 0]), header(4, 4, &[8, 0]), header(3, 0, &[0x81, 0, 0, 7, 8, 0])];
    let packets: Vec<Packet> = packets.iter().map(|packet| whole(60, packet)).collect();
    let (lines, report) = records_of(&make::pcap(Little, MICRO, 276, &packets), 60);
    let ends: Vec<&str> = lines.iter().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest).collect();
    let want = |packets: u64| format!("10.0.0.1 10.0.0.2 5000 53 17 {packets} {} 60 60 ACCEPT OK", packets * 38);
    assert_eq!((ends, report.packets), (vec![want(2).as_str(), want(1).as_str()], 3));
    assert_ne!(lines[0].split(' ').next(), lines[1].split(' ').next());
}

fn directions(file: &[u8], unsaid: &Unsaid) -> Vec<Option<bool>> {
    let mut seen = Vec::new();
    let mut counter = Counter::default();
    let result = File::new(unsaid).read(file, |frame| {
        counter.count(frame, &mut Fragments::default());
        seen.push(frame.direction.map(|direction| direction == crate::capture::flow::Direction::Egress));
    });
    assert_eq!(result, Ok(()));
    let counted = counter.into_drained().batches.concat();
    // What nothing is said of is told by the addresses.
    seen.extend(counted.iter().map(|flow| Some(flow.key.direction == crate::capture::flow::Direction::Egress)));
    seen
}

#[test]
fn direction_is_as_the_capture_says_or_else_by_address() {
    let udp = make::udp((1, 2), (5000, 53), 10, 0);
    for order in [Little, Big] {
        for (flags, want) in [(Some(1), Some(false)), (Some(2), Some(true)), (Some(0x10), None), (None, None)] {
            let file = |options: &[(u16, &[u8])]| {
                let interface = make::interface(order, RAW as u16, options);
                [make::section(order), interface, make::enhanced(order, 0, 0, &udp, flags)].concat()
            };
            let of =
                |address: &str| Unsaid { addresses: BTreeSet::from([address.parse().unwrap()]), ..Unsaid::default() };
            let known = want.is_none();
            assert_eq!(directions(&file(&[]), &Unsaid::default()), [want, want.or(Some(false))]);
            assert_eq!(directions(&file(&[]), &of("10.0.0.1")), [want, want.or(Some(known))]);
            assert_eq!(directions(&file(&[]), &of("10.0.0.2")), [want, want.or(Some(false))]);
            // Addresses that the capture has, and those said in their place.
            let options: &[(u16, &[u8])] = &[(5, &[0; 17]), (4, &[10, 0, 0, 1, 255, 0, 0, 0])];
            assert_eq!(directions(&file(options), &Unsaid::default()), [want, want.or(Some(known))]);
            assert_eq!(directions(&file(options), &of("10.0.0.2")), [want, want.or(Some(false))]);
        }
    }
    for (kind, want) in [(0, false), (1, false), (3, false), (4, true)] {
        let packet = make::behind(&[0, kind, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 8, 0], &udp);
        let file = make::pcap(Big, NANO, 113, &[whole(0, &packet)]);
        assert_eq!(directions(&file, &Unsaid::default()), [Some(want); 2]);
    }
}

#[test]
fn cut_packets_count_what_their_header_says() {
    let (udp, syn) = (make::udp((1, 2), (5000, 53), 1000, 0), make::syn6());
    // To behind the ports; before them; before the flags.
    let packets = [(60, &udp[..24], udp.len()), (60, &udp[..23], udp.len()), (60, &syn[..55], syn.len())];
    let (lines, report) = records_of(&raw(&packets), 60);
    assert_eq!(lines, ["eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 1028 60 60 ACCEPT OK"]);
    assert_eq!((report.packets, report.unparsable, report.broken), (3, 2, None));
    // Longer than the link carried it; padded by the link.
    let padded = make::behind(&make::udp((1, 2), (5000, 53), 2, 0), &[0; 16]);
    let (lines, report) = records_of(&raw(&[(60, &udp, 100), whole(60, &padded)]), 60);
    assert_eq!(lines, ["eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 30 60 60 ACCEPT OK"]);
    assert_eq!(report.unparsable, 1);
}

#[test]
fn later_fragments_have_the_ports_of_their_first() {
    let first = make::udp((1, 2), (5000, 53), 100, 7 << 16 | 0x2000);
    let later = make::udp((1, 2), (1, 1), 20, 7 << 16 | 0x000d);
    let other = make::udp((1, 2), (1, 1), 20, 8 << 16 | 0x000d);
    // The window's end lies between them.
    let (lines, _) = records_of(&raw(&[whole(59, &first), whole(60, &later), whole(61, &other)]), 60);
    assert_eq!(
        lines,
        [
            "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 128 59 59 ACCEPT OK",
            "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 48 60 60 ACCEPT OK",
            "eni-00000001 10.0.0.1 10.0.0.2 0 0 17 1 48 61 61 ACCEPT OK",
        ]
    );
}

#[test]
fn windows_are_the_captures_own() {
    let (udp, other) = (make::udp((1, 2), (5000, 53), 0, 0), make::udp((1, 3), (5000, 53), 0, 0));
    let dns = make::behind(&udp[..16], &[169, 254, 169, 253]);
    let dns = make::behind(&dns, &udp[20..]);
    // Out of order, with a silent window, excluded traffic alone in one, and a day between two captures.
    let day = 200_000;
    let packets = [(130, &udp), (61, &other), (119, &udp), (62, &udp), (299, &udp), (200, &dns), (day, &udp)];
    let packets: Vec<Packet> = packets.iter().map(|(seconds, packet)| whole(*seconds, packet)).collect();
    let (lines, _) = records_of(&raw(&packets), 60);
    let want = [
        "eni-00000001 10.0.0.1 10.0.0.3 5000 53 17 1 28 61 61 ACCEPT OK",
        "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 2 56 62 119 ACCEPT OK",
        "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 28 130 130 ACCEPT OK",
        "eni-00000001 - - - - - - - 180 239 - NODATA",
        "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 28 299 299 ACCEPT OK",
        "eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 28 200000 200000 ACCEPT OK",
    ];
    assert_eq!(lines, want);
}

#[test]
fn times_that_no_clock_shows() {
    let udp = make::udp((1, 2), (5000, 53), 0, 0);
    for (resolution, offset) in [(0, i64::MAX), (0, i64::MIN), (0x7f, 0), (0xff, i64::MIN), (19, i64::MAX)] {
        let options: &[(u16, &[u8])] = &[(9, &[resolution]), (14, &offset.to_le_bytes())];
        let mut file = [make::section(Little), make::interface(Little, RAW as u16, options)].concat();
        for time in [0, u64::MAX] {
            file.extend(make::enhanced(Little, 0, time, &udp, None));
        }
        let (lines, report) = records_of(&file, 600);
        assert!(report.broken.is_none() && (1..=2).contains(&lines.len()), "{resolution} {offset}: {lines:?}");
    }
}

#[test]
fn a_short_file_gives_what_is_there() {
    let udp = make::udp((1, 2), (5000, 53), 10, 0);
    let pcap = raw(&[whole(60, &udp), whole(60, &udp)]);
    let start = [make::section(Little), make::interface(Little, RAW as u16, &[])].concat();
    let packet = make::enhanced(Little, 0, 60_000_000, &udp, None);
    let pcapng = [&start[..], &packet, &packet].concat();
    for (file, header, packet) in [(&pcap, 24, 16 + udp.len()), (&pcapng, start.len(), packet.len())] {
        for len in header..=file.len() {
            let (lines, report) = records_of(&file[..len], 60);
            let packets = ((len - header) / packet) as u64;
            let is_whole = (len - header) % packet == 0;
            let broken = (!is_whole).then_some(Broken::Short(packets));
            assert_eq!(
                (report.packets, report.broken, lines.len()),
                (packets, broken, packets.min(1) as usize),
                "{len}"
            );
        }
    }
    for file in [&b""[..], b"#!/bin/sh\n# not a capture at all", &pcap[..23]] {
        assert_eq!(records_of(file, 60).1.broken, Some(Broken::NoCapture));
    }
}

/// A file system that gives up: at once, and later.
#[test]
fn a_file_that_cannot_be_read() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    let udp = make::udp((1, 2), (5000, 53), 1000, 0);
    let packets = vec![whole(60, &udp); 300];
    let file = raw(&packets);
    for (there, want) in [(100, Broken::Unread("gone".to_owned())), (1 << 18, Broken::Unreadable(251))] {
        let report = replay(file[..there].chain(Failing), &config(60), &Unsaid::default(), io::sink()).unwrap();
        assert_eq!(report.broken, Some(want));
    }
}

#[test]
fn damage_ends_it_with_what_came_before() {
    let udp = make::udp((1, 2), (5000, 53), 10, 0);
    let start = [make::section(Big), make::interface(Big, RAW as u16, &[]), make::interface(Big, 127, &[])].concat();
    let good = make::enhanced(Big, 0, 60_000_000, &udp, None);
    let mut longer = good.clone();
    // More than the block holds.
    longer[20..24].copy_from_slice(&[0, 0, 1, 0]);
    let mut huge = good.clone();
    huge[4..8].copy_from_slice(&[0xff, 0xff, 0xff, 0xf0]);
    let unknown = make::enhanced(Big, 1, 60_000_000, &udp, None);
    let nowhere = make::enhanced(Big, 2, 60_000_000, &udp, None);
    let cases = [
        (longer, Broken::Short(1)),
        (huge, Broken::Short(1)),
        (unknown, Broken::UnknownLink(127, 1)),
        (nowhere, Broken::Damaged(1)),
        (vec![0; 64], Broken::Damaged(1)),
    ];
    for (bad, want) in cases {
        let (lines, report) = records_of(&[&start[..], &good, &bad].concat(), 60);
        assert_eq!((lines.len(), report.packets, report.broken), (1, 1, Some(want)));
    }
}

/// One block may be longer than the reader's first buffer.
#[test]
fn long_blocks_are_read() {
    let udp = make::udp((1, 2), (5000, 53), 10, 0);
    let comment = vec![b'x'; 60_000];
    let options: Vec<(u16, &[u8])> = (0..10).map(|_| (1, &comment[..])).collect();
    let packet = make::enhanced(Little, 0, 60_000_000, &udp, None);
    let file = [make::section(Little), make::interface(Little, RAW as u16, &options), packet].concat();
    assert_eq!((file.len() > 600_000, records_of(&file, 60).1.packets), (true, 1));
}

#[test]
fn what_is_in_no_record_is_told() {
    let udp = make::udp((1, 2), (5000, 53), 0, 0);
    let joined = make::udp((1, 2), (5000, 53), 20_000, 0);
    let arp = [0; 28];
    let packets = [&arp[..], &[0x45; 10], &joined];
    let mut file = [make::section(Little), make::interface(Little, RAW as u16, &[])].concat();
    packets.iter().for_each(|packet| file.extend(make::enhanced(Little, 0, 60_000_000, packet, None)));
    file.extend(make::simple(Little, &udp));
    let (lines, report) = records_of(&file, 60);
    assert_eq!(lines, ["eni-00000001 10.0.0.1 10.0.0.2 5000 53 17 1 20028 60 60 ACCEPT OK"]);
    assert_eq!(report, Report { packets: 3, unparsable: 1, untimed: 1, joined: 1, broken: None });
}

proptest! {
    /// Whatever is in a file: it ends, gives whole lines, and the same twice.
    #[test]
    fn any_bytes(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), is_ng: bool) {
        let (udp, syn) = (make::udp((1, 2), (5000, 53), 10, 0), make::syn6());
        let mut file = if is_ng {
            let packet = |bytes| make::enhanced(Little, 0, 60_000_000, bytes, Some(1));
            [make::section(Little), make::interface(Little, RAW as u16, &[(2, b"eth0")]), packet(&udp), packet(&syn)].concat()
        } else {
            raw(&[whole(60, &udp), whole(61, &syn)])
        };
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let (lines, report) = records_of(&file, 600);
        prop_assert!(report.packets <= 16);
        prop_assert_eq!(records_of(&file, 600), (lines, report));
    }
}
