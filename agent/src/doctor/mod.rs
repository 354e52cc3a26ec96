//! What this host allows: kernel, privileges, interfaces, clock, disk, memory, and each destination. Each check says what
//! it found and how to mend it.
//! Must not change anything: what is made for a test is gone when it is over.
#![forbid(unsafe_code)]

mod delivery;
mod host;
mod interfaces;
mod kernel;

use serde::Serialize;

use crate::config::Config;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    #[serde(rename = "ok")]
    Good,
    /// The agent runs, with less.
    Limited,
    /// The agent cannot run, or a flow log would wait in its spool for ever.
    #[serde(rename = "fail")]
    Bad,
}

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), fix: None }
    }

    fn limited(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Limited, found: found.into(), fix: Some(fix.into()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Bad, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Runs all checks, in the order in which they matter; without a configuration, as if run by flags alone.
pub(crate) fn checks(config: Option<&Config>) -> Vec<Check> {
    let mut checks = kernel::checks();
    checks.extend(interfaces::checks(config));
    checks.extend(host::checks(config));
    checks.extend(config.into_iter().flat_map(delivery::checks));
    checks
}
