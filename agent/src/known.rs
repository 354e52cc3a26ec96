//! What is known of this host and its interfaces, as the records of a flow log say it.
//! Must not know where it is from, nor how records are made.
//! Always: no value is empty or has a space in it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Host;
use crate::flow_log::{FlowLog, Rewriting};
use crate::identity::services::Services;
use crate::record;
use crate::select::Named;

/// RFC 3986's unreserved characters stay.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) host: Host,
    pub(crate) services: Option<Arc<Services>>,
    /// The kernel's names of what refuses packets, by its numbers.
    pub(crate) drop_reasons: Arc<BTreeMap<u16, String>>,
}

impl Known {
    pub(crate) fn host(&self, log: &FlowLog) -> record::Host {
        let Host { identity, instance_id, az_id, sublocation, hostname, traffic_path, labels, .. } = &self.host;
        let (sublocation_type, sublocation_id) = sublocation.clone().unzip();
        record::Host {
            account_id: identity.account_id.clone(),
            region: identity.region.clone(),
            instance_id: instance_id.clone(),
            // AWS has none for a sublocation.
            az_id: az_id.clone().filter(|_| sublocation.is_none()),
            sublocation_type,
            sublocation_id,
            hostname: hostname.as_deref().and_then(encoded),
            traffic_path: *traffic_path,
            tags: tags(&log.fields.instance_tags, |key| labels.get(key)),
            drop_reasons: Arc::clone(&self.drop_reasons),
            services: self.services.clone(),
        }
    }

    pub(crate) fn interface(&self, log: &FlowLog, named: &Named) -> record::Interface {
        let Host { imds, vpc_id, subnet_id, interface_labels, .. } = &self.host;
        let of_ec2 = imds.as_ref().and_then(|imds| imds.interfaces.values().find(|it| it.interface_id == named.id));
        let primary = imds.as_ref().and_then(|imds| imds.primary());
        // What is configured goes before what EC2 says of the interface, and that before what it says of the first one.
        let vpc = vpc_id.clone().filter(|id| primary.is_none_or(|primary| primary.vpc_id != *id));
        let subnet = subnet_id.clone().filter(|id| primary.is_none_or(|primary| primary.subnet_id != *id));
        let labels = interface_labels.get(&named.name);
        record::Interface {
            id: named.id.clone(),
            name: encoded(&named.name).unwrap_or_else(|| "-".to_owned()),
            vpc_id: vpc.or_else(|| of_ec2.map(|it| it.vpc_id.clone())).or_else(|| vpc_id.clone()),
            subnet_id: subnet.or_else(|| of_ec2.map(|it| it.subnet_id.clone())).or_else(|| subnet_id.clone()),
            tags: tags(&log.fields.interface_tags, |key| labels?.get(key)),
            stands_for: (log.fields.rewriting == Rewriting::Aws).then(|| primary_v4(named)).flatten(),
        }
    }
}

/// The kernel lists an interface's primary address before its secondary ones.
fn primary_v4(named: &Named) -> Option<std::net::Ipv4Addr> {
    named.addresses.iter().flatten().find_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

fn tags<'a>(keys: &[String], value: impl Fn(&str) -> Option<&'a String>) -> [Option<String>; 2] {
    [0, 1].map(|at| keys.get(at).and_then(|key| value(key)).and_then(|value| encoded(value)))
}

