//! Where a setting was said, so that a refusal names it.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `key` is dotted from the top of the file; empty for what is no key's fault.
    File {
        path: Arc<Path>,
        line: usize,
        key: String,
    },
    Flag(String),
}

impl Place {
    /// A file as a whole.
    pub(super) fn file(path: &Path) -> Self {
        Self::File { path: path.into(), line: 0, key: String::new() }
    }

    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Flag(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File { path, line: 0, .. } => f.write_str(&plain(path.display())),
            Self::File { path, line, key } if key.is_empty() => write!(f, "{}:{line}", plain(path.display())),
            Self::File { path, line, key } => write!(f, "{}:{line}: key {}", plain(path.display()), plain(key)),
            Self::Flag(flag) => write!(f, "'{flag}'"),
        }
    }
}

/// On one line: a name between quotes may hold anything.
fn plain(text: impl fmt::Display) -> String {
    let mut plain = String::new();
    for letter in text.to_string().chars() {
        if letter.is_control() { plain.extend(letter.escape_default()) } else { plain.push(letter) }
    }
    plain
}

/// One line: where, what is wrong, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct ConfigError {
    pub(super) place: Place,
    pub(super) what: String,
}

impl ConfigError {
    pub(super) fn new(place: Place, what: impl fmt::Display) -> Self {
        // What the parser or the system says may have several lines.
        let what = what.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ");
        Self { place, what: plain(what) }
    }
}
