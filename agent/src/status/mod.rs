//! What the agent says of itself when it is asked: one snapshot, for people, programs and metrics alike.
//! Pure data. Must not know how it is found or shown.
//! Always: counts are since this agent started and never go back while it runs; no packet's address is in it.
#![forbid(unsafe_code)]

#[cfg(test)]
pub(crate) mod example;
mod loss;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capture::Span;
use crate::capture::flow::{Buffers, Direction, InterfaceTotals, Total};
use crate::deliver::status::Status as Delivery;
pub(crate) use crate::window::Logged;
pub(crate) use loss::{Cause, Loss, Unit};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Unix seconds.
    pub(crate) time: i64,
    pub(crate) started: i64,
    /// By the monotonic clock.
    pub(crate) uptime_seconds: u64,
    /// When the packets were counted up. None: by a version that does not tell.
    #[serde(default)]
    pub(crate) counted: Option<Span>,
    /// The number of the agent's, as `stat -L` of `/proc/PID/ns/net` gives it.
    #[serde(default)]
    pub(crate) network_namespace: Option<u64>,
    pub(crate) host: Host,
    /// Counters outlive a killed agent.
    pub(crate) pinned: bool,
    pub(crate) verdicts: Verdicts,
    /// By index.
    pub(crate) interfaces: Vec<Interface>,
    /// Not logged by choice, by the exclusion's name.
    pub(crate) excluded: BTreeMap<String, Total>,
    /// In records with REJECT, before exclusions.
    pub(crate) rejected: Total,
    pub(crate) tables: Vec<Table>,
    pub(crate) drains: Drains,
    pub(crate) sum_rule: SumRule,
    pub(crate) flow_logs: Vec<FlowLog>,
    /// Every cause, also those with nothing lost.
    pub(crate) losses: Vec<Loss>,
    pub(crate) journal: Journal,
    pub(crate) clock_steps: u64,
    /// Frees that were no policy's, by the kernel's reason, in all network namespaces.
    pub(crate) other_frees: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) account_id: String,
    pub(crate) region: String,
    pub(crate) vpc_id: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) instance_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdicts {
    /// Else every record is ACCEPT.
    pub(crate) available: bool,
    pub(crate) why_not: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) id: String,
    /// `tcx` or `clsact`; none: it is gone, and its last packets are still to be logged.
    pub(crate) hook: Option<String>,
    pub(crate) ingress: Side,
    pub(crate) egress: Side,
    /// Flows in the tables, that is, since the last drain.
    pub(crate) flows: u64,
}

/// One direction of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Side {
    /// None: our program is not there, or the kernel does not tell.
    pub(crate) position: Option<Position>,
    /// Everything that our program saw.
    pub(crate) seen: Total,
    #[serde(default)]
    pub(crate) buffers: Buffers,
    pub(crate) non_ip: Total,
    pub(crate) unparsable: Unparsable,
    /// Found no room in any table.
    pub(crate) skipped: Total,
    /// A policy's drops that found no room and so are not logged as REJECT.
    pub(crate) drops_skipped: Total,
    /// In the windows that have ended, before traffic types and destinations.
    pub(crate) accepted: Logged,
    pub(crate) rejected: Logged,
}

/// Our program's place among those on the same hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// 1 is first.
    pub(crate) at: u32,
    pub(crate) of: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unparsable {
    pub(crate) truncated: Total,
    pub(crate) bad_header: Total,
    pub(crate) long_chain: Total,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// In use now, over all CPUs.
    pub(crate) entries: u64,
    pub(crate) capacity: u64,
    /// Of memory, with the half that is drained.
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drains {
    pub(crate) count: u64,
    pub(crate) seconds_total: f64,
    pub(crate) last_seconds: f64,
}

/// Flows + excluded + skipped + non-IP + unparsable = seen, in every window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SumRule {
    pub(crate) windows: u64,
    pub(crate) windows_with_error: u64,
    pub(crate) error_packets: i64,
    pub(crate) error_bytes: i64,
    pub(crate) last: Option<Window>,
}

/// One that has ended. Unix seconds, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) seen: Total,
    pub(crate) error_packets: i64,
    pub(crate) error_bytes: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowLog {
    pub(crate) id: String,
    /// Configured no longer: what waits is still delivered.
    #[serde(default)]
    pub(crate) removed: bool,
    pub(crate) destination_type: String,
    pub(crate) destination: String,
    /// Seconds.
    pub(crate) interval: u32,
    pub(crate) traffic_type: String,
    pub(crate) made: Made,
    pub(crate) delivery: Delivery,
    pub(crate) waiting: Waiting,
}

/// What is in the spool by now, or was, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) windows: u64,
    /// Of any log status.
    pub(crate) records: u64,
    /// That these windows are long.
    pub(crate) seconds: u64,
}

/// What is to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) windows: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_max: u64,
    /// Since the end of the oldest window that waits; 0 when none does.
    pub(crate) lag_seconds: u64,
    /// Windows in memory, because the spool cannot be written.
    pub(crate) unspooled_windows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) errors: u64,
    /// A crash would lose what was counted since the last window.
    pub(crate) failing: bool,
}

impl Interface {
    pub(crate) fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    pub(crate) fn sides(&self) -> [(&'static str, &Side); 2] {
        [("ingress", &self.ingress), ("egress", &self.egress)]
    }
}

impl Side {
    /// Adds what was counted in one epoch or window.
    pub(crate) fn add(&mut self, totals: &InterfaceTotals) {
        let [truncated, bad_header, long_chain] = totals.unparsable;
        self.seen += totals.seen;
        self.buffers += totals.buffers;
        self.non_ip += totals.non_ip;
        self.unparsable.truncated += truncated;
        self.unparsable.bad_header += bad_header;
        self.unparsable.long_chain += long_chain;
        self.skipped += totals.skipped;
        self.drops_skipped += totals.drops_skipped;
    }
}

impl Unparsable {
    pub(crate) fn causes(&self) -> [(&'static str, Total); 3] {
        [("truncated", self.truncated), ("bad-header", self.bad_header), ("long-chain", self.long_chain)]
    }
}
