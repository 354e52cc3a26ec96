//! The log, on standard error.
#![forbid(unsafe_code)]

use std::io::{IsTerminal as _, stderr};

use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Like `RUST_LOG`; by default `info`.
const VARIABLE: &str = "FLOWLOGD_LOG";

/// The AWS SDK says what we say ourselves, at every attempt, and quotes requests and credential helpers, secrets and
/// all: nobody can turn it on.
fn is_discreet(metadata: &Metadata) -> bool {
    !["aws_", "h2", "hyper"].iter().any(|library| metadata.target().starts_with(library))
}

fn subscriber(filter: EnvFilter) -> impl Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .with_env_filter(filter)
        .finish()
        .with(filter_fn(is_discreet))
}

/// To be called once.
pub fn start() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| "info".into());
    subscriber(filter).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{Level, enabled, subscriber::with_default};

    #[test]
    fn the_sdk_is_never_heard() {
        for (filter, us) in [("info", true), ("trace", true), ("aws_config::profile=trace", false)] {
            with_default(subscriber(filter.into()), || {
                assert!(!enabled!(target: "aws_config::profile::credentials", Level::WARN), "{filter}");
                assert!(!enabled!(target: "aws_smithy_runtime::client", Level::ERROR), "{filter}");
                assert_eq!(enabled!(target: "flowlogd::deliver", Level::INFO), us, "{filter}");
            });
        }
    }
}
