//! The stages behind the capture, one at a time, for the benchmark. No interface to build on.
//! Must not do anything that the agent does not do.
#![forbid(unsafe_code)]

mod deliver;
mod look;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

pub use deliver::{DeliverCost, deliver, fill};
pub use look::{LookCost, look};

use crate::capture::flow::Drained;
use crate::emit;
use crate::encode;
use crate::flow_log::{
    CloudWatchLogs, Destination, Endpoint, Fields, FileFormat, Firehose, FlowLog, Framing, Layout, S3, TrafficType,
};
use crate::format::Format;
use crate::identity::{self, Identity};
use crate::journal::format::{self, Entry};
use crate::journal::{Frame, Journal};
use crate::record::{Batch, Host, Interface};
use crate::select::Selection;
use crate::sink::{Delivered, Directory, Names, Objects, Outcome, Shape, Store};
use crate::spool::{Deflate, Segment, Spool};
use crate::window::{Closed, Windows};

/// A closed window, and what an agent knows by then.
pub struct Window {
    closed: Closed,
    host: Host,
    interfaces: BTreeMap<u32, Interface>,
}

/// Merges a drain's batches as the end of a window does.
#[must_use]
pub fn close_window(drained: Drained, start: i64, end: i64) -> Window {
    let mut windows = Windows::default();
    windows.absorb(drained);
    let closed = windows.close(start, end);
    let interface = |index: u32| {
        let (id, name) = (identity::interface_id("bench", &index.to_string()), format!("eth{index}"));
        (index, Interface { id, name, ..Interface::default() })
    };
    let interfaces = closed.totals.iter().map(|totals| interface(totals.ifindex)).collect();
    let host = Host { account_id: identity::STAND_IN_ACCOUNT_ID.to_owned(), ..Host::default() };
    Window { closed, host, interfaces }
}

impl Window {
    #[must_use]
    pub fn flows(&self) -> usize {
        self.closed.flows.len()
    }

    fn batch(&self, number: u64) -> Batch<'_> {
        let Closed { start, end, ref flows, .. } = self.closed;
        let (host, interfaces, traffic_type) = (&self.host, &self.interfaces, TrafficType::All);
        Batch { host, number, start, end, traffic_type, flows, statuses: &[], interfaces }
    }
}

/// Formats every flow, emptying `out` whenever a block is full. Returns the length of the whole text.
pub fn format_v2(window: &Window, out: &mut Vec<u8>) -> usize {
    let mut bytes = 0;
    for_each_block(window, out, |text| bytes += text.len());
    bytes
}

fn for_each_block(window: &Window, out: &mut Vec<u8>, mut take: impl FnMut(&[u8])) {
    let format = Format::default();
    for record in window.batch(0).records() {
        encode::append(&format, &record, out);
        if out.len() >= emit::BLOCK_BYTES {
            take(out);
            out.clear();
        }
    }
    take(out);
    out.clear();
}

/// Whose blocks are made, and who takes them.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    S3,
    /// With objects in Parquet.
    S3Parquet,
    CloudWatchLogs,
    Firehose,
}

/// What a window took on its way to the disk, and to objects. Each step alone but the last of each.
#[derive(Clone, Copy, Debug)]
pub struct SpoolCost {
    pub encode: Duration,
    pub deflate: Duration,
    /// From the closed window to a durable segment.
    pub spool: Duration,
    pub text_bytes: u64,
    pub segment_bytes: u64,
}

