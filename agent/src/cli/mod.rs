//! The command line: parses, dispatches, turns errors into one line and an exit code. No logic of its own.
#![forbid(unsafe_code)]

mod athena;
mod check;
mod detach;
mod doctor;
mod fields;
mod generate;
mod journald;
mod list;
pub mod log;
mod prove;
mod run;
mod spool;
mod status;
mod table;
mod text;
mod top;

use clap::Parser;
use clap::error::ErrorKind;
use std::io::Write as _;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  flowlogd run --max-aggregation-interval 60
  flowlogd run --interface 'veth*' --log-destination-type directory \\
      --log-destination /var/lib/flowlogd/records
  flowlogd check --config /etc/flowlogd/flowlogd.toml
  flowlogd status
  flowlogd top 10.0.0.0/8 port 443
  flowlogd prove --for 60s
  flowlogd list --json
  flowlogd athena
  flowlogd fields
  flowlogd doctor
  flowlogd detach

Exit codes: 0 done, 1 failure, 2 usage.";

/// VPC Flow Logs for any Linux host.
///
/// Counts every packet at the host's interfaces in the kernel and writes flow log records that tools made for AWS VPC
/// Flow Logs read unchanged.
#[derive(Parser)]
#[command(name = "flowlogd", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Capture flows and write records until SIGINT or SIGTERM.
    Run(Box<run::Args>),
    /// Validate the configuration and say what it would do on this host
    Check(check::Args),
    /// Show what the running agent does: interfaces, tables, deliveries, losses
    Status(status::Args),
    /// Show the flows of the window that goes on, as they grow
    Top(top::Args),
    /// Compare what the running agent counts with other counters, live; exit code 1 if anything differs
    Prove(prove::Args),
    /// List the configured flow logs and how their delivery goes
    List(list::Args),
    /// Print SQL that makes tables of flow logs, for Athena and DuckDB
    Athena(athena::Args),
    /// List the fields that a log format may have, and where this host has each from
    Fields(fields::Args),
    /// Remove what a killed agent left counting in the kernel; its counters are lost
    Detach(detach::Args),
    /// Show what waits to be delivered, since when, and why
    Spool(spool::Args),
    /// Say what this host, these privileges and these credentials allow, and how to mend what is missing
    Doctor(doctor::Args),
    /// Write man pages and completions, as packages install them
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Why we end with other than 0. One line each.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The surroundings are: exit code 1.
    #[error("{0}")]
    Run(String),
    /// Already said.
    #[error("")]
    Silent,
}

impl From<crate::capture::Error> for Failure {
    fn from(error: crate::capture::Error) -> Self {
        Self::Run(error.explained())
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// For programs, and for people who read what programs get.
fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Run(error.to_string()))?;
    say(&format!("{text}\n"))
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Asked for, or nothing was said at all: the whole help.
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) => {
            // One line: clap's first one names the flag and the value.
            let text = error.to_string();
            let mut lines = text.lines().filter(|line| !line.is_empty());
            let first = lines.next().unwrap_or("error: bad command line").trim_start_matches("error: ");
            let list = if first.ends_with(':') { lines.next().unwrap_or_default().trim() } else { "" };
            let space = if list.is_empty() { "" } else { " " };
            eprintln!("flowlogd: {first}{space}{list} (see flowlogd --help)");
            return ExitCode::from(2);
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::List(args) => list::run(&args),
        Command::Athena(args) => athena::run(&args),
        Command::Fields(args) => fields::run(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Spool(args) => spool::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Silent) => ExitCode::FAILURE,
        Err(failure) => {
            log::say_failure(&failure);
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}
