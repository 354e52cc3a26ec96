//! A flow log record, and the batch of records that one window gives.
//! Must not know how a record is written or where to.
//! Always: a record has a flow exactly when its status is Ok, and start <= end.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::capture::flow::{Direction, Flow};
use crate::flow_log::TrafficType;
use crate::identity::services::Services;

/// AWS field `log-status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Status {
    Ok,
    NoData,
    SkipData,
}

/// What all records of a window say of the host. Values are as they are printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) account_id: String,
    pub(crate) region: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) az_id: Option<String>,
    pub(crate) sublocation_type: Option<String>,
    pub(crate) sublocation_id: Option<String>,
    pub(crate) hostname: Option<String>,
    /// Of what leaves the host, AWS's number.
    pub(crate) traffic_path: Option<u8>,
    /// Values of the flow log's first and second key.
    pub(crate) tags: [Option<String>; 2],
    /// By the kernel's number.
    pub(crate) drop_reasons: Arc<BTreeMap<u16, String>>,
    /// Whose addresses are AWS's.
    pub(crate) services: Option<Arc<Services>>,
}

/// What all records of a window say of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) id: String,
    /// The kernel's.
    pub(crate) name: String,
    pub(crate) vpc_id: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) tags: [Option<String>; 2],
    /// What stands for the interface's end of every IPv4 flow, where AWS's rewriting is wanted: its primary address.
    pub(crate) stands_for: Option<Ipv4Addr>,
}

/// What one line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) host: &'a Host,
    pub(crate) interface: &'a Interface,
    /// None for NODATA and SKIPDATA.
    pub(crate) flow: Option<&'a Flow>,
    /// Unix seconds: the flow's first packet, or the window's first second.
    pub(crate) start: i64,
    /// Unix seconds: the flow's last packet, or the window's last second.
    pub(crate) end: i64,
    pub(crate) status: Status,
}

impl Interface {
    /// `srcaddr` and `dstaddr`. AWS's rule is asymmetric: only the end that is the interface's, the destination of what
    /// comes in and the source of what goes out, and only IPv4.
    #[inline]
    pub(crate) fn ends(&self, flow: &Flow) -> (IpAddr, IpAddr) {
        let (src, dst) = (flow.key.src, flow.key.dst);
        match (self.stands_for, flow.key.direction) {
            (Some(primary), Direction::Ingress) if dst.is_ipv4() => (src, primary.into()),
            (Some(primary), Direction::Egress) if src.is_ipv4() => (primary.into(), dst),
            _ => (src, dst),
        }
    }
}

/// A closed window, ready to publish. Records are made while they are read, so a million of them cost no memory.
pub(crate) struct Batch<'a> {
    pub(crate) host: &'a Host,
    /// The batch's own number, the same when it is published again.
    pub(crate) number: u64,
    pub(crate) start: i64,
    /// Inclusive.
    pub(crate) end: i64,
    pub(crate) traffic_type: TrafficType,
    /// Those of another traffic type, or of other interfaces than below, give no record.
    pub(crate) flows: &'a [Flow],
    /// NODATA and SKIPDATA, by ifindex.
    pub(crate) statuses: &'a [(u32, Status)],
    /// By ifindex. What is not in here gives no record.
    pub(crate) interfaces: &'a BTreeMap<u32, Interface>,
}

impl<'a> Batch<'a> {
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let Batch { host, start, end, traffic_type, interfaces, .. } = *self;
        // Neighbours are mostly of one interface.
        let mut last: Option<(u32, &'a Interface)> = None;
        let admitted = self.flows.iter().filter(move |flow| traffic_type.admits(flow));
        let of_flows = admitted.filter_map(move |flow| {
            let ifindex = flow.key.ifindex;
            let known = last.filter(|&(last, _)| last == ifindex);
            let (_, interface) =
                *last.insert(known.or_else(|| interfaces.get(&ifindex).map(|interface| (ifindex, interface)))?);
            let Flow { first, last, .. } = *flow;
            Some(Record { host, interface, flow: Some(flow), start: first, end: last, status: Status::Ok })
        });
        let of_statuses = self.statuses.iter().filter_map(move |&(ifindex, status)| {
            let interface = interfaces.get(&ifindex)?;
            Some(Record { host, interface, flow: None, start, end, status })
        });
        of_flows.chain(of_statuses)
    }
}
