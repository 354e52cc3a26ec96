//! What a flow log's delivery last said of itself: `status.json` beside its spool.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// Until a delivery succeeds.
    pub(crate) error: Option<Problem>,
    /// Unix seconds.
    pub(crate) last_delivery: Option<i64>,
    pub(crate) delivered: Delivered,
    pub(crate) dropped: Dropped,
    pub(crate) dead_lettered: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Idle,
    Delivering,
    Retrying,
    /// Needs a person.
    Refused,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
    /// Unix seconds.
    pub(crate) since: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Delivered {
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dropped {
    pub(crate) segments: u64,
    pub(crate) records: u64,
}

impl Status {
    /// None: nothing was delivered or tried yet. An error is one line.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, String> {
        let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| said(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(said(&error)),
        }
    }
}

impl Problem {
    /// AWS has three words for what fails.
    pub(crate) fn in_words_of_aws(&self) -> &'static str {
        let has = |words: &[&str]| words.iter().any(|word| self.code.contains(word));
        match () {
            () if has(&["Throttl", "SlowDown", "TooManyRequests", "LimitExceeded"]) => "Rate limited",
            () if has(&["Access", "Token", "Signature", "UnrecognizedClient", "credentials"]) => "Access error",
            () => "Unknown error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.json");
        assert_eq!(Status::read(&path), Ok(None));
        std::fs::write(
            &path,
            r#"{"state":"retrying","error":{"code":"SlowDown","message":"m","since":5},"last_delivery":null,
                "delivered":{"segments":1,"records":2,"bytes":3},"dropped":{"segments":4,"records":5},
                "dead_lettered":6,"later":"more"}"#,
        )
        .unwrap();
        let status = Status::read(&path).unwrap().unwrap();
        assert_eq!((status.state, status.last_delivery, status.dead_lettered), (State::Retrying, None, 6));
        assert_eq!(status.delivered, Delivered { segments: 1, records: 2, bytes: 3 });
        assert_eq!(status.error.unwrap().in_words_of_aws(), "Rate limited");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(Status::read(&path), Ok(Some(Status::default())));
        std::fs::write(&path, "{").unwrap();
        let error = Status::read(&path).unwrap_err();
        assert!(error.starts_with(&format!("{}: EOF", path.display())), "{error}");
    }

    #[test]
    fn words() {
        for (code, words) in [
            ("ThrottlingException", "Rate limited"),
            ("AccessDenied", "Access error"),
            ("InvalidAccessKeyId", "Access error"),
            ("ExpiredToken", "Access error"),
            ("NoSuchBucket", "Unknown error"),
            ("timeout", "Unknown error"),
        ] {
            assert_eq!(Problem { code: code.to_owned(), ..Problem::default() }.in_words_of_aws(), words, "{code}");
        }
    }
}
