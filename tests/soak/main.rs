//! `cargo xtask soak`: what a day does to an agent, in minutes. Traffic that never pauses, interfaces that come and go,
//! reloads, destinations that are away; then every packet is held against the records, and memory, descriptors, threads
//! and spool against what they were at first. Before that, an agent with nothing to do.

mod disturb;
mod idle;
mod sample;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, GROUP};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::Proxy;
use flowlogd_tests::steady::Steady;
use flowlogd_tests::strict_logs::StrictLogs;
use flowlogd_tests::wait_for;

use disturb::Disturber;
use sample::{Sample, Trend};

const HELP: &str = "Usage: cargo xtask soak [-- [MINUTES]]\n\
     Half an hour unless MINUTES says otherwise, at least 2. Exit code 1 when a packet is lost or something grows.";
const DEFAULT_MINUTES: u64 = 30;
const SAMPLE: Duration = Duration::from_secs(10);
const DELIVERY_LIMIT: Duration = Duration::from_secs(90);

fn minutes() -> Result<Option<u64>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Some(DEFAULT_MINUTES)),
        ["-h" | "--help"] => Ok(None),
        [minutes] => match minutes.parse() {
            Ok(minutes) if minutes >= 2 => Ok(Some(minutes)),
            _ => bail!("'{minutes}' is no number of minutes, 2 or more\n{HELP}"),
        },
        _ => bail!("too many arguments\n{HELP}"),
    }
}

fn soak(length: Duration) -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let server = StrictLogs::start(&pair.a, "127.0.0.1:4001".parse()?)?;
    let away = [Proxy::start(&pair.a, 4000, moto.address)?, Proxy::start(&pair.a, 4002, server.address())?];
    let kept = tempfile::tempdir()?;
    let logs = [
        delivery::s3_by_window(&away[0].url()),
        delivery::cloud_watch_logs(&away[1].url()),
        // More than it keeps.
        delivery::directory(kept.path()) + "retention-bytes = \"1MiB\"\n",
        disturb::hot_plugged(kept.path()),
    ];
    let config = ConfigFile::new(&logs)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    let traffic = Steady::start(&pair)?;
    let mut disturber = Disturber::new(&pair, &away, &config, &logs, kept.path());
    let start = Instant::now();
    let mut samples = Vec::new();
    println!("{}", Sample::HEADER);
    while start.elapsed() < length {
        disturber.step(start.elapsed(), &agent)?;
        if start.elapsed() >= SAMPLE * u32::try_from(samples.len())? {
            let sample = Sample::take(&pair.a, &agent, start.elapsed())?;
            println!("{sample}");
            samples.push(sample);
        }
        thread::sleep(Duration::from_millis(200));
    }
    disturber.calm()?;
    let sent = traffic.stop()?;
    wait_for("delivery of what waits", DELIVERY_LIMIT, || {
        Ok(delivery::is_delivered(agent.state_directory())?.then_some(()))
    })?;
    let last = Sample::take(&pair.a, &agent, start.elapsed())?;
    println!("{last}");
    ensure!(last.segments == 0, "{} segments are left", last.segments);
    agent.stop()?.expect_nothing_lost()?;
    println!("disturbed: {disturber}");
    println!("sent: {} packets", sent.packets()?);
    sent.expect_each_once(&delivery::objects_in(&moto, delivery::FOLDER)?).context("S3")?;
    server.expect_no_violation()?;
    let events = server.group(GROUP).context("no log group")?.streams.into_values().flatten();
    let events = events.map(|event| delivery::check_event(&event)).collect::<Result<Vec<_>>>()?;
    // A call whose answer was cut off is made again.
    sent.expect_each_once(&[delivery::distinct(events)]).context("CloudWatch Logs")?;
    let bytes = disturb::disk_bytes(&kept.path().join("AWSLogs"))?;
    println!("directory that may hold 1 MiB: {} KiB", bytes >> 10);
    ensure!(bytes <= 1 << 20, "retention: {bytes} bytes");
    let trend = Trend::of(&samples)?;
    println!("{trend}");
    trend.expect_flat()
}

fn run() -> Result<bool> {
    let Some(minutes) = minutes()? else {
        println!("{HELP}");
        return Ok(true);
    };
    let idle = idle::measure(Duration::from_secs(60))?;
    println!("{idle}");
    soak(Duration::from_secs(60 * minutes))?;
    idle.expect_small()?;
    println!("flat, and every packet in one record");
    Ok(true)
}

fn main() -> ExitCode {
    match run() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
