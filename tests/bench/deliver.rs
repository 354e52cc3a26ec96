//! What a window costs all the way to a service, and a backlog as large as a spool may be; and what memory that needs.
//!
//! Delivered by a process of its own on one CPU, so that its peak memory is that of delivering: it never has the flows.
//! The service is a stand-in in this process, which reads what it is sent and keeps nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flowlogd::bench::{self, ReadCost, Service, SpoolCost, Window};
use flowlogd_tests::http::{self, Request, Response};
use flowlogd_tests::listener::Listener;
use flowlogd_tests::netns::Netns;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};

use crate::report::{Cell, Table};
use crate::spool::{self, mib, ms};
use crate::{Settings, machine, min_median};

/// Makes this program deliver.
const ORDER: &str = "--deliver-to";
const LIMIT: Duration = Duration::from_secs(300);
const SERVICES: [(&str, Service); 4] = [
    ("S3", Service::S3),
    ("S3, Parquet", Service::S3Parquet),
    ("CloudWatch Logs", Service::CloudWatchLogs),
    ("Firehose", Service::Firehose),
];

/// What the process that delivers is to do.
pub(crate) struct Order {
    service: Service,
    url: String,
    root: PathBuf,
}

/// What it says of itself when it is done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Report {
    time: Duration,
    /// Of CPUs.
    user: Duration,
    kernel: Duration,
    records: u64,
    calls: u64,
    bytes: u64,
    peak_bytes: u64,
}

impl Order {
    pub(crate) fn of_this_process() -> Result<Option<Self>> {
        let arguments: Vec<String> = env::args().skip(1).collect();
        if arguments.first().is_none_or(|first| first != ORDER) {
            return Ok(None);
        }
        let [_, service, url, root] = &arguments[..] else { bail!("{ORDER} is not to be used by hand") };
        let (_, service) = SERVICES.into_iter().find(|(name, _)| name == service).context("no such service")?;
        Ok(Some(Self { service, url: url.clone(), root: root.into() }))
    }

    pub(crate) fn carry_out(self) -> Result<()> {
        let cost = bench::deliver(self.service, &self.url, &self.root, LIMIT)?;
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let micros = |micros: i64| Duration::from_micros(micros.cast_unsigned());
        let report = Report {
            time: cost.time,
            user: micros(usage.user_time().num_microseconds()),
            kernel: micros(usage.system_time().num_microseconds()),
            records: cost.records,
            calls: cost.calls,
            bytes: cost.bytes,
            peak_bytes: machine::peak_bytes()?,
        };
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}

/// Takes everything, and counts calls.
struct StandIn {
    ns: Netns,
    listener: Listener,
    calls: Arc<AtomicU64>,
}

impl StandIn {
    fn start() -> Result<Self> {
        let ns = Netns::new()?;
        let calls = Arc::new(AtomicU64::new(0));
        // As long as AWS's are.
        let entry = format!("{{\"RecordId\":\"{}\"}}", "x".repeat(220));
        let taken = format!("{{\"FailedPutCount\":0,\"RequestResponses\":[{}]}}", vec![entry; 500].join(","));
        let counter = Arc::clone(&calls);
        let listener = http::serve(&ns, "127.0.0.1:4000".parse()?, move |request: &Request| {
            counter.fetch_add(1, Ordering::Relaxed);
            match request.header("x-amz-target") {
                Some(target) if target.ends_with(".PutRecordBatch") => {
                    Response::new(200, "application/x-amz-json-1.1", taken.as_bytes())
                }
                Some(_) => Response::new(200, "application/x-amz-json-1.1", "{}"),
                None => Response::new(200, "application/xml", "").with("ETag", "\"of-nothing\""),
            }
        })?;
        Ok(Self { ns, listener, calls })
    }

    /// Has another process deliver what is in the spool in `root`.
    fn take(&self, service: &str, root: &Path) -> Result<Report> {
        self.calls.store(0, Ordering::Relaxed);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.ns.path()))
            .arg(env::current_exe()?)
            .args([ORDER, service, &self.listener.url()])
            .arg(root)
            // Nothing of what this host knows of AWS or of proxies.
            .env_clear()
            .envs([("PATH", env::var_os("PATH").unwrap_or_default())])
            .envs(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, "bench")))
            .envs(["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|name| (name, "/dev/null")))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let output = command.output()?;
        ensure!(output.status.success(), "the process that delivers: {}", output.status);
        let report: Report = serde_json::from_slice(&output.stdout)?;
        let calls = self.calls.load(Ordering::Relaxed);
        ensure!(calls == report.calls, "{calls} calls arrived for {}", report.calls);
        Ok(report)
    }
}

/// One window all the way.
struct Round {
    spool: SpoolCost,
    read: ReadCost,
    report: Report,
}

