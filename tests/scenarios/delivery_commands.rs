//! `check`, `list` and `spool` say how it stands, while the agent runs, and refuse a broken file in one line.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{self, Agent};
use flowlogd_tests::delivery::{self, ConfigFile, ENI};
use flowlogd_tests::netns::{Netns, Pair};
use flowlogd_tests::proxy::{Mode, Proxy};
use flowlogd_tests::steady::Steady;
use flowlogd_tests::wait_for;
use serde_json::{Value, json};
use tempfile::TempDir;

const FORMAT: &str = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} \
                      ${packets} ${bytes} ${start} ${end} ${action} ${log-status}";

fn call(ns: &Netns, args: &[&str]) -> Result<Output> {
    agent::call(ns, &[], args)
}

/// What a command prints as JSON.
fn json(ns: &Netns, args: &[&str]) -> Result<Value> {
    let output = call(ns, args)?;
    ensure!(output.status.code() == Some(0) && output.stderr.is_empty(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?}: {output:?}"))
}

#[test]
fn how_delivery_goes() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let proxy = Proxy::start(&pair.a, 4000, moto.address)?;
    let (state, beside) = (TempDir::new()?, TempDir::new()?);
    let config = ConfigFile::new(&[])?;
    let tables = format!("[agent]\nstate-directory = \"{}\"\n", state.path().display());
    config.write_with(&tables, &[delivery::s3_by_window(&proxy.url()), delivery::directory(beside.path())])?;
    let (path, state) = (config.path(), state.path().to_owned());
    let (path, directory) = (path.to_str().context("path")?, state.to_str().context("path")?);
    let list = || json(&pair.a, &["list", "--json", "--config", path]);
    let spool = || json(&pair.a, &["spool", "--json", "--state-directory", directory]);
    ensure!(spool()? == json!({"spool": []}));
    proxy.set(Mode::Down)?;
    let agent = Agent::start(&pair.a, &config.options().state_in(&state))?;
    let traffic = Steady::start(&pair)?;
    agent.wait_said("not delivered")?;
    traffic.wait(2500)?;

    let listed = list()?["FlowLogs"].clone();
    let [away, there] = [&listed[0], &listed[1]];
    ensure!(away["LogFormat"] == FORMAT && away["LogDestinationType"] == "s3" && away["ResourceId"] == ENI, "{away}");
    ensure!(away["DeliverLogsStatus"] == "FAILED" && away["DeliverLogsError"]["Code"] == "connection", "{away}");
    ensure!(there["DeliverLogsStatus"] == "SUCCESS" && there.get("DeliverLogsError").is_none(), "{there}");
    let of = |spool: &Value, log: &Value| {
        let mut all = spool["spool"].as_array().into_iter().flatten();
        all.find(|one| one["flow_log_id"] == log["FlowLogId"]).cloned().with_context(|| format!("{log} in {spool}"))
    };
    let waiting = of(&spool()?, away)?;
    ensure!(waiting["windows"].as_u64() >= Some(2) && waiting["bytes"].as_u64() > Some(0), "{waiting}");
    ensure!(waiting["state"] == "retrying" && waiting["error"]["code"] == "connection", "{waiting}");
    let text = call(&pair.a, &["spool", "--state-directory", directory])?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(text.contains("retrying") && text.contains("connection: "), "{text}");

    proxy.set(Mode::Pass)?;
    let sent = traffic.stop()?;
    wait_for("an empty spool", Duration::from_secs(20), || {
        let one = of(&spool()?, away)?;
        Ok((one["windows"] == 0 && one["error"].is_null() && one["state"] == "idle").then_some(()))
    })?;
    ensure!(list()?["FlowLogs"][0]["DeliverLogsStatus"] == "SUCCESS");
    agent.stop()?.expect_nothing_lost()?;
    sent.expect_each_once(&delivery::objects_in(&moto, delivery::FOLDER)?)
}

/// Before anything runs.
#[test]
fn what_a_file_would_do() -> Result<()> {
    let pair = Pair::new()?;
    let url = "http://127.0.0.1:9";
    let config = ConfigFile::new(&[delivery::s3(url), delivery::cloud_watch_logs(url), delivery::firehose(url)])?;
    let path = config.path();
    let path = path.to_str().context("path")?;
    let said = call(&pair.a, &["check", "--config", path])?;
    ensure!(said.status.code() == Some(0) && said.stderr.is_empty(), "{said:?}");
    let said = String::from_utf8(said.stdout)?;
    for words in ["a0", "arn:aws:s3:::flow-logs/site/a/", "logs:PutLogEvents on ", "firehose:PutRecordBatch on "] {
        ensure!(said.contains(words), "no {words} in {said}");
    }
    let checked = json(&pair.a, &["check", "--config", path, "--json"])?;
    ensure!(checked["FlowLogs"][0]["Captures"] == json!(["a0"]), "{checked}");
    let policy = json(&pair.a, &["check", "--config", path, "--iam-policy"])?;
    ensure!(policy["Version"] == "2012-10-17", "{policy}");
    let statements = policy["Statement"].as_array().context("Statement")?;
    let actions: Vec<&Value> =
        statements.iter().flat_map(|one| one["Action"].as_array().into_iter().flatten()).collect();
    for action in ["s3:PutObject", "logs:PutLogEvents", "firehose:PutRecordBatch"] {
        ensure!(actions.contains(&&json!(action)), "no {action} in {policy}");
    }
    ensure!(statements.iter().all(|one| one["Effect"] == "Allow"), "{policy}");
    Ok(())
}

#[test]
fn a_broken_file_is_refused_in_one_line() -> Result<()> {
    let pair = Pair::new()?;
    let config = ConfigFile::new(&[delivery::s3("http://127.0.0.1:9") + "object-interval = \"often\"\n"])?;
    let path = config.path();
    let path = path.to_str().context("path")?;
    let text = std::fs::read_to_string(path)?;
    let line = 1 + text.lines().position(|line| line.starts_with("object-interval")).context("key")?;
    let place = format!("flowlogd: {path}:{line}: key flow-log.object-interval: ");
    for args in
        [&["check"][..], &["check", "--iam-policy"], &["check", "--json"], &["list"], &["list", "--json"], &["run"]]
    {
        let output = call(&pair.a, &[args, &["--config", path]].concat())?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2) && output.stdout.is_empty(), "{args:?}: {:?} {said}", output.status);
        ensure!(said.starts_with(&place) && said.lines().count() == 1, "{args:?}: {said}");
    }
    let output = call(&pair.a, &["list", "--config", "/nonexistent.toml"])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2) && said.starts_with("flowlogd: /nonexistent.toml: "), "{said}");
    Ok(())
}
