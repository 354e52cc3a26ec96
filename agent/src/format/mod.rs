//! `--log-format`: which fields a record has, in which order, and what a record has in them.
//! Knows nothing of how a value is written.
#![forbid(unsafe_code)]

pub(crate) mod consumers;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod line;
mod parse;
mod table;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::record::Record;
pub(crate) use parse::FormatError;
use table::DEFAULT_FIELDS;
use table::Source;
#[cfg(test)]
use table::TRANSIT_GATEWAY;
pub(crate) use table::{FIELDS, Field, Type, Value};

/// Fields in the order of the columns; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Format {
    fields: Vec<&'static Field>,
    /// The highest of the fields'.
    version: u8,
    is_default: bool,
}

/// AWS's format when none is given; and its version when a format has only fields of ours.
const DEFAULT_VERSION: u8 = 2;

impl Default for Format {
    fn default() -> Self {
        Self::of(FIELDS.iter().take(DEFAULT_FIELDS).collect())
    }
}

impl Format {
    /// AWS's syntax: `${field}` tokens, one space between.
    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        parse::parse(text).map(Self::of)
    }

    fn of(fields: Vec<&'static Field>) -> Self {
        let version = fields.iter().map(|field| field.version).max().unwrap_or_default().max(DEFAULT_VERSION);
        let is_default = fields.iter().copied().eq(FIELDS.iter().take(DEFAULT_FIELDS));
        Self { fields, version, is_default }
    }

    /// The columns: names and types are theirs.
    pub(crate) fn fields(&self) -> &[&'static Field] {
        &self.fields
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// Whether the default format's fields come first.
    fn begins_as_default(&self) -> bool {
        self.fields.iter().copied().take(DEFAULT_FIELDS).eq(FIELDS.iter().take(DEFAULT_FIELDS))
    }

    pub(crate) fn is_default(&self) -> bool {
        self.is_default
    }

    /// What a record has in a field of this format.
    #[inline]
    pub(crate) fn value<'a>(&self, field: &Field, record: &Record<'a>) -> Value<'a> {
        match field.source {
            Source::Version => Value::Number(self.version.into()),
            Source::Record(value) => value(record),
            Source::Nowhere => Value::Absent,
        }
    }

    /// One for each column.
    pub(crate) fn values<'a>(&self, record: &Record<'a>) -> impl Iterator<Item = Value<'a>> {
        self.fields.iter().map(|field| self.value(field, record))
    }

    /// AWS's names with single spaces: the first line of an object.
    pub(crate) fn header(&self) -> String {
        self.fields.iter().map(|field| field.name).collect::<Vec<_>>().join(" ")
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.to_string()
    }
}

impl TryFrom<String> for Format {
    type Error = FormatError;

    fn try_from(text: String) -> Result<Self, FormatError> {
        Self::parse(&text)
    }
}

/// As it is configured.
impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let tokens: Vec<String> = self.fields.iter().map(|field| format!("${{{}}}", field.name)).collect();
        f.write_str(&tokens.join(" "))
    }
}