fn round(stand_in: &StandIn, window: &Window, (name, service): (&str, Service)) -> Result<Round> {
    let root = tempfile::tempdir()?;
    let spool = bench::spool(window, service, root.path())?;
    let read = bench::read(root.path())?;
    let report = stand_in.take(name, root.path())?;
    ensure!(report.records == window.flows() as u64, "{} records of {}", report.records, window.flows());
    Ok(Round { spool, read, report })
}

type Time<T> = fn(&T) -> Duration;
type Count<T> = fn(&T) -> f64;

const STAGES: [(&str, Time<Round>); 7] = [
    ("encode", |round| round.spool.encode),
    ("deflate", |round| round.spool.deflate),
    ("window to durable segment", |round| round.spool.spool),
    ("read the segment once", |round| round.read.read),
    ("inflate it", |round| round.read.inflate),
    ("deliver", |round| round.report.time),
    ("the whole", |round| round.spool.spool + round.report.time),
];

const COUNTS: [(&str, Count<Report>); 5] = [
    ("CPU of delivering, user, ms", |report| ms(report.user)),
    ("CPU of delivering, kernel, ms", |report| ms(report.kernel)),
    ("calls", |report| report.calls as f64),
    ("sent, MiB", |report| mib(report.bytes)),
    ("peak memory, MiB", |report| mib(report.peak_bytes)),
];

/// What there is to say of some records that went to a service.
struct Rows<'a> {
    table: &'a mut Table,
    records: u64,
    service: &'a str,
}

impl Rows<'_> {
    fn row(&mut self, what: &str, values: &[f64], is_stage: bool) {
        let (min, median) = min_median(values);
        let rate = is_stage.then(|| self.records as f64 / median * 1e3);
        self.table.row(vec![
            Cell::text(self.records.to_string()),
            Cell::text(self.service),
            Cell::text(what),
            Cell::number(min, 1),
            Cell::number(median, 1),
            Cell::number_or_dash(rate, 0),
        ]);
    }

    fn times<T>(&mut self, rounds: &[T], stages: &[(&str, Time<T>)]) {
        for (what, time) in stages {
            let values: Vec<f64> = rounds.iter().map(|round| ms(time(round))).collect();
            self.row(&format!("{what}, ms"), &values, true);
        }
    }

    fn counts(&mut self, reports: &[Report]) {
        for (what, count) in COUNTS {
            self.row(what, &reports.iter().map(count).collect::<Vec<f64>>(), false);
        }
    }
}

/// A spool with the first `segments` of another.
fn share(of: &Path, segments: u64) -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let mut paths = fs::read_dir(of)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "seg"));
    paths.sort();
    for path in paths.iter().take(segments as usize) {
        fs::hard_link(path, root.path().join(path.file_name().context("file name")?))?;
    }
    Ok(root)
}

/// A tenth of a full spool and all of it: what both need is what any backlog does.
fn backlog(stand_in: &StandIn, window: &Window, bytes: u64, rounds: usize, table: &mut Table) -> Result<()> {
    let (service, kind) = SERVICES[0];
    let full = tempfile::tempdir()?;
    let segments = bench::fill(window, kind, full.path(), bytes)?;
    let mut reports = [Vec::new(), Vec::new()];
    let parts = [segments.div_ceil(10), segments];
    for _ in 0..rounds {
        for (part, reports) in parts.iter().zip(&mut reports) {
            reports.push(stand_in.take(service, share(full.path(), *part)?.path())?);
        }
    }
    for (part, reports) in parts.iter().zip(reports) {
        let records = part * window.flows() as u64;
        ensure!(reports.iter().all(|report| report.records == records), "not {records} records: {reports:?}");
        let mut rows = Rows { table: &mut *table, records, service };
        rows.times(&reports, &[("deliver", |report| report.time)]);
        rows.counts(&reports);
    }
    Ok(())
}

pub(crate) fn run(settings: &Settings) -> Result<Table> {
    let (flows, full, rounds): (u32, u64, usize) =
        if settings.quick { (100_000, 256 << 20, 1) } else { (1_000_000, 1 << 30, 5) };
    let title = "deliver: from a window on one core to a service that keeps nothing, and a tenth of a full spool and all \
                 of it; peak memory: of the process that delivers";
    let mut table = Table::new(title, &["records", "service", "what", "min", "median", "records/s"]);
    // Before this thread is pinned: it has the other CPUs.
    let stand_in = StandIn::start()?;
    machine::pin()?;
    let window = spool::window(flows)?;
    let mut all: [Vec<Round>; SERVICES.len()] = Default::default();
    for _ in 0..rounds {
        for (service, rounds) in SERVICES.into_iter().zip(&mut all) {
            rounds.push(round(&stand_in, &window, service)?);
        }
    }
    for ((service, _), rounds) in SERVICES.into_iter().zip(&all) {
        let mut rows = Rows { table: &mut table, records: flows.into(), service };
        rows.times(rounds, &STAGES);
        rows.counts(&rounds.iter().map(|round| round.report).collect::<Vec<_>>());
    }
    backlog(&stand_in, &window, full, rounds.div_ceil(2), &mut table)?;
    Ok(table)
}
