//! Super-packets: wire packets and IP bytes with the headers of every segment, against sums worked out by hand.
use super::{ethernet, flows, ipv4, ipv6, open, run, tcp, udp};
use flowlogd::capture::Offload;

fn check(what: &str, program: &'static str, packet: &[u8], offload: Offload, packets: u64, bytes: u64) {
    let mut capture = open();
    let found = flows(&run(&mut capture, program, packet, offload));
    assert_eq!(found.len(), 1, "{what}");
    assert_eq!((found[0].packets, found[0].bytes), (packets, bytes), "{what}");
}

#[test]
fn tcp_ingress_from_headers() {
    // 3 segments of 1000 and one of 200 bytes, 40 bytes of headers each.
    let packet = ethernet(0x0800, &ipv4(6, 3240, 0, 1, &[], &tcp(0x10, 3200)));
    let offload = |gso_segs| Offload { gso_size: 1000, gso_segs, wire_len: 0 };
    check("gso_segs given", "ingress", &packet, offload(4), 4, 3200 + 4 * 40);
    check("gso_segs missing", "ingress", &packet, offload(0), 4, 3200 + 4 * 40);
    let packet = ethernet(0x86dd, &ipv6(6, 3220, &tcp(0x10, 3200)));
    check("ipv6", "ingress", &packet, offload(4), 4, 3200 + 4 * 60);
}

#[test]
fn udp_segmentation() {
    let packet = ethernet(0x0800, &ipv4(17, 28 + 2500, 0, 1, &[], &udp(2500)));
    check("udp", "ingress", &packet, Offload { gso_size: 1000, gso_segs: 3, wire_len: 0 }, 3, 2500 + 3 * 28);
}

#[test]
fn egress_takes_the_kernels_sum() {
    let packet = ethernet(0x0800, &ipv4(6, 3240, 0, 1, &[], &tcp(0x10, 3200)));
    // Each segment's wire length includes 14 bytes of Ethernet.
    let wire_len = 3200 + 4 * 54;
    check("wire_len", "egress", &packet, Offload { gso_size: 1000, gso_segs: 4, wire_len }, 4, 3200 + 4 * 40);
}

#[test]
fn vxlan_repeats_outer_and_inner_headers() {
    let inner = ethernet(0x0800, &ipv4(6, 3240, 0, 1, &[], &tcp(0x10, 3200)));
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner].concat();
    let mut outer = udp(vxlan.len());
    outer.truncate(8);
    outer.extend(&vxlan);
    let packet = ethernet(0x0800, &ipv4(17, 20 + outer.len() as u16, 0, 1, &[], &outer));
    // Outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14, IP 20, TCP 20.
    check("vxlan", "ingress", &packet, Offload { gso_size: 1000, gso_segs: 4, wire_len: 0 }, 4, 3200 + 4 * 90);
}

#[test]
fn egress_of_tags_pushed_after_the_kernels_sum() {
    let packet = ipv4(6, 3240, 0, 1, &[], &tcp(0x10, 3200));
    // The kernel summed 14 bytes of Ethernet a segment; a program has put a tag into the data since.
    let wire_len = 3200 + 4 * 54;
    let tagged = ethernet(0x8100, &[&[0, 100, 8, 0], &packet[..]].concat());
    check("pushed after", "egress", &tagged, Offload { gso_size: 1000, gso_segs: 4, wire_len }, 4, 3200 + 4 * 40);
    // As here, but the tag was there before the sum.
    let wire_len = 3200 + 4 * 58;
    check("there before", "egress", &tagged, Offload { gso_size: 1000, gso_segs: 4, wire_len }, 4, 3200 + 4 * 40);
    // There before the sum, and taken off since.
    let plain = ethernet(0x0800, &packet);
    check("popped after", "egress", &plain, Offload { gso_size: 1000, gso_segs: 4, wire_len }, 4, 3200 + 4 * 40);
}

#[test]
fn egress_of_a_tunnel_that_only_the_kernel_knows() {
    // IPv4 directly in UDP (FOU), two segments: the least that inner headers can add.
    let inner = ipv4(17, 28 + 1200, 0, 1, &[], &udp(1200));
    let mut outer = udp(inner.len());
    outer.truncate(8);
    outer.extend(&inner);
    let packet = ethernet(0x0800, &ipv4(17, 20 + outer.len() as u16, 0, 1, &[], &outer));
    let wire_len = 1200 + 2 * (14 + 28 + 28);
    check("fou", "egress", &packet, Offload { gso_size: 600, gso_segs: 2, wire_len }, 2, 1200 + 2 * 56);
}
