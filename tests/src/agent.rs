//! The agent under test, as a child process in a namespace.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::bpffs::BpfFs;
use crate::netns::Netns;
use crate::records::{self, Record};
use crate::wait_for;

const READY_LIMIT: Duration = Duration::from_secs(15);
/// The agent itself gives up delivering after 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// `$FLOWLOGD_BIN`, or else the release build of this workspace.
pub fn binary() -> Result<PathBuf> {
    built("FLOWLOGD_BIN", "release")
}

/// The agent with places at which it can be killed: `$FLOWLOGD_FAULTS_BIN`, or else the build of profile `checked` with fault points.
pub fn faults_binary() -> Result<PathBuf> {
    built("FLOWLOGD_FAULTS_BIN", "checked")
}

fn built(variable: &str, profile: &str) -> Result<PathBuf> {
    let path = match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
            .join(profile)
            .join("flowlogd"),
    };
    path.canonicalize().with_context(|| format!("{}: build the agent or set {variable}", path.display()))
}

/// nsenter rather than `ip netns exec`, which mounts a new /sys over bpffs.
fn command(ns: &Netns, wrapper: &[&str], program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.path())).args(wrapper).arg(program).stdin(Stdio::null());
    command
}

/// Runs another command of the agent's to its end.
pub fn call(ns: &Netns, env: &[(String, String)], args: &[&str]) -> Result<Output> {
    Ok(command(ns, &[], &binary()?).args(args).envs(env.iter().cloned()).output()?)
}

type Lines = Arc<Mutex<Vec<String>>>;

fn collect(stream: impl Read + Send + 'static) -> (Lines, JoinHandle<()>) {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            sink.lock().expect("reader").push(line);
        }
    });
    (lines, reader)
}

fn snapshot(lines: &Lines) -> Vec<String> {
    lines.lock().expect("reader").clone()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Directory,
    Stdout,
    /// As the extra arguments say.
    Elsewhere,
    /// As this configuration file says, with all else that makes a flow log.
    File(PathBuf),
}

/// How to start an agent.
#[derive(Clone, Debug)]
pub struct Options {
    pub interfaces: Vec<String>,
    pub destination: Destination,
    /// Seconds.
    pub interval: u32,
    pub extra: Vec<String>,
    /// Another build of the program.
    pub program: Option<PathBuf>,
    /// What the program is started by.
    pub wrapper: Vec<String>,
    /// Environment of the process.
    pub env: Vec<(String, String)>,
    /// The directory to write to; else a temporary one.
    pub into: Option<PathBuf>,
    /// The `--state-directory`; else a temporary one.
    pub state: Option<PathBuf>,
    /// The `--bpf-directory`; else one on a file system of the agent's own.
    pub pins: Pins,
}

/// What an agent is told about where to pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    Own,
    In(PathBuf),
    /// Nothing: and this is mounted over /sys/fs/bpf where the agent sees it, a file system type.
    Default(&'static str),
}

impl Options {
    pub fn on(interfaces: &[&str]) -> Self {
        Self {
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            destination: Destination::Directory,
            interval: 1,
            extra: Vec::new(),
            env: Vec::new(),
            program: None,
            wrapper: Vec::new(),
            into: None,
            pins: Pins::Own,
            state: None,
        }
    }

    /// Pins here, as other agents did before or will.
    #[must_use]
    pub fn pins_in(mut self, file_system: &BpfFs) -> Self {
        self.pins = Pins::In(file_system.directory());
        self.state = Some(file_system.state().to_owned());
        self
    }

    #[must_use]
    pub fn interval(mut self, seconds: u32) -> Self {
        self.interval = seconds;
        self
    }

    #[must_use]
    pub fn to_stdout(mut self) -> Self {
        self.destination = Destination::Stdout;
        self
    }

    /// Flow logs of this file.
    pub fn of_file(path: &Path) -> Self {
        Self { destination: Destination::File(path.to_owned()), ..Self::on(&[]) }
    }

    #[must_use]
    pub fn elsewhere(mut self) -> Self {
        self.destination = Destination::Elsewhere;
        self
    }

    /// Keeps its state here.
    #[must_use]
    pub fn state_in(mut self, directory: &Path) -> Self {
        self.state = Some(directory.to_owned());
        self
    }

    #[must_use]
    pub fn into(mut self, directory: &Path) -> Self {
        self.into = Some(directory.to_owned());
        self
    }

    /// Starts the program by `sh -c`, after `line` has run in a mount namespace of its own.
    #[must_use]
    pub fn after(mut self, line: &str) -> Self {
        let script = format!("{line} && exec \"$0\" \"$@\"");
        self.wrapper = ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
        self
    }

    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn args(mut self, line: &str) -> Self {
        self.extra.extend(line.split_whitespace().map(str::to_owned));
        self
    }
}

