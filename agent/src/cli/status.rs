//! `flowlogd status`: what the running agent says of itself, for people or as JSON. Asks it over its socket.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use super::table::{Align, Table};
use super::text::{age, paint, size, stamp};
use super::{Failure, say, say_json};
use crate::config::DEFAULT_STATE_DIRECTORY;
use crate::deliver::status::State;
use crate::serve::{client, socket};
use crate::status::{FlowLog, Interface, Position, Snapshot};

/// Which agent is asked.
#[derive(clap::Args)]
pub(super) struct Agent {
    /// Socket of the agent [default: /run/flowlogd/flowlogd.sock; with another state directory, in it]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// State of the agent
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIRECTORY, conflicts_with = "socket")]
    state_directory: PathBuf,
}

impl Agent {
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| socket::default_path(&self.state_directory))
    }
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd status\n  flowlogd status --json")]
pub(super) struct Args {
    #[command(flatten)]
    agent: Agent,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let asked = client::get::<Snapshot>(&args.agent.socket(), "/v1/status");
    let snapshot = asked.map_err(|error| Failure::Run(error.to_string()))?;
    if args.json { say_json(&snapshot) } else { say(&text(&snapshot, io::stdout().is_terminal())) }
}

const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

fn text(snapshot: &Snapshot, colour: bool) -> String {
    let parts = [
        head(snapshot, colour),
        interfaces(snapshot, colour),
        tables(snapshot, colour),
        flow_logs(snapshot, colour),
        losses(snapshot, colour),
    ];
    parts.join("\n")
}

fn head(it: &Snapshot, colour: bool) -> String {
    let good = |text: &str| paint(text, GREEN, colour);
    let bad = |text: &str| paint(text, RED, colour);
    let verdicts = match &it.verdicts.why_not {
        None => good("the kernel's"),
        Some(why) => paint(&format!("every record is ACCEPT: {why}"), YELLOW, colour),
    };
    let rule = &it.sum_rule;
    let holds = match rule.windows_with_error {
        0 => good(&format!("holds in all of {} windows", rule.windows)),
        wrong => bad(&format!(
            "does not hold in {wrong} of {} windows, by {} packets and {} bytes: please report this",
            rule.windows, rule.error_packets, rule.error_bytes
        )),
    };
    let last = rule.last.map_or_else(String::new, |last| {
        format!("; last: {} to {}, {} packets", stamp(last.start), stamp(last.end), last.seen.packets)
    });
    let journal = match (it.journal.failing, it.pinned) {
        (true, _) => bad("the journal cannot be written: a crash loses a window"),
        (false, true) => good("counters and journal outlive a crash"),
        (false, false) => paint("counters end with the agent", YELLOW, colour),
    };
    let host = [Some(&it.host.account_id), Some(&it.host.region), it.host.instance_id.as_ref()];
    let host: Vec<&str> = host.into_iter().flatten().map(String::as_str).collect();
    format!(
        "flowlogd {}  pid {}  up {} since {}\nhost       {}\nverdicts   {verdicts}\nsum rule   {holds}{last}\ndurable    {journal}\n",
        it.version,
        it.pid,
        age(it.uptime_seconds),
        stamp(it.started),
        host.join(" "),
    )
}

fn interfaces(snapshot: &Snapshot, colour: bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("INTERFACE", Left),
        ("ID", Left),
        ("HOOK", Left),
        ("IN PACKETS", Right),
        ("IN BYTES", Right),
        ("OUT PACKETS", Right),
        ("OUT BYTES", Right),
        ("FLOWS", Right),
        ("NON-IP", Right),
        ("UNPARSABLE", Right),
        ("SKIPPED", Right),
    ]);
    for it in &snapshot.interfaces {
        let (ingress, egress) = (&it.ingress, &it.egress);
        let unparsable = |causes: [(&str, crate::capture::flow::Total); 3]| -> u64 {
            causes.into_iter().map(|(_, total)| total.packets).sum()
        };
        let unparsable = unparsable(ingress.unparsable.causes()) + unparsable(egress.unparsable.causes());
        let skipped = ingress.skipped.packets + egress.skipped.packets;
        table.row(vec![
            it.name.clone(),
            it.id.clone(),
            hook(it),
            ingress.seen.packets.to_string(),
            size(ingress.seen.bytes),
            egress.seen.packets.to_string(),
            size(egress.seen.bytes),
            it.flows.to_string(),
            (ingress.non_ip.packets + egress.non_ip.packets).to_string(),
            unparsable.to_string(),
            skipped.to_string(),
        ]);
    }
    table.text(colour)
}

