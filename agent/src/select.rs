//! Which interfaces are captured. Pure: a list of interfaces in, the chosen ones out. Knows no BPF, no AWS.
//! The default never counts a packet twice by choosing the lower parts of a stack.
#![forbid(unsafe_code)]

use crate::capture::interfaces::Interface;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use wildmatch::WildMatch;

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Selection {
    /// Names and globs. With `subnets` empty and this empty too: every interface that holds an address.
    pub(crate) globs: Vec<String>,
    /// Interfaces with an address inside one of these.
    pub(crate) subnets: Vec<IpNet>,
}

/// What an interface is called in records, and what flow logs choose it by. Also of one that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// Interface id.
    pub(crate) id: String,
    pub(crate) name: String,
    /// None: no longer known.
    pub(crate) addresses: Option<Vec<IpAddr>>,
    pub(crate) loopback: bool,
}

impl Named {
    pub(crate) fn new(id: String, interface: &Interface) -> Self {
        let Interface { name, addresses, loopback, .. } = interface;
        Self { id, name: name.clone(), addresses: Some(addresses.clone()), loopback: *loopback }
    }
}

impl Selection {
    /// Whether an interface is captured.
    pub(crate) fn wants(&self, interface: &Interface) -> bool {
        self.chooses(&interface.name, Some(&interface.addresses), interface.loopback)
    }

    /// Whether the records of an interface are wanted.
    pub(crate) fn covers(&self, interface: &Named) -> bool {
        self.chooses(&interface.name, interface.addresses.as_deref(), interface.loopback)
    }

    /// Where addresses are not known, they may have been what an interface was captured for.
    fn chooses(&self, name: &str, addresses: Option<&[IpAddr]>, loopback: bool) -> bool {
        let has = |is_wanted: &dyn Fn(&IpAddr) -> bool| addresses.is_none_or(|all| all.iter().any(is_wanted));
        if self.globs.is_empty() && self.subnets.is_empty() {
            // Bond slaves, bridge ports and other lowers hold no address: their packets are counted on what is above.
            // IPv6 gives every interface that is up a link-local address, a bridge port too: that one does not count.
            return !loopback && has(&|address| !is_link_local_v6(address));
        }
        self.globs.iter().any(|glob| WildMatch::new(glob).matches(name))
            || self.subnets.iter().any(|subnet| has(&|address| subnet.contains(address)))
    }

    /// A plain name that no interface has is a mistake; a glob may match one that comes later.
    pub(crate) fn unknown_name<'a>(&'a self, interfaces: &[Interface]) -> Option<&'a str> {
        let plain = |glob: &&String| !glob.contains(['*', '?']);
        let missing = |glob: &&String| !interfaces.iter().any(|interface| interface.name == **glob);
        self.globs.iter().filter(plain).find(missing).map(String::as_str)
    }
}

fn is_link_local_v6(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            index: 1,
            name: name.to_owned(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            loopback: name == "lo",
            bare: false,
        }
    }

    fn selection(globs: &[&str], subnets: &[&str]) -> Selection {
        Selection {
            globs: globs.iter().map(|&g| g.to_owned()).collect(),
            subnets: subnets.iter().map(|s| s.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn wants() {
        for (globs, subnets, name, addresses, wanted) in [
            (&[][..], &[][..], "eth0", &["10.0.0.1"][..], true),
            (&[], &[], "eth0", &["2001:db8::1"], true),
            (&[], &[], "lo", &["127.0.0.1"], false),
            (&[], &[], "port0", &[], false),
            (&[], &[], "port0", &["fe80::1"], false),
            (&["lo"], &[], "lo", &[], true),
            (&["veth*"], &[], "veth12", &[], true),
            (&["veth*"], &[], "eth0", &["10.0.0.1"], false),
            (&["*"], &[], "port0", &[], true),
            (&["eth?"], &[], "eth10", &[], false),
            (&[], &["10.0.0.0/8"], "eth0", &["10.0.0.1"], true),
            (&[], &["10.0.0.0/8"], "eth1", &["192.0.2.1"], false),
            (&["eth1"], &["10.0.0.0/8"], "eth1", &["192.0.2.1"], true),
        ] {
            assert_eq!(
                selection(globs, subnets).wants(&interface(name, addresses)),
                wanted,
                "{globs:?} {subnets:?} {name}"
            );
        }
    }

    #[test]
    fn only_plain_names_can_be_unknown() {
        let interfaces = [interface("eth0", &[])];
        assert_eq!(selection(&["eth0", "veth*"], &[]).unknown_name(&interfaces), None);
        assert_eq!(selection(&["eth1"], &[]).unknown_name(&interfaces), Some("eth1"));
    }
}
