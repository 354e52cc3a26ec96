//! What stands above the table, as text.
//! Pure but for the host's name. Must not know how it is painted.
#![forbid(unsafe_code)]

use super::rates::Rated;
use crate::capture::flow::Direction;
use crate::cli::text::{age, stamp};
use crate::flows::{About, Answer, Query};

pub(super) fn hostname() -> String {
    // The agent is on this host: its socket is.
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

pub(super) fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

pub(super) fn verdicts(answer: &Answer) -> String {
    match &answer.about.verdicts.why_not {
        None => "the kernel's".to_owned(),
        Some(why) => format!("every flow is ACCEPT: {why}"),
    }
}

pub(super) fn about(answer: &Answer, hostname: &str) -> String {
    let About { version, uptime_seconds, .. } = &answer.about;
    format!("flowlogd {version}  host {hostname}  up {}  verdicts {}", age(*uptime_seconds), verdicts(answer))
}

pub(super) fn window(answer: &Answer) -> String {
    format!("window     {} to {}", stamp(answer.about.window.start), stamp(answer.about.window.end))
}

pub(super) fn sums(rated: &Rated, query: &Query) -> String {
    let sum = rated.answer.matched;
    let mut text = format!("{} flows, {} packets, {} bytes", sum.flows, sum.packets, sum.bytes);
    if let Some((sum, rejected)) = rated.sum.zip(rated.rejected) {
        let (packets, bytes, refused) = (sum.packets, sum.bytes, rejected.packets);
        text += &format!("; {packets:.0} packets/s, {bytes:.0} B/s, {refused:.0} refused packets/s");
    }
    text += &format!("; sorted by {}", query.sort.name());
    let filter = query.filter.to_string();
    if filter.is_empty() { text } else { format!("{text}; filter {filter}") }
}
