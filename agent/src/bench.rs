//! The stages behind the capture, one at a time, for the benchmark. No interface to build on.
//! Must not do anything that the agent does not do.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::capture::flow::Drained;
use crate::emit;
use crate::encode;
use crate::flow_log::{Destination, FlowLog, Layout, TrafficType};
use crate::format::Format;
use crate::identity;
use crate::journal::format::{self, Entry};
use crate::journal::{Frame, Journal};
use crate::record::Batch;
use crate::select::Selection;
use crate::spool::Spool;
use crate::window::{Closed, Windows};

/// As much as is collected before it is compressed.
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
        let (traffic_type, interface_ids) = (TrafficType::All, &self.interface_ids);
        Batch { account_id, number: 0, start, end, traffic_type, flows, statuses: &[], interface_ids }
    }
}

/// Formats every flow, emptying `out` whenever a sink would. Returns the length of the whole text.
pub fn format_v2(window: &Window, out: &mut Vec<u8>) -> usize {
    let (format, mut bytes) = (Format::default(), 0);
    for record in window.batch().records() {
        encode::append(&format, &record, out);
        if out.len() >= BUFFER_BYTES {
            bytes += out.len();
            out.clear();
        }
    }
    bytes + out.len()
}

/// Formats, compresses and syncs every flow into a spool below `root`. Returns the number of records.
pub fn spool(window: &Window, root: &Path) -> anyhow::Result<u64> {
    let log = FlowLog {
        id: identity::flow_log_id(&["bench"]),
        selection: Selection::default(),
        traffic_type: TrafficType::All,
        interval: 60,
        format: Format::default(),
        destination: Destination::Directory { root: root.to_owned(), layout: Layout::default() },
        tags: BTreeMap::new(),
        spool_bytes_max: u64::MAX,
    };
    Ok(emit::spool(&log, &window.batch(), &Spool::open(root, log.spool_bytes_max)?)?)
}

/// What the journal took for one drain.
#[derive(Clone, Copy, Debug)]
pub struct JournalCost {
    /// Without writing.
    pub encode: Duration,
    /// Encode, write and sync; the file is there already.
    pub append: Duration,
    /// Find the window, check and decode it.
    pub replay: Duration,
    /// Of the drain in the file.
    pub bytes: usize,
}

/// Appends a drain to a journal in `root` and replays it.
pub fn journal(drained: Drained, root: &Path) -> anyhow::Result<JournalCost> {
    let empty = Frame { generation: 1, epoch: 1, drained: Drained::default() };
    let frame = Frame { generation: 1, epoch: 2, drained };
    let start = Instant::now();
    let bytes = format::entry(0, 0, &Entry::Drain(&frame)).context("too many flows")?.len();
    let encode = start.elapsed();

    let (mut journal, _) = Journal::open(root, u64::MAX)?;
    journal.begin((0, 59), 0);
    journal.append(&empty)?;
    let start = Instant::now();
    journal.append(&frame)?;
    let append = start.elapsed();
    drop(journal);

    let start = Instant::now();
    let (mut journal, recovery) = Journal::open(root, u64::MAX)?;
    let window = recovery.windows.first().context("no window came back")?;
    let frames = window.frames()?.collect::<Result<Vec<_>, _>>()?;
    let replay = start.elapsed();
    ensure!(frames == [empty, frame], "other frames came back");
    journal.forget(window.id)?;
    Ok(JournalCost { encode, append, replay, bytes })
}