/// `tcx 1/2 1/1`: which of how many on ingress and egress.
fn hook(interface: &Interface) -> String {
    let place = |at: Option<Position>| at.map_or("-".to_owned(), |Position { at, of }| format!("{at}/{of}"));
    let Some(hook) = &interface.hook else { return "gone".to_owned() };
    format!("{hook} {} {}", place(interface.ingress.position), place(interface.egress.position))
}

fn tables(snapshot: &Snapshot, colour: bool) -> String {
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("TABLE", Left), ("ENTRIES", Right), ("CAPACITY", Right), ("USE", Right), ("MEMORY", Right)]);
    for it in &snapshot.tables {
        let percent = it.entries * 100 / it.capacity.max(1);
        table.row(vec![
            it.name.clone(),
            it.entries.to_string(),
            it.capacity.to_string(),
            format!("{percent} %"),
            size(it.bytes),
        ]);
    }
    table.text(colour)
}

fn flow_logs(snapshot: &Snapshot, colour: bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("FLOW LOG", Left),
        ("STATE", Left),
        ("TYPE", Left),
        ("INTERVAL", Right),
        ("LAST DELIVERY", Left),
        ("RECORDS", Right),
        ("BYTES", Right),
        ("AS TEXT", Right),
        ("CALLS", Right),
        ("WAITING", Right),
        ("LAG", Right),
        ("DESTINATION", Left),
    ]);
    for it in &snapshot.flow_logs {
        let (delivery, waiting) = (&it.delivery, &it.waiting);
        let code = match delivery.state {
            State::Idle | State::Delivering => GREEN,
            State::Retrying => YELLOW,
            State::Refused => RED,
        };
        let lag = if waiting.windows == 0 { "-".to_owned() } else { age(waiting.lag_seconds) };
        table.row(vec![
            if it.removed { format!("{} (removed)", it.id) } else { it.id.clone() },
            paint(delivery.state.name(), code, colour),
            it.traffic_type.clone(),
            format!("{} s", it.interval),
            delivery.last_delivery.map_or_else(|| "never".to_owned(), stamp),
            delivery.delivered.records.to_string(),
            size(delivery.delivered.bytes),
            size(delivery.delivered.text_bytes),
            delivery.delivered.calls.to_string(),
            format!("{} windows, {}", waiting.windows + waiting.unspooled_windows, size(waiting.bytes)),
            lag,
            it.destination.clone(),
        ]);
        problem(it).into_iter().for_each(|line| table.note(paint(&line, code, colour)));
    }
    table.text(colour)
}

/// What went wrong, below its flow log.
fn problem(flow_log: &FlowLog) -> Option<String> {
    let error = flow_log.delivery.error.as_ref()?;
    Some(format!("since {}: {}: {}", stamp(error.since), error.code, error.message))
}

fn losses(snapshot: &Snapshot, colour: bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[("LOSS", Left), ("COUNT", Right), ("OF", Left), ("MEANING", Left)]);
    let mut is_empty = true;
    for loss in snapshot.losses.iter().filter(|loss| loss.count > 0) {
        is_empty = false;
        table.row(vec![
            paint(loss.cause.name(), YELLOW, colour),
            loss.count.to_string(),
            loss.unit.name().to_owned(),
            loss.cause.meaning().to_owned(),
        ]);
    }
    if is_empty { paint("nothing lost", GREEN, colour) + "\n" } else { table.text(colour) }
}
