//! Headers of every kind: the right key, or a counted refusal.
use super::{ethernet, flows, ipv4, ipv6, open, run, tcp, udp};
use flowlogd::capture::flow::{Direction, Total};
use flowlogd::capture::{Capture, Offload};

/// protocol, source port, destination port, bytes, flags.
type Expected = (u8, u16, u16, u64, u8);

fn check(capture: &mut Capture, what: &str, program: &'static str, packet: &[u8], expected: Expected) {
    let drained = run(capture, program, packet, Offload::default());
    let found = flows(&drained);
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    let flow = &found[0];
    let key = &flow.key;
    assert_eq!((key.protocol, key.src_port, key.dst_port, flow.bytes, flow.tcp_flags), expected, "{what}");
    assert_eq!(flow.packets, 1, "{what}");
    let side = if program.starts_with("ingress") { Direction::Ingress } else { Direction::Egress };
    assert_eq!(key.direction, side, "{what}");
    let (src, dst) = (key.src.to_string(), key.dst.to_string());
    assert!(
        (src == "10.1.2.3" && dst == "10.4.5.6") || (src == "2001:db8::1" && dst == "2001:db8::2"),
        "{what}: {src} {dst}"
    );
    assert_eq!(drained.totals.len(), 1, "{what}");
    assert_eq!(drained.totals[0].seen, Total { packets: 1, bytes: expected.3 }, "{what}");
}

#[test]
fn ipv4_keys() {
    let mut capture = open();
    let plain =
        |protocol, payload: &[u8]| ethernet(0x0800, &ipv4(protocol, 20 + payload.len() as u16, 0, 1, &[], payload));
    for (what, packet, expected) in [
        ("tcp syn", plain(6, &tcp(2, 0)), (6, 443, 50000, 40, 2)),
        ("tcp syn-ack", plain(6, &tcp(0x12, 0)), (6, 443, 50000, 40, 18)),
        ("tcp ack", plain(6, &tcp(0x10, 10)), (6, 443, 50000, 50, 0)),
        ("tcp psh ack", plain(6, &tcp(0x18, 10)), (6, 443, 50000, 50, 0)),
        ("tcp fin ack", plain(6, &tcp(0x11, 0)), (6, 443, 50000, 40, 1)),
        ("tcp rst ack", plain(6, &tcp(0x14, 0)), (6, 443, 50000, 40, 4)),
        ("tcp syn ece cwr", plain(6, &tcp(0xc2, 0)), (6, 443, 50000, 40, 2)),
        ("udp", plain(17, &udp(12)), (17, 53, 33000, 40, 0)),
        ("udp-lite", plain(136, &udp(12)), (136, 53, 33000, 40, 0)),
        ("dccp", plain(33, &udp(12)), (33, 53, 33000, 40, 0)),
        ("sctp", plain(132, &udp(12)), (132, 53, 33000, 40, 0)),
        ("icmp", plain(1, &[8, 0, 0, 0, 1, 2, 3, 4]), (1, 0, 0, 28, 0)),
        ("esp", plain(50, &[9; 16]), (50, 0, 0, 36, 0)),
        ("igmp", plain(2, &[0x16; 8]), (2, 0, 0, 28, 0)),
        ("tcp cut after the ports", plain(6, &tcp(2, 0)[..8]), (6, 443, 50000, 28, 0)),
        ("udp of two bytes", plain(17, &[0, 53]), (17, 0, 0, 22, 0)),
    ] {
        check(&mut capture, what, "ingress", &packet, expected);
        check(&mut capture, what, "egress", &packet, expected);
    }
}

#[test]
fn options_padding_and_tags() {
    let mut capture = open();
    let inner = ipv4(6, 60, 0, 1, &[1; 20], &tcp(2, 0));
    check(&mut capture, "20 bytes of options", "ingress", &ethernet(0x0800, &inner), (6, 443, 50000, 60, 2));
    let inner = ipv4(6, 80, 0, 1, &[1; 40], &tcp(2, 0));
    check(&mut capture, "40 bytes of options", "ingress", &ethernet(0x0800, &inner), (6, 443, 50000, 80, 2));
    let mut padded = ethernet(0x0800, &ipv4(17, 32, 0, 1, &[], &udp(4)));
    padded.resize(60, 0);
    check(&mut capture, "padding is not counted", "ingress", &padded, (17, 53, 33000, 32, 0));
    for (ethertype, depth) in [(0x8100u16, 1), (0x88a8, 2)] {
        let mut packet = ethernet(ethertype, &[]);
        if depth == 2 {
            packet.extend([0, 100, 0x81, 0]);
        }
        packet.extend([0, 7, 8, 0]);
        packet.extend(ipv4(17, 32, 0, 1, &[], &udp(4)));
        // BPF_PROG_TEST_RUN leaves the tag in the data, as a driver without offload does.
        check(&mut capture, "tag in the data", "egress", &packet, (17, 53, 33000, 32, 0));
    }
}

