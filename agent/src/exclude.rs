//! Leaves out the traffic AWS does not log.
//! Must not know of interfaces, windows or records.
//! Always: a flow is either kept or counted under exactly one rule, whole.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashSet;
use ipnet::IpNet;

use crate::capture::flow::{Flow, FlowKey, Total};

/// One kind of traffic that AWS does not log.
#[allow(dead_code, reason = "source and description are for whoever reads the table or prints it")]
pub(crate) struct Exclusion {
    /// For `--log-excluded NAME`.
    pub(crate) name: &'static str,
    /// Where AWS says so.
    pub(crate) source: &'static str,
    pub(crate) description: &'static str,
    covers: fn(&FlowKey, &Settings) -> bool,
}

pub(crate) const COUNT: usize = 6;

/// In the order of AWS's list. Endpoint-to-NLB and mirrored traffic are not here: no host sees either as such.
pub(crate) const EXCLUSIONS: [Exclusion; COUNT] = [
    Exclusion {
        name: "amazon-dns",
        source: "VPC user guide: flow-logs-limitations, AmazonDNS-concepts",
        description: "to and from the Amazon DNS server: primary VPC CIDR base + 2, 169.254.169.253, fd00:ec2::253",
        covers: |key, settings| ends(key).any(|(address, _)| is_amazon_dns(address, settings)),
    },
    Exclusion {
        name: "windows-activation",
        source: "VPC user guide: flow-logs-limitations",
        description: "Windows licence activation: TCP 1688 of 169.254.169.250, 169.254.169.251, fd00:ec2::250",
        covers: |key, _| key.protocol == TCP && ends(key).any(|(address, port)| port == 1688 && is_activation(address)),
    },
    Exclusion {
        name: "instance-metadata",
        source: "VPC user guide: flow-logs-limitations; the IPv6 address by extension",
        description: "to and from 169.254.169.254, fd00:ec2::254",
        covers: |key, _| ends(key).any(|(address, _)| address == link_local(254) || address == ec2(0x254)),
    },
    Exclusion {
        name: "time-sync",
        source: "VPC user guide: flow-logs-limitations; the IPv6 address by extension",
        description: "to and from the Amazon Time Sync Service: 169.254.169.123, fd00:ec2::123",
        covers: |key, _| ends(key).any(|(address, _)| address == link_local(123) || address == ec2(0x123)),
    },
    Exclusion {
        name: "dhcp",
        source: "VPC user guide: flow-logs-limitations; DHCPv6 by extension",
        description: "DHCP: UDP between ports 67 and 68, DHCPv6: UDP between ports 546 and 547",
        covers: |key, _| key.protocol == UDP && is_dhcp(key),
    },
    Exclusion {
        name: "vpc-router",
        source: "VPC user guide: flow-logs-limitations, subnet-sizing",
        description: "to and from the default VPC router: base + 1 of each subnet CIDR, fe80:ec2::1",
        covers: |key, settings| ends(key).any(|(address, _)| settings.routers.contains(&address)),
    },
];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What the rules must be told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    vpc_dns: Option<IpAddr>,
    routers: HashSet<IpAddr>,
    enabled: [bool; COUNT],
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not excluded traffic; known are {known}")]
pub(crate) struct UnknownExclusion {
    name: String,
    known: String,
}

/// What is left, and what was not, in the order of `EXCLUSIONS`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) flows: Vec<Flow>,
    pub(crate) excluded_by: [Total; COUNT],
}

