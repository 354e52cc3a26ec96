//! A container on a host with a bridge and address translation, and what is outside.

use anyhow::Result;

use crate::netns::{Netns, Pair, run};

/// c0 – v0 on br0, H, b0 – a0: container C behind host H (the pair's B), outside is the pair's A. No device merges or
/// splits packets, so that every one of them sees those of the wire.
#[derive(Debug)]
pub struct Container {
    pub inside: Netns,
    pub pair: Pair,
}

impl Container {
    pub const INSIDE: &'static str = "10.88.0.2";

    pub fn new() -> Result<Self> {
        let this = Self { inside: Netns::new()?, pair: Pair::new()? };
        let (host, inside) = (this.host(), &this.inside);
        run(&[
            "ip",
            "link",
            "add",
            "v0",
            "netns",
            host.name(),
            "type",
            "veth",
            "peer",
            "name",
            "c0",
            "netns",
            inside.name(),
        ])?;
        host.sh("sysctl -qw net.ipv4.ip_forward=1")?;
        host.ip_batch(
            "link add br0 address 02:00:00:88:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 addrgenmode none\n\
             link set v0 master br0 addrgenmode none\n\
             link set br0 up\n\
             link set v0 up\n\
             addr add 10.88.0.1/24 dev br0\n\
             neigh replace 10.88.0.2 lladdr 02:00:00:88:00:02 nud permanent dev br0\n",
        )?;
        inside.ip_batch(
            "link set c0 address 02:00:00:88:00:02 addrgenmode none\n\
             link set c0 up\n\
             addr add 10.88.0.2/24 dev c0\n\
             neigh replace 10.88.0.1 lladdr 02:00:00:88:00:01 nud permanent dev c0\n\
             route add default via 10.88.0.1\n",
        )?;
        for (ns, device) in [(host, "v0"), (host, "br0"), (host, "b0"), (inside, "c0"), (&this.pair.a, "a0")] {
            ns.sh(&format!("ethtool -K {device} gro off tso off gso off tx-udp-segmentation off"))?;
        }
        host.run(&["nft", "add table ip nat"])?;
        host.run(&["nft", "add chain ip nat out { type nat hook postrouting priority srcnat; }"])?;
        host.run(&["nft", "add chain ip nat in { type nat hook prerouting priority dstnat; }"])?;
        host.run(&["nft", "add rule ip nat out oifname b0 ip saddr 10.88.0.0/24 masquerade"])?;
        Ok(this)
    }

    pub fn host(&self) -> &Netns {
        &self.pair.b
    }

    /// Sends what comes to a port of the host to a port of the container.
    pub fn publish(&self, outside: u16, inside: u16) -> Result<()> {
        let rule = format!(
            "add rule ip nat in iifname b0 meta l4proto {{ tcp, udp }} th dport {outside} dnat to {}:{inside}",
            Self::INSIDE
        );
        self.host().run(&["nft", &rule])?;
        Ok(())
    }
}
