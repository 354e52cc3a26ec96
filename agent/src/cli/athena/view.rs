//! The same table as a view in DuckDB: names, types and partitions are Athena's.
#![forbid(unsafe_code)]

use super::{Objects, quoted};
use crate::flow_log::FileFormat;
use crate::format::{Field, Type};

pub(super) fn ddl(objects: &Objects) -> String {
    let Objects { name, format, layout, base, .. } = objects;
    let fields = format.fields();
    let is_text = layout.file_format == FileFormat::PlainText;
    let glob = quoted(&format!("{}**/*{}", literal(base), layout.file_format.suffix()));
    let is_hive = layout.hive_compatible_partitions;
    let hive = if is_hive { "hive_partitioning = true, hive_types_autocast = false" } else { "filename = true" };
    let source = if is_text {
        let columns: Vec<String> =
            fields.iter().map(|field| format!("'{}': '{}'", field.column(), kind(field))).collect();
        format!(
            "read_csv({glob}, delim = ' ', quote = '', header = true, auto_detect = false, nullstr = '-', {hive},\n    \
             columns = {{{}}})",
            columns.join(", ")
        )
    } else {
        format!("read_parquet({glob}, {hive})")
    };
    // A number that is missing is null, and a text is a dash, as in Athena and in Parquet.
    let value = |field: &&Field| match (is_text, field.kind, field.column()) {
        (true, Type::Text, column) => format!("coalesce(\"{column}\", '-') AS \"{column}\""),
        (_, _, column) => format!("\"{column}\""),
    };
    let mut values: Vec<String> = fields.iter().map(value).collect();
    values.extend(partitions(is_hive, layout.per_hour_partition));
    format!(
        "-- So that queries written for Athena run.\n\
         CREATE OR REPLACE MACRO from_unixtime(seconds) AS to_timestamp(seconds);\n\
         CREATE OR REPLACE VIEW \"{name}\" AS SELECT\n    {}\nFROM {source};\n",
        values.join(",\n    ")
    )
}

/// Of a pattern: a set of one character is that character.
fn literal(path: &str) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        match character {
            '*' | '?' | '[' => pattern.extend(['[', character, ']']),
            _ => pattern.push(character),
        }
    }
    pattern
}

fn partitions(is_hive: bool, by_hour: bool) -> Vec<String> {
    if is_hive {
        let names = ["aws-account-id", "aws-service", "aws-region", "year", "month", "day", "hour"];
        let count = if by_hour { 7 } else { 6 };
        return names.iter().take(count).map(|name| format!("\"{name}\"")).collect();
    }
    let path = "AWSLogs/([^/]+)/vpcflowlogs/([^/]+)/(\\d{4}/\\d{2}/\\d{2})/?(\\d{2})?/";
    let names = ["account", "aws_region", "date", "hour"];
    let count = if by_hour { 4 } else { 3 };
    let part = |(name, group): (&&str, u8)| format!("regexp_extract(filename, '{path}', {group}) AS \"{name}\"");
    names.iter().zip(1..).take(count).map(part).collect()
}

fn kind(field: &Field) -> &'static str {
    match field.kind {
        Type::Text => "VARCHAR",
        Type::Int32 => "INTEGER",
        Type::Int64 => "BIGINT",
    }
}