impl Settings {
    /// The first IPv4 CIDR of the VPC is its primary. `disabled` names the rules whose traffic is to be logged.
    pub(crate) fn new(
        vpc_cidrs: &[IpNet],
        subnet_cidrs: &[IpNet],
        disabled: &[String],
    ) -> Result<Self, UnknownExclusion> {
        let mut enabled = [true; COUNT];
        for name in disabled {
            if name == "all" {
                enabled = [false; COUNT];
                continue;
            }
            let Some(at) = EXCLUSIONS.iter().position(|exclusion| exclusion.name == name) else {
                let known = EXCLUSIONS.map(|exclusion| exclusion.name).join(", ");
                return Err(UnknownExclusion { name: name.clone(), known });
            };
            enabled[at] = false;
        }
        let primary = vpc_cidrs.iter().find(|cidr| matches!(cidr, IpNet::V4(_)));
        let mut routers: HashSet<IpAddr> = subnet_cidrs.iter().filter_map(|cidr| nth_address(cidr, 1)).collect();
        routers.insert(Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1).into());
        Ok(Self { vpc_dns: primary.and_then(|cidr| nth_address(cidr, 2)), routers, enabled })
    }

    fn excluded_by(&self, key: &FlowKey) -> Option<usize> {
        (0..COUNT).find(|&at| self.enabled[at] && (EXCLUSIONS[at].covers)(key, self))
    }
}

/// In place, without copying what stays.
pub(crate) fn split(mut flows: Vec<Flow>, settings: &Settings) -> Kept {
    let mut excluded_by = [Total::default(); COUNT];
    flows.retain(|flow| match settings.excluded_by(&flow.key) {
        Some(at) => {
            excluded_by[at] += Total { packets: flow.packets, bytes: flow.bytes };
            false
        }
        None => true,
    });
    Kept { flows, excluded_by }
}

/// AWS says "to" for some and "to and from" for others; we read all as both, for half a conversation helps nobody.
fn ends(key: &FlowKey) -> impl Iterator<Item = (IpAddr, u16)> {
    [(key.dst, key.dst_port), (key.src, key.src_port)].into_iter()
}

/// None when the network is too small to hold it.
fn nth_address(cidr: &IpNet, nth: u8) -> Option<IpAddr> {
    let address: IpAddr = match cidr.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits().checked_add(nth.into())?).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits().checked_add(nth.into())?).into(),
    };
    cidr.contains(&address).then_some(address)
}

const fn link_local(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, last))
}

const fn ec2(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last))
}

/// AWS's rule names the server and no port. Own DNS servers are logged in full.
fn is_amazon_dns(address: IpAddr, settings: &Settings) -> bool {
    address == link_local(253) || address == ec2(0x253) || Some(address) == settings.vpc_dns
}

fn is_activation(address: IpAddr) -> bool {
    address == link_local(250) || address == link_local(251) || address == ec2(0x250)
}

