//! A snapshot with something in every place, each number another, for tests of what shows it.
#![forbid(unsafe_code)]

use super::*;
use crate::deliver::status::{Delivered, Dropped, Problem, State};

fn total(packets: u64) -> Total {
    Total { packets, bytes: packets * 100 }
}

fn side(from: u64) -> Side {
    let logged = |flows: u64| Logged { flows, packets: flows * 10, bytes: flows * 1000 };
    Side {
        position: Some(Position { at: 1, of: 2 }),
        seen: total(from + 900),
        buffers: Buffers { beyond: total(from + 9), around: from + 10 },
        non_ip: total(from + 1),
        unparsable: Unparsable { truncated: total(from + 2), bad_header: total(from + 3), long_chain: total(from + 4) },
        skipped: total(from + 5),
        drops_skipped: total(from + 6),
        accepted: logged(from + 7),
        rejected: logged(from + 8),
    }
}

fn interface() -> Interface {
    Interface {
        name: "eth0".to_owned(),
        ifindex: 2,
        id: "eni-0123456789abcdef0".to_owned(),
        hook: Some("tcx".to_owned()),
        ingress: side(1_000),
        egress: Side { position: None, ..side(2_000) },
        flows: 31,
    }
}

fn flow_log() -> FlowLog {
    FlowLog {
        id: "fl-0123456789abcdef0".to_owned(),
        removed: false,
        destination_type: "s3".to_owned(),
        destination: "s3://logs/site".to_owned(),
        interval: 60,
        traffic_type: "ALL".to_owned(),
        made: Made { windows: 57, records: 58, seconds: 59 },
        delivery: Delivery {
            state: State::Refused,
            error: Some(Problem { code: "AccessDenied".to_owned(), message: "grant it".to_owned(), since: 60 }),
            last_delivery: Some(41),
            delivered: Delivered { segments: 42, records: 43, calls: 44, bytes: 45, text_bytes: 450 },
            dropped: Dropped { segments: 46, records: 47, corrupt_blocks: 48, corrupt_records: 49 },
            dead_lettered: 50,
        },
        waiting: Waiting { windows: 51, records: 52, bytes: 53, bytes_max: 54, lag_seconds: 55, unspooled_windows: 56 },
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        version: "1.2.3".to_owned(),
        pid: 11,
        time: 12,
        started: 13,
        uptime_seconds: 14,
        counted: Some(Span { from: 26, to: 27 }),
        network_namespace: Some(28),
        host: Host { account_id: "123456789012".to_owned(), region: "on-prem-1".to_owned(), ..Host::default() },
        pinned: true,
        verdicts: Verdicts { available: false, why_not: Some("no BTF".to_owned()) },
        interfaces: vec![interface()],
        excluded: BTreeMap::from([("dhcp".to_owned(), total(15))]),
        rejected: total(16),
        tables: vec![Table { name: "ipv4".to_owned(), entries: 17, capacity: 170, bytes: 18 }],
        drains: Drains { count: 19, seconds_total: 20.5, last_seconds: 0.25 },
        sum_rule: SumRule {
            windows: 21,
            windows_with_error: 1,
            error_packets: -22,
            error_bytes: -23,
            last: Some(Window { start: 0, end: 59, seen: total(24), error_packets: 0, error_bytes: 0 }),
        },
        flow_logs: vec![flow_log()],
        losses: (100..).zip(Cause::all()).map(|(count, cause)| cause.loss(count)).collect(),
        journal: Journal { errors: 25, failing: true },
        clock_steps: 26,
        other_frees: BTreeMap::from([("NO_SOCKET".to_owned(), 27)]),
    }
}
