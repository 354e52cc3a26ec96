//! No agent for longer than the 24 bits of a time in the flow tables reach back (6 to 12 days). What was counted is
//! logged to the packet; its times may be too late, and that is said.
//!
//! The long time is faked on every clock that tells of it. The first agent's wall clock is that of 13 days ago; the times
//! of what it counted are set back by as much; and the next agent runs in a time namespace whose monotonic clock is that
//! much ahead. What they cannot see of each other's clocks (jiffies) is not compared.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use flowlogd_tests::agent::{Agent, Options, Stopped};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::faketime::now;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::nft::Firewall;
use flowlogd_tests::policy::{self, Split};
use flowlogd_tests::records::{Record, Status};
use flowlogd_tests::{ICMP, Totals, UDP, records, traffic};
use nix::time::{ClockId, clock_getres};

/// Longer than times reach back with any length of a tick.
const DAYS: u64 = 13;
const GONE: u64 = DAYS * 86_400;
/// Seconds that the test itself takes at the most, with a loaded machine's pauses.
const SLACK: u64 = 60;

const NANOSECONDS: u64 = 1_000_000_000;

const REFUSED: u16 = 9000;
const SIZE: usize = 100;

/// Nanoseconds of a unit of the tables' times: ticks, doubled until they are 32 ms.
fn unit() -> Result<u64> {
    let tick = std::time::Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?);
    let mut unit = u64::try_from(tick.as_nanos())?;
    while unit < 32_000_000 {
        unit *= 2;
    }
    Ok(unit)
}

/// A table of sets, `WORDS` long with four entries each. `times` are the words of an entry with a time in their low 24
/// bits; above that, the second one's has the packets. Says how many entries there were.
fn age_table<const WORDS: usize>(path: PathBuf, times: [usize; 2], units: u64) -> Result<u64>
where
    [u64; WORDS]: Pod,
{
    let mut table: Array<_, [u64; WORDS]> = Map::Array(MapData::from_pin(path)?).try_into()?;
    let mut aged = 0;
    for at in 0..table.len() {
        let mut set = table.get(&at, 0)?;
        let used = set.chunks_exact_mut(WORDS / 4).filter(|entry| entry[times[1]] >> 32 != 0);
        let mut touched = 0;
        for entry in used {
            for time in times {
                entry[time] = entry[time] & !0xff_ffff | entry[time].wrapping_sub(units) & 0xff_ffff;
            }
            touched += 1;
        }
        if touched > 0 {
            table.set(at, set, 0)?;
        }
        aged += touched;
    }
    Ok(aged)
}

/// The hash of refused flows has whole times.
fn age_drops(path: PathBuf, units: u64) -> Result<u64> {
    let mut drops: HashMap<_, [u64; 7], [u64; 5]> = Map::HashMap(MapData::from_pin(path)?).try_into()?;
    let mut aged = 0;
    for entry in drops.iter().collect::<Vec<_>>() {
        let (key, mut value) = entry?;
        value[2] -= units;
        value[3] -= units;
        drops.insert(key, value, 0)?;
        aged += 1;
    }
    Ok(aged)
}

/// Makes what a dead agent counted as old as the test says it is.
fn age(pins: &BpfFs) -> Result<()> {
    let units = GONE * NANOSECONDS / unit()?;
    let contents = pins.contents()?;
    let generation = contents.iter().find_map(|path| path.strip_suffix("/FLOW4")).context("no pinned table")?;
    let pin = |name: &str| pins.directory().join("..").join(generation).join(name);
    ensure!(age_table::<16>(pin("FLOW4"), [2, 3], units)? > 0, "nothing in FLOW4");
    age_table::<32>(pin("FLOW6"), [5, 6], units)?;
    ensure!(age_drops(pin("DROPS"), units)? > 0, "nothing in DROPS");
    Ok(())
}

/// What an agent of 13 days ago and the one of now have logged of 4 echoes and 300 refused datagrams before its death,
/// and of 3 echoes and 200 datagrams after.
struct Outcome {
    stopped: Stopped,
    refused: Totals,
    /// Seconds of the first agent's start, by its own clock, and of the second one's.
    began: u64,
    again: u64,
}

