//! One run: asks the agent and reads the counters around the moment at which it counted.
//! Must not know how it is shown.
//! Always: reads only; every look at a counter has its times, so that what was under way is known.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Key;
use super::answer::{Answer, Part};
use super::bracket::{Bracket, Counted};
use super::device::{self, Device, Devices};
use super::line::Line;
use super::nft::{Nft, NftError};
use super::report::{Comparison, Report};
use crate::capture::Span;
use crate::capture::flow::{Direction, Total};
use crate::capture::interfaces::{self, Interface};
use crate::serve::client::{self, ClientError};
use crate::status::{Snapshot, SumRule};

/// How long to wait for a moment without traffic, at the start and at the end.
const START_LIMIT: Duration = Duration::from_secs(2);
const END_LIMIT: Duration = Duration::from_secs(4);
/// An agent that hands over to the next one cannot be asked for a moment.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the counters while the agent is asked.
const PACE: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error("cannot list the interfaces: {0}")]
    Interfaces(nix::errno::Errno),
    #[error("this agent's version does not tell when it counted: start a new one")]
    Version,
    #[error("the agent is in another network namespace: run this there, such as by nsenter --net=/proc/{0}/ns/net")]
    Elsewhere(u32),
    #[error("the agent counts on no interface by that name: see flowlogd status")]
    Nothing,
}

/// Where in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Start,
    Run,
    End,
}

/// One interface and direction.
struct Watched {
    key: Key,
    name: String,
    nft: Line,
    device: Line,
    /// At the first look.
    dropped: Option<u64>,
    skipped: [Option<u64>; 2],
    others: u32,
}

/// One look at the counters.
struct Look {
    span: Span,
    nft: BTreeMap<Key, Total>,
    devices: Devices,
}

pub(crate) struct Session {
    socket: PathBuf,
    agent: (u32, i64),
    nft: Result<Nft, NftError>,
    /// There was one.
    by_nft: bool,
    watched: Vec<Watched>,
    sum_rule: [SumRule; 2],
    begun: Instant,
    /// Since when the agent does not answer, and why.
    silent: Option<(Instant, ClientError)>,
}

fn ask(socket: &Path) -> Result<Answer, Error> {
    let (snapshot, asked) = Span::of(|| client::get::<Snapshot>(socket, "/v1/status"));
    Answer::new(&snapshot?, asked).ok_or(Error::Version)
}

impl Session {
    /// Begins to count what passes at the agent's interfaces that are `wanted`.
    pub(crate) fn start(socket: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self, Error> {
        let answer = ask(socket)?;
        // The same name and index may be another interface's.
        if answer.namespace.zip(interfaces::namespace()).is_some_and(|(its, ours)| its != ours) {
            return Err(Error::Elsewhere(answer.agent.0));
        }
        let is_watched = |interface: &Interface| {
            let part = answer.sides.get(&Key { ifindex: interface.index, direction: Direction::Ingress });
            part.is_some_and(|part| part.is_hooked && part.name == interface.name) && wanted(&interface.name)
        };
        let mut interfaces = interfaces::list().map_err(Error::Interfaces)?;
        interfaces.retain(is_watched);
        if interfaces.is_empty() {
            return Err(Error::Nothing);
        }
        let nft = Nft::start(&interfaces);
        let watched = interfaces.iter().flat_map(|it| Key::both(it.index).map(|key| Watched::new(key, &it.name)));
        let mut session = Self {
            socket: socket.to_owned(),
            agent: answer.agent,
            by_nft: nft.is_ok(),
            nft,
            watched: watched.collect(),
            sum_rule: [answer.sum_rule.clone(), answer.sum_rule],
            begun: Instant::now(),
            silent: None,
        };
        let until = Instant::now() + START_LIMIT;
        session.look(Phase::Start)?;
        while Instant::now() < until && !session.all(Line::has_idle_start) {
            session.look(Phase::Start)?;
        }
        Ok(session)
    }

    fn all(&self, holds: fn(&Line) -> bool) -> bool {
        self.watched.iter().all(|it| holds(if self.by_nft { &it.nft } else { &it.device }))
    }

    /// Of the interfaces.
    pub(crate) fn names(&self) -> Vec<&str> {
        let ingress = self.watched.iter().filter(|watched| watched.key.direction == Direction::Ingress);
        ingress.map(|watched| watched.name.as_str()).collect()
    }

    /// Why nftables does not count.
    pub(crate) fn without_nft(&self) -> Option<String> {
        self.nft.as_ref().err().map(ToString::to_string)
    }

    /// Nothing can be compared any more.
    pub(crate) fn is_over(&self) -> bool {
        self.all(Line::is_broken)
    }

    /// Looks until nothing is to be gained by another look.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let until = Instant::now() + END_LIMIT;
        self.look(Phase::End)?;
        while Instant::now() < until && (self.silent.is_some() || !self.all(Line::is_settled)) {
            self.look(Phase::End)?;
        }
        if let Some((_, error)) = self.silent.take() {
            self.break_off(&error.to_string());
        }
        Ok(())
    }