/// A running agent, killed on drop.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: (Lines, JoinHandle<()>),
    stderr: (Lines, JoinHandle<()>),
    logs: PathBuf,
    state: PathBuf,
    _state: TempDir,
    destination: Destination,
    _temporary: TempDir,
    // Unmounted when the agent is gone.
    _pins: Option<BpfFs>,
}

/// What a stopped agent left behind.
#[derive(Debug)]
pub struct Stopped {
    pub records: Vec<Record>,
    pub stderr: Vec<String>,
    pub stdout: Vec<String>,
    /// The fields of the line `flowlogd stopped: name=value ...`.
    pub summary: BTreeMap<String, u64>,
}

impl Stopped {
    pub fn count(&self, name: &str) -> Result<u64> {
        self.summary.get(name).copied().with_context(|| format!("no {name} in {:?}", self.stderr))
    }

    /// Fails unless every packet seen is in a record.
    pub fn expect_nothing_lost(&self) -> Result<()> {
        for name in ["skipped_packets", "sum_error_packets", "sum_error_bytes", "windows_with_error"] {
            let value = self.count(name)?;
            ensure!(value == 0, "{name}={value}: {:?}", self.stderr);
        }
        Ok(())
    }
}

impl Agent {
    /// Starts the agent and waits until it says that it is ready.
    pub fn start(ns: &Netns, options: &Options) -> Result<Self> {
        let mut agent = Self::spawn(ns, options)?;
        wait_for("`flowlogd ready:` line", READY_LIMIT, || {
            let exited = agent.child.try_wait()?;
            let lines = snapshot(&agent.stderr.0);
            if lines.iter().any(|line| line.starts_with("flowlogd ready:")) {
                return Ok(Some(()));
            }
            if let Some(status) = exited {
                bail!("agent exited with {status} before it was ready: {lines:?}");
            }
            Ok(None)
        })
        .map_err(|error| anyhow!("{error}; stderr: {:?}", snapshot(&agent.stderr.0)))?;
        Ok(agent)
    }

