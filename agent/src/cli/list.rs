//! `flowlogd list`: the configured flow logs as `aws ec2 describe-flow-logs` shows them, and how their delivery goes.
//! Reads files only; the agent need not run.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::{Failure, say, say_json};
use crate::config::describe::Description;
use crate::config::{self, Config};
use crate::deliver::{self, status::Status};
use crate::serve::{client, socket};
use crate::status::{FlowLog, Snapshot};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd list\n  flowlogd list --json")]
pub(super) struct Args {
    /// The configuration; conf.d/*.toml beside it adds flow logs
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// As `aws ec2 describe-flow-logs --output json`
    #[arg(long)]
    json: bool,
}

/// AWS's members in the first three.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(flatten)]
    description: Description,
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_time: Option<String>,
    deliver_logs_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_logs_error_message: Option<&'static str>,
    /// Ours: the service's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_logs_error: Option<Error>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Error {
    code: String,
    message: String,
    since: String,
}

impl Listed {
    fn new(description: Description, creation_time: Option<String>, status: Status) -> Self {
        let failed = status.error.is_some();
        Self {
            description,
            creation_time,
            // Also before the first attempt.
            deliver_logs_status: if failed { "FAILED" } else { "SUCCESS" },
            deliver_logs_error_message: status.error.as_ref().map(|error| in_words_of_aws(&error.code)),
            deliver_logs_error: status.error.map(|error| Error {
                code: error.code,
                message: error.message,
                since: Timestamp::from_second(error.since).unwrap_or_default().to_string(),
            }),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = config::load(&args.config).map_err(|e| Failure::Usage(e.to_string()))?;
    let listed = list(&config)?;
    if args.json {
        return say_json(&BTreeMap::from([("FlowLogs", listed)]));
    }
    say(&text(&listed, std::io::stdout().is_terminal()))
}

fn list(config: &Config) -> Result<Vec<Listed>, Failure> {
    let spool = config.agent.state_directory.join("spool");
    let default = || socket::default_path(&config.agent.state_directory);
    let ask = || -> Vec<FlowLog> {
        let socket = config.agent.socket.clone().unwrap_or_else(default);
        client::get::<Snapshot>(&socket, "/v1/status").map(|told| told.flow_logs).unwrap_or_default()
    };
    let mut asked: Option<Vec<FlowLog>> = None;
    let one = |log| {
        let description = Description::of(log, &config.host);
        let directory = spool.join(&description.flow_log_id);
        let status = Status::read_or_say(&directory).or_else(|error| {
            // Of another user's agent: it says so itself to whoever may ask.
            let status = asked.get_or_insert_with(ask).iter().find(|one| one.id == description.flow_log_id);
            let why = || Failure::Run(format!("{}: {error}; run as root, or as the agent's user", directory.display()));
            status.map(|one| Some(one.delivery.clone())).ok_or_else(why)
        })?;
        let created = creation_time(&directory.join(deliver::FLOW_LOG));
        Ok(Listed::new(description, created, status.unwrap_or_default()))
    };
    config.logs.iter().map(one).collect()
}

/// AWS has three words for what fails.
fn in_words_of_aws(code: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    match () {
        () if has(&["Throttl", "SlowDown", "TooManyRequests", "LimitExceeded"]) => "Rate limited",
        () if has(&["Access", "Token", "Signature", "UnrecognizedClient", "credentials"]) => "Access error",
        () => "Unknown error",
    }
}

/// When the agent first had this flow log.
fn creation_time(path: &Path) -> Option<String> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(format!("{:.3}", Timestamp::try_from(modified).ok()?))
}

fn text(listed: &[Listed], colour: bool) -> String {
    let mut text = String::new();
    for it in listed {
        let about = &it.description;
        let code = if it.deliver_logs_error.is_some() { "31" } else { "32" };
        let status = it.deliver_logs_status;
        let status = if colour { format!("\x1b[{code}m{status:<7}\x1b[0m") } else { format!("{status:<7}") };
        let (id, traffic, interval) = (&about.flow_log_id, &about.traffic_type, about.max_aggregation_interval);
        let (kind, destination) = (&about.log_destination_type, about.destination());
        text += &format!("{id}  {status}  {traffic:<6}  {interval:>3} s  {kind:<21}  {destination}\n");
        if let Some(error) = &it.deliver_logs_error {
            text += &format!("  since {}: {}: {}\n", error.since, error.code, error.message);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;

    #[test]
    fn states_are_found_beside_the_spool() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.toml");
        let toml = format!(
            "[agent]\nstate-directory = {:?}\n[[flow-log]]\nlog-destination-type = \"stdout\"\n\
             [[flow-log]]\nlog-destination-type = \"directory\"\nlog-destination = \"/r\"\ntags = {{ a = \"b\" }}\n",
            directory.path().join("state")
        );
        std::fs::write(&file, toml).unwrap();
        let config = config::read(&file).and_then(|tables| tables.build(&Surroundings::default())).unwrap();
        let spool = directory.path().join("state/spool").join(&config.logs[1].id);
        std::fs::create_dir_all(&spool).unwrap();
        std::fs::write(spool.join("flow-log.json"), "{}").unwrap();
        let error = r#"{"state":"refused","error":{"code":"AccessDenied","message":"m","since":1563549749}}"#;
        std::fs::write(spool.join("status.json"), error).unwrap();
        let listed = list(&config).unwrap();
        let id = &config.logs[1].id;
        let line = format!(
            "{id}  FAILED   ALL     600 s  directory              /r\n  since 2019-07-19T15:22:29Z: AccessDenied: m\n"
        );
        assert!(text(&listed, false).ends_with(&line), "{}", text(&listed, false));
        let shown = serde_json::to_value(listed).unwrap();
        assert_eq!(shown[0]["DeliverLogsStatus"], "SUCCESS");
        assert_eq!((shown[0].get("CreationTime"), shown[0].get("DeliverLogsError")), (None, None));
        let second = &shown[1];
        assert_eq!(
            (&second["DeliverLogsStatus"], &second["DeliverLogsErrorMessage"]),
            (&"FAILED".into(), &"Access error".into())
        );
        assert_eq!(second["DeliverLogsError"]["Since"], "2019-07-19T15:22:29Z");
        // As AWS writes it: 2019-07-19T15:22:29.986Z.
        let created = second["CreationTime"].as_str().unwrap();
        assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
        assert_eq!((&second["FlowLogStatus"], &second["LogDestination"]), (&"ACTIVE".into(), &"/r".into()));
        assert_eq!(second["Tags"], serde_json::json!([{ "Key": "a", "Value": "b" }]));
        assert_eq!(second["MaxAggregationInterval"], 600);
        assert!(second["LogFormat"].as_str().unwrap().starts_with("${version} "));
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
            assert_eq!(in_words_of_aws(code), words, "{code}");
        }
    }
}
