//! What is known of this host and its interfaces, as the records of a flow log say it.
//! Must not know where it is from, nor how records are made.
//! Always: no value is empty or has a space in it.
#![forbid(unsafe_code)]

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
