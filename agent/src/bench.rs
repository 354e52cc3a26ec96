//! The stages behind the capture, one at a time, for the benchmark. No interface to build on.
//! Must not do anything that the agent does not do.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::capture::flow::{Drained, Flow};
use crate::encode;
use crate::identity::{self, Identity};
use crate::record::Batch;
use crate::sink::{DirectorySink, Sink};
use crate::window::Windows;

/// As much as the directory sink collects before it compresses.
const BUFFER_BYTES: usize = 1 << 20;

fn interface_ids(flows: &[Flow]) -> BTreeMap<u32, String> {
    let interfaces: BTreeSet<u32> = flows.iter().map(|flow| flow.key.ifindex).collect();
    interfaces.into_iter().map(|ifindex| (ifindex, identity::interface_id("bench", &ifindex.to_string()))).collect()
}

fn batch<'a>(flows: &'a [Flow], interface_ids: &'a BTreeMap<u32, String>) -> Batch<'a> {
    let start = flows.iter().map(|flow| flow.first).min().unwrap_or_default();
    let end = flows.iter().map(|flow| flow.last).max().unwrap_or_default();
    Batch { account_id: identity::STAND_IN_ACCOUNT_ID, start, end, flows, statuses: &[], interface_ids }
}

/// Merges a drain's batches as the end of a window does.
#[must_use]
pub fn close_window(drained: Drained) -> Vec<Flow> {
    let mut windows = Windows::default();
    windows.absorb(drained);
    windows.close(0, i64::MAX).flows
}

/// Formats every flow, emptying `out` whenever a sink would. Returns the length of the whole text.
pub fn format_v2(flows: &[Flow], out: &mut Vec<u8>) -> usize {
    let interface_ids = interface_ids(flows);
    let mut bytes = 0;
    for record in batch(flows, &interface_ids).records() {
        encode::append(&record, out);
        if out.len() >= BUFFER_BYTES {
            bytes += out.len();
            out.clear();
        }
    }
    bytes + out.len()
}

/// Formats, compresses and syncs every flow into objects below `root`. Returns the number of records.
pub fn gzip_directory(flows: &[Flow], root: &Path) -> anyhow::Result<u64> {
    let identity = Identity::new(None, None)?;
    let flow_log_id = identity::flow_log_id(&["bench"]);
    let mut sink = Sink::Directory(DirectorySink::create(root.to_owned(), &identity, &flow_log_id)?);
    let interface_ids = interface_ids(flows);
    Ok(sink.publish(&batch(flows, &interface_ids))?)
}
