//! The loaded programs on crafted packets, run by the kernel itself (BPF_PROG_TEST_RUN). Needs root.
//! What must come out is worked out by hand or by a second parser, never by the code under test.

mod crafted;
mod drops;
mod gso;
mod random;

use flowlogd::capture::flow::{Drained, Flow};
use flowlogd::capture::{Capture, Error, Offload, Sizes};

/// TC_ACT_UNSPEC, also TCX_NEXT: "go on".
const GO_ON: u32 = u32::MAX;

fn open() -> Capture {
    Capture::open(Sizes::for_machine(64, 1 << 30).with_slots(4096)).expect("load (needs root)")
}

/// Runs one packet; the flows and totals it left behind. Asserts that the program said "go on" and that what it saw
/// is what it logged or refused.
fn run(capture: &mut Capture, program: &'static str, packet: &[u8], offload: Offload) -> Drained {
    let (value, _) = capture.test_run(program, packet, offload, 1).expect("test run");
    assert_eq!(value, GO_ON, "{program} must let every packet go on");
    let mut out = Drained::default();
    capture
        .drain::<Error>(|drained| {
            out = drained;
            Ok(())
        })
        .expect("drain");
    out
}

fn flows(drained: &Drained) -> Vec<Flow> {
    drained.batches.iter().flatten().copied().collect()
}

/// Ethernet header, then the packet.
fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    out.extend(ethertype.to_be_bytes());
    out.extend(packet);
    out
}

/// IPv4 header with the fields that matter here; 10.1.2.3 -> 10.4.5.6.
fn ipv4(protocol: u8, total: u16, fragment: u16, id: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ihl = 5 + options.len() / 4;
    let mut out = vec![0x40 | ihl as u8, 0];
    out.extend(total.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6]);
    out.extend(options);
    out.extend(payload);
    out
}

/// IPv6 header; 2001:db8::1 -> 2001:db8::2.
fn ipv6(next: u8, payload_len: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend(payload_len.to_be_bytes());
    out.extend([next, 64]);
    for last in [1, 2] {
        out.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    out.extend(payload);
    out
}

/// TCP header without options, from 443 to 50000, and `data` zero bytes.
fn tcp(flags: u8, data: usize) -> Vec<u8> {
    let mut out = vec![1, 187, 0xc3, 0x50, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0];
    out.resize(20 + data, 0);
    out
}

/// UDP header from 53 to 33000, and `data` zero bytes.
fn udp(data: usize) -> Vec<u8> {
    let mut out = vec![0, 53, 0x80, 0xe8];
    out.extend(((8 + data) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.resize(8 + data, 0);
    out
}
