//! A flow log record, and the batch of records that one window gives.
//! Must not know how a record is written or where to.
//! Always: a record has a flow exactly when its status is Ok, and start <= end.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capture::flow::Flow;
use crate::flow_log::TrafficType;

/// AWS field `log-status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Status {
    Ok,
    NoData,
    SkipData,
}

/// What one line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) account_id: &'a str,
    pub(crate) interface_id: &'a str,
    /// None for NODATA and SKIPDATA.
    pub(crate) flow: Option<&'a Flow>,
    /// Unix seconds: the flow's first packet, or the window's first second.
    pub(crate) start: i64,
    /// Unix seconds: the flow's last packet, or the window's last second.
    pub(crate) end: i64,
    pub(crate) status: Status,
}

/// A closed window, ready to publish. Records are made while they are read, so a million of them cost no memory.
pub(crate) struct Batch<'a> {
    pub(crate) account_id: &'a str,
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
    /// ifindex to interface-id. What is not in here gives no record.
    pub(crate) interface_ids: &'a BTreeMap<u32, String>,
}

impl<'a> Batch<'a> {
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let Batch { account_id, start, end, traffic_type, interface_ids, .. } = *self;
        // Neighbours are mostly of one interface.
        let mut last: Option<(u32, &'a String)> = None;
        let admitted = self.flows.iter().filter(move |flow| traffic_type.admits(flow));
        let of_flows = admitted.filter_map(move |flow| {
            let ifindex = flow.key.ifindex;
            let known = last.filter(|&(last, _)| last == ifindex);
            let (_, interface_id) =
                *last.insert(known.or_else(|| interface_ids.get(&ifindex).map(|id| (ifindex, id)))?);
            let Flow { first, last, .. } = *flow;
            Some(Record { account_id, interface_id, flow: Some(flow), start: first, end: last, status: Status::Ok })
        });
        let of_statuses = self.statuses.iter().filter_map(move |&(ifindex, status)| {
            let interface_id = interface_ids.get(&ifindex)?;
            Some(Record { account_id, interface_id, flow: None, start, end, status })
        });
        of_flows.chain(of_statuses)
    }
}
