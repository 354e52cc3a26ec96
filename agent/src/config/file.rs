//! `flowlogd.toml` and what lies in `conf.d` beside it -> tables of known keys, each with its line.
//! Knows the keys' names and nothing of what they mean.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::place::{ConfigError, Place};
use super::section::Section;
use super::{Tables, keys};

/// Reads the file and what is beside it.
pub(super) fn read(path: &Path) -> Result<Tables, ConfigError> {
    let mut tables = Tables::empty(path);
    parse(&mut tables, path, &text(path)?, true)?;
    for path in beside(path)? {
        parse(&mut tables, &path, &text(&path)?, false)?;
    }
    Ok(tables)
}

/// Far more than anybody writes.
const BYTES_MAX: u64 = 4 << 20;

/// Of a plain file only: a pipe or a device would be waited for, and at a reload everything waits with it.
fn text(path: &Path) -> Result<String, ConfigError> {
    let refuse =
        |why: &dyn std::fmt::Display| ConfigError::new(Place::file(path), format_args!("cannot be read: {why}"));
    let metadata = fs::metadata(path).map_err(|error| refuse(&error))?;
    if !metadata.is_file() {
        return Err(refuse(&"not a regular file"));
    }
    if metadata.len() > BYTES_MAX {
        return Err(refuse(&format_args!("it is larger than {} MiB", BYTES_MAX >> 20)));
    }
    fs::read_to_string(path).map_err(|error| refuse(&error))
}

/// `conf.d/*.toml`, by name.
fn beside(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let cannot = |error| ConfigError::new(Place::file(&directory), format_args!("cannot be read: {error}"));
    let mut files = Vec::new();
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(cannot)?.path();
                // An editor's hidden copy is no configuration.
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(error)),
    }
    files.sort();
    Ok(files)
}

/// Adds what a file says. `main`: it may hold more than flow logs.
pub(super) fn parse(tables: &mut Tables, path: &Path, text: &str, main: bool) -> Result<(), ConfigError> {
    let source = Source { path: path.into(), text };
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::new(source.place(at, ""), format_args!("is not valid TOML: {}", error.message()))
    })?;
    for (at, name, value) in in_order(root.into_inner()) {
        if name == "flow-log" {
            tables.logs.extend(source.flow_logs(at, value)?);
            continue;
        }
        let Some((known, _)) = keys::TABLES.iter().find(|(known, _)| *known == name) else {
            return Err(ConfigError::new(source.place(at, &name), source.unknown_at_top(&name)));
        };
        if !main {
            let why = format_args!("belongs in the file beside conf.d; here are only [[flow-log]] tables");
            return Err(ConfigError::new(source.place(at, known), why));
        }
        let section = source.section(known, at, value)?;
        tables.replace(known, section);
    }
    Ok(())
}

/// Keys in the order of the file, so that the first mistake is the one that is said.
fn in_order<'a>(table: DeTable<'a>) -> Vec<(usize, String, Spanned<DeValue<'a>>)> {
    let entry = |(key, value): (Spanned<DeString<'a>>, _)| (key.span().start, key.into_inner().into_owned(), value);
    let mut entries: Vec<_> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|(at, ..)| *at);
    entries
}

/// A file's text, to find lines in.
struct Source<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn place(&self, at: usize, key: &str) -> Place {
        Place::File { path: Arc::clone(&self.path), line: self.line(at), key: key.to_owned() }
    }

    /// A key of a table that stands before any table is a mistake of its own.
    fn unknown_at_top(&self, name: &str) -> String {
        let tables = keys::TABLES.iter().map(|(name, _)| *name).chain(["flow-log"]);
        let meant = match keys::unknown("", name) {
            belongs if belongs.contains("belongs in") || keys::is_credential(name) => belongs,
            _ => format!("is not known; did you mean {}?", keys::nearest(name, tables).unwrap_or_default()),
        };
        meant + &self.exposed(name)
    }

    fn flow_logs(&self, at: usize, value: Spanned<DeValue>) -> Result<Vec<Section>, ConfigError> {
        let DeValue::Array(items) = value.into_inner() else {
            return Err(ConfigError::new(
                self.place(at, "flow-log"),
                "must be written [[flow-log]], in double brackets",
            ));
        };
        items.into_iter().map(|item| self.section("flow-log", item.span().start, item)).collect()
    }

    fn section(&self, name: &'static str, at: usize, value: Spanned<DeValue>) -> Result<Section, ConfigError> {
        let mut section = Section::of_table(name, &self.path, self.line(at));
        let DeValue::Table(table) = value.into_inner() else {
            return Err(ConfigError::new(self.place(at, name), format_args!("must be a table, [{name}]")));
        };
        self.fill(&mut section, name, "", table)?;
        Ok(section)
    }

    /// Takes a table's keys; those of a table within it with a dot.
    fn fill(&self, section: &mut Section, name: &str, prefix: &str, table: DeTable) -> Result<(), ConfigError> {
        let known = keys::of(name);
        for (at, key, value) in in_order(table) {
            let key = format!("{prefix}{key}");
            let place = self.place(at, &format!("{name}.{key}"));
            let inner = format!("{key}.");
            if known.iter().any(|known| known.starts_with(&inner)) {
                let DeValue::Table(table) = value.into_inner() else {
                    return Err(ConfigError::new(place, "must be a table"));
                };
                self.fill(section, name, &inner, table)?;
            } else if known.contains(&key.as_str()) {
                let value = toml::Value::deserialize(ValueDeserializer::from(value));
                let value = value.map_err(|error| ConfigError::new(place.clone(), error.message()))?;
                section.set(key, value, place);
            } else {
                return Err(ConfigError::new(place, keys::unknown(name, &key) + &self.exposed(&key)));
            }
        }
        Ok(())
    }

    /// What to add when others could read a credential.
    fn exposed(&self, key: &str) -> String {
        match keys::is_credential(key) && readable_by_others(&self.path) {
            true => format!("; others can read this file: replace them, and chmod o-r {}", self.path.display()),
            false => String::new(),
        }
    }
}

pub(super) fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
