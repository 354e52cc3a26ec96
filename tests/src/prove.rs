//! `flowlogd prove`, from its start to its verdict.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::{Agent, binary};
use crate::netns::Netns;
use crate::wait_for;

/// Longer than any test: it is told to end.
const TIME: &str = "1h";

/// A run that has begun to count; killed on drop.
#[derive(Debug)]
pub struct Prove {
    child: Child,
    stdout: ChildStdout,
    /// What it said until it began.
    pub said: Vec<String>,
}

/// What a run has found.
#[derive(Debug)]
pub struct Proof {
    pub code: Option<i32>,
    pub report: Value,
    pub said: Vec<String>,
}

impl Prove {
    pub fn start(ns: &Netns, agent: &Agent) -> Result<Self> {
        Self::start_as(ns, agent, &[], &binary()?)
    }

    /// By `wrapper`, in which `program` is run.
    pub fn start_as(ns: &Netns, agent: &Agent, wrapper: &[&str], program: &Path) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", ns.path())).args(["setpriv", "--pdeathsig", "KILL"]).args(wrapper).arg(program);
        command.args(["prove", "--json", "--for", TIME, "--state-directory"]).arg(agent.state_directory());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("nsenter")?;
        let stdout = child.stdout.take().context("stdout")?;
        let mut stderr = BufReader::new(child.stderr.take().context("stderr")?);
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if stderr.read_line(&mut line)? == 0 {
                anyhow::bail!("it has ended with {:?}: {said:?}", child.wait()?);
            }
            said.push(line.trim_end().to_owned());
            if line.contains("counting at") {
                break;
            }
        }
        Ok(Self { child, stdout, said })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as Ctrl-C does and waits for its verdict.
    pub fn finish(self) -> Result<Proof> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Result<Proof> {
        let status = wait_for("end of the proof", Duration::from_secs(20), || Ok(self.child.try_wait()?))?;
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let report = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(Proof { code: status.code(), report, said: std::mem::take(&mut self.said) })
    }

    /// Without a chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Prove {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proof {
    /// What was found at an interface, by `ingress` or `egress`.
    pub fn at(&self, interface: &str, direction: &str) -> Result<&Value> {
        let all = self.report["comparisons"].as_array().context("comparisons")?;
        let found = all.iter().find(|one| one["interface"] == interface && one["direction"] == direction);
        found.with_context(|| format!("no {interface} {direction} in {:#}", self.report))
    }

    pub fn expect_proved(&self) -> Result<()> {
        ensure!(self.code == Some(0) && self.report["proved"] == true, "{:?} {:#}", self.code, self.report);
        Ok(())
    }

    /// Proved, and to the packet and byte.
    pub fn expect_exact(&self) -> Result<()> {
        self.expect_proved()?;
        for one in self.report["comparisons"].as_array().context("comparisons")? {
            let exact = serde_json::json!({ "min": 0, "max": 0 });
            ensure!(one["counter"] == "nftables", "{one:#}");
            ensure!(one["found"]["packets"] == exact && one["found"]["bytes"] == exact, "{one:#}");
        }
        Ok(())
    }
}
