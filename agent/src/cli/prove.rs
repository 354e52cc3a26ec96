//! `flowlogd prove`: holds what the running agent counts against nftables and the interfaces' own counters, live.
//! Must not know how that is compared.
//! Always: exit code 0 is a proof; Ctrl-C ends the run early, with the verdict so far.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use wildmatch::WildMatch;

use super::status::Agent;
use super::table::{Align, Table};
use super::text::paint;
use super::{Failure, say, say_json};
use crate::prove::{Comparison, Error, Finding, Outcome, Phase, Report, Session, grouped, range};

/// Between two looks: often enough to meet moments without traffic.
const LOOK: Duration = Duration::from_millis(250);
const REFRESH: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flowlogd prove\n  flowlogd prove --for 5m --interface 'eth*'\n  flowlogd prove --for 10s --json"
)]
pub(super) struct Args {
    /// How long, such as 90, 60s, 5m or 1h
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Interfaces to look at, by name or glob [default: all that the agent counts on]
    #[arg(long, value_name = "GLOB")]
    interface: Vec<String>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: Agent,
}

/// A whole number of seconds, minutes or hours.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let seconds = seconds.zip(number.parse::<u64>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    let time = seconds.filter(|seconds| (1..=86_400 * 30).contains(seconds)).map(Duration::from_secs);
    time.ok_or_else(|| "give a time such as 90, 60s, 5m or 1h".to_owned())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Run(error.to_string())
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let failed = |error: Errno| Failure::Run(format!("cannot wait for signals: {error}"));
    let signals = Signals::new().map_err(failed)?;
    let globs: Vec<WildMatch> = args.interface.iter().map(|glob| WildMatch::new(glob)).collect();
    let wanted = |name: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(name));
    let mut session = Session::start(&args.agent.socket(), wanted)?;
    if let Some(why) = session.without_nft() {
        eprintln!("flowlogd: only the interfaces' own counters are compared, and only packets: {why}");
    }
    let colour = io::stdout().is_terminal();
    let mut screen = Screen { is_live: colour && !args.json, lines: 0 };
    if !screen.is_live {
        eprintln!("flowlogd: counting at {} for {} s", session.names().join(", "), args.time.as_secs());
    }
    let until = Instant::now() + args.time;
    let mut shown: Option<Instant> = None;
    while Instant::now() < until && !session.is_over() {
        if signals.wait(LOOK.min(until.saturating_duration_since(Instant::now()))).map_err(failed)? {
            break;
        }
        session.look(Phase::Run)?;
        if screen.is_live && shown.is_none_or(|at| at.elapsed() >= REFRESH) {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            screen.show(&format!("{}{left} s to go; Ctrl-C ends it now\n", table(&session.report(), colour)))?;
            shown = Some(Instant::now());
        }
    }
    session.finish()?;
    let report = session.report();
    screen.show("")?;
    if args.json {
        say_json(&report)?
    } else {
        say(&text(&report, colour))?
    }
    if report.is_proof() { Ok(()) } else { Err(Failure::Silent) }
}

/// What ends the run before its time.
struct Signals(SignalFd);

impl Signals {
    fn new() -> Result<Self, Errno> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    fn wait(&self, limit: Duration) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Text that takes the place of the text before it.
struct Screen {
    is_live: bool,
    lines: usize,
}

impl Screen {
    fn show(&mut self, text: &str) -> Result<(), Failure> {
        if !self.is_live {
            return Ok(());
        }
        // What is above the screen cannot be overwritten.
        let size = ratatui::crossterm::terminal::size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0);
        let (columns, rows) = size.unwrap_or((80, 24));
        let lines: Vec<&str> = text.lines().take(usize::from(rows).saturating_sub(1).max(1)).collect();
        let back = if self.lines > 0 { format!("\x1b[{}A\r\x1b[J", self.lines) } else { String::new() };
        self.lines = lines.len();
        // Without line wrap: one line of text is one of the screen.
        let is_wide = lines.iter().any(|line| line.len() > usize::from(columns));
        let (before, behind) = if is_wide { ("\x1b[?7l", "\x1b[?7h") } else { ("", "") };
        let lines: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
        say(&format!("{back}{before}{lines}{behind}"))
    }
}

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

