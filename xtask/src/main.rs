//! `cargo xtask`: everything a developer or CI does with this repository.
mod bench;
mod fuzz;
mod package;
mod picture;
mod run;
mod setup;
mod soak;
mod test;
mod venv;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Build, test and run flowlogd", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup                  install what building needs (as root, once)
  cargo xtask run                    build, then write this host's flow logs to stdout
  cargo xtask test                   all that CI runs
  cargo xtask test --unit checksum   unit tests with `checksum` in their name
  cargo xtask package                .deb, .rpm and .tar.gz
  cargo xtask bench -- --help        options of the benchmark";

#[derive(Subcommand)]
enum Task {
    /// Install the compiler and the linker for BPF, where missing
    ///
    /// Takes the first of: Debian's rustc with `core` for BPF, if installed; rustup's nightly with rust-src, if
    /// installed; Debian's rustc, installed with apt-get. Needs root only if a package is missing. Builds bpf-linker
    /// into target/tools, once.
    #[command(after_help = "Example:\n  sudo -E env PATH=\"$PATH\" cargo xtask setup")]
    Setup,
    /// Build the agent, with setup first
    #[command(after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --release")]
    Build {
        /// Optimise, as packages do
        #[arg(long)]
        release: bool,
    },
    /// Build the agent and run it, as root
    ///
    /// Without arguments: `run --log-destination-type stdout --max-aggregation-interval 60`. Arguments that start
    /// with a flag are for the agent's `run`; others are passed as they are.
    #[command(after_help = "Examples:\n  \
        cargo xtask run\n  \
        cargo xtask run -- --log-destination-type directory --log-destination /tmp/records\n  \
        cargo xtask run -- doctor")]
    Run {
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Check format and lints, then run unit and integration tests, as root
    #[command(after_help = "Examples:\n  \
        cargo xtask test\n  \
        cargo xtask test --unit\n  \
        cargo xtask test gso          # tests with `gso` in their name; checks run all the same")]
    Test {
        /// No integration tests; needs no root once setup is done
        #[arg(long)]
        unit: bool,
        /// Run only tests with this in their name
        filter: Option<String>,
    },
    /// Make the packages: .deb, .rpm and .tar.gz, in target/package
    ///
    /// Of a release build, or of a binary that is there. Builds cargo-deb and cargo-generate-rpm into target/tools, once.
    /// The date of all files is SOURCE_DATE_EPOCH, or else the last commit's.
    #[command(after_help = "Examples:\n  cargo xtask package\n  \
        cargo xtask package --binary target/checked/flowlogd --version 0.2.0~test")]
    Package {
        /// Of the packages; the workspace's by default
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        /// Package this and build nothing
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// Put the packages here
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Draw docs/pictures: the agent's own output about real traffic, as root
    ///
    /// Runs the release build, or $FLOWLOGD_BIN, between network namespaces that it makes and removes.
    Picture,
    /// Build and run the benchmark, as root
    ///
    /// ARGS are for the benchmark; `cargo xtask bench -- --help` lists them.
    #[command(after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --peers\n  \
        cargo xtask bench -- --quick packet")]
    Bench {
        /// Measure softflowd and pmacctd beside flowlogd, and install them first, with their services masked
        #[arg(long)]
        peers: bool,
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Fuzz what reads data from outside: configuration, captures, journals, answers
    ///
    /// One target after another, or TARGET alone, for SECONDS each. Needs a C++ compiler. What breaks is left in
    /// fuzz/artifacts; new inputs are in target/fuzz. `cargo xtask test` runs the corpus and no fuzzer.
    #[command(after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz pcap -- 600")]
    Fuzz {
        /// By its file in fuzz/fuzz_targets
        target: Option<String>,
        /// How long [default: 60]
        #[arg(last = true, value_name = "SECONDS")]
        seconds: Option<OsString>,
    },
    /// Hours of an agent's life in minutes, as root: is every packet counted, does anything grow?
    ///
    /// ARGS: how many minutes.
    #[command(after_help = "Examples:\n  cargo xtask soak\n  cargo xtask soak -- 120")]
    Soak {
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => setup::build_tools(),
        Task::Build { release } => run::build(release),
        Task::Run { args } => run::run(args),
        Task::Test { unit, filter } => test::run(unit, filter.as_deref()),
        Task::Package { version, binary, output } => {
            package::run(version.as_deref(), binary.as_deref(), output.as_deref())
        }
        Task::Picture => picture::draw(),
        Task::Bench { peers, args } => bench::run(peers, &args),
        Task::Soak { args } => soak::run(&args),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds.as_ref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not returned from main, which would print a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository, also when the target directory is shared between checkouts.
fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

fn target_dir() -> PathBuf {
    let dir = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    root().join(dir.unwrap_or_else(|| "target".into()))
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

fn cargo<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Says what is done and with which command, and streams the command's output.
fn step(what: &str, command: &mut Command) -> Result<()> {
    announce(what, command);
    let program = name(command);
    let status = command.status().with_context(|| format!("{what}: cannot run {program}"))?;
    if !status.success() {
        bail!("{what} failed ({program}: {status})");
    }
    Ok(())
}

/// On stderr: stdout is for what the command writes, such as records.
fn announce(what: &str, command: &Command) {
    let mut line = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!("{}={} ", key.display(), value.display());
        }
    }
    line += &name(command);
    for arg in command.get_args() {
        line += &format!(" {}", arg.display());
    }
    eprintln!("==> {what}\n    {line}");
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or(program.as_os_str()).display().to_string()
}

/// What the command prints, or None if it cannot be run or fails.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = command(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn is_root() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

fn need_root(what: &str) -> Result<()> {
    if !is_root().context("cannot read /proc/self")? {
        bail!("{what} needs root: run it as root, or with `sudo -E env PATH=\"$PATH\"` before it");
    }
    Ok(())
}
