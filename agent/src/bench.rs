//! The stages behind the capture, one at a time, for the benchmark. No interface to build on.
//! Must not do anything that the agent does not do.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;

use crate::capture::flow::Drained;
use crate::encode;
use crate::identity::{self, Identity};
use crate::record::Batch;
use crate::sink::{DirectorySink, Sink};
use crate::window::{Closed, Windows};

/// As much as the directory sink collects before it compresses.
const BUFFER_BYTES: usize = 1 << 20;

/// A closed window, and what an agent knows by then.
pub struct Window {
    closed: Closed,
    interface_ids: BTreeMap<u32, String>,
}

/// Merges a drain's batches as the end of a window does.
#[must_use]
pub fn close_window(drained: Drained, start: i64, end: i64) -> Window {
    let mut windows = Windows::default();
    windows.absorb(drained);
    let closed = windows.close(start, end);
    let interfaces = closed.totals.iter().map(|totals| totals.ifindex);
    let interface_ids = interfaces.map(|index| (index, identity::interface_id("bench", &index.to_string()))).collect();
    Window { closed, interface_ids }
}

impl Window {
    #[must_use]
    pub fn flows(&self) -> usize {
        self.closed.flows.len()
    }

    fn batch(&self) -> Batch<'_> {
        let Closed { start, end, ref flows, .. } = self.closed;
        let account_id = identity::STAND_IN_ACCOUNT_ID;
        Batch { account_id, start, end, flows, statuses: &[], interface_ids: &self.interface_ids }
    }
}

/// Formats every flow, emptying `out` whenever a sink would. Returns the length of the whole text.
pub fn format_v2(window: &Window, out: &mut Vec<u8>) -> usize {
    let mut bytes = 0;
    for record in window.batch().records() {
        encode::append(&record, out);
        if out.len() >= BUFFER_BYTES {
            bytes += out.len();
            out.clear();
        }
    }
    bytes + out.len()
}

/// Formats, compresses and syncs every flow into objects below `root`. Returns the number of records.
pub fn gzip_directory(window: &Window, root: &Path) -> anyhow::Result<u64> {
    let identity = Identity::new(None, None)?;
    let flow_log_id = identity::flow_log_id(&["bench"]);
    let mut sink = Sink::Directory(DirectorySink::create(root.to_owned(), &identity, &flow_log_id)?);
    Ok(sink.publish(&window.batch())?)
}
