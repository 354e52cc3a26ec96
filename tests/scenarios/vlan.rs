//! Tagged frames count under the flow inside, without their tags. The receiving kernel moves the outer tag out of the
//! frame; on the sending side all tags are in it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use flowlogd_tests::agent::{Agent, Options};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{Flow, Totals, UDP, expect_equal, python, records, wait_for};

const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const PAYLOAD: u16 = 30;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A frame of one UDP datagram. Checksums are left out: who counts does not check them.
fn frame(tags: &[u16], flow: &Flow) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0x77, 0, 2, 2, 0, 0, 0x77, 0, 1];
    for (id, tag) in (100u16..).zip(tags) {
        frame.extend(tag.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    let udp_len = 8 + PAYLOAD;
    if flow.src.is_ipv4() {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + udp_len).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, flow.protocol, 0, 0]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(udp_len.to_be_bytes());
        frame.extend([flow.protocol, 64]);
    }
    frame.extend(octets(flow.src));
    frame.extend(octets(flow.dst));
    for word in [flow.sport, flow.dport, udp_len, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend([0x55; PAYLOAD as usize]);
    frame
}

#[test]
fn tags_on_both_sides() -> Result<()> {
    let kinds: [&[u16]; 5] = [&[], &[VLAN], &[QINQ], &[QINQ, VLAN], &[VLAN, VLAN, VLAN]];
    let (mut frames, mut expected) = (Vec::new(), BTreeMap::new());
    for (src, dst, ip_len) in [(Pair::A4, Pair::B4, 20), (Pair::A6, Pair::B6, 40)] {
        for (count, tags) in (1u16..).zip(kinds) {
            let flow = Flow { src: src.parse()?, dst: dst.parse()?, protocol: UDP, sport: 40000 + count, dport: 9000 };
            frames.extend((0..count).map(|_| frame(tags, &flow)));
            let packets = u64::from(count);
            expected.insert(flow, Totals { packets, bytes: packets * (ip_len + 8 + u64::from(PAYLOAD)) });
        }
    }
    let pair = Pair::new()?;
    let sender = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let receiver = Agent::start(&pair.b, &Options::on(&["b0"]))?;
    python::send_frames(&pair.a, "a0", &frames)?;
    let udp = |records: &[records::Record]| -> BTreeMap<Flow, Totals> {
        records::by_flow(records).into_iter().filter(|(flow, _)| flow.protocol == UDP && flow.dport == 9000).collect()
    };
    for (side, agent) in [("sender", sender), ("receiver", receiver)] {
        // A frame may still be on its way up the receiver's stack; too many are as wrong as too few.
        let _ = wait_for("frames", Duration::from_secs(4), || {
            let seen: Totals = udp(&agent.records()?).into_values().sum();
            Ok((seen.packets >= frames.len() as u64).then_some(()))
        });
        let stopped = agent.stop()?;
        stopped.expect_nothing_lost()?;
        expect_equal(&expected, &udp(&stopped.records)).map_err(|error| error.context(side))?;
    }
    Ok(())
}
