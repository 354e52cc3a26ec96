//! The flows at one moment, and the few of them that somebody asked for.
//! Pure. Must not know who asks, nor how the tables are read.
//! Always: the same flows in the same order, whoever asks; no copy of what is not in the answer.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::query::{Query, Sort};
use super::{About, Answer, Row, Sum};
use crate::capture::flow::{Direction, Flow, Verdict};
use crate::pipeline::{Open, Settled};
use crate::select::Named;

pub(crate) struct Picture {
    about: About,
    settled: Settled,
}

impl Picture {
    /// Not for the thread that counts: merges all flows.
    pub(crate) fn new(about: About, open: Open) -> Self {
        let settled = open.settle(about.window.start, about.time_ms.div_euclid(1000));
        Self { about, settled }
    }

    pub(crate) fn answer(&self, query: &Query) -> Answer {
        let Settled { flows, names, excluded } = &self.settled;
        let wanted: BTreeMap<u32, &Named> = names
            .iter()
            .filter(|(_, named)| query.filter.wants_interface(&named.name))
            .map(|(&at, it)| (at, it))
            .collect();
        let is_all = query.filter.interface.is_none();
        let mut matched = Sum::default();
        let mut found: Vec<&Flow> = Vec::new();
        for flow in flows {
            if (is_all || wanted.contains_key(&flow.key.ifindex)) && query.filter.matches(&flow.key) {
                add(&mut matched, flow);
                found.push(flow);
            }
        }
        let first = |a: &&Flow, b: &&Flow| compare(query.sort, a, b);
        if found.len() > query.limit {
            found.select_nth_unstable_by(query.limit, first);
            found.truncate(query.limit);
        }
        found.sort_unstable_by(first);
        let flows = found.into_iter().filter_map(|flow| Some(row(flow, wanted.get(&flow.key.ifindex)?))).collect();
        Answer { about: self.about.clone(), matched, excluded: *excluded, flows }
    }
}

fn add(sum: &mut Sum, flow: &Flow) {
    sum.flows += 1;
    sum.packets += flow.packets;
    sum.bytes += flow.bytes;
    if flow.key.verdict == Verdict::Reject {
        sum.rejected.packets += flow.packets;
        sum.rejected.bytes += flow.bytes;
    }
}

/// The largest first; equal ones by their keys, so that rows stay where they are.
fn compare(sort: Sort, a: &Flow, b: &Flow) -> Ordering {
    let size = |flow: &Flow| match sort {
        Sort::Bytes => (false, flow.bytes, flow.packets),
        Sort::Packets => (false, flow.packets, flow.bytes),
        Sort::Rejects => (flow.key.verdict == Verdict::Reject, flow.packets, flow.bytes),
    };
    size(b).cmp(&size(a)).then_with(|| order(a).cmp(&order(b)))
}

type Order = (IpAddr, IpAddr, u16, u16, u8, u32, Direction, Verdict);

fn order(flow: &Flow) -> Order {
    let key = &flow.key;
    (key.src, key.dst, key.src_port, key.dst_port, key.protocol, key.ifindex, key.direction, key.verdict)
}

fn row(flow: &Flow, named: &Named) -> Row {
    let key = &flow.key;
    Row {
        interface: named.name.clone(),
        interface_id: named.id.clone(),
        direction: key.direction,
        action: key.verdict,
        protocol: key.protocol,
        srcaddr: key.src,
        dstaddr: key.dst,
        srcport: key.src_port,
        dstport: key.dst_port,
        packets: flow.packets,
        bytes: flow.bytes,
        start: flow.first,
        end: flow.last,
        tcp_flags: flow.tcp_flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{FlowKey, Total};
    use crate::flows::parse_filter;

    fn flow(ifindex: u32, port: u16, verdict: Verdict, packets: u64, bytes: u64) -> Flow {
        let key = FlowKey {
            ifindex,
            direction: Direction::Egress,
            verdict,
            protocol: 6,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: port,
            dst_port: 443,
        };
        Flow { key, packets, bytes, first: 5, last: 6, tcp_flags: 2, reason: 0 }
    }

    fn picture() -> Picture {
        let named =
            |name: &str| Named { id: format!("eni-{name}"), name: name.to_owned(), addresses: None, loopback: false };
        let flows = vec![
            flow(1, 1, Verdict::Accept, 1, 9000),
            flow(1, 2, Verdict::Accept, 50, 5000),
            flow(2, 3, Verdict::Reject, 7, 700),
            flow(2, 5, Verdict::Accept, 7, 800),
            flow(2, 4, Verdict::Accept, 7, 800),
        ];
        let names = BTreeMap::from([(1, named("eth0")), (2, named("eth1"))]);
        let settled = Settled { flows, names, excluded: Total { packets: 1, bytes: 2 } };
        Picture { about: About { pid: 7, ..About::default() }, settled }
    }

    #[test]
    fn sorted_and_cut_after_the_filter() {
        let picture = picture();
        for (filter, sort, limit, ports, matched) in [
            ("", Sort::Bytes, 9, &[1, 2, 4, 5, 3][..], 5),
            ("", Sort::Bytes, 2, &[1, 2], 5),
            ("", Sort::Packets, 3, &[2, 4, 5], 5),
            ("", Sort::Rejects, 2, &[3, 2], 5),
            ("if eth1", Sort::Bytes, 9, &[4, 5, 3], 3),
            ("if eth*", Sort::Bytes, 1, &[1], 5),
            ("if none", Sort::Bytes, 9, &[], 0),
            ("reject", Sort::Bytes, 9, &[3], 1),
            ("port 5", Sort::Bytes, 9, &[5], 1),
        ] {
            let query = Query { filter: parse_filter(filter).unwrap(), sort, limit };
            let answer = picture.answer(&query);
            let got: Vec<u16> = answer.flows.iter().map(|row| row.srcport).collect();
            assert_eq!((got.as_slice(), answer.matched.flows), (ports, matched), "{filter} {sort:?} {limit}");
        }
        let answer = picture.answer(&Query::default());
        let rejected = Total { packets: 7, bytes: 700 };
        assert_eq!(answer.matched, Sum { flows: 5, packets: 72, bytes: 16_300, rejected });
        assert_eq!((answer.about.pid, answer.excluded), (7, Total { packets: 1, bytes: 2 }));
    }

    /// What programs read.
    #[test]
    fn the_shape_of_a_row() {
        let query = Query { filter: parse_filter("reject").unwrap(), ..Query::default() };
        let shown = serde_json::to_value(&picture().answer(&query).flows[0]).unwrap();
        let want = serde_json::json!({
            "interface": "eth1", "interface_id": "eni-eth1", "direction": "egress", "action": "REJECT", "protocol": 6,
            "srcaddr": "10.0.0.1", "dstaddr": "10.0.0.2", "srcport": 3, "dstport": 443,
            "packets": 7, "bytes": 700, "start": 5, "end": 6, "tcp_flags": 2,
        });
        assert_eq!(shown, want);
    }
}
