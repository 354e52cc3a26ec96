//! `flowlogd doctor` shows who is on the hooks, tells destinations that are there from those that are not, and leaves
//! nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::agent::{Agent, Options, binary, call};
use flowlogd_tests::delivery::{self, ConfigFile};
use flowlogd_tests::foreign::{Direction, Foreign};
use flowlogd_tests::moto;
use flowlogd_tests::netns::{Netns, Pair};
use serde_json::Value;
use tempfile::TempDir;

/// Name, verdict and words of each check.
fn checks(output: &Output) -> Result<Vec<(String, String, String)>> {
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let all = said["checks"].as_array().context("checks")?;
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Ok(all
        .iter()
        .map(|check| {
            let words = format!("{} -> {}", text(check, "found"), text(check, "fix"));
            (text(check, "name"), text(check, "verdict"), words)
        })
        .collect())
}

fn doctor(ns: &Netns, env: &[(&str, &str)], args: &[&str]) -> Result<Output> {
    let env: Vec<(String, String)> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    call(ns, &env, &[&["doctor", "--json"], args].concat())
}

/// The one check that names this.
fn one<'a>(checks: &'a [(String, String, String)], name: &str, words: &str) -> Result<&'a (String, String, String)> {
    let mut found = checks.iter().filter(|(check, _, said)| check == name && said.contains(words));
    let first = found.next().with_context(|| format!("no {name} with {words} in {checks:#?}"))?;
    ensure!(found.next().is_none(), "two {name} with {words} in {checks:#?}");
    Ok(first)
}

#[test]
fn the_whole_chain_is_shown_in_its_order() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.sh("tc qdisc add dev a0 clsact")?;
    let agent = Agent::start(&pair.a, &Options::on(&["a0"]))?;
    let behind = Foreign::tcx(&pair.a, "a0", Direction::Ingress, "foreign")?;
    let before = Foreign::tcx_first(&pair.a, "a0", Direction::Ingress, "foreign")?;
    let _filter = Foreign::clsact(&pair.a, "a0", Direction::Egress, "foreign", 7)?;
    let checks = checks(&doctor(&pair.a, &[], &[])?)?;
    let (_, verdict, said) = one(&checks, "hooks", "a0: ")?;
    let id = |foreign: &Foreign| Ok::<_, anyhow::Error>(format!("foreign (tcx, id {})", foreign.ids()?.1));
    let (ingress, egress) = said.split_once("; egress ").context("egress")?;
    let places: Vec<Option<usize>> =
        [id(&before)?, "ingress (tcx, id ".to_owned(), id(&behind)?].iter().map(|one| ingress.find(one)).collect();
    ensure!(verdict == "ok" && places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    ensure!(egress.starts_with("egress (tcx, id ") && egress.contains("(clsact, priority 7)"), "{said}");
    // And the running agent says which of them it is.
    let status = flowlogd_tests::status::status(&pair.a, &agent)?;
    let a0 = flowlogd_tests::status::interface(&status, "a0")?;
    ensure!(a0["ingress"]["position"] == serde_json::json!({ "at": 2, "of": 3 }), "{a0:#}");
    ensure!(a0["egress"]["position"] == serde_json::json!({ "at": 1, "of": 1 }), "{a0:#}");
    agent.stop()?;
    Ok(())
}

#[test]
fn destinations_are_looked_at_and_nothing_is_left_there() -> Result<()> {
    let pair = Pair::new()?;
    let moto = delivery::moto(&pair.a)?;
    let (records, locked) = (TempDir::new()?, TempDir::new()?);
    let file = locked.path().join("file");
    fs::write(&file, "")?;
    let url = moto::URL;
    let absent = delivery::s3_in("x", url).replace(delivery::BUCKET, "no-such-bucket");
    let config = ConfigFile::new(&[
        delivery::s3(url),
        absent,
        delivery::cloud_watch_logs(url),
        delivery::firehose(url),
        delivery::directory(records.path()),
        delivery::directory(&file),
        delivery::firehose("http://127.0.0.1:9"),
    ])?;
    let path = config.path();
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", delivery::SECRET)];
    let output = doctor(&pair.a, &keys, &["--config", &path.to_string_lossy()])?;
    ensure!(output.status.code() == Some(1) && output.stderr.is_empty(), "{output:?}");
    ensure!(!String::from_utf8_lossy(&output.stdout).contains(delivery::SECRET), "the secret is shown");
    let checks = checks(&output)?;
    let verdicts = [
        ("s3://flow-logs/site/a: it is there; not tested: that we may write", "ok"),
        ("s3://no-such-bucket/x: not to be reached: NoSuchBucket", "fail"),
        ("log-group:/vpc/flow-logs: it is there", "ok"),
        ("firehose:flow-logs: it is there", "ok"),
        ("firehose:flow-logs: not to be reached: connection", "fail"),
        ("a file was written in", "ok"),
        ("cannot write in", "fail"),
    ];
    for (words, verdict) in verdicts {
        let check = one(&checks, "destination", words)?;
        ensure!(check.1 == verdict, "{check:?}");
    }
    // The same ones for all of them.
    let (_, verdict, said) = one(&checks, "credentials", "")?;
    ensure!(verdict == "ok" && said.contains("found; not tested: whom the service takes them for"), "{said}");
    ensure!(moto.keys(delivery::BUCKET)?.is_empty() && delivery::files(records.path())?.is_empty(), "left behind");
    Ok(())
}

#[test]
fn who_we_are_is_asked_where_aws_is_meant() -> Result<()> {
    let pair = Pair::new()?;
    let _moto = delivery::moto(&pair.a)?;
    let lines = delivery::s3("URL").lines().filter(|line| !line.contains("URL")).collect::<Vec<_>>().join("\n");
    let config = ConfigFile::new(&[lines])?;
    let path = config.path();
    let args = ["--config", &path.to_string_lossy()];
    let url = moto::URL;
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_ENDPOINT_URL", url)];
    let asked = checks(&doctor(&pair.a, &keys, &args)?)?;
    let (_, verdict, said) = one(&asked, "credentials", "arn:aws:sts::123456789012:")?;
    ensure!(verdict == "ok", "{said}");
    // Without any, and without a metadata service to look for them.
    let none: BTreeMap<&str, &str> = BTreeMap::from([
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_ENDPOINT_URL", url),
    ]);
    let none: Vec<_> = none.into_iter().collect();
    let asked = checks(&doctor(&pair.a, &none, &args)?)?;
    let (_, verdict, said) = one(&asked, "credentials", "no credentials found")?;
    ensure!(verdict == "fail", "{said}");
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() -> Result<()> {
    let pair = Pair::new()?;
    let program = binary()?;
    let (program, state) = (program.display(), TempDir::new()?);
    fs::create_dir_all(state.path().join("spool/fl-1"))?;
    for args in ["doctor", "doctor --json", &format!("spool --state-directory {}", state.path().display())] {
        // The reader is gone before the first line.
        let line = format!("{{ sleep 0.3; {program} {args} 2>&1 1>&3; echo \"exit $?\"; }} 3>&1 1>&2 | exec true");
        let output = std::process::Command::new("nsenter")
            .arg(format!("--net={}", pair.a.path()))
            .args(["sh", "-c", &line])
            .output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(said == "exit 0\n", "{args}: {said}");
    }
    Ok(())
}
