//! `--log-format`: which fields a record has, in which order.
//! Knows names and nothing of how a value is found or written.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Version,
    AccountId,
    InterfaceId,
    SrcAddr,
    DstAddr,
    SrcPort,
    DstPort,
    Protocol,
    Packets,
    Bytes,
    Start,
    End,
    Action,
    LogStatus,
}

/// In the order of AWS's table; with AWS's names.
pub(crate) const FIELDS: [(&str, Field); 14] = [
    ("version", Field::Version),
    ("account-id", Field::AccountId),
    ("interface-id", Field::InterfaceId),
    ("srcaddr", Field::SrcAddr),
    ("dstaddr", Field::DstAddr),
    ("srcport", Field::SrcPort),
    ("dstport", Field::DstPort),
    ("protocol", Field::Protocol),
    ("packets", Field::Packets),
    ("bytes", Field::Bytes),
    ("start", Field::Start),
    ("end", Field::End),
    ("action", Field::Action),
    ("log-status", Field::LogStatus),
];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("{0:?} is not of the shape ${{field}} ${{field}}, with single spaces")]
    Shape(String),
    #[error("field {0} is not known; known are {1}")]
    Unknown(String, String),
    #[error("field {0} is there twice")]
    Twice(String),
}

/// Fields in the order of the columns; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Format(Vec<Field>);

impl Default for Format {
    fn default() -> Self {
        Self(FIELDS.map(|(_, field)| field).to_vec())
    }
}

impl Format {
    /// AWS's syntax: `${field}` tokens, one space between.
    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        let mut fields = Vec::new();
        for token in text.split(' ') {
            let name = token.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            let name = name.filter(|name| !name.contains(['$', '{', '}']));
            let name = name.ok_or_else(|| FormatError::Shape(text.to_owned()))?;
            let known = FIELDS.iter().find(|(known, _)| *known == name);
            let (_, field) = known.ok_or_else(|| {
                FormatError::Unknown(name.escape_debug().to_string(), FIELDS.map(|(known, _)| known).join(", "))
            })?;
            if fields.contains(field) {
                return Err(FormatError::Twice(name.to_owned()));
            }
            fields.push(*field);
        }
        Ok(Self(fields))
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.0
    }

    pub(crate) fn is_default(&self) -> bool {
        self.0.iter().copied().eq(FIELDS.map(|(_, field)| field))
    }

    /// AWS's names with single spaces: the first line of an object.
    pub(crate) fn header(&self) -> String {
        self.names().collect::<Vec<_>>().join(" ")
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|field| FIELDS.iter().find(|(_, known)| known == field).map_or("-", |(name, _)| name))
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
        let tokens: Vec<String> = self.names().map(|name| format!("${{{name}}}")).collect();
        f.write_str(&tokens.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's default, all of version 2.
    const DEFAULT: &str = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} \
         ${protocol} ${packets} ${bytes} ${start} ${end} ${action} ${log-status}";

    #[test]
    fn parses_what_it_prints() {
        assert_eq!(Format::parse(DEFAULT), Ok(Format::default()));
        assert_eq!(Format::default().to_string(), DEFAULT);
        assert!(Format::default().is_default());
        let short = Format::parse("${end} ${bytes}").unwrap();
        assert_eq!((short.header().as_str(), short.is_default()), ("end bytes", false));
    }

    #[test]
    fn refuses() {
        for text in ["", " ", "${end} ", " ${end}", "${end}  ${start}", "end", "${end", "${end}${start}", "x ${end}"] {
            assert_eq!(Format::parse(text), Err(FormatError::Shape(text.to_owned())), "{text:?}");
        }
        assert_eq!(Format::parse("${end} ${end}"), Err(FormatError::Twice("end".to_owned())));
        let error = Format::parse("${pakets}").unwrap_err().to_string();
        assert!(error.starts_with("field pakets is not known; known are version, account-id"), "{error}");
        // What a fuzzer found: a refusal is one line.
        let error = Format::parse("${a\n\rb}").unwrap_err().to_string();
        assert!(error.starts_with("field a\\n\\rb is not known"), "{error}");
    }
}
