//! `flowlogd fields`: what a `log-format` may name, and where this host has it from.
//! Reads nothing but the table.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use serde::Serialize;

use super::table::{Align, Table};
use super::{Failure, say, say_json};
use crate::format::{FIELDS, Field};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd fields\n  flowlogd fields | cut -f1\n  flowlogd fields --json\n\n\
                  In a pipe: name, version, type and meaning, with tabs between. Version x: ours, and not AWS's.")]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    name: &'static str,
    /// None: ours.
    version: Option<u8>,
    column: String,
    column_type: &'static str,
    /// No host knows it: `-` in every record.
    always_absent: bool,
    description: String,
}

impl Listed {
    fn of(field: &Field) -> Self {
        Self {
            name: field.name,
            version: (field.version > 0).then_some(field.version),
            column: field.column(),
            column_type: field.kind.name(),
            always_absent: field.is_always_absent(),
            description: field.help.replace('`', ""),
        }
    }

    fn cells(self) -> Vec<String> {
        let version = self.version.map_or_else(|| "x".to_owned(), |version| version.to_string());
        vec![self.name.to_owned(), version, self.column_type.to_owned(), self.description]
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let listed = FIELDS.iter().map(Listed::of);
    if args.json {
        return say_json(&BTreeMap::from([("Fields", listed.collect::<Vec<_>>())]));
    }
    if !std::io::stdout().is_terminal() {
        return say(&listed.map(|it| it.cells().join("\t") + "\n").collect::<String>());
    }
    let columns = [("FIELD", Align::Left), ("VERSION", Align::Right), ("TYPE", Align::Left), ("MEANING", Align::Left)];
    let mut table = Table::new(&columns);
    listed.for_each(|it| table.row(it.cells()));
    say(&table.text(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_four_parts() {
        let lines: Vec<Vec<String>> = FIELDS.iter().map(|field| Listed::of(field).cells()).collect();
        assert!(lines.iter().all(|cells| cells.len() == 4 && !cells.iter().any(|cell| cell.contains(['\t', '`']))));
        assert_eq!(lines[17][..3], ["tcp-flags", "3", "INT32"]);
        assert_eq!(lines[54][..3], ["x-interface-name", "x", "STRING"]);
        let shown = serde_json::to_value(Listed::of(&FIELDS[0])).unwrap();
        assert_eq!(
            (&shown["Version"], &shown["Column"], &shown["AlwaysAbsent"]),
            (&2.into(), &"version".into(), &false.into())
        );
    }
}