fn die_and_go_on(pair: &Pair, pins: &BpfFs, second: impl FnOnce(Options) -> Options) -> Result<Outcome> {
    let logs = tempfile::TempDir::new()?;
    let rules = [("refused", "udp dport 9000", "drop")];
    let firewall = Firewall::new(&pair.a, "type filter hook input priority 0", &rules)?;
    let options = Options::on(&["a0"]).interval(600).into(logs.path()).pins_in(pins);
    let began = now()? - GONE;
    let agent = Agent::start(&pair.a, &options.clone().fake_time("FAKETIME", &format!("-{DAYS}d"))?)?;
    traffic::ping(&pair.a, Pair::B4, 4)?;
    policy::datagrams(&pair.b, Pair::A4, REFUSED, SIZE, 300)?;
    firewall.wait_matched("refused", 300)?;
    agent.kill()?;
    age(pins)?;
    let again = now()?;
    let mut ahead = second(options);
    ahead.wrapper = ["unshare", "--time", "--monotonic", &GONE.to_string(), "--"].map(str::to_owned).to_vec();
    let agent = Agent::start(&pair.a, &ahead)?;
    traffic::ping(&pair.a, Pair::B4, 3)?;
    policy::datagrams(&pair.b, Pair::A4, REFUSED, SIZE, 200)?;
    let refused = firewall.wait_matched("refused", 500)?;
    let stopped = agent.stop()?;
    Ok(Outcome { stopped, refused, began, again })
}

/// Every packet is in one record, whenever it was, and that the times of some are late is said once.
fn expect_counts(outcome: &Outcome) -> Result<()> {
    let Outcome { stopped, refused, .. } = outcome;
    policy::expect_all_matched(stopped)?;
    let echoes = records::by_flow(&stopped.records).into_iter().filter(|(flow, _)| flow.protocol == ICMP);
    for (flow, totals) in echoes {
        ensure!(totals == Totals { packets: 7, bytes: 7 * 84 }, "{flow:?}: {totals}");
    }
    Split::udp(stopped, REFUSED, true).expect("refused", Split::rejected(*refused))?;
    let what = "longer than times in the tables reach back";
    let said = stopped.stderr.iter().filter(|line| line.contains(what)).count();
    ensure!(said == 1, "said {said} times: {:?}", stopped.stderr);
    Ok(())
}

/// `start` of the first and `end` of the last record of a protocol.
fn span(records: &[Record], protocol: u8) -> Result<(u64, u64)> {
    let of = |record: &&Record| matches!(&record.status, Status::Ok { flow, .. } if flow.protocol == protocol);
    let starts = records.iter().filter(of).map(|record| record.start).min();
    let ends = records.iter().filter(of).map(|record| record.end).max();
    Ok((starts.context("no record")?, ends.context("no record")?))
}

/// With the window's journal the window is 13 days long. The refused flows' times are whole ones, and right.
#[test]
fn the_window_goes_on() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let outcome = die_and_go_on(&pair, &pins, |options| options)?;
    expect_counts(&outcome)?;
    let Outcome { stopped, began, again, .. } = outcome;
    ensure!(stopped.stderr.iter().any(|line| line.contains("going on with")), "{:?}", stopped.stderr);
    let (start, end) = span(&stopped.records, UDP)?;
    ensure!((began - 1..began + SLACK).contains(&start), "refused from {start}, not {began}");
    ensure!((again..again + SLACK).contains(&end), "refused until {end}, not {again}");
    // Too late by as often as the 24 bits went round, and inside the window.
    let (start, end) = span(&stopped.records, ICMP)?;
    let round = unit()? << 24;
    let late = GONE * NANOSECONDS / round * round / NANOSECONDS;
    ensure!((began + late - 1..began + late + SLACK).contains(&start), "echoes from {start}, not {began} + {late}");
    ensure!((again..again + SLACK).contains(&end), "echoes until {end}, not {again}");
    Ok(())
}

/// Without a journal nothing tells of an older window: all is in the present one.
#[test]
fn the_window_is_a_new_one() -> Result<()> {
    let (pair, pins) = (Pair::new()?, BpfFs::new()?);
    let outcome = die_and_go_on(&pair, &pins, |mut options| {
        options.state = None;
        options
    })?;
    expect_counts(&outcome)?;
    for record in &outcome.stopped.records {
        let inside = outcome.again..outcome.again + SLACK;
        ensure!(inside.contains(&record.start) && inside.contains(&record.end), "{record:?} not in {inside:?}");
    }
    Ok(())
}
