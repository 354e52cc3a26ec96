//! The log: for people on standard error, under systemd in the journal.
//! Must not know what is logged.
//! Always: the AWS SDK is not heard, wherever the log goes.
#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::path::Path;

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::Failure;
use super::journald::{self, Journal};

/// Like `RUST_LOG`; by default `info`.
const VARIABLE: &str = "FLOWLOGD_LOG";

/// The AWS SDK says what we say ourselves, at every attempt, and quotes requests and credential helpers, secrets and
/// all: nobody can turn it on.
fn is_discreet(metadata: &Metadata) -> bool {
    !["aws_", "h2", "hyper"].iter().any(|library| metadata.target().starts_with(library))
}

/// Where it goes.
enum Output {
    Terminal,
    Journal(Journal),
    /// The journal reads our standard error, and takes a priority from the beginning of a line.
    Prefixed,
}

impl Output {
    fn choose(is_journal: bool, socket: &Path) -> Self {
        match is_journal.then(|| Journal::open(socket)) {
            None => Self::Terminal,
            Some(Ok(journal)) => Self::Journal(journal),
            Some(Err(_)) => Self::Prefixed,
        }
    }

    fn layer(self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let fmt = tracing_subscriber::fmt::layer().with_writer(stderr).with_target(false);
        match self {
            Self::Terminal => fmt.with_ansi(stderr().is_terminal()).boxed(),
            Self::Journal(journal) => journal.boxed(),
            Self::Prefixed => fmt.with_ansi(false).event_format(Prefixed::default()).boxed(),
        }
    }
}

/// The journal has times and levels of its own.
struct Prefixed(Format<Full, ()>);

impl Default for Prefixed {
    fn default() -> Self {
        Self(Format::default().without_time().with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, DefaultFields> for Prefixed {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", journald::priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn subscriber(output: Output, filter: EnvFilter) -> impl Subscriber + Send + Sync {
    tracing_subscriber::registry().with(output.layer()).with(filter).with(filter_fn(is_discreet))
}

fn is_journal() -> bool {
    journald::is_stderr(env::var("JOURNAL_STREAM").ok().as_deref())
}

/// To be called once.
pub fn start() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| "info".into());
    subscriber(Output::choose(is_journal(), Path::new(journald::SOCKET)), filter).init();
}

/// Why we end, as the last line.
pub(super) fn say_failure(failure: &Failure) {
    let priority = if is_journal() { "<3>" } else { "" };
    eprintln!("{priority}flowlogd: {failure}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use tracing::{Level, enabled, subscriber::with_default};

    #[test]
    fn the_sdk_is_never_heard() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        for (filter, us) in [("info", true), ("trace", true), ("aws_config::profile=trace", false)] {
            for output in [Output::Terminal, Output::choose(true, &path), Output::Prefixed] {
                with_default(subscriber(output, filter.into()), || {
                    assert!(!enabled!(target: "aws_config::profile::credentials", Level::WARN), "{filter}");
                    assert!(!enabled!(target: "aws_smithy_runtime::client", Level::ERROR), "{filter}");
                    assert_eq!(enabled!(target: "flowlogd::deliver", Level::INFO), us, "{filter}");
                    tracing::error!(target: "aws_smithy_runtime::client", "a secret");
                });
            }
        }
        // Opened three times, and nothing said.
        journald.set_nonblocking(true).unwrap();
        let sizes: Vec<usize> = std::iter::from_fn(|| journald.recv(&mut [0; 64]).ok()).collect();
        assert_eq!(sizes, [0; 3]);
    }

    #[test]
    fn without_journald_the_stream_is_used() {
        let nowhere = Path::new("/nonexistent/socket");
        assert!(matches!(Output::choose(true, nowhere), Output::Prefixed));
        assert!(matches!(Output::choose(false, nowhere), Output::Terminal));
    }
}
