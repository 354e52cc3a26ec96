//! `flowlogd top`: the flows of the window that goes on, live on a terminal, or once for pipes and programs.
//! Must not know how flows are counted: it asks the running agent over its socket.
//! Always: the agent filters and sorts; what it cannot answer is one line.
#![forbid(unsafe_code)]

mod head;
mod keys;
mod live;
mod names;
mod once;
mod rates;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use super::Failure;
use super::status::Agent;
use crate::flows::{self, Answer, LIMIT_MAX, Query, Sort};
use crate::serve::client::{self, ClientError};

const EXAMPLES: &str = "\
A filter is any of these, and all must hold: an ADDRESS or CIDR (either end), port N (either end),
proto NAME, action accept|reject, dir ingress|egress, if NAME or GLOB.

Examples:
  flowlogd top
  flowlogd top 10.0.0.0/8 port 443 proto tcp action reject if eth0
  flowlogd top --once --sort packets -n 5
  flowlogd top --json port 53 | jq '.flows[0]'";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Which flows; else all
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    #[command(flatten)]
    agent: Agent,
    /// What is largest
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Rows at most [default: as many as there is room for; 20 when printed]
    #[arg(short = 'n', long, value_name = "ROWS")]
    rows: Option<usize>,
    /// Print the table once and end; so does a pipe
    #[arg(long)]
    once: bool,
    /// For programs; implies --once
    #[arg(long)]
    json: bool,
    /// Time between two looks, which rates are taken over
    #[arg(long, visible_alias = "for", value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let filter = flows::parse_filter(&args.filter.join(" ")).map_err(Failure::Usage)?;
    let rows = args.rows.filter(|rows| !(1..=LIMIT_MAX).contains(rows));
    if let Some(rows) = rows {
        return Err(Failure::Usage(format!("--rows {rows} is not between 1 and {LIMIT_MAX}")));
    }
    let (socket, interval) = (args.agent.socket(), Duration::from_secs(args.interval.into()));
    let query = |limit| Query { filter, sort: args.sort, limit };
    if args.once || args.json || !io::stdout().is_terminal() {
        let rows = args.rows.unwrap_or(once::ROWS);
        return once::run(&socket, &query(rows), interval, args.json);
    }
    live::run(&socket, query(live::LIMIT), interval, args.rows)
}

fn ask(socket: &Path, query: &Query) -> Result<Answer, ClientError> {
    client::get(socket, &format!("/v1/flows?{}", query.url()))
}