    pub(crate) fn look(&mut self, phase: Phase) -> Result<(), Error> {
        let (answer, looks) = match self.look_around() {
            Ok(around) => around,
            Err(Error::Agent(error)) if phase != Phase::Start => {
                self.wait_for_agent(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.silent = None;
        if answer.agent != self.agent {
            self.break_off("another agent answers: it was started anew meanwhile");
            return Ok(());
        }
        // Both are there: one look was over before the question, and one began after the answer.
        let before = looks.iter().rev().find(|look| look.span.to <= answer.counted.from);
        let after = looks.iter().find(|look| look.span.from >= answer.counted.to);
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        for watched in &mut self.watched {
            match answer.sides.get(&watched.key).filter(|part| part.is_hooked && part.name == watched.name) {
                Some(part) => watched.take(part, before, after, phase),
                None => watched.break_off("the interface is gone, or the program on it"),
            }
        }
        self.sum_rule[1] = answer.sum_rule;
        Ok(())
    }

    fn wait_for_agent(&mut self, error: ClientError) {
        let (since, error) = self.silent.get_or_insert_with(|| (Instant::now(), error));
        if since.elapsed() >= PATIENCE {
            let why = error.to_string();
            self.break_off(&why);
        }
    }

    /// Looks at the counters as often as possible while the agent answers.
    fn look_around(&mut self) -> Result<(Answer, Vec<Look>), Error> {
        let mut looks = vec![self.counters()];
        let socket = self.socket.clone();
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(move || ask(&socket));
            while !answer.is_finished() {
                looks.push(self.counters());
                thread::sleep(PACE);
            }
            answer.join()
        });
        looks.push(self.counters());
        // A panic there is one here.
        Ok((answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, looks))
    }

    fn counters(&mut self) -> Look {
        let ((nft, devices), span) = Span::of(|| {
            let nft = self.nft.as_mut().map(Nft::read).unwrap_or_else(|_| Ok(BTreeMap::new()));
            (nft, device::read())
        });
        let nft = nft.unwrap_or_else(|error| {
            self.watched.iter_mut().for_each(|watched| watched.nft.break_off(&error.to_string()));
            self.nft = Err(error);
            BTreeMap::new()
        });
        Look { span, nft, devices }
    }

    fn break_off(&mut self, why: &str) {
        self.watched.iter_mut().for_each(|watched| watched.break_off(why));
    }

    /// What is known so far.
    pub(crate) fn report(&self) -> Report {
        let [first, last] = &self.sum_rule;
        Report {
            seconds: self.begun.elapsed().as_secs(),
            comparisons: self.watched.iter().map(|watched| watched.comparison(self.by_nft)).collect(),
            windows: last.windows.saturating_sub(first.windows),
            windows_with_error: last.windows_with_error.saturating_sub(first.windows_with_error),
        }
    }
}

impl Watched {
    fn new(key: Key, name: &str) -> Self {
        let (nft, device) = (Line::default(), Line::default());
        Self { key, name: name.to_owned(), nft, device, dropped: None, skipped: [None; 2], others: 0 }
    }

    fn break_off(&mut self, why: &str) {
        self.nft.break_off(why);
        self.device.break_off(why);
    }

    fn take(&mut self, part: &Part, before: &Look, after: &Look, phase: Phase) {
        self.others = part.others;
        self.skipped = [self.skipped[0].or(Some(part.skipped.packets)), Some(part.skipped.packets)];
        match (before.nft.get(&self.key), after.nft.get(&self.key)) {
            (Some(&before), Some(&after)) => {
                let agent = Counted { least: part.buffers, most: part.buffers, wire: part.wire };
                self.nft.take(Bracket { before, agent, after }, phase);
            }
            _ => self.nft.break_off("nftables does not count here"),
        }
        let at = (self.name.clone(), self.key.direction);
        let (Some(&before), Some(&after)) = (before.devices.get(&at), after.devices.get(&at)) else {
            return self.device.break_off("it has no counters");
        };
        if *self.dropped.get_or_insert(before.dropped) != after.dropped {
            self.device.break_off("it has dropped packets");
        }
        self.device.take(of_device(part, before, after), phase);
    }

    fn comparison(&self, by_nft: bool) -> Comparison {
        let [first, last] = self.skipped.map(Option::unwrap_or_default);
        Comparison {
            interface: self.name.clone(),
            ifindex: self.key.ifindex,
            direction: if self.key.direction == Direction::Ingress { "ingress" } else { "egress" },
            by: if by_nft { "nftables" } else { "device" },
            outcome: if by_nft { self.nft.outcome() } else { self.device.outcome() },
            device: self.device.outcome(),
            skipped: last.saturating_sub(first),
            others: self.others,
        }
    }
}

/// Packets only: what drivers call bytes differs. A super-packet may be one to it, or what it is on the wire.
fn of_device(part: &Part, before: Device, after: Device) -> Bracket {
    let packets = |packets| Total { packets, bytes: 0 };
    let agent = Counted { least: packets(part.buffers.packets), most: packets(part.wire.packets), wire: part.wire };
    Bracket { before: packets(before.packets), agent, after: packets(after.packets) }
}
