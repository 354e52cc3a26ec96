//! What is measured, for Prometheus: one table, from which the text, `docs/metrics.md` and the checks of dashboards and
//! alert rules are made.
//! Pure: a snapshot in, samples out. Must not know where the text goes.
//! Always: few series. A label is an interface, a flow log, a table or a word of our own; never an address or a port.
#![forbid(unsafe_code)]

mod sample;
mod table;
#[cfg(test)]
mod tests;
mod text;

use table::METRICS;
pub(crate) use text::{CONTENT_TYPE, text};

use crate::status::Snapshot;
use sample::Sample;

/// One family.
pub(crate) struct Metric {
    /// Behind `flowlogd_`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
    samples: fn(&Snapshot) -> Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

pub(crate) const PREFIX: &str = "flowlogd_";

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}
