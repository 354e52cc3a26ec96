//! The settings of one table, each with its place: what a file and what flags are turned into.
//! Knows types of values and nothing of what they mean.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Value;

use super::place::{ConfigError, Place};

/// Where the table as a whole is from.
#[derive(Clone, Debug)]
enum Origin {
    Flags,
    Table { path: Arc<Path>, line: usize },
}

#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// As in the file: `host`, `flow-log`.
    name: &'static str,
    origin: Origin,
    said: BTreeMap<String, (Value, Place)>,
}

impl Section {
    pub(super) fn of_flags(name: &'static str) -> Self {
        Self { name, origin: Origin::Flags, said: BTreeMap::new() }
    }

    pub(super) fn of_table(name: &'static str, path: &Arc<Path>, line: usize) -> Self {
        Self { name, origin: Origin::Table { path: Arc::clone(path), line }, said: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, key: impl Into<String>, value: Value, place: Place) {
        self.said.insert(key.into(), (value, place));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.said.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.said.keys().map(String::as_str)
    }

    /// Where the key is, or where it should be.
    pub(super) fn place(&self, key: &str) -> Place {
        if let Some((_, place)) = self.said.get(key) {
            return place.clone();
        }
        match &self.origin {
            Origin::Flags => Place::Flag(format!("--{key}")),
            Origin::Table { path, line } => {
                Place::File { path: Arc::clone(path), line: *line, key: format!("{}.{key}", self.name) }
            }
        }
    }

    /// Where the table begins.
    pub(super) fn origin(&self) -> Place {
        match &self.origin {
            Origin::Flags => Place::Flag("run".to_owned()),
            Origin::Table { path, line } => {
                Place::File { path: Arc::clone(path), line: *line, key: self.name.to_owned() }
            }
        }
    }

    pub(super) fn error(&self, key: &str, what: impl fmt::Display) -> ConfigError {
        ConfigError::new(self.place(key), what)
    }

    fn get<T: DeserializeOwned>(&self, key: &str, kind: &str) -> Result<Option<T>, ConfigError> {
        let Some((value, _)) = self.said.get(key) else { return Ok(None) };
        // The value is not in the message: it may be a secret in the wrong place.
        value.clone().try_into().map(Some).map_err(|_| self.error(key, format_args!("must be {kind}")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let text: Option<String> = self.get(key, "a string")?;
        if text.as_ref().is_some_and(|text| text.is_empty() || text.contains(char::is_control)) {
            return Err(self.error(key, "must not be empty or hold control characters"));
        }
        Ok(text)
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        Ok(self.get(key, "true or false")?.unwrap_or_default())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.get(key, "a whole number")
    }

    pub(super) fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        Ok(self.get(key, "a list of strings")?.unwrap_or_default())
    }

    pub(super) fn map(&self, key: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        Ok(self.get(key, "a table of strings, such as { name = \"value\" }")?.unwrap_or_default())
    }

    /// One for each name.
    pub(super) fn maps(&self, key: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>, ConfigError> {
        Ok(self.get(key, "a table of tables, such as { eth0 = { name = \"value\" } }")?.unwrap_or_default())
    }

    /// In a file an absolute one: nobody knows where the agent is started.
    pub(super) fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        match self.text(key)?.map(PathBuf::from) {
            Some(path) if !path.is_absolute() && matches!(self.place(key), Place::File { .. }) => {
                Err(self.error(key, format_args!("{} is not an absolute path", path.display())))
            }
            path => Ok(path),
        }
    }

    /// A number in a range.
    pub(super) fn within(&self, key: &str, least: u32, most: u32) -> Result<Option<u32>, ConfigError> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        match u32::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.error(key, format_args!("{number} is not allowed; allowed: {least} to {most}"))),
        }
    }

    /// A string that is one of a few.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(key, format_args!("{text:?} is not allowed; allowed: {}", names.join(", ")))
        })
    }

    /// Each parsed, such as networks.
    pub(super) fn parsed<T: std::str::FromStr>(&self, key: &str, shape: &str) -> Result<Vec<T>, ConfigError> {
        let parse = |text: String| text.parse().map_err(|_| self.error(key, format_args!("{text:?} is not {shape}")));
        self.list(key)?.into_iter().map(parse).collect()
    }

    /// A number of bytes, or one with a unit.
    pub(super) fn bytes(&self, key: &str, least: u64) -> Result<Option<u64>, ConfigError> {
        let Some((value, _)) = self.said.get(key) else { return Ok(None) };
        let bytes = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => parse_bytes(text),
            _ => None,
        };
        let bytes = bytes.filter(|&bytes| bytes >= least);
        bytes.map(Some).ok_or_else(|| {
            let why = format!("must be a number of bytes such as 1073741824 or \"512MiB\", at least {least}");
            self.error(key, why)
        })
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit.trim_start() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("512MiB", Some(512 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1GB", None),
            ("-1", None),
            ("MiB", None),
            ("1.5GiB", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
