//! A backlog is delivered in the memory of an object, however large it is.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::http::{self, Request, Response};
use flowlogd_tests::listener::Listener;
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::wait_for;
use tempfile::TempDir;

/// What a backlog may add to an agent's: the largest object, of lines that compress badly, and what is around it.
const MEMORY_MAX: u64 = 32 << 20;
/// Segment files.
const BACKLOG: u64 = 8 * MEMORY_MAX;
const FLOWS: std::ops::Range<u16> = 20_000..45_000;
const PORT: u16 = 9500;

/// An S3 that keeps nothing but the number of records to [`PORT`] that it was sent.
fn stand_in(ns: &Netns, records: &Arc<AtomicU64>) -> Result<Listener> {
    let records = Arc::clone(records);
    http::serve(ns, "127.0.0.1:4000".parse()?, move |request: &Request| {
        let lines = BufReader::with_capacity(1 << 16, GzDecoder::new(&request.body[..])).split(b'\n');
        let port = format!(" {PORT} 17 1 ");
        let ours = |line: &Vec<u8>| line.windows(port.len()).any(|part| part == port.as_bytes());
        let count = lines.map_while(std::io::Result::ok).filter(ours).count();
        records.fetch_add(count as u64, Ordering::Relaxed);
        Response::new(200, "application/xml", "").with("ETag", "\"of-nothing\"")
    })
}

fn segments(state: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = delivery::files(&state.join("spool"))?;
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "seg"));
    paths.sort();
    Ok(paths)
}

/// Puts copies of all segments behind them until there are this many bytes. How often each is there then.
fn multiply(state: &Path, bytes: u64) -> Result<u64> {
    let paths = segments(state)?;
    let size = paths.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>()?;
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let mut newest = paths.last().and_then(|path| number(path)).context("no segment")?;
    let times = bytes.div_ceil(size);
    for path in (1..times).flat_map(|_| &paths) {
        newest += 1;
        fs::copy(path, path.with_file_name(format!("{newest:020}.seg")))?;
    }
    Ok(times)
}

/// The most memory that the agent had.
fn peak_bytes(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[test]
fn in_bounded_memory() -> Result<()> {
    let pair = Pair::new()?;
    let records = Arc::new(AtomicU64::new(0));
    let s3 = stand_in(&pair.a, &records)?;
    s3.set_open(false)?;
    let logs = [delivery::s3(&s3.url())];
    let config = ConfigFile::new(&[])?;
    config.write_with("[agent]\nshutdown-seconds = 0\n", &logs)?;
    let state = TempDir::new()?;
    let options = config.options().state_in(state.path());
    let sink = Sink::new(&pair.b, Pair::B4, PORT)?;
    let agent = Agent::start(&pair.a, &options)?;
    // Each returns when all have arrived: a record of each datagram, of sizes that compress as those of other traffic.
    for (port, size) in FLOWS.step_by(50).zip(1..) {
        traffic::udp_flows(&pair.a, Pair::A4, port..port + 50, &sink, 2 * size, 1)?;
    }
    let without = peak_bytes(&agent)?;
    agent.stop()?.expect_nothing_lost()?;
    let times = multiply(state.path(), BACKLOG)?;

    config.write(&logs)?;
    s3.set_open(true)?;
    let agent = Agent::start(&pair.a, &options)?;
    let all = times * FLOWS.len() as u64;
    let most = || Ok((records.load(Ordering::Relaxed) >= all / 10 * 9).then_some(()));
    wait_for("most of the backlog", Duration::from_secs(60), most)?;
    let with = peak_bytes(&agent)?;
    agent.stop()?.expect_nothing_lost()?;
    ensure!(with < without + MEMORY_MAX, "{with} bytes of memory, and {without} without a backlog of {BACKLOG}");
    ensure!(delivery::is_delivered(state.path())?, "something is left in the spool");
    let taken = records.load(Ordering::Relaxed);
    ensure!(taken == all, "{taken} records of {all}");
    Ok(())
}
