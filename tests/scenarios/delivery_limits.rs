//! CloudWatch Logs is never sent a batch that is outside its limits, whatever the backlog; what it would not take is kept.

use std::fs;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile, ENI, GROUP};
use flowlogd_tests::moto::Event;
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::records::{self, Record};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::strict_logs::StrictLogs;
use flowlogd_tests::traffic::{self, Sink};
use flowlogd_tests::{Flow, Totals, UDP, expect_equal};
use tempfile::{NamedTempFile, TempDir};

/// More than a window's datagrams of a flow.
const WINDOW: u64 = 1200;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const MILLISECONDS: i64 = 1000;

fn strict(ns: &Netns) -> Result<(StrictLogs, Proxy)> {
    let server = StrictLogs::start(ns, "127.0.0.1:4001".parse()?)?;
    let proxy = Proxy::start(ns, 4000, server.address())?;
    Ok((server, proxy))
}

fn taken(server: &StrictLogs, group: &str) -> Vec<Event> {
    server.group(group).unwrap_or_default().streams.remove(&format!("{ENI}-all")).unwrap_or_default()
}

/// The agent's clock goes through these offsets (seconds), a window at least each, while nothing can be delivered.
fn backlog(offsets: &[i64]) -> Result<()> {
    let pair = Pair::new()?;
    let (server, proxy) = strict(&pair.a)?;
    let config = ConfigFile::new(&[delivery::cloud_watch_logs(&proxy.url())])?;
    let (state, clock) = (TempDir::new()?, NamedTempFile::new()?);
    let options = config
        .options()
        .state_in(state.path())
        .fake_time("FAKETIME_TIMESTAMP_FILE", clock.path().to_str().context("path")?)?
        .env("FAKETIME_NO_CACHE", "1");
    proxy.set(Mode::Down)?;
    let set = |offset: i64| fs::write(&clock, format!("{offset:+}\n"));
    set(*offsets.first().context("no offset")?)?;
    let agent = Agent::start(&pair.a, &options)?;
    let traffic = Steady::start(&pair)?;
    for offset in offsets {
        set(*offset)?;
        traffic.wait(WINDOW)?;
    }
    let sent = traffic.stop()?;
    proxy.set(Mode::Pass)?;
    agent.stop()?.expect_nothing_lost()?;

    server.expect_no_violation()?;
    let events = taken(&server, GROUP);
    let late = events.windows(2).position(|pair| pair[0].timestamp > pair[1].timestamp);
    ensure!(late.is_none(), "event {late:?} is older than the one before");
    let oldest = i64::try_from(flowlogd_tests::now()?.as_millis())? - 14 * DAY * MILLISECONDS;
    ensure!(events.iter().all(|event| event.timestamp >= oldest), "an event is too old");
    let span = events.last().context("no event")?.timestamp - events[0].timestamp;
    ensure!(span > DAY * MILLISECONDS, "a backlog of {span} ms");
    let kept = delivery::dead_letters(state.path())?;
    let has_old = offsets.iter().any(|offset| *offset < -14 * DAY);
    ensure!(kept.is_empty() != has_old, "{} lines kept for a person", kept.len());
    let status = delivery::status(state.path(), GROUP)?;
    ensure!(status["dead_lettered"] == kept.len(), "{status}");
    let events = events.iter().map(delivery::check_event).collect::<Result<_>>()?;
    sent.expect_each_once(&[events, kept])
}

#[test]
fn more_than_a_day_of_backlog() -> Result<()> {
    backlog(&[-26 * HOUR, -24 * HOUR - 5, -24 * HOUR, -20 * HOUR, -8 * HOUR, -2 * HOUR, 0])
}

#[test]
fn what_is_too_old_is_kept_for_a_person() -> Result<()> {
    backlog(&[-15 * DAY, -14 * DAY - HOUR, -13 * DAY, -2 * DAY, 0])
}

/// One window of so many flows that a batch is full by its bytes, and of short lines by its events.
#[test]
fn more_lines_than_a_batch_holds() -> Result<()> {
    const FLOWS: std::ops::Range<u16> = 20_000..45_000;
    let pair = Pair::new()?;
    let (server, proxy) = strict(&pair.a)?;
    let in_one_window = |log: String| log.replace("interval = 1\n", "interval = 600\n");
    let long = in_one_window(delivery::cloud_watch_logs(&proxy.url()));
    let short = long.replace(GROUP, "/short") + "log-format = \"${srcport} ${packets}\"\n";
    let config = ConfigFile::new(&[long, short])?;
    let sink = Sink::new(&pair.b, Pair::B4, 9000)?;
    let agent = Agent::start(&pair.a, &config.options())?;
    // Returns when all have arrived: a datagram of each.
    traffic::udp_flows(&pair.a, Pair::A4, FLOWS, &sink, 100, 1)?;
    agent.stop()?.expect_nothing_lost()?;

    server.expect_no_violation()?;
    let batches = server.batches();
    ensure!(batches.iter().any(|batch| batch.events == 10_000), "no batch is full of events: {batches:?}");
    ensure!(batches.iter().any(|batch| batch.bytes > 1_048_576 - 200), "no batch is full of bytes: {batches:?}");
    let records: Vec<Record> = taken(&server, GROUP).iter().map(delivery::check_event).collect::<Result<_>>()?;
    let logged = records::by_flow(&records).into_iter().filter(|(flow, _)| flow.protocol == UDP).collect();
    let (src, dst) = (Pair::A4.parse()?, Pair::B4.parse()?);
    let sent = FLOWS.map(|sport| Flow { src, dst, protocol: UDP, sport, dport: 9000 });
    let sent = sent.map(|flow| (flow, Totals { packets: 1, bytes: 128 })).collect();
    expect_equal(&sent, &logged)?;
    let mut ports: Vec<u16> = Vec::new();
    for event in taken(&server, "/short") {
        let (port, packets) = event.message.split_once(' ').context(event.message.clone())?;
        if packets == "1" {
            ports.push(port.parse()?);
        }
    }
    ports.retain(|port| FLOWS.contains(port));
    ports.sort_unstable();
    ensure!(ports.iter().copied().eq(FLOWS), "{} of {} short lines", ports.len(), FLOWS.len());
    Ok(())
}