fn is_dhcp(key: &FlowKey) -> bool {
    let ports = (key.src_port.min(key.dst_port), key.src_port.max(key.dst_port));
    ports == if key.src.is_ipv4() { (67, 68) } else { (546, 547) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, Verdict};

    fn settings(disabled: &[&str]) -> Settings {
        let nets = |cidrs: &[&str]| cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<IpNet>>();
        let disabled: Vec<String> = disabled.iter().map(|&name| name.to_owned()).collect();
        let vpc = nets(&["2600:1f14::/56", "10.1.0.0/16", "10.9.0.0/16"]);
        Settings::new(&vpc, &nets(&["10.1.3.77/24", "2600:1f14::/64", "10.1.8.8/32"]), &disabled).unwrap()
    }

    fn flow(protocol: u8, src: &str, src_port: u16, dst: &str, dst_port: u16) -> Flow {
        let key = FlowKey {
            ifindex: 1,
            direction: Direction::Egress,
            verdict: Verdict::Accept,
            protocol,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            src_port,
            dst_port,
        };
        Flow { key, packets: 2, bytes: 100, first: 0, last: 0, tcp_flags: 0, reason: 0 }
    }

    #[test]
    fn rules_by_flow() {
        let me = "10.1.3.5";
        let me6 = "2600:1f14::5";
        let rows = [
            (17, me, 5000, "10.1.0.2", 53, Some("amazon-dns")),
            (6, me, 5000, "10.1.0.2", 853, Some("amazon-dns")),
            (17, me, 5000, "169.254.169.253", 53, Some("amazon-dns")),
            (17, me6, 5000, "fd00:ec2::253", 53, Some("amazon-dns")),
            // Own and foreign DNS servers are logged, and so is base + 2 of a secondary CIDR or a subnet.
            (17, me, 5000, "10.1.3.53", 53, None),
            (17, me, 5000, "8.8.8.8", 53, None),
            (17, me, 5000, "10.9.0.2", 53, None),
            (17, me, 5000, "10.1.3.2", 53, None),
            (6, me, 5000, "169.254.169.250", 1688, Some("windows-activation")),
            (6, me, 5000, "169.254.169.251", 1688, Some("windows-activation")),
            (6, me6, 5000, "fd00:ec2::250", 1688, Some("windows-activation")),
            (6, me, 5000, "169.254.169.250", 443, None),
            (17, me, 5000, "169.254.169.250", 1688, None),
            (6, me, 5000, "10.1.3.9", 1688, None),
            (6, me, 1688, "169.254.169.250", 5000, None),
            (6, me, 5000, "169.254.169.254", 80, Some("instance-metadata")),
            (6, me6, 5000, "fd00:ec2::254", 80, Some("instance-metadata")),
            (17, me, 5000, "169.254.169.123", 123, Some("time-sync")),
            (17, me6, 5000, "fd00:ec2::123", 123, Some("time-sync")),
            (17, me, 5000, "10.1.3.9", 123, None),
            (17, "0.0.0.0", 68, "255.255.255.255", 67, Some("dhcp")),
            (17, "fe80::1", 546, "ff02::1:2", 547, Some("dhcp")),
            (6, me, 68, "10.1.3.9", 67, None),
            (17, me, 5000, "10.1.3.9", 67, None),
            (17, me, 546, "10.1.3.9", 547, None),
            (1, me, 0, "10.1.3.1", 0, Some("vpc-router")),
            (58, me6, 0, "2600:1f14::1", 0, Some("vpc-router")),
            (58, "fe80::5", 0, "fe80:ec2::1", 0, Some("vpc-router")),
            (1, me, 0, "10.1.4.1", 0, None),
            (1, me, 0, "10.1.8.9", 0, None),
            (6, me, 5000, "169.254.1.1", 80, None),
        ];
        for row in rows {
            let (protocol, src, src_port, dst, dst_port, want) = row;
            let want = want.map(|name| EXCLUSIONS.iter().position(|exclusion| exclusion.name == name).unwrap());
            for flow in [flow(protocol, src, src_port, dst, dst_port), flow(protocol, dst, dst_port, src, src_port)] {
                assert_eq!(settings(&[]).excluded_by(&flow.key), want, "{row:?}");
                if let Some(at) = want {
                    assert_eq!(settings(&[EXCLUSIONS[at].name]).excluded_by(&flow.key), None, "{row:?}");
                }
            }
        }
    }

    #[test]
    fn split_counts_what_it_takes() {
        let kept = flow(6, "10.1.3.5", 1, "10.1.3.6", 2);
        let dns = flow(17, "10.1.3.5", 1, "10.1.0.2", 53);
        let got = split(vec![dns, kept, dns], &settings(&[]));
        let mut excluded_by = [Total::default(); COUNT];
        excluded_by[0] = Total { packets: 4, bytes: 200 };
        assert_eq!(got, Kept { flows: vec![kept], excluded_by });
    }

    #[test]
    fn without_a_vpc_only_fixed_addresses_count() {
        let bare = Settings::new(&[], &[], &[]).unwrap();
        assert_eq!(bare.excluded_by(&flow(17, "10.1.3.5", 1, "10.1.0.2", 53).key), None);
        assert_eq!(bare.excluded_by(&flow(17, "10.1.3.5", 1, "169.254.169.253", 53).key), Some(0));
    }

    #[test]
    fn unknown_names_are_told() {
        let error = Settings::new(&[], &[], &["dns".to_owned()]).unwrap_err().to_string();
        let known = "amazon-dns, windows-activation, instance-metadata, time-sync, dhcp, vpc-router";
        assert_eq!(error, format!("\"dns\" is not excluded traffic; known are {known}"));
    }
}
