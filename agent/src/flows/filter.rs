//! Which flows somebody wants to see.
//! Pure. Must not know how a filter is written.
//! Always: what is not asked for lets everything through; all that is asked for must hold.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;
use wildmatch::WildMatch;

use super::words::{parse_action, parse_direction, parse_protocol};
use crate::capture::flow::{Direction, FlowKey, Verdict};

/// Nobody names more ends of a flow, and each costs a look at every flow.
const NETS_MAX: usize = 8;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Name or glob.
    pub(crate) interface: Option<String>,
    /// Each holds one of the two addresses.
    pub(crate) nets: Vec<IpNet>,
    /// One of the two.
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<u8>,
    pub(crate) action: Option<Verdict>,
    pub(crate) direction: Option<Direction>,
}

/// One thing that a filter may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term {
    Interface,
    /// An address or a CIDR.
    Net,
    Port,
    Protocol,
    Action,
    Direction,
}

impl Term {
    /// What is expected, when it is something else.
    fn wanted(self) -> &'static str {
        match self {
            Self::Interface => "the name of an interface",
            Self::Net => "an address or a CIDR such as 10.0.0.0/8",
            Self::Port => "a port, 0 to 65535",
            Self::Protocol => "tcp, udp, icmp, icmpv6 or a number up to 255",
            Self::Action => "accept or reject",
            Self::Direction => "ingress or egress",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Net => "address",
            Self::Port => "port",
            Self::Protocol => "protocol",
            Self::Action => "action",
            Self::Direction => "direction",
        }
    }
}

impl Filter {
    pub(super) fn set(&mut self, term: Term, word: &str) -> Result<(), String> {
        let bad = || format!("{word:?} is not {}", term.wanted());
        let is_free = match term {
            Term::Interface if word.is_empty() => return Err(bad()),
            Term::Interface => self.interface.replace(word.to_owned()).is_none(),
            Term::Net => {
                self.nets.push(parse_net(word).ok_or_else(bad)?);
                self.nets.len() <= NETS_MAX
            }
            Term::Port => self.port.replace(word.parse().map_err(|_| bad())?).is_none(),
            Term::Protocol => self.protocol.replace(parse_protocol(word).ok_or_else(bad)?).is_none(),
            Term::Action => self.action.replace(parse_action(word).ok_or_else(bad)?).is_none(),
            Term::Direction => self.direction.replace(parse_direction(word).ok_or_else(bad)?).is_none(),
        };
        match (is_free, term) {
            (true, _) => Ok(()),
            (false, Term::Net) => Err(format!("more than {NETS_MAX} addresses")),
            (false, _) => Err(format!("{} is there twice", term.name())),
        }
    }

    pub(super) fn matches(&self, key: &FlowKey) -> bool {
        let is = |net: &IpNet| net.contains(&key.src) || net.contains(&key.dst);
        self.action.is_none_or(|action| action == key.verdict)
            && self.direction.is_none_or(|direction| direction == key.direction)
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && self.port.is_none_or(|port| port == key.src_port || port == key.dst_port)
            && self.nets.iter().all(is)
    }

    pub(super) fn wants_interface(&self, name: &str) -> bool {
        self.interface.as_ref().is_none_or(|glob| WildMatch::new(glob).matches(name))
    }
}

fn parse_net(word: &str) -> Option<IpNet> {
    let net = word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
    net.map(|net| net.trunc())
}
