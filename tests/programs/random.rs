//! Random bytes and mutated packets: never another return value, and always seen = logged + refused.
use super::{GO_ON, ethernet, ipv4, ipv6, open, tcp};
use flowlogd::capture::flow::{Drained, Total};
use flowlogd::capture::{Error, Offload};

/// A small generator with a fixed seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn nothing_changes_the_verdict_and_nothing_is_lost() {
    let mut capture = open();
    let mut random = Random(0x5eed_f10c);
    let templates = [
        ethernet(0x0800, &ipv4(6, 140, 0, 1, &[], &tcp(2, 100))),
        ethernet(0x86dd, &ipv6(0, 140, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(2, 112)].concat())),
        vec![0; 120],
    ];
    let runs = 20_000u64;
    for i in 0..runs {
        let mut packet = templates[(random.next() % 3) as usize].clone();
        for _ in 0..=random.next() % 8 {
            let at = (random.next() % packet.len() as u64) as usize;
            packet[at] = random.next() as u8;
        }
        // 14 bytes are the least that the kernel accepts.
        packet.truncate(14 + (random.next() % (packet.len() as u64 - 13)) as usize);
        let program = if i % 2 == 0 { "ingress" } else { "egress" };
        let (value, _) = match capture.test_run(program, &packet, Offload::default(), 1) {
            Ok(result) => result,
            // The kernel refuses an IP ethertype on a packet too short for that header before it runs anything.
            Err(_) => continue,
        };
        assert_eq!(value, GO_ON, "{packet:02x?}");
    }
    let mut drained = Drained::default();
    capture
        .drain::<Error>(|all| {
            drained = all;
            Ok(())
        })
        .unwrap();
    let (mut seen, mut accounted) = (Total::default(), Total::default());
    for totals in &drained.totals {
        seen += totals.seen;
        accounted += totals.non_ip;
        accounted += totals.skipped;
        totals.unparsable.iter().for_each(|&cause| accounted += cause);
    }
    for flow in drained.batches.iter().flatten() {
        accounted += Total { packets: flow.packets, bytes: flow.bytes };
    }
    assert_eq!(seen, accounted);
    assert!(seen.packets > runs / 2, "most packets must have been run: {}", seen.packets);
}
