//! Rates, from two answers of the agent.
//! Pure. Must not know of clocks: the answers say when they were made.
//! Always: a window that began between the two counts from its beginning; what cannot be known has no rate.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;

use crate::capture::flow::{Direction, Verdict};
use crate::flows::{Answer, Row};

/// In less time a rate says nothing.
const LEAST_SECONDS: f64 = 0.1;

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rated {
    pub(super) answer: Answer,
    /// That the rates are over; none: there are none.
    pub(super) seconds: Option<f64>,
    /// Of all that the filter lets through, and the refused part of it.
    pub(super) sum: Option<Rate>,
    pub(super) rejected: Option<Rate>,
    /// Of each flow.
    pub(super) flows: Vec<Option<Rate>>,
}

type Key<'a> = (&'a str, Direction, Verdict, u8, IpAddr, IpAddr, u16, u16);

fn key(row: &Row) -> Key<'_> {
    let Row { interface_id, direction, action, protocol, srcaddr, dstaddr, srcport, dstport, .. } = row;
    (interface_id, *direction, *action, *protocol, *srcaddr, *dstaddr, *srcport, *dstport)
}

impl Rated {
    /// `before`: to the same filter. None: `now` is the first.
    pub(super) fn new(before: Option<&Answer>, now: Answer) -> Self {
        let none = vec![None; now.flows.len()];
        let Some((before, seconds)) = before.and_then(|before| Some((before, seconds(before, &now)?))) else {
            return Self { flows: none, answer: now, ..Self::default() };
        };
        let is_same_window = before.about.window.since_ms == now.about.window.since_ms;
        let rate = |packets: u64, bytes: u64| Rate { packets: packets as f64 / seconds, bytes: bytes as f64 / seconds };
        // A count can go back within a window: what was let through turns out to be refused.
        let between = |(was, is): ((u64, u64), (u64, u64))| {
            let was = if is_same_window { was } else { (0, 0) };
            rate(is.0.saturating_sub(was.0), is.1.saturating_sub(was.1))
        };
        let counts: HashMap<Key, (u64, u64)> =
            before.flows.iter().map(|row| (key(row), (row.packets, row.bytes))).collect();
        // What was cut off may have had anything.
        let is_whole = before.flows.len() as u64 == before.matched.flows || !is_same_window;
        let flow = |row: &Row| {
            let was = counts.get(&key(row)).copied().or(is_whole.then_some((0, 0)))?;
            Some(between((was, (row.packets, row.bytes))))
        };
        let flows = now.flows.iter().map(flow).collect();
        let (was, is) = (before.matched, now.matched);
        let sum = between(((was.packets, was.bytes), (is.packets, is.bytes)));
        let (was, is) = (was.rejected, is.rejected);
        let rejected = between(((was.packets, was.bytes), (is.packets, is.bytes)));
        Self { seconds: Some(seconds), sum: Some(sum), rejected: Some(rejected), flows, answer: now }
    }
}

/// How long was counted since the answer before, or since the window began. None: by another agent, or hardly at all.
fn seconds(before: &Answer, now: &Answer) -> Option<f64> {
    let (before, now) = (&before.about, &now.about);
    if before.pid != now.pid {
        return None;
    }
    let from = before.time_ms.max(now.window.since_ms);
    Some((now.time_ms - from) as f64 / 1000.0).filter(|seconds| *seconds >= LEAST_SECONDS)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::flows::{About, Sum, Window};

    pub(in crate::cli::top) fn row(port: u16, action: Verdict, packets: u64) -> Row {
        Row {
            interface: "eth0".to_owned(),
            interface_id: "eni-1".to_owned(),
            direction: Direction::Ingress,
            action,
            protocol: 6,
            srcaddr: [10, 0, 0, 1].into(),
            dstaddr: [10, 0, 0, 2].into(),
            srcport: port,
            dstport: 443,
            packets,
            bytes: packets * 100,
            start: 0,
            end: 9,
            tcp_flags: 2,
        }
    }

    pub(in crate::cli::top) fn answer(since_ms: i64, time_ms: i64, flows: Vec<Row>) -> Answer {
        let mut matched = Sum { flows: flows.len() as u64, ..Sum::default() };
        for row in &flows {
            matched.packets += row.packets;
            matched.bytes += row.bytes;
            if row.action == Verdict::Reject {
                matched.rejected.packets += row.packets;
                matched.rejected.bytes += row.bytes;
            }
        }
        let window = Window { start: since_ms / 1000, end: since_ms / 1000 + 59, since_ms };
        let about = About { pid: 7, time_ms, window, ..About::default() };
        Answer { about, matched, flows, ..Answer::default() }
    }

    fn packets(rated: &Rated) -> Vec<Option<f64>> {
        rated.flows.iter().map(|rate| rate.map(|rate| rate.packets)).collect()
    }

    #[test]
    fn the_difference_over_the_time_between() {
        let (ok, bad) = (Verdict::Accept, Verdict::Reject);
        let before = answer(0, 5_000, vec![row(1, ok, 10), row(2, bad, 4), row(3, ok, 9)]);
        let now = answer(0, 7_000, vec![row(1, ok, 30), row(2, bad, 10), row(3, ok, 8), row(4, ok, 6)]);
        let rated = Rated::new(Some(&before), now.clone());
        assert_eq!(packets(&rated), [Some(10.0), Some(3.0), Some(0.0), Some(3.0)]);
        assert_eq!((rated.seconds, rated.sum), (Some(2.0), Some(Rate { packets: 15.5, bytes: 1550.0 })));
        assert_eq!(rated.rejected, Some(Rate { packets: 3.0, bytes: 300.0 }));
        // Cut off before: nobody knows what it had then.
        let cut = Answer { matched: Sum { flows: 9, ..before.matched }, ..before.clone() };
        assert_eq!(packets(&Rated::new(Some(&cut), now.clone()))[3], None);
        assert_eq!(packets(&Rated::new(None, now.clone())), [None; 4]);
        let other = Answer { about: About { pid: 8, ..before.about.clone() }, ..before.clone() };
        assert_eq!(Rated::new(Some(&other), now).seconds, None);
        assert_eq!(Rated::new(Some(&before), before.clone()).seconds, None);
    }

    #[test]
    fn a_new_window_counts_from_its_beginning() {
        let before = answer(0, 59_500, vec![row(1, Verdict::Accept, 1000)]);
        let now = answer(60_000, 60_500, vec![row(1, Verdict::Accept, 20), row(2, Verdict::Accept, 5)]);
        let rated = Rated::new(Some(&before), now);
        assert_eq!((rated.seconds, packets(&rated)), (Some(0.5), vec![Some(40.0), Some(10.0)]));
        let now = answer(60_000, 60_050, vec![row(1, Verdict::Accept, 20)]);
        assert_eq!(Rated::new(Some(&before), now).seconds, None);
    }
}
