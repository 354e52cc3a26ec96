//! A filter as people write it: `10.0.0.0/8 port 443 proto tcp action reject if eth0`.
//! Pure. Must not know who writes it.
//! Always: what is shown of a filter is read as the same one.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};

use super::filter::{Filter, Term};
use super::words::{action, direction, parse_action, parse_direction, protocol};

/// Words in front of a value; an address needs none, nor do actions, directions, and the protocols that have ports.
const WORDS: [(&str, Term); 12] = [
    ("if", Term::Interface),
    ("interface", Term::Interface),
    ("host", Term::Net),
    ("net", Term::Net),
    ("address", Term::Net),
    ("port", Term::Port),
    ("proto", Term::Protocol),
    ("protocol", Term::Protocol),
    ("action", Term::Action),
    ("dir", Term::Direction),
    ("direction", Term::Direction),
    ("cidr", Term::Net),
];

/// Every term must hold; `and` may stand between them.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let is_word = |(known, _): &&(&str, Term)| known.eq_ignore_ascii_case(word);
        if word.eq_ignore_ascii_case("and") {
            continue;
        } else if let Some((known, term)) = WORDS.iter().find(is_word) {
            let value = words.next().ok_or_else(|| format!("nothing behind {known:?}"))?;
            filter.set(*term, value)?;
        } else {
            filter.set(bare(word).ok_or_else(|| unknown(word))?, word)?;
        }
    }
    Ok(filter)
}

/// What a word without one in front of it is.
fn bare(word: &str) -> Option<Term> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" | "udp" | "icmp" | "icmpv6" => Some(Term::Protocol),
        _ if parse_action(word).is_some() => Some(Term::Action),
        _ if parse_direction(word).is_some() => Some(Term::Direction),
        _ if word.contains(['.', ':']) => Some(Term::Net),
        _ => None,
    }
}

fn unknown(word: &str) -> String {
    format!("{word:?} is no filter: write an ADDRESS or CIDR, port N, proto NAME, action reject, dir ingress, if NAME")
}

impl Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut terms: Vec<String> = self.nets.iter().map(net).collect();
        terms.extend(self.port.map(|port| format!("port {port}")));
        terms.extend(self.protocol.map(|number| format!("proto {}", protocol(number))));
        terms.extend(self.action.map(|verdict| format!("action {}", action(verdict).to_ascii_lowercase())));
        terms.extend(self.direction.map(|of| format!("dir {}", direction(of))));
        terms.extend(self.interface.iter().map(|name| format!("if {name}")));
        f.write_str(&terms.join(" "))
    }
}

/// One address without its length.
pub(super) fn net(net: &ipnet::IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, FlowKey, Verdict};

    fn key() -> FlowKey {
        FlowKey {
            ifindex: 2,
            direction: Direction::Ingress,
            verdict: Verdict::Reject,
            protocol: 6,
            src: [10, 1, 2, 3].into(),
            dst: "192.0.2.7".parse().unwrap(),
            src_port: 50_000,
            dst_port: 443,
        }
    }

    #[test]
    fn what_is_written_is_meant() {
        let whole = "10.0.0.0/8 port 443 proto tcp action reject dir ingress if eth0";
        for (text, shown, matches) in [
            ("", "", true),
            (whole, whole, true),
            (
                "10.0.0.0/8 port 443 proto tcp action reject if eth0",
                "10.0.0.0/8 port 443 proto tcp action reject if eth0",
                true,
            ),
            ("TCP Reject in", "proto tcp action reject dir ingress", true),
            ("tcp and port 443 and host 10.1.2.3", "10.1.2.3 port 443 proto tcp", true),
            // Either end; all must hold.
            ("port 50000 192.0.2.7", "192.0.2.7 port 50000", true),
            ("10.1.2.3 192.0.2.0/24", "10.1.2.3 192.0.2.0/24", true),
            ("10.1.2.3 192.0.3.0/24", "10.1.2.3 192.0.3.0/24", false),
            ("10.9.9.9/8", "10.0.0.0/8", true),
            ("port 444", "port 444", false),
            ("proto 17", "proto udp", false),
            ("proto 99", "proto 99", false),
            ("accept", "action accept", false),
            ("out", "dir egress", false),
            ("fd77::/64", "fd77::/64", false),
            ("::1", "::1", false),
        ] {
            let filter = parse(text).unwrap();
            assert_eq!(filter.to_string(), shown, "{text}");
            assert_eq!(parse(shown).unwrap(), filter, "{text}");
            assert_eq!(filter.matches(&key()), matches, "{text}");
        }
        let filter = parse("interface veth*").unwrap();
        assert!(filter.wants_interface("veth7") && !filter.wants_interface("eth0"));
    }

    #[test]
    fn what_means_nothing_is_said() {
        for (text, why) in [
            ("port", "nothing behind \"port\""),
            ("port 65536", "\"65536\" is not a port"),
            ("port 1 port 2", "port is there twice"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is not an address or a CIDR"),
            ("proto nonsense", "\"nonsense\" is not tcp, udp"),
            ("action maybe", "\"maybe\" is not accept or reject"),
            ("nonsense", "\"nonsense\" is no filter: write"),
            ("443", "\"443\" is no filter: write"),
            (&"10.0.0.1 ".repeat(9), "more than 8 addresses"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(why) && error.lines().count() == 1, "{text}: {error}");
        }
    }
}