/// As AWS writes tags: special characters as percent and their UTF-8 in hex. None: it is empty.
fn encoded(text: &str) -> Option<String> {
    Some(utf8_percent_encode(text, ENCODED).to_string()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::imds::{Imds, Interface};
    use crate::identity::mac::Mac;

    fn log(rewriting: Rewriting) -> FlowLog {
        let log = r#"{"id": "fl-1", "selection": {"globs": [], "subnets": []}, "traffic_type": "All", "interval": 60,
            "format": "${end}", "destination": "Stdout", "tags": {}, "spool_bytes_max": 0}"#;
        let mut log: FlowLog = serde_json::from_str(log).unwrap();
        let keys = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        (log.fields.rewriting, log.fields.instance_tags) = (rewriting, keys(["role", "none"]));
        log.fields.interface_tags = keys(["empty", "net"]);
        log
    }

    fn named(id: &str, name: &str, addresses: Option<&[&str]>) -> Named {
        let parse = |all: &[&str]| all.iter().map(|address| address.parse().unwrap()).collect();
        Named { id: id.to_owned(), name: name.to_owned(), addresses: addresses.map(parse), loopback: false }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_have_no_spaces_and_are_not_empty() {
        let mut host = Host {
            hostname: Some("a b".to_owned()),
            az_id: Some("euw1-az1".to_owned()),
            labels: labels(&[("role", "50% \u{fc}b/er")]),
            interface_labels: BTreeMap::from([("eth 0".to_owned(), labels(&[("empty", ""), ("net", "d-m_z.~")]))]),
            ..Host::default()
        };
        let known = Known { host: host.clone(), ..Known::default() };
        let said = known.host(&log(Rewriting::None));
        assert_eq!((said.hostname.as_deref(), said.az_id.as_deref()), (Some("a%20b"), Some("euw1-az1")));
        assert_eq!(said.tags, [Some("50%25%20%C3%BCb%2Fer".to_owned()), None]);
        let interface = known.interface(&log(Rewriting::None), &named("eni-1", "eth 0", None));
        assert_eq!((interface.name.as_str(), interface.tags), ("eth%200", [None, Some("d-m_z.~".to_owned())]));
        // A sublocation is in no zone.
        host.sublocation = Some(("outpost".to_owned(), "op-1".to_owned()));
        let said = Known { host, ..Known::default() }.host(&log(Rewriting::None));
        assert_eq!((said.az_id, said.sublocation_id.as_deref()), (None, Some("op-1")));
    }

    #[test]
    fn the_first_ipv4_address_stands_for_an_interface() {
        let known = Known::default();
        let stands_for = |rewriting, addresses: Option<&[&str]>| {
            known.interface(&log(rewriting), &named("eni-1", "eth0", addresses)).stands_for
        };
        let addresses: &[&str] = &["2001:db8::1", "10.0.0.1", "10.0.0.2"];
        assert_eq!(stands_for(Rewriting::None, Some(addresses)), None);
        assert_eq!(stands_for(Rewriting::Aws, Some(addresses)), Some([10, 0, 0, 1].into()));
        assert_eq!(stands_for(Rewriting::Aws, Some(&addresses[..1])), None);
        assert_eq!(stands_for(Rewriting::Aws, None), None);
    }

    /// What is configured, else EC2's of the interface, else EC2's of the first one.
    #[test]
    fn an_interfaces_own_ids() {
        let interface = |number: u8| Interface {
            interface_id: format!("eni-{number}"),
            vpc_id: format!("vpc-{number}"),
            subnet_id: format!("subnet-{number}"),
            ..Interface::default()
        };
        let mac = |number| Mac([2, 0, 0, 0, 0, number]);
        let interfaces = [1, 2].map(|number| (mac(number), interface(number)));
        let imds = Imds { primary: Some(mac(1)), interfaces: interfaces.into(), ..Imds::default() };
        let ids = |configured: &str, imds: Option<Imds>, id: &str| {
            let host = Host { vpc_id: Some(configured.to_owned()), imds, ..Host::default() };
            let known = Known { host, ..Known::default() };
            let said = known.interface(&log(Rewriting::None), &named(id, "eth0", None));
            (said.vpc_id.unwrap_or_default(), said.subnet_id.unwrap_or_default())
        };
        let pair = |vpc: &str, subnet: &str| (vpc.to_owned(), subnet.to_owned());
        assert_eq!(ids("vpc-9", None, "eni-1"), pair("vpc-9", ""));
        assert_eq!(ids("vpc-9", Some(imds.clone()), "eni-2"), pair("vpc-9", "subnet-2"));
        // Not configured: the first interface's is the host's.
        assert_eq!(ids("vpc-1", Some(imds.clone()), "eni-2"), pair("vpc-2", "subnet-2"));
        assert_eq!(ids("vpc-1", Some(imds), "eni-3"), pair("vpc-1", ""));
    }
}
