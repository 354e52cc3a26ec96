//! `flowlogd athena`: SQL that makes tables of flow logs, in Athena and the same in DuckDB. Prints and does nothing else.
//! Must not know what a record has in a field.
#![forbid(unsafe_code)]

mod table;
mod view;

use std::path::PathBuf;

use clap::ValueEnum;

use super::{Failure, say};
use crate::config::{self, Host};
use crate::flow_log::{Destination, FlowLog, Layout, S3};
use crate::format::Format;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  flowlogd athena\n  flowlogd athena --flow-log fl-0123456789abcdef0 --dialect duckdb"
)]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it adds flow logs
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// Of this flow log only; see flowlogd list
    #[arg(long, value_name = "ID")]
    flow_log: Option<String>,
    /// Of this one only
    #[arg(long)]
    dialect: Option<Dialect>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Athena,
    #[value(name = "duckdb")]
    DuckDb,
}

/// What a table is made of.
struct Objects<'a> {
    name: String,
    format: &'a Format,
    layout: Layout,
    /// The folder AWSLogs, with a slash at its end.
    base: String,
    account_id: &'a str,
    region: &'a str,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(|error| Failure::Usage(error.to_string()))?;
    let chosen = chosen(&config.logs, args.flow_log.as_deref())?;
    let text = text(&chosen, &config.logs, &config.host, args.dialect);
    if text.is_empty() {
        return Err(Failure::Usage("--dialect athena: it reads S3 only, and these are directories".to_owned()));
    }
    say(&text)
}

fn chosen<'a>(logs: &'a [FlowLog], id: Option<&str>) -> Result<Vec<&'a FlowLog>, Failure> {
    let has_objects = |log: &&FlowLog| matches!(log.destination, Destination::S3(_) | Destination::Directory { .. });
    let chosen: Vec<&FlowLog> =
        logs.iter().filter(has_objects).filter(|log| id.is_none_or(|id| log.id == id)).collect();
    match id {
        _ if !chosen.is_empty() => Ok(chosen),
        Some(id) if logs.iter().any(|log| log.id == id) => {
            Err(Failure::Usage(format!("--flow-log {id}: has no objects; tables are of s3 and directory")))
        }
        Some(id) => Err(Failure::Usage(format!("--flow-log {id}: there is no such flow log; see flowlogd list"))),
        None => Err(Failure::Usage("no flow log has objects; tables are of s3 and directory".to_owned())),
    }
}

/// The folder AWSLogs, with a slash at its end.
fn base(destination: &Destination) -> Option<String> {
    match destination {
        Destination::S3(S3 { bucket, folder, .. }) if folder.is_empty() => Some(format!("s3://{bucket}/AWSLogs/")),
        Destination::S3(S3 { bucket, folder, .. }) => Some(format!("s3://{bucket}/{folder}/AWSLogs/")),
        Destination::Directory { root, .. } => Some(format!("{}/AWSLogs/", root.display())),
        _ => None,
    }
}

/// A table is of a folder, so that it has all hosts: what else is there is in it too.
fn note(log: &FlowLog, all: &[FlowLog], base: &str) -> String {
    let others =
        all.iter().filter(|other| other.id != log.id && self::base(&other.destination).as_deref() == Some(base));
    let others: Vec<&str> = others.map(|other| other.id.as_str()).collect();
    let rule =
        "-- Of all objects in the folder. Another log-format, or the same traffic twice, wants a folder of its own";
    match others.as_slice() {
        [] => format!("{rule}.\n"),
        others => format!("{rule}: also there {}.\n", others.join(", ")),
    }
}

fn text(logs: &[&FlowLog], all: &[FlowLog], host: &Host, dialect: Option<Dialect>) -> String {
    let mut parts = Vec::new();
    for log in logs {
        // One is called as in docs/queries.
        let name = match logs {
            [_] => "vpc_flow_logs".to_owned(),
            _ => format!("vpc_flow_logs_{}", log.id.trim_start_matches("fl-")),
        };
        let (layout, in_s3) = match &log.destination {
            Destination::S3(S3 { layout, .. }) => (*layout, true),
            Destination::Directory { layout, .. } => (*layout, false),
            _ => continue,
        };
        let Some(base) = base(&log.destination) else { continue };
        let note = note(log, all, &base);
        let (account_id, region) = (host.identity.account_id.as_str(), host.identity.region.as_str());
        let objects = Objects { name, format: &log.format, layout, base, account_id, region };
        let is_wanted = |one| dialect.is_none_or(|dialect| dialect == one);
        if is_wanted(Dialect::Athena) && in_s3 {
            parts.push(format!("-- Athena: {}\n{note}{}", log.id, table::ddl(&objects)));
        }
        if is_wanted(Dialect::DuckDb) {
            parts.push(format!("-- DuckDB: {}\n{note}{}", log.id, view::ddl(&objects)));
        }
    }
    parts.join("\n")
}