#[test]
fn ipv6_chains() {
    let mut capture = open();
    let wrap = |next: u8, payload: &[u8]| ethernet(0x86dd, &ipv6(next, payload.len() as u16, payload));
    let with = |header: &[u8], payload: &[u8]| [header, payload].concat();
    let destination = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    for (what, packet, expected) in [
        ("plain tcp", wrap(6, &tcp(2, 0)), (6, 443, 50000, 60, 2)),
        ("hop-by-hop", wrap(0, &with(&destination(6), &tcp(2, 0))), (6, 443, 50000, 68, 2)),
        ("routing", wrap(43, &with(&destination(17), &udp(4))), (17, 53, 33000, 60, 0)),
        (
            "hop, dest, routing",
            wrap(0, &with(&[destination(60), destination(43), destination(6)].concat(), &tcp(1, 0))),
            (6, 443, 50000, 84, 1),
        ),
        // Authentication header: length in 4-byte units, minus 2.
        ("ah", wrap(51, &with(&[6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &tcp(2, 0))), (6, 443, 50000, 72, 2)),
        ("atomic fragment", wrap(44, &with(&[17, 0, 0, 0, 0, 0, 0, 9], &udp(4))), (17, 53, 33000, 60, 0)),
        ("icmpv6", wrap(58, &[128, 0, 0, 0, 0, 1, 0, 1]), (58, 0, 0, 48, 0)),
        ("no next header", wrap(59, &[]), (59, 0, 0, 40, 0)),
    ] {
        check(&mut capture, what, "ingress", &packet, expected);
    }
}

#[test]
fn later_fragments_find_their_ports() {
    let mut capture = open();
    for packet in [
        ethernet(0x0800, &ipv4(17, 36, 0x2000, 77, &[], &udp(8))),
        ethernet(0x0800, &ipv4(17, 36, 0x2002, 77, &[], &[0xaa; 16])),
        ethernet(0x0800, &ipv4(17, 24, 0x0004, 77, &[], &[0xaa; 4])),
    ] {
        capture.test_run("ingress", &packet, Offload::default(), 1).unwrap();
    }
    let stray = ethernet(0x0800, &ipv4(17, 24, 0x0004, 78, &[], &[0xaa; 4]));
    let mut found = flows(&run(&mut capture, "ingress", &stray, Offload::default()));
    found.sort_by_key(|flow| flow.key.src_port);
    let summary: Vec<_> = found.iter().map(|f| (f.key.src_port, f.key.dst_port, f.packets, f.bytes)).collect();
    // The stray one's first fragment was never seen: ports 0.
    assert_eq!(summary, [(0, 0, 1, 24), (53, 33000, 3, 96)]);
}

/// Behind a VLAN tag, since BPF_PROG_TEST_RUN itself refuses an IP ethertype on a packet too short for that header.
fn tagged(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    ethernet(0x8100, &[&[0, 7], &ethertype.to_be_bytes()[..], packet].concat())
}

#[test]
fn refusals_are_counted_by_cause() {
    // [non-IP, truncated, bad header, long chain]
    let mut capture = open();
    let long: Vec<u8> = (0..12).flat_map(|_| [60u8, 0, 1, 4, 0, 0, 0, 0]).collect();
    for (what, packet, cause) in [
        ("arp", ethernet(0x0806, &[0; 28]), 0),
        ("lldp", ethernet(0x88cc, &[0; 46]), 0),
        ("ipv4 header cut", tagged(0x0800, &ipv4(6, 40, 0, 1, &[], &tcp(2, 0))[..12]), 1),
        ("ipv4 total beyond the packet", ethernet(0x0800, &ipv4(6, 400, 0, 1, &[], &tcp(2, 0))), 1),
        ("ipv6 header cut", tagged(0x86dd, &ipv6(6, 20, &[])[..30]), 1),
        ("ipv6 payload beyond the packet", ethernet(0x86dd, &ipv6(6, 200, &tcp(2, 0))), 1),
        ("extension header cut", ethernet(0x86dd, &ipv6(0, 4, &[6, 0, 0, 0])), 1),
        ("ihl 4", ethernet(0x0800, &[&[0x44], &ipv4(6, 40, 0, 1, &[], &tcp(2, 0))[1..]].concat()), 2),
        ("version 5", ethernet(0x0800, &[&[0x55], &ipv4(6, 40, 0, 1, &[], &tcp(2, 0))[1..]].concat()), 2),
        ("total below the header", ethernet(0x0800, &ipv4(6, 12, 0, 1, &[], &tcp(2, 0))), 2),
        ("version 4 as ipv6", ethernet(0x86dd, &[&[0x45], &ipv6(6, 20, &tcp(2, 0))[1..]].concat()), 2),
        ("twelve extension headers", ethernet(0x86dd, &ipv6(60, long.len() as u16, &long)), 3),
    ] {
        let drained = run(&mut capture, "ingress", &packet, Offload::default());
        assert_eq!(flows(&drained), [], "{what}");
        let totals = &drained.totals[0];
        let counts = [totals.non_ip, totals.unparsable[0], totals.unparsable[1], totals.unparsable[2]];
        for (index, count) in counts.iter().enumerate() {
            assert_eq!(count.packets, u64::from(index == cause), "{what}: cause {index}");
        }
        assert_eq!(totals.seen.packets, 1, "{what}");
        assert_eq!(totals.seen.bytes, counts[cause].bytes, "{what}");
        assert_eq!((totals.skipped.packets, drained.totals.len()), (0, 1), "{what}");
    }
}