    /// Starts the agent.
    pub fn spawn(ns: &Netns, options: &Options) -> Result<Self> {
        let (temporary, own_state) = (TempDir::new()?, TempDir::new()?);
        let state = options.state.clone().unwrap_or_else(|| own_state.path().to_owned());
        let logs = options.into.clone().unwrap_or_else(|| temporary.path().to_owned());
        // The kernel ends the agent when a killed test run can no longer.
        let wrapper: Vec<&str> =
            ["setpriv", "--pdeathsig", "KILL"].into_iter().chain(options.wrapper.iter().map(String::as_str)).collect();
        let script = "mount -t \"$0\" none /sys/fs/bpf && exec \"$@\"";
        let program = match &options.program {
            Some(program) => program.clone(),
            None => binary()?,
        };
        let mut command = match options.pins {
            Pins::Default(kind) => {
                command(ns, &[&["unshare", "--mount", "sh", "-c", script, kind], &wrapper[..]].concat(), &program)
            }
            _ => command(ns, &wrapper, &program),
        };
        command.arg("run");
        let own = if options.pins == Pins::Own { Some(BpfFs::new()?) } else { None };
        let pins = match &options.pins {
            Pins::In(directory) => Some(directory.clone()),
            _ => own.as_ref().map(BpfFs::directory),
        };
        if let Some(directory) = pins {
            command.arg("--bpf-directory").arg(directory);
        }
        for interface in &options.interfaces {
            command.args(["--interface", interface]);
        }
        let interval = ["--max-aggregation-interval", &options.interval.to_string()];
        match &options.destination {
            Destination::Directory => {
                command.args(interval).args(["--log-destination-type", "directory", "--log-destination"]).arg(&logs)
            }
            Destination::Stdout => command.args(interval).args(["--log-destination-type", "stdout"]),
            Destination::Elsewhere => command.args(interval),
            Destination::File(path) => command.arg("--config").arg(path),
        };
        command
            .arg("--state-directory")
            .arg(&state)
            .args(&options.extra)
            .envs(options.env.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = collect(child.stdout.take().context("stdout")?);
        let stderr = collect(child.stderr.take().context("stderr")?);
        let destination = options.destination.clone();
        Ok(Self {
            child,
            stdout,
            stderr,
            logs,
            state,
            _state: own_state,
            destination,
            _temporary: temporary,
            _pins: own,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn state_directory(&self) -> &Path {
        &self.state
    }

    /// Waits for a line of its log that holds this.
    pub fn wait_said(&self, what: &str) -> Result<()> {
        wait_for(&format!("`{what}` in the log"), STOP_LIMIT, || {
            Ok(snapshot(&self.stderr.0).iter().any(|line| line.contains(what)).then_some(()))
        })
    }

    /// The records written so far, as far as it was us who said where to.
    pub fn records(&self) -> Result<Vec<Record>> {
        match self.destination {
            Destination::Directory => records::read_directory(&self.logs),
            Destination::Stdout => records::parse_lines(&snapshot(&self.stdout.0).join("\n")),
            Destination::Elsewhere | Destination::File(_) => Ok(Vec::new()),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), signal)?)
    }

    /// Open descriptors and threads of the process.
    pub fn resources(&self) -> Result<(usize, usize)> {
        let count =
            |kind: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{}/{kind}", self.child.id()))?.count()) };
        Ok((count("fd")?, count("task")?))
    }

    /// Interrupts the agent and requires a clean, timely exit.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_by(Signal::SIGINT)
    }

    /// As [`Self::stop`], by another signal.
    pub fn stop_by(self, signal: Signal) -> Result<Stopped> {
        self.signal(signal)?;
        self.ended("stopped")
    }

    /// Requires the clean, timely exit of an agent that says it has `stopped`, or `handed over`.
    pub fn ended(mut self, how: &str) -> Result<Stopped> {
        let head = format!("flowlogd {how}:");
        let status = wait_exit(&mut self.child, STOP_LIMIT)?;
        // End of file on both streams: every line the agent wrote is here.
        wait_for("end of the agent's output", STOP_LIMIT, || {
            Ok((self.stdout.1.is_finished() && self.stderr.1.is_finished()).then_some(()))
        })?;
        let stderr = snapshot(&self.stderr.0);
        ensure!(status.success(), "agent stopped with {status}: {stderr:?}");
        let mut lines = stderr.iter().filter_map(|line| line.strip_prefix(&head));
        let line = lines.next().with_context(|| format!("no summary line in {stderr:?}"))?;
        ensure!(lines.next().is_none(), "two summary lines in {stderr:?}");
        let summary = line
            .split_whitespace()
            .map(|field| {
                let (name, value) = field.split_once('=').with_context(|| line.to_owned())?;
                Ok((name.to_owned(), value.parse().with_context(|| line.to_owned())?))
            })
            .collect::<Result<_>>()?;
        Ok(Stopped { records: self.records()?, stderr, stdout: snapshot(&self.stdout.0), summary })
    }

    /// Waits until it ends: its exit code, and all that it said.
    pub fn wait_exit(mut self) -> Result<(Option<i32>, Vec<String>)> {
        let status = wait_exit(&mut self.child, STOP_LIMIT)?;
        wait_for("end of the agent's log", STOP_LIMIT, || Ok(self.stderr.1.is_finished().then_some(())))?;
        Ok((status.code(), self.said()))
    }

    /// Waits until it is killed by itself.
    pub fn wait_killed(mut self) -> Result<()> {
        let status = wait_exit(&mut self.child, STOP_LIMIT)?;
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "ended with {status}: {:?}", self.said());
        Ok(())
    }

    /// What the agent has said so far.
    pub fn said(&self) -> Vec<String> {
        snapshot(&self.stderr.0)
    }

    /// Ends the agent without a chance to clean up, and reads what it has left in its destination.
    pub fn kill(mut self) -> Result<Vec<Record>> {
        self.child.kill()?;
        self.child.wait()?;
        self.records()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_exit(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    wait_for("exit of the agent", limit, || Ok(child.try_wait()?))
}

/// How an agent that must refuse to run ended.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    pub stderr: Vec<String>,
}

/// Runs another command of the agent's to success, and returns what it printed.
pub fn output(ns: &Netns, args: &[&str]) -> Result<Vec<String>> {
    let output = command(ns, &[], &binary()?).args(args).output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Runs the agent with exactly these arguments and waits for it to give up.
pub fn refusal(ns: &Netns, wrapper: &[&str], program: &Path, args: &[&str]) -> Result<Refusal> {
    let mut child = command(ns, wrapper, program).args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let (lines, reader) = collect(child.stderr.take().context("stderr")?);
    let status = wait_exit(&mut child, Duration::from_secs(10));
    if status.is_err() {
        child.kill()?;
        child.wait()?;
    }
    reader.join().map_err(|_| anyhow!("reader panicked"))?;
    let stderr = snapshot(&lines);
    let status = status.with_context(|| format!("{args:?} was accepted: {stderr:?}"))?;
    Ok(Refusal { code: status.code(), stderr })
}
