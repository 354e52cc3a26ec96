//! `flowlogd doctor`: one line per check, the fix beside what fails.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use super::text::paint;
use super::{Failure, say, say_json};
use crate::config::{self, Config};
use crate::doctor::{self, Check, Verdict};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd doctor\n  flowlogd doctor --config flowlogd.toml --json")]
pub(super) struct Args {
    /// Also look at the destinations of this file [default: /etc/flowlogd/flowlogd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = load(args.config.as_deref())?;
    let checks = doctor::checks(config.as_ref());
    if args.json {
        say_json(&serde_json::json!({ "checks": checks }))?;
    } else {
        let colour = std::io::stdout().is_terminal();
        say(&checks.iter().map(|check| line(check, colour)).collect::<String>())?;
    }
    if checks.iter().any(|check| check.verdict == Verdict::Bad) { Err(Failure::Silent) } else { Ok(()) }
}

fn load(path: Option<&Path>) -> Result<Option<Config>, Failure> {
    let usual = Path::new(config::DEFAULT_FILE);
    let Some(path) = path.or_else(|| usual.exists().then_some(usual)) else { return Ok(None) };
    let config = config::load(path);
    config.map(Some).map_err(|error| Failure::Usage(error.to_string()))
}

fn line(check: &Check, colour: bool) -> String {
    let (word, code) = match check.verdict {
        Verdict::Good => ("ok", "32"),
        Verdict::Limited => ("limited", "33"),
        Verdict::Bad => ("FAIL", "31"),
    };
    let word = paint(&format!("{word:<7}"), code, colour);
    let fix = check.fix.iter().map(|fix| format!("         {:<14}  -> {fix}\n", "")).collect::<String>();
    format!("{word}  {:<14}  {}\n{fix}", check.name, check.found)
}
