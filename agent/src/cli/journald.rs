//! The systemd journal's own protocol: a datagram for each event, with its priority and its fields.
//! Must not know which events there are, nor which of them are wanted.
//! Always: what `journalctl` shows, the message, has the fields in it as a terminal has; an entry that cannot be sent is
//! dropped, and nobody waits for it.
#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "flowlogd";
/// Of our fields, beside journald's own: interface is FLOWLOGD_INTERFACE.
const PREFIX: &str = "FLOWLOGD_";
/// A datagram is smaller than the socket's buffer, 208 KiB by default, whatever an error may quote.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// As in syslog(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether standard error is what the service manager has connected to the journal: `JOURNAL_STREAM` is that one's device
/// and inode, and is inherited by whoever has redirected it.
pub(super) fn is_stderr(journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else { return false };
    fstat(io::stderr()).is_ok_and(|found| {
        let (ours, its) = (found.st_dev.to_string(), found.st_ino.to_string());
        (device, inode) == (ours.as_str(), its.as_str())
    })
}

pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // The log must not stop the counting.
        socket.set_nonblocking(true)?;
        let journal = Self { socket, path: path.to_owned() };
        // journald drops an empty one; without journald it fails. Not connected: journald may be restarted.
        journal.socket.send_to(&[], path)?;
        Ok(journal)
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let entry = seen.entry(*event.metadata().level(), event.metadata().target());
        let _ = self.socket.send_to(&entry, &self.path);
    }
}

/// An event's values.
#[derive(Default)]
struct Seen {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Seen {
    fn entry(&self, level: Level, target: &str) -> Vec<u8> {
        let mut message = self.message.clone();
        for (name, value) in &self.fields {
            let space = if message.is_empty() { "" } else { " " };
            // Writing to a string does not fail.
            let _ = write!(message, "{space}{name}={value}");
        }
        let mut entry = Vec::with_capacity(256);
        put(&mut entry, "PRIORITY", &priority(level).to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
        put(&mut entry, "MESSAGE", &message);
        put(&mut entry, &format!("{PREFIX}TARGET"), target);
        for (name, value) in &self.fields {
            put(&mut entry, &format!("{PREFIX}{}", name.to_ascii_uppercase().replace('.', "_")), value);
        }
        entry
    }

    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            // How an event of the `log` crate is carried.
            name if name.starts_with("log.") => {}
            name => self.fields.push((name.trim_start_matches("r#"), value)),
        }
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }
}

/// By length, as a value may have many lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value.as_bytes()[..value.floor_char_boundary(VALUE_BYTES_MAX)];
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// What journald would read.
    fn parse(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(end) = entry.iter().position(|&byte| byte == b'\n') {
            let length = u64::from_le_bytes(entry[end + 1..end + 9].try_into().unwrap()) as usize;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(&entry[..end]), text(&entry[end + 9..end + 9 + length])));
            entry = &entry[end + 10 + length..];
        }
        fields
    }

    #[test]
    fn an_event_is_an_entry() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(Journal::open(&path).is_err());
        let journald = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::open(&path).unwrap());
        let mut buffer = [0; 4096];
        assert_eq!(journald.recv(&mut buffer).unwrap(), 0);
        with_default(
            subscriber,
            || tracing::warn!(interface = %"eth0", seconds = 3, why = "a\nb", "the window ends late"),
        );
        let length = journald.recv(&mut buffer).unwrap();
        let fields = parse(&buffer[..length]);
        let want = [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "flowlogd"),
            ("MESSAGE", "the window ends late interface=eth0 seconds=3 why=a\nb"),
            ("FLOWLOGD_TARGET", "flowlogd::cli::journald::tests"),
            ("FLOWLOGD_INTERFACE", "eth0"),
            ("FLOWLOGD_SECONDS", "3"),
            ("FLOWLOGD_WHY", "a\nb"),
        ];
        assert_eq!(fields, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_value_is_bounded() {
        let mut entry = Vec::new();
        put(&mut entry, "A", &"ä".repeat(VALUE_BYTES_MAX));
        assert_eq!(parse(&entry)[0].1.len(), VALUE_BYTES_MAX);
    }

    #[test]
    fn only_the_stream_itself_is_the_journal() {
        let found = fstat(io::stderr()).unwrap();
        assert!(is_stderr(Some(&format!("{}:{}", found.st_dev, found.st_ino))));
        for stream in [None, Some(""), Some("8"), Some("8:1"), Some("a:b")] {
            assert!(!is_stderr(stream), "{stream:?}");
        }
    }
}
