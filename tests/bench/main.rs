//! `cargo xtask bench`: what a packet, a drain and a flood cost on this machine, and what they cost others.
//!
//! Everything compared is measured in one run, interleaved. The programs run on tables of their own, never an
//! agent's. Results are also written below `tests/bench/runs`.

mod accepted;
mod deliver;
mod drain;
mod drops;
mod flood;
mod journal;
mod machine;
mod packet;
mod peers;
mod report;
mod spool;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use flowlogd::capture::Sizes;
use flowlogd::capture::flow::Drained;
use flowlogd_tests::netns;

const HELP: &str = "Usage: cargo xtask bench [--peers] [-- [--quick] [packet] [drain] [journal] [spool] [deliver] [flood] [drops] [accepted]]\n\
     Measures these eight unless some are named. --quick: fewer rounds and flows, a minute.\n\
     --peers: measures flowlogd, softflowd and pmacctd under the same flood, two minutes; the others only if named.";

/// What to measure and how long.
#[derive(Clone, Debug, Default)]
struct Settings {
    quick: bool,
    only: Vec<String>,
}

fn settings() -> Result<Option<Settings>> {
    let mut settings = Settings::default();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => settings.quick = true,
            "-h" | "--help" => return Ok(None),
            "--peers" => settings.only.push("peers".to_owned()),
            "packet" | "drain" | "journal" | "spool" | "deliver" | "flood" | "drops" | "accepted" => {
                settings.only.push(argument)
            }
            _ => bail!("unknown argument '{argument}'\n{HELP}"),
        }
    }
    Ok(Some(settings))
}

/// Tables as an agent of this machine has them.
fn packet_sizes() -> Sizes {
    Sizes::for_machine(machine::cpus(), machine::ram_bytes())
}

/// Smallest and middle value.
fn min_median(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => (f64::NAN, f64::NAN),
        len => (sorted[0], (sorted[(len - 1) / 2] + sorted[len / 2]) / 2.0),
    }
}

/// Fails unless the tables held exactly these flows: a full table would be measured as a fast one.
fn ensure_counted(drained: &Drained, flows: usize) -> Result<()> {
    let found: usize = drained.batches.iter().map(Vec::len).sum();
    ensure!(found == flows, "{found} of {flows} flows in the tables");
    let skipped: u64 = drained.totals.iter().map(|totals| totals.skipped.packets).sum();
    ensure!(skipped == 0, "{skipped} packets found no room");
    Ok(())
}

fn save(name: &str, text: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/runs");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("written to {}", path.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not returned from main, which would print a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if let Some(order) = deliver::Order::of_this_process()? {
        return order.carry_out();
    }
    let Some(settings) = settings()? else {
        println!("{HELP}");
        return Ok(());
    };
    let (kernel, processor) = (machine::kernel(), machine::processor());
    let machine_line = format!("machine: Linux {kernel}, {processor}, {} cores", machine::cpus());
    println!("{machine_line}\n");
    let mut text = format!("# {machine_line}\n");
    type Part = fn(&Settings) -> Result<report::Table>;
    let parts: [(&str, Part); 9] = [
        ("packet", packet::run),
        ("drain", drain::run),
        ("journal", journal::run),
        ("spool", spool::run),
        ("deliver", deliver::run),
        ("flood", flood::run),
        ("drops", drops::run),
        ("accepted", accepted::run),
        ("peers", peers::run),
    ];
    for (name, part) in parts {
        // Peers have to be installed, so they are only measured when named.
        let is_default = settings.only.is_empty() && name != "peers";
        if !is_default && !settings.only.iter().any(|only| only == name) {
            continue;
        }
        // A thread of its own, so that only what it measures is bound to one CPU.
        let work = || {
            if ["packet", "drain", "journal", "spool"].contains(&name) {
                machine::pin()?;
            }
            part(&settings)
        };
        let table =
            thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow::anyhow!("{name} panicked"))??;
        println!("{}", table.aligned());
        text.push_str(&table.tabs());
    }
    let date = netns::run(&["date", "-u", "+%Y-%m-%d"])?;
    let word = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
    let mut only: String = settings.only.iter().map(|only| format!("-{only}")).collect();
    if settings.quick {
        only.push_str("-quick");
    }
    let processor = word(&processor).split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    save(&format!("{}-{}-{processor}{only}.tsv", date.trim(), word(&kernel)), &text)
}