/// Spools a window into `root`.
pub fn spool(window: &Window, service: Service, root: &Path) -> anyhow::Result<SpoolCost> {
    let mut deflate = Duration::ZERO;
    let (mut deflater, mut scratch) = (Deflate::new(), Vec::new());
    let start = Instant::now();
    for_each_block(window, &mut Vec::with_capacity(2 * emit::BLOCK_BYTES), |text| {
        let start = Instant::now();
        scratch.clear();
        let _ = deflater.append(text, &mut scratch);
        deflate += start.elapsed();
    });
    let encode = start.elapsed() - deflate;

    let spool = Spool::open(root, u64::MAX)?;
    let log = flow_log(service, None);
    let start = Instant::now();
    let records = emit::spool(&log, &window.batch(0), &spool)?;
    let spooled = start.elapsed();
    ensure!(records == window.flows() as u64, "{records} records of {} flows", window.flows());
    let Segment { bytes: segment_bytes, text_bytes, .. } = *spool.segments().last().context("no segment")?;
    Ok(SpoolCost { encode, deflate, spool: spooled, text_bytes, segment_bytes })
}

/// `url`: of the service's stand-in.
fn flow_log(service: Service, url: Option<&str>) -> FlowLog {
    let region = "us-east-1".to_owned();
    let endpoint = Endpoint { region, url: url.map(str::to_owned), path_style: true, profile: None };
    let name = "bench".to_owned();
    let file_format = if matches!(service, Service::S3Parquet) { FileFormat::Parquet } else { FileFormat::PlainText };
    let destination = match service {
        Service::S3 | Service::S3Parquet => Destination::S3(S3 {
            bucket: name,
            folder: String::new(),
            layout: Layout { object_interval: 300, file_format, ..Layout::default() },
            kms_key: None,
            bucket_owner_full_control: false,
            endpoint,
        }),
        Service::CloudWatchLogs => {
            Destination::CloudWatchLogs(CloudWatchLogs { group: name, retention_days: None, endpoint })
        }
        Service::Firehose => Destination::Firehose(Firehose { stream: name, framing: Framing::default(), endpoint }),
    };
    FlowLog {
        id: identity::flow_log_id(&["bench"]),
        selection: Selection::default(),
        traffic_type: TrafficType::All,
        interval: 600,
        format: Format::default(),
        destination,
        tags: BTreeMap::new(),
        fields: Fields::default(),
        spool_bytes_max: 0,
    }
}

/// What the blocks of a spool take before anything is done with them.
#[derive(Clone, Copy, Debug)]
pub struct ReadCost {
    /// Read and check every one.
    pub read: Duration,
    /// Inflate it, for who takes lines.
    pub inflate: Duration,
}

/// Reads what is in the spool in `root`.
pub fn read(root: &Path) -> anyhow::Result<ReadCost> {
    let spool = Spool::open(root, u64::MAX)?;
    let (start, mut inflate) = (Instant::now(), Duration::ZERO);
    for segment in spool.segments() {
        for block in spool.read(segment.id)? {
            let block = block?;
            let start = Instant::now();
            black_box(block.text()?);
            inflate += start.elapsed();
        }
    }
    Ok(ReadCost { read: start.elapsed() - inflate, inflate })
}

/// What it took to make objects of a spool.
#[derive(Clone, Copy, Debug)]
pub struct ObjectsCost {
    /// From the spool to objects that are synced.
    pub publish: Duration,
    pub objects: u64,
    pub bytes: u64,
}

/// Publishes what is in the spool in `root` as objects below `target`.
pub fn objects(root: &Path, target: &Path) -> anyhow::Result<ObjectsCost> {
    let spool = Arc::new(Spool::open(root, u64::MAX)?);
    let log = flow_log(Service::S3, None);
    let names = Names::new(Identity::new(None, None)?, &log.id, "", Layout::default());
    let store = Store::Directory(Directory::create(target.to_owned(), &names)?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let start = Instant::now();
    let mut objects =
        Objects::open(Arc::clone(&spool), names, Shape::new(FileFormat::PlainText, &log.format), 300, store)?;
    while let Some(outcome) = runtime.block_on(objects.deliver(0, true)) {
        ensure!(outcome == Outcome::Done, "{outcome:?}");
    }
    let publish = start.elapsed();
    let Delivered { calls, bytes, .. } = objects.delivered();
    Ok(ObjectsCost { publish, objects: calls, bytes })
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