/// A string in SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    fn said(toml: &str, dialect: Option<Dialect>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        std::fs::write(&file, format!("[host]\naccount-id = \"123456789012\"\nregion = \"eu-west-1\"\n{toml}"))
            .unwrap();
        let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
        text(&chosen(&config.logs, None).unwrap_or_default(), &config.logs, &config.host, dialect)
    }

    fn s3(options: &str) -> String {
        format!(
            "[[flow-log]]\nlog-destination-type = \"s3\"\nlog-destination = \"arn:aws:s3:::logs/f/\"\n\
             log-format = \"${{version}} ${{srcaddr}} ${{region}} ${{end}}\"\ndestination-options = {{ {options} }}\n"
        )
    }

    /// As the user guide's page vpc-flow-logs-partition-projection has it.
    #[test]
    fn text_with_partition_projection() {
        let want = "CREATE EXTERNAL TABLE IF NOT EXISTS `vpc_flow_logs` (
    `version` int,
    `srcaddr` string,
    `region` string,
    `end` bigint
)
PARTITIONED BY (`account` string, `aws_region` string, `date` string)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ' '
LOCATION 's3://logs/f/AWSLogs/'
TBLPROPERTIES (
    'skip.header.line.count' = '1',
    'projection.enabled' = 'true',
    'projection.account.type' = 'enum',
    'projection.account.values' = '123456789012',
    'projection.aws_region.type' = 'enum',
    'projection.aws_region.values' = 'eu-west-1',
    'projection.date.type' = 'date',
    'projection.date.format' = 'yyyy/MM/dd',
    'projection.date.range' = 'NOW-3YEARS,NOW',
    'storage.location.template' = 's3://logs/f/AWSLogs/${account}/vpcflowlogs/${aws_region}/${date}'
);
";
        let said = said(&s3(""), Some(Dialect::Athena));
        assert!(said.ends_with(want), "{said}");
    }

    #[test]
    fn parquet_by_the_hour() {
        let said = said(&s3("file-format = \"parquet\", per-hour-partition = true"), Some(Dialect::Athena));
        for part in [
            "`date` string, `hour` string)\nROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe'\n",
            "'projection.hour.range' = '00,23',\n    'projection.hour.digits' = '2',\n",
            "/${date}/${hour}'\n);\n",
        ] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert!(!said.contains("skip.header"), "{said}");
    }

    #[test]
    fn hive_partitions_are_looked_for() {
        let said = said(&s3("hive-compatible-partitions = true"), Some(Dialect::Athena));
        let end = "PARTITIONED BY (`aws-account-id` string, `aws-service` string, `aws-region` string, `year` string, \
                   `month` string, `day` string)\nROW FORMAT DELIMITED FIELDS TERMINATED BY ' '\n\
                   LOCATION 's3://logs/f/AWSLogs/'\nTBLPROPERTIES (\n    'skip.header.line.count' = '1'\n);\n\
                   MSCK REPAIR TABLE `vpc_flow_logs`;\n";
        assert!(said.ends_with(end), "{said}");
    }

    #[test]
    fn several_have_names_and_a_directory_is_for_duckdb() {
        let directory = "[[flow-log]]\nlog-destination-type = \"directory\"\nlog-destination = \"/it's\"\n";
        let said = said(&(s3("") + directory), None);
        assert_eq!((said.matches("-- Athena: fl-").count(), said.matches("-- DuckDB: fl-").count()), (1, 2), "{said}");
        assert!(said.contains("VIEW \"vpc_flow_logs_") && said.contains("'/it''s/AWSLogs/**/*.log.gz'"), "{said}");
    }

    #[test]
    fn what_else_is_in_the_folder_is_said() {
        let log = |kind| {
            format!(
                "[[flow-log]]\nlog-destination-type = \"directory\"\nlog-destination = \"/a [b]*\"\ntraffic-type = \"{kind}\"\n"
            )
        };
        let alone = said(&log("ALL"), None);
        assert!(
            alone.contains("folder of its own.\n") && alone.contains("'/a [[]b][*]/AWSLogs/**/*.log.gz'"),
            "{alone}"
        );
        let both = said(&(log("ACCEPT") + &log("REJECT")), None);
        assert_eq!(both.matches("folder of its own: also there fl-").count(), 2, "{both}");
    }

    #[test]
    fn what_has_no_table() {
        let refused = |toml: &str, id: Option<&str>| {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("f.toml");
            std::fs::write(&file, toml).unwrap();
            let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
            let id = id.unwrap_or(&config.logs[0].id);
            let Err(Failure::Usage(why)) = chosen(&config.logs, Some(id)) else { panic!("taken") };
            why
        };
        let stdout = "[[flow-log]]\nlog-destination-type = \"stdout\"\n";
        assert!(refused(stdout, None).ends_with(": has no objects; tables are of s3 and directory"));
        let why = "--flow-log fl-1: there is no such flow log; see flowlogd list";
        assert_eq!(refused(stdout, Some("fl-1")), why);
    }
}
