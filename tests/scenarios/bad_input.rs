//! What cannot work is refused at once, in one line that says what is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, refusal};
use flowlogd_tests::netns::Pair;
use tempfile::TempDir;

/// Runs with good arguments except `flag value` and expects exit status 2.
fn rejects(flag: &str, value: &str) -> Result<()> {
    let pair = Pair::new()?;
    let (logs, state) = (TempDir::new()?, TempDir::new()?);
    let mut arguments = vec![
        ("--interface", "a0"),
        ("--log-destination-type", "directory"),
        ("--log-destination", logs.path().to_str().expect("path")),
        ("--state-directory", state.path().to_str().expect("path")),
        ("--max-aggregation-interval", "1"),
    ];
    arguments.retain(|(name, _)| *name != flag);
    arguments.push((flag, value));
    let args: Vec<&str> =
        ["run"].into_iter().chain(arguments.iter().flat_map(|(name, value)| [*name, *value])).collect();
    let refusal = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refusal.code == Some(2), "{refusal:?}");
    ensure!(refusal.stderr.len() == 1, "{refusal:?}");
    ensure!(
        refusal.stderr[0].contains(flag) && refusal.stderr[0].contains(value),
        "{refusal:?} does not name {flag} {value}"
    );
    Ok(())
}

#[test]
fn unknown_interface() -> Result<()> {
    rejects("--interface", "nosuch0")
}

#[test]
fn unwritable_destination() -> Result<()> {
    rejects("--log-destination", "/proc/nope")
}

#[test]
fn impossible_prefix_length() -> Result<()> {
    rejects("--subnet", "10.0.0.0/99")
}

#[test]
fn zero_interval() -> Result<()> {
    rejects("--max-aggregation-interval", "0")
}

#[test]
fn short_account_id() -> Result<()> {
    rejects("--account-id", "12")
}

#[test]
fn a_state_directory_in_use() -> Result<()> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let logs = TempDir::new()?;
    let args = [
        "run",
        "--interface",
        "a0",
        "--log-destination-type",
        "directory",
        "--log-destination",
        logs.path().to_str().expect("path"),
        "--state-directory",
        agent.state_directory().to_str().expect("path"),
    ];
    let refusal = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refusal.code == Some(1) && refusal.stderr.len() == 1, "{refusal:?}");
    agent.stop()?.expect_nothing_lost()
}

#[test]
fn an_unprivileged_user() -> Result<()> {
    let pair = Pair::new()?;
    // All but the privilege is in order: paths the user can run and write.
    let home = TempDir::new()?;
    let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(home.path(), 0o755)?;
    let program = home.path().join("flowlogd");
    fs::copy(binary()?, &program)?;
    open(&program, 0o755)?;
    let [logs, state] = ["logs", "state"].map(|name| home.path().join(name));
    for directory in [&logs, &state] {
        fs::create_dir(directory)?;
        open(directory, 0o777)?;
    }
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let args = [
        "run",
        "--interface",
        "a0",
        "--log-destination-type",
        "directory",
        "--log-destination",
        logs.to_str().expect("path"),
        "--state-directory",
        state.to_str().expect("path"),
    ];
    let refusal = refusal(&pair.a, &wrapper, &program, &args)?;
    ensure!(refusal.code == Some(1) && refusal.stderr.len() == 1, "{refusal:?}");
    Ok(())
}
