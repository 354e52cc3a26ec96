//! What reads data from outside, each as a fuzzer wants it: any bytes in, and a panic when a promise is broken.
//! Built for `fuzz/` and for unit tests only. Must not know who makes the bytes up.
//! Always: a refusal is one line; what is read is written and read again as the same.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, process};

use crate::config::{self, Config, Metadata, Surroundings, Tables};
use crate::flows::{self, Query};
use crate::format::Format;
use crate::identity::{imds, kept};
use crate::replay::{self, Report, Unsaid};
use crate::{journal, sink, spool, status};

/// One parser.
pub type Target = (&'static str, fn(&[u8]));

/// Seeds and what fuzzers found are in `fuzz/corpus`, by these names.
pub const TARGETS: [Target; 9] = [
    ("config", config),
    ("credentials", credentials),
    ("format", format),
    ("imds", imds),
    ("journal", journal),
    ("pcap", pcap),
    ("query", query),
    ("spool", spool),
    ("status", status),
];

/// `flowlogd.toml`.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(error) = config::of_text(text) {
        one_line(&error);
    }
}

/// `--log-format`.
pub fn format(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Format::parse(text) {
        Ok(format) => assert_eq!(format.to_string(), text),
        Err(error) => one_line(&error),
    }
}

/// Captures, and the packets in them.
pub fn pcap(data: &[u8]) {
    let config = one_flow_log();
    let unsaid = Unsaid { interface: "pcap".to_owned(), ..Unsaid::default() };
    let once = || {
        let mut out = Vec::new();
        let report = replay::replay(data, &config, &unsaid, &mut out).expect("a vector takes everything");
        (out, report)
    };
    let (out, report) = once();
    assert!(out.is_empty() || out.ends_with(b"\n"));
    let Report { packets, unparsable, .. } = report;
    assert!(unparsable <= packets && packets <= data.len() as u64);
    assert_eq!(once(), (out, report));
}

/// A window's journal.
pub fn journal(data: &[u8]) {
    let place = Place::new("journal");
    let path = place.file("1", data);
    journal::fuzz::file(&path);
    journal::fuzz::payload(data);
}

/// A segment of the spool.
pub fn spool(data: &[u8]) {
    let place = Place::new("spool");
    place.file("00000000000000000001.seg", data);
    spool::fuzz::directory(&place.0);
    spool::fuzz::block(data);
}

/// What EC2's metadata service answers, and what is kept of it.
pub fn imds(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    imds::fuzz(text);
    let place = Place::new("imds");
    place.file(kept::FILE, data);
    let Some(imds) = kept::read(&place.0, "", None) else { return };
    let metadata = Metadata::Known { imds, is_fresh: false };
    let surroundings = Surroundings { metadata, ..Surroundings::default() };
    if let Err(error) = Tables::of_flags().build(&surroundings) {
        one_line(&error);
    }
}

/// What a `credential_process` prints. What is said of it must not quote it.
pub fn credentials(data: &[u8]) {
    if let Err(error) = sink::judge_credentials(data) {
        one_line(&error);
        assert!(error.starts_with("credential_process printed no credentials"));
    }
}

/// What is asked of the agent's flows: in a URL, and as people type it.
pub fn query(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Query::parse(text) {
        Ok(query) => assert_eq!(Query::parse(&query.url()), Ok(query)),
        Err(error) => one_line(&error),
    }
    match flows::parse_filter(text) {
        Ok(filter) => {
            let query = Query { filter, ..Query::default() };
            assert_eq!(Query::parse(&query.url()), Ok(query));
        }
        Err(error) => one_line(&error),
    }
}

/// What an agent of another version may answer.
pub fn status(data: &[u8]) {
    if let Ok(snapshot) = serde_json::from_slice::<status::Snapshot>(data) {
        assert!(serde_json::to_vec(&snapshot).is_ok());
    }
    if let Ok(answer) = serde_json::from_slice::<flows::Answer>(data) {
        assert!(serde_json::to_vec(&answer).is_ok());
    }
}

fn one_line(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(['\n', '\r']), "{text:?}");
}

fn one_flow_log() -> Config {
    let mut tables = Tables::of_flags();
    tables.set("flow-log.interfaces", "", vec!["*".to_owned()]);
    tables.set("flow-log.log-destination-type", "", "stdout");
    tables.build(&Surroundings::default()).expect("all of it is well known")
}

/// A directory of a target's own, empty at first.
struct Place(PathBuf);

impl Place {
    fn new(target: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("flowlogd-fuzz-{}-{target}", process::id()));
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        Self(directory)
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path: &Path = &self.0.join(name);
        fs::write(path, data).expect("a temporary file");
        path.to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzers found worth keeping: a step of every later change's tests.
    #[test]
    fn the_corpus_breaks_nothing() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpus.join(name)).unwrap();
            let inputs: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            // And cut anywhere, as files and answers may be.
            for input in inputs {
                target(&input);
                (0..8).for_each(|eighth| target(&input[..input.len() * eighth / 8]));
            }
        }
    }
}
