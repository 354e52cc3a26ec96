//! Credentials that expire, and a helper that fails in every way, delay a delivery and lose nothing; nobody gets to read
//! them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent, Options};
use flowlogd_tests::delivery::{self, ConfigFile, FOLDER, SECRET};
use flowlogd_tests::netns::Pair;
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::wait_for;
use tempfile::TempDir;

/// A `credential_process` that does as the file `mode` beside it says, and notes each call in `calls`.
const HELPER: &str = r#"#!/bin/sh
here=${0%/*}
mode=$(cat "$here/mode")
echo "$mode" >>"$here/calls"
give() {
    expiration=$(date -u -d "$1" +%Y-%m-%dT%H:%M:%SZ)
    echo "{\"Version\": 1, \"AccessKeyId\": \"AKIATEST\", \"SecretAccessKey\": \"@\", \"SessionToken\": \"@\", \"Expiration\": \"$expiration\"}"
}
case $mode in
good) give "+1 hour" ;;
short) give "+20 seconds" ;;
expired) give "-1 hour" ;;
hangs) echo "@" && sleep 120 ;;
rubbish) echo "{\"Version\": 1, \"SecretAccessKey\": \"@\"" ;;
fails) echo "wrong password for @" >&2 && exit 3 ;;
esac
"#;

struct Helper(TempDir);

impl Helper {
    fn new() -> Result<Self> {
        let helper = Self(TempDir::new()?);
        fs::write(helper.path("helper"), HELPER.replace('@', SECRET))?;
        fs::set_permissions(helper.path("helper"), fs::Permissions::from_mode(0o755))?;
        let config = format!("[default]\ncredential_process = {}\n", helper.path("helper").display());
        fs::write(helper.path("config"), config)?;
        Ok(helper)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, config: &ConfigFile) -> Result<Options> {
        let file = self.path("config");
        let options = Options::of_file(&config.path())
            .env("AWS_CONFIG_FILE", file.to_str().context("path")?)
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        Ok(options.env("FLOWLOGD_LOG", "trace"))
    }

    fn set(&self, mode: &str) -> Result<()> {
        Ok(fs::write(self.path("mode"), mode)?)
    }

    /// Has it behave so, and waits until it was asked.
    fn meet(&self, mode: &str) -> Result<()> {
        self.set(mode)?;
        wait_for(&format!("call of a helper that {mode}"), Duration::from_secs(60), || {
            let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
            Ok(calls.lines().any(|line| line == mode).then_some(()))
        })
    }
}

fn expect_no_secret(what: &str, text: &[u8]) -> Result<()> {
    let found = text.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
    ensure!(!found, "the secret is in {what}");
    Ok(())
}

#[test]
fn a_helper_that_fails_in_every_way() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let config = ConfigFile::new(&[delivery::s3_by_window(&proxy.url())])?;
    let (helper, state) = (Helper::new()?, TempDir::new()?);
    helper.set("rubbish")?;
    let agent = Agent::start(&pair.a, &helper.options(&config)?.state_in(state.path()))?;
    let traffic = Steady::start(&pair)?;
    for mode in ["rubbish", "fails", "expired"] {
        helper.meet(mode)?;
    }
    // They work, and soon no longer.
    helper.meet("short")?;
    proxy.wait_seen("PutObject", 1)?;
    for mode in ["hangs", "rubbish"] {
        helper.meet(mode)?;
    }
    // Taken away before their time.
    helper.meet("good")?;
    proxy.set_every(2, Mode::EXPIRED_TOKEN)?;
    proxy.wait_met("PutObject", Mode::EXPIRED_TOKEN, 2)?;
    proxy.set(Mode::Pass)?;
    let sent = traffic.stop()?;
    let commands = [
        vec!["check", "--config", config.path().to_str().context("path")?],
        vec!["list", "--json", "--config", config.path().to_str().context("path")?],
        vec!["spool", "--json", "--state-directory", state.path().to_str().context("path")?],
    ]
    .map(|args| args.into_iter().map(str::to_owned).collect::<Vec<_>>());
    for args in commands {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        expect_no_secret(args[0], agent::output(&pair.a, &args)?.join("\n").as_bytes())?;
    }
    let stopped = agent.stop()?;
    stopped.expect_nothing_lost()?;
    expect_no_secret("the log", stopped.stderr.join("\n").as_bytes())?;
    for path in delivery::files(state.path())? {
        expect_no_secret(&path.display().to_string(), &fs::read(&path)?)?;
    }
    sent.expect_each_once(&delivery::objects_in(&moto, FOLDER)?)
}

/// Keys in the configuration are refused, in words that hold none.
#[test]
fn keys_in_the_configuration_are_refused() -> Result<()> {
    let pair = Pair::new()?;
    let config =
        ConfigFile::new(&[delivery::s3("http://127.0.0.1:5000") + &format!("secret-access-key = \"{SECRET}\"\n")])?;
    fs::set_permissions(config.path(), fs::Permissions::from_mode(0o644))?;
    let file = config.path();
    for command in ["check", "run"] {
        let args = [command, "--config", file.to_str().context("path")?];
        let refusal = agent::refusal(&pair.a, &[], &agent::binary()?, &args)?;
        let said = refusal.stderr.join("\n");
        ensure!(refusal.code == Some(2) && said.contains("secret-access-key"), "{refusal:?}");
        ensure!(said.contains("others can read"), "{refusal:?}");
        expect_no_secret("the refusal", said.as_bytes())?;
    }
    Ok(())
}
