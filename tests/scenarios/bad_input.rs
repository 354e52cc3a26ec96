//! What cannot work is refused at once, in one line that says what is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, refusal};
use flowlogd_tests::bpffs::BpfFs;
use flowlogd_tests::netns::Pair;
use flowlogd_tests::{traffic, wait_for};
use tempfile::TempDir;

/// Runs with good arguments except `flag value` and expects exit status 2.
fn rejects(flag: &str, value: &str) -> Result<()> {
    let pair = Pair::new()?;
    let (logs, state) = (TempDir::new()?, TempDir::new()?);
    let pins = BpfFs::new()?;
    let pins = pins.directory();
    let mut arguments = vec![
        ("--bpf-directory", pins.to_str().expect("path")),
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
fn two_ids_for_one_interface() -> Result<()> {
    let pair = Pair::new()?;
    let ids = ["a0=eni-0000000a", "b0=eni-0000000b", "a0=eni-0000000c"];
    let args = [["run", "--interface-id"].as_slice(), &ids].concat();
    let refusal = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refusal.code == Some(2) && refusal.stderr.len() == 1, "{refusal:?}");
    for word in ["--interface-id", ids[2], "eni-0000000a"] {
        ensure!(refusal.stderr[0].contains(word), "{refusal:?} does not name {word}");
    }
    Ok(())
}

#[test]
fn a_pin_directory_that_is_no_bpf_file_system() -> Result<()> {
    rejects("--bpf-directory", "/run/nope/flowlogd")
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

fn objects(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(objects(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Opening a destination removes what a crashed agent left half-written. An agent that is refused must not do so: it
/// may be what the running one is writing.
#[test]
fn a_refused_agent_does_not_tidy_its_destination() -> Result<()> {
    let pair = Pair::new()?;
    let logs = TempDir::new()?;
    let options = Options::on(&["a0"]).into(logs.path());
    let agent = Agent::start(&pair.a, &options)?;
    traffic::ping(&pair.a, Pair::B4, 1)?;
    let object = wait_for("an object", Duration::from_secs(10), || {
        let mut found = objects(logs.path())?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
        Ok(found.pop())
    })?;
    let name = object.file_name().and_then(|name| name.to_str()).expect("name");
    let half_written = object.with_file_name(format!(".{name}.tmp"));
    fs::write(&half_written, "half")?;

    let args = [
        "run",
        "--interface",
        "a0",
        "--log-destination-type",
        "directory",
        "--log-destination",
        logs.path().to_str().expect("path"),
        "--max-aggregation-interval",
        "1",
        "--state-directory",
        agent.state_directory().to_str().expect("path"),
    ];
    let refusal = refusal(&pair.a, &[], &binary()?, &args)?;
    ensure!(refusal.code == Some(1) && refusal.stderr.len() == 1, "{refusal:?}");
    ensure!(fs::read(&half_written)? == b"half", "the refused agent changed {}", half_written.display());
    agent.stop()?.expect_nothing_lost()?;
    ensure!(half_written.exists(), "the stopped agent removed {}", half_written.display());

    // The file is of the kind that opening removes.
    let next = Agent::start(&pair.a, &options)?;
    ensure!(!half_written.exists(), "{} is still there", half_written.display());
    next.stop()?.expect_nothing_lost()
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
