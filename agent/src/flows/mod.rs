//! The flows of the window that goes on, for whoever asks: the answer's shape, what may be asked for, and who is chosen.
//! Pure. Must not know how flows are found, sent or shown.
//! Always: a small answer, whatever there is: the agent filters and sorts, and gives no more rows than were asked for.
//!
//! `GET /v1/flows?sort=bytes&limit=10&cidr=10.0.0.0/8&port=443` is answered with an [`Answer`] as JSON; [`Query`] has the
//! parameters. The counts are of `window`, so they begin again at its end: a rate is the difference of two answers with
//! the same `pid` and the same `window.since_ms`, or else what is counted since then.
#![forbid(unsafe_code)]

mod expression;
mod filter;
mod picture;
mod query;
mod words;

use serde::{Deserialize, Serialize};

use crate::capture::flow::{Direction, Total, Verdict};
use crate::status::{Host, Verdicts};
pub(crate) use expression::parse as parse_filter;
pub(crate) use filter::Filter;
pub(crate) use picture::Picture;
pub(crate) use query::{LIMIT_MAX, Query, Sort};
pub(crate) use words::{action, protocol};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    #[serde(flatten)]
    pub(crate) about: About,
    /// All that the filter lets through, also what is cut off by the limit.
    pub(crate) matched: Sum,
    /// What AWS does not log and is in no row, whatever the filter.
    pub(crate) excluded: Total,
    /// Sorted, the largest first.
    pub(crate) flows: Vec<Row>,
}

/// What is said beside flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// When the tables were read: Unix milliseconds. All who ask share a look: at most a second before the answer, or
    /// four times as long as a look takes.
    pub(crate) time_ms: i64,
    pub(crate) uptime_seconds: u64,
    pub(crate) host: Host,
    pub(crate) verdicts: Verdicts,
    /// Names of what is captured.
    pub(crate) interfaces: Vec<String>,
    pub(crate) window: Window,
}

/// The agent's own: as long as the greatest common divisor of all flow logs' intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Unix seconds, inclusive, as in the records.
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Since when its packets are counted: Unix milliseconds.
    pub(crate) since_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) flows: u64,
    /// Of both verdicts.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The refused part of it.
    pub(crate) rejected: Total,
}

/// A flow: what its record would say if the window ended now, before traffic types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) interface: String,
    pub(crate) interface_id: String,
    pub(crate) direction: Direction,
    pub(crate) action: Verdict,
    pub(crate) protocol: u8,
    pub(crate) srcaddr: std::net::IpAddr,
    pub(crate) dstaddr: std::net::IpAddr,
    pub(crate) srcport: u16,
    pub(crate) dstport: u16,
    /// On the wire.
    pub(crate) packets: u64,
    /// From the IP header on.
    pub(crate) bytes: u64,
    /// Of the first and the last packet, Unix seconds.
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) tcp_flags: u8,
}
