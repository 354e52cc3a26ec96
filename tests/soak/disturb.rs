//! What happens to an agent in a day, again and again.

use std::fmt;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use flowlogd_tests::agent::Agent;
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use nix::sys::signal::Signal;

/// Each round has every disturbance once.
const ROUND: u64 = 60;
const EACH: usize = 20;

pub(crate) struct Disturber<'a> {
    pair: &'a Pair,
    away: &'a [Proxy; 2],
    config: &'a ConfigFile,
    logs: Vec<String>,
    /// Comes and goes by reloads.
    extra: String,
    /// What was done last, in steps of all rounds.
    done: u64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    interfaces: usize,
    reloads: usize,
    outages: usize,
    errors: usize,
}

type Step = fn(&mut Disturber, &Agent) -> Result<()>;

/// Seconds into the round.
const STEPS: [(u64, Step); 10] = [
    (2, |it, _| it.plug()),
    (6, |it, _| it.unplug()),
    (10, |it, agent| it.reload(agent, true)),
    (16, |it, _| it.down(0)),
    (22, |it, _| it.down(1)),
    (30, |it, _| it.plug()),
    (34, |it, _| it.unplug()),
    (40, |it, _| it.pass()),
    (44, |it, agent| it.reload(agent, false)),
    (50, |it, _| it.fail()),
];

/// Of interfaces that come and go.
pub(crate) fn hot_plugged(beside: &Path) -> String {
    delivery::directory(&beside.join("plugged")).replace("\"a0\"", "\"hp*\"") + "retention-bytes = \"1MiB\"\n"
}

impl<'a> Disturber<'a> {
    pub(crate) fn new(
        pair: &'a Pair,
        away: &'a [Proxy; 2],
        config: &'a ConfigFile,
        logs: &[String],
        beside: &Path,
    ) -> Self {
        let extra = delivery::directory(&beside.join("extra")) + "retention-bytes = \"1MiB\"\n";
        Self { pair, away, config, logs: logs.to_vec(), extra, done: 0, counts: Counts::default() }
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, elapsed: Duration, agent: &Agent) -> Result<()> {
        loop {
            let (round, at) = (self.done / STEPS.len() as u64, self.done % STEPS.len() as u64);
            let (second, step) = STEPS[usize::try_from(at)?];
            if elapsed.as_secs() < round * ROUND + second {
                return Ok(());
            }
            self.done += 1;
            step(self, agent)?;
        }
    }

    /// Everything is as it was.
    pub(crate) fn calm(&mut self) -> Result<()> {
        self.pass()
    }

    fn plug(&mut self) -> Result<()> {
        let mut lines = String::new();
        for number in 0..EACH {
            writeln!(lines, "link add hp{number} group 77 type veth peer name hq{number} group 77")?;
        }
        self.counts.interfaces += EACH;
        self.pair.a.ip_batch(&lines)?;
        self.pair.a.ip("link set dev hp0 up").map(drop)
    }

    fn unplug(&mut self) -> Result<()> {
        self.pair.a.ip("link del group 77").map(drop)
    }

    fn reload(&mut self, agent: &Agent, with_extra: bool) -> Result<()> {
        let mut logs = self.logs.clone();
        logs.extend(with_extra.then(|| self.extra.clone()));
        self.config.write(&logs)?;
        self.counts.reloads += 1;
        agent.signal(Signal::SIGHUP)
    }

    fn down(&mut self, which: usize) -> Result<()> {
        self.counts.outages += 1;
        self.away[which].set(Mode::Down)
    }

    fn pass(&mut self) -> Result<()> {
        self.away.iter().try_for_each(|proxy| proxy.set(Mode::Pass))
    }

    /// Until the next outage.
    fn fail(&mut self) -> Result<()> {
        self.counts.errors += 1;
        self.away[0].set_every(3, Mode::UNAVAILABLE)?;
        self.away[1].set_every(3, Mode::TruncateResponse)
    }
}

impl fmt::Display for Disturber<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Counts { interfaces, reloads, outages, errors } = self.counts;
        write!(
            f,
            "{interfaces} interfaces came and went, {reloads} reloads, {outages} outages, {errors} times errors at every third call"
        )
    }
}

/// Of all files below a directory, as du counts.
pub(crate) fn disk_bytes(directory: &Path) -> Result<u64> {
    let files = delivery::files(directory)?;
    files.iter().map(|path| Ok(path.metadata()?.blocks() * 512)).sum()
}
