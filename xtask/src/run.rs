//! Builds and runs the agent.
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{announce, cargo, command, need_root, setup, step, target_dir};

const DEFAULT_ARGS: [&str; 4] = ["--log-destination-type", "stdout", "--max-aggregation-interval", "60"];

pub(crate) fn build(release: bool) -> Result<()> {
    setup::build_tools()?;
    build_agent(release)
}

pub(crate) fn build_agent(release: bool) -> Result<()> {
    let mut cargo = cargo(["build", "--package", "flowlogd"]);
    if release {
        cargo.arg("--release");
    }
    step("build the agent", &mut cargo)
}

/// The agent that tests can have killed at given places.
pub(crate) fn build_faults() -> Result<()> {
    let mut cargo = cargo(["build", "--package", "flowlogd", "--profile", "checked", "--features", "fault-points"]);
    step("build the agent with fault points", &mut cargo)
}

pub(crate) fn run(args: Vec<OsString>) -> Result<()> {
    need_root("cargo xtask run")?;
    build(true)?;
    let mut agent = command(target_dir().join("release/flowlogd"));
    agent.args(agent_args(args));
    announce("run the agent (end with Ctrl-C)", &agent);
    // Not a child: signals and the exit status are the agent's own.
    Err(agent.exec()).with_context(|| format!("cannot run {}", agent.get_program().display()))
}

fn agent_args(args: Vec<OsString>) -> Vec<OsString> {
    let Some(first) = args.first() else {
        return ["run"].into_iter().chain(DEFAULT_ARGS).map(OsString::from).collect();
    };
    let has_subcommand = !first.as_encoded_bytes().starts_with(b"-");
    // Help and version of the agent, not of its `run`.
    if has_subcommand || ["-h", "--help", "-V", "--version"].iter().any(|flag| first == flag) {
        return args;
    }
    [OsString::from("run")].into_iter().chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::agent_args;

    fn args(args: &[&str]) -> String {
        let args = agent_args(args.iter().map(Into::into).collect());
        args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn runs_to_stdout_by_default() {
        assert_eq!(args(&[]), "run --log-destination-type stdout --max-aggregation-interval 60");
    }

    #[test]
    fn flags_are_for_run() {
        assert_eq!(args(&["--config", "x"]), "run --config x");
        assert_eq!(args(&["--help"]), "--help");
    }

    #[test]
    fn subcommands_are_passed_as_they_are() {
        assert_eq!(args(&["doctor", "--json"]), "doctor --json");
    }
}
