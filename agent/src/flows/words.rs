//! What protocols, actions and directions are called.
//! Knows no flows. Always: what is named here is read again.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::capture::flow::{Direction, Verdict};

/// Those that people have a name for (<https://www.iana.org/assignments/protocol-numbers>).
const PROTOCOLS: [(u8, &str); 11] = [
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipip"),
    (6, "tcp"),
    (17, "udp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (58, "icmpv6"),
    (112, "vrrp"),
    (132, "sctp"),
];

pub(crate) fn protocol(number: u8) -> Cow<'static, str> {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| Cow::Owned(number.to_string()), |(_, name)| Cow::Borrowed(*name))
}

pub(super) fn parse_protocol(word: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(_, name)| name.eq_ignore_ascii_case(word));
    named.map_or_else(|| word.parse().ok(), |(number, _)| Some(*number))
}

pub(crate) fn action(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "ACCEPT",
        Verdict::Reject => "REJECT",
    }
}

pub(super) fn parse_action(word: &str) -> Option<Verdict> {
    [Verdict::Accept, Verdict::Reject].into_iter().find(|&verdict| action(verdict).eq_ignore_ascii_case(word))
}

pub(crate) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Also as short as people type them.
pub(super) fn parse_direction(word: &str) -> Option<Direction> {
    match word.to_ascii_lowercase().as_str() {
        "ingress" | "in" => Some(Direction::Ingress),
        "egress" | "out" => Some(Direction::Egress),
        _ => None,
    }
}
