//! `flowlogd spool`: what waits to be delivered, since when, and why. Reads files only; the agent need not run.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::text::{age, paint, size, stamp};
use super::{Failure, say, say_json};
use crate::deliver::status::{State, Status};
use crate::deliver::{DEAD_LETTERS, FLOW_LOG};
use crate::flow_log::FlowLog;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd spool\n  flowlogd spool --json")]
pub(super) struct Args {
    /// State of the agent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/flowlogd")]
    state_directory: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// One flow log's.
#[derive(Debug, Serialize)]
struct Waiting {
    flow_log_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    windows: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<u64>,
    dead_letter_bytes: u64,
    #[serde(flatten)]
    status: Status,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let directory = args.state_directory.join("spool");
    let all = read(&directory, SystemTime::now())
        .map_err(|error| Failure::Run(format!("--state-directory: {}: {error}", directory.display())))?;
    if args.json {
        return say_json(&serde_json::json!({ "spool": all }));
    }
    let colour = io::stdout().is_terminal();
    say(&all.iter().map(|one| one.lines(colour)).collect::<String>())
}

/// By id. No directory: nothing was ever spooled.
fn read(directory: &Path, now: SystemTime) -> io::Result<Vec<Waiting>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with("fl-"));
        if is_ours && entry.file_type()?.is_dir() {
            all.push(Waiting::read(&entry.path(), now)?);
        }
    }
    all.sort_by(|one, other| one.flow_log_id.cmp(&other.flow_log_id));
    Ok(all)
}

impl Waiting {
    fn read(directory: &Path, now: SystemTime) -> io::Result<Self> {
        let segments = files(directory, ".seg")?;
        let oldest = segments.iter().map(|(_, written)| *written).min();
        let log = fs::read(directory.join(FLOW_LOG)).ok();
        let log = log.and_then(|text| serde_json::from_slice::<FlowLog>(&text).ok());
        let dead_letters = files(&directory.join(DEAD_LETTERS), ".log").unwrap_or_default();
        Ok(Self {
            flow_log_id: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            destination: log.map(|log| log.destination.to_string()),
            windows: segments.len() as u64,
            bytes: segments.iter().map(|(bytes, _)| bytes).sum(),
            oldest_seconds: oldest.map(|oldest| now.duration_since(oldest).unwrap_or_default().as_secs()),
            dead_letter_bytes: dead_letters.iter().map(|(bytes, _)| bytes).sum(),
            status: Status::read_or_say(directory)?.unwrap_or_default(),
        })
    }

    /// One, and one more for each thing that is wrong.
    fn lines(&self, colour: bool) -> String {
        let state = self.status.state.name();
        let code = match self.status.state {
            State::Idle | State::Delivering => "32",
            State::Retrying => "33",
            State::Refused => "31",
        };
        let state = paint(&format!("{state:<10}"), code, colour);
        let oldest = self.oldest_seconds.map_or_else(|| "-".to_owned(), age);
        let mut lines = format!(
            "{}  {state}  {:>6} windows  {:>9}  oldest {oldest:>8}  {}\n",
            self.flow_log_id,
            self.windows,
            size(self.bytes),
            self.destination.as_deref().unwrap_or("?"),
        );
        if let Some(error) = &self.status.error {
            lines.push_str(&format!("  since {}: {}: {}\n", stamp(error.since), error.code, error.message));
        }
        let dropped = &self.status.dropped;
        if dropped.segments > 0 {
            let (windows, records) = (dropped.segments, dropped.records);
            lines.push_str(&format!("  dropped for want of room: {windows} windows with {records} records\n"));
        }
        if dropped.corrupt_blocks > 0 {
            lines.push_str(&format!("  lost to a damaged disk: {} records\n", dropped.corrupt_records));
        }
        if self.dead_letter_bytes > 0 {
            lines.push_str(&format!(
                "  not taken by the destination: {} in {DEAD_LETTERS}\n",
                size(self.dead_letter_bytes)
            ));
        }
        lines
    }
}

/// Sizes and times. What goes while we look is not there.
fn files(directory: &Path, suffix: &str) -> io::Result<Vec<(u64, SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| name.ends_with(suffix)) {
            continue;
        }
        if let Ok(file) = entry.metadata() {
            files.push((file.len(), file.modified()?));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_was_ever_spooled() {
        let state = tempfile::tempdir().unwrap();
        assert!(read(&state.path().join("spool"), SystemTime::now()).unwrap().is_empty());
    }

    #[test]
    fn what_waits_and_why() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("fl-1");
        fs::create_dir_all(directory.join(DEAD_LETTERS)).unwrap();
        fs::create_dir(state.path().join("lost+found")).unwrap();
        let mut now = SystemTime::now();
        for (name, bytes) in [("00000000000000000001.seg", 20_000), ("00000000000000000002.seg", 480), ("last", 9)] {
            fs::write(directory.join(name), vec![0; bytes]).unwrap();
            now += Duration::from_secs(60);
        }
        fs::write(directory.join(DEAD_LETTERS).join("00000001.log"), "x").unwrap();
        let status = r#"{"state": "refused", "error": {"code": "AccessDenied", "message": "no; grant it", "since": 60},
                         "dropped": {"segments": 2, "records": 7}}"#;
        fs::write(directory.join("status.json"), status).unwrap();
        let all = read(state.path(), now).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(
            all[0].lines(false),
            "fl-1  refused          2 windows     20 KiB  oldest    180 s  ?\n  \
               since 1970-01-01T00:01:00Z: AccessDenied: no; grant it\n  \
               dropped for want of room: 2 windows with 7 records\n  \
               not taken by the destination: 1 B in dead-letter\n"
        );
        let json = serde_json::to_value(&all[0]).unwrap();
        assert_eq!(json["flow_log_id"], "fl-1");
        assert_eq!((&json["windows"], &json["bytes"], &json["state"]), (&2.into(), &20_480.into(), &"refused".into()));
        fs::write(directory.join("status.json"), "{").unwrap();
        let all = read(state.path(), now).unwrap();
        assert!(all[0].lines(false).contains("DamagedStatus: "), "{}", all[0].lines(false));
    }
}