fn text(report: &Report, colour: bool) -> String {
    let code = if report.is_proof() { GREEN } else { RED };
    let windows = match report.windows_with_error {
        0 => format!("in each of the {} windows that ended meanwhile", report.windows),
        wrong => format!("not in {wrong} of the {} windows that ended meanwhile", report.windows),
    };
    format!(
        "{}flowlogd's sums (flows + excluded + skipped + non-IP + unparsable = seen) add up {windows}\n{}\n",
        table(report, colour),
        paint(&report.verdict(), code, colour),
    )
}

fn table(report: &Report, colour: bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("DIRECTION", Left),
        ("COUNTER", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("FLOWLOGD PACKETS", Right),
        ("BYTES", Right),
        ("DIFFERENCE", Left),
        ("ON THE WIRE", Right),
        ("BYTES", Right),
        ("DEVICE", Left),
    ]);
    for it in &report.comparisons {
        let number = |of: fn(&Finding) -> u64| it.found().map_or("-".to_owned(), |found| grouped(of(found)));
        let bytes = |of: fn(&Finding) -> u64| if it.by == "device" { "-".to_owned() } else { number(of) };
        let (code, difference) = difference(&it.outcome);
        table.row(vec![
            it.interface.clone(),
            it.direction.to_owned(),
            it.by.to_owned(),
            number(|found| found.counter.packets),
            bytes(|found| found.counter.bytes),
            number(|found| found.agent.packets),
            bytes(|found| found.agent.bytes),
            paint(&difference, code, colour),
            number(|found| found.wire.packets),
            number(|found| found.wire.bytes),
            device(it),
        ]);
        notes(it).into_iter().for_each(|note| table.note(paint(&note, YELLOW, colour)));
    }
    table.text(colour)
}

fn difference(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::NotComparable(_) => (YELLOW, "n/a".to_owned()),
        Outcome::Compared(found) if !found.agrees() => {
            (RED, format!("{} packets, {} bytes", range(found.packets), range(found.bytes)))
        }
        Outcome::Compared(found) if found.is_exact() => (GREEN, "0".to_owned()),
        Outcome::Compared(found) => (GREEN, format!("0 within {}", grouped(found.packets.reach()))),
    }
}

fn device(it: &Comparison) -> String {
    match &it.device {
        Outcome::NotComparable(_) => "n/a".to_owned(),
        Outcome::Compared(found) if found.agrees() => format!("agrees, {}", grouped(found.counter.packets)),
        // Seen from here: what the device counted more.
        Outcome::Compared(found) => format!("flowlogd {}", range(found.packets)),
    }
}

/// What explains a row.
fn notes(it: &Comparison) -> Vec<String> {
    let mut notes = Vec::new();
    if let Outcome::NotComparable(why) = &it.outcome {
        notes.push(format!("not comparable: {why}"));
    }
    if it.skipped > 0 {
        notes.push(format!(
            "{} packets found no room in flowlogd's tables: SKIPDATA records say so",
            grouped(it.skipped)
        ));
    }
    let differs = it.found().is_some_and(|found| !found.agrees());
    if differs && it.others > 0 {
        notes.push(format!("other programs on the same hook: {}; what one of them drops is a difference", it.others));
    }
    if let Outcome::NotComparable(why) = &it.device
        && it.by != "device"
        && it.found().is_some()
    {
        notes.push(format!("device: {why}"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::Total;
    use crate::prove::Interval;

    #[test]
    fn times() {
        let seconds = |text| duration(text).ok().map(|time| time.as_secs());
        assert_eq!(["90", "60s", "5m", "1h"].map(seconds), [Some(90), Some(60), Some(300), Some(3600)]);
        assert_eq!(["", "0", "s", "1d", "-1", "1.5s", "99999h", "18446744073709551615h"].map(seconds), [None; 8]);
    }

    #[test]
    fn rows_say_what_differs_and_why() {
        let packets = Interval { min: -3, max: -3 };
        let counter = Total { packets: 1003, bytes: 90_000 };
        let found = Finding { counter, packets, ..Finding::default() };
        let comparison = Comparison {
            interface: "eth0".to_owned(),
            ifindex: 2,
            direction: "egress",
            by: "nftables",
            outcome: Outcome::Compared(found),
            device: Outcome::NotComparable("it has dropped packets".to_owned()),
            skipped: 0,
            others: 1,
        };
        let report = Report { seconds: 1, comparisons: vec![comparison], windows: 3, windows_with_error: 0 };
        let text = text(&report, false);
        for words in
            ["1,003", "-3 packets, 0 bytes", "same hook: 1;", "device: it has dropped", "3 windows", "not proved"]
        {
            assert!(text.contains(words), "no {words} in {text}");
        }
    }
}
