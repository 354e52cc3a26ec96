//! What the scenarios of delivery share: configuration files with flow logs of `a0` in windows of a second, and what has
//! arrived, as records.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::Options;
use crate::bpffs::BpfFs;
use crate::moto::{Event, Moto, Object};
use crate::netns::run;
use crate::records::{self, Record};

pub const ACCOUNT: &str = "123456789012";
pub const REGION: &str = "us-east-1";
pub const ENI: &str = "eni-0123456789abcdef0";
pub const BUCKET: &str = "flow-logs";
pub const FOLDER: &str = "site/a";
pub const GROUP: &str = "/vpc/flow-logs";
pub const STREAM: &str = "flow-logs";
/// For moto, or a proxy before it.
pub const SECRET: &str = "a-secret-that-no-file-may-hold";

/// `flowlogd.toml`, which can be written anew for a reload.
#[derive(Debug)]
pub struct ConfigFile {
    directory: TempDir,
}

impl ConfigFile {
    pub fn new(logs: &[String]) -> Result<Self> {
        let file = Self { directory: TempDir::new()? };
        file.write(logs)?;
        Ok(file)
    }

    pub fn write(&self, logs: &[String]) -> Result<()> {
        self.write_with("", logs)
    }

    /// With tables before the flow logs.
    pub fn write_with(&self, tables: &str, logs: &[String]) -> Result<()> {
        let host = format!(
            "[host]\naccount-id = \"{ACCOUNT}\"\nregion = \"{REGION}\"\ninterface-ids = {{ a0 = \"{ENI}\" }}\n"
        );
        Ok(fs::write(self.path(), format!("{host}\n{tables}\n{}", logs.join("\n")))?)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("flowlogd.toml")
    }

    /// An agent of this file, with credentials in its environment and none of this machine's.
    pub fn options(&self) -> Options {
        with_credentials(Options::of_file(&self.path()))
    }

    /// As [`Self::options`], for one that is killed and goes on.
    pub fn options_in(&self, pins: &BpfFs) -> Options {
        self.options().pins_in(pins)
    }
}

pub fn with_credentials(options: Options) -> Options {
    without_credentials(options).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", SECRET)
}

pub fn without_credentials(options: Options) -> Options {
    options.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
}

/// A `[[flow-log]]`; more keys can be added at its end.
fn flow_log(kind: &str, keys: &str) -> String {
    format!(
        "[[flow-log]]\ninterfaces = [\"a0\"]\nmax-aggregation-interval = 1\nlog-destination-type = \"{kind}\"\n{keys}\n"
    )
}

/// With its default of an object each five minutes, and so one at the end of a test.
pub fn s3(url: &str) -> String {
    s3_in(FOLDER, url)
}

pub fn s3_in(folder: &str, url: &str) -> String {
    let destination = format!("log-destination = \"arn:aws:s3:::{BUCKET}/{folder}/\"");
    flow_log("s3", &format!("{destination}\nendpoint-url = \"{url}\"\npath-style = true"))
}

/// With an object for each window.
pub fn s3_by_window(url: &str) -> String {
    s3(url) + "object-interval = 0\n"
}

pub fn cloud_watch_logs(url: &str) -> String {
    flow_log("cloud-watch-logs", &format!("log-group-name = \"{GROUP}\"\nendpoint-url = \"{url}\""))
}

pub fn firehose(url: &str) -> String {
    let destination = format!("arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{STREAM}");
    flow_log("kinesis-data-firehose", &format!("log-destination = \"{destination}\"\nendpoint-url = \"{url}\""))
}

pub fn directory(path: &Path) -> String {
    flow_log("directory", &format!("log-destination = \"{}\"", path.display()))
}

/// moto with everything that must be there before.
pub fn moto(ns: &crate::netns::Netns) -> Result<Moto<'_>> {
    let moto = Moto::start(ns)?;
    moto.create_bucket(BUCKET)?;
    moto.create_bucket("hose")?;
    moto.create_delivery_stream(STREAM, "hose")?;
    Ok(moto)
}

/// The records of each object below a folder.
pub fn objects_in(moto: &Moto<'_>, folder: &str) -> Result<Vec<Vec<Record>>> {
    let prefix = format!("{folder}/");
    let ours = moto.objects(BUCKET)?.into_iter().filter(|object| object.key.starts_with(&prefix));
    ours.map(|object| check_object(&object, &prefix)).collect()
}

/// Holds an object against its name: layout, stamp, and which records belong in it.
pub fn check_object(object: &Object, prefix: &str) -> Result<Vec<Record>> {
    let records = records::parse_object(&object.body).with_context(|| object.key.clone())?;
    ensure!(!records.is_empty(), "{} has no records", object.key);
    let slot = Name::parse(&object.key)?.check(&object.key, prefix)?;
    let is_in_slot = |record: &Record| (slot..slot + 300).contains(&record.end);
    let stray = records.iter().find(|record| !is_in_slot(record));
    ensure!(stray.is_none(), "{stray:?} in {}", object.key);
    ensure!(records.iter().all(|record| record.account == ACCOUNT && record.interface == ENI), "{records:?}");
    Ok(records)
}

/// `<account>_vpcflowlogs_<region>_<flow log>_<stamp>_<hash>.log.gz`
#[derive(Debug)]
pub struct Name {
    pub log: String,
    /// Such as 20261124T1505Z.
    pub stamp: String,
}

impl Name {
    pub fn parse(key: &str) -> Result<Self> {
        let name = key.rsplit('/').next().unwrap_or(key);
        let shape = || format!("the name of {key}");
        let stem = name.strip_suffix(".log.gz").with_context(shape)?;
        let [account, kind, region, log, stamp, hash] = stem.split('_').collect::<Vec<_>>()[..] else {
            anyhow::bail!(shape());
        };
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let id = log.strip_prefix("fl-").with_context(shape)?;
        ensure!((account, kind, region) == (ACCOUNT, "vpcflowlogs", REGION) && hex(id, 17) && hex(hash, 8), shape());
        ensure!(stamp.len() == "20261124T1505Z".len() && stamp.ends_with('Z') && &stamp[8..9] == "T", shape());
        Ok(Self { log: log.to_owned(), stamp: stamp.to_owned() })
    }

    pub fn day(&self) -> [&str; 3] {
        [&self.stamp[..4], &self.stamp[4..6], &self.stamp[6..8]]
    }

    pub fn hour(&self) -> &str {
        &self.stamp[9..11]
    }

    /// The default layout below `prefix`; returns the slot's first second.
    fn check(&self, key: &str, prefix: &str) -> Result<u64> {
        if !key.contains("aws-service=") {
            let path = format!("{prefix}AWSLogs/{ACCOUNT}/vpcflowlogs/{REGION}/{}/", self.day().join("/"));
            ensure!(
                key.rsplit_once('/').is_some_and(|(folder, _)| format!("{folder}/") == path),
                "{key} not in {path}"
            );
        }
        let [year, month, day] = self.day();
        let time = format!("{year}-{month}-{day} {}:{} UTC", self.hour(), &self.stamp[11..13]);
        let slot: u64 = run(&["date", "-d", &time, "+%s"])?.trim().parse()?;
        ensure!(slot.is_multiple_of(300), "{key} is not stamped at five minutes");
        Ok(slot)
    }
}

/// The record of an event, held against its time.
pub fn check_event(event: &Event) -> Result<Record> {
    let record = Record::parse(&event.message)?;
    ensure!(u64::try_from(event.timestamp)? == record.start * 1000, "{event:?}");
    Ok(record)
}

/// The records of all streams of [`GROUP`].
pub fn events(moto: &Moto<'_>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for stream in moto.streams(GROUP)? {
        for event in moto.events(GROUP, &stream)? {
            records.push(check_event(&event)?);
        }
    }
    Ok(records)
}

/// The records that Firehose has put into its bucket: `{"message":"…"}` after `{"message":"…"}`.
pub fn hosed(moto: &Moto<'_>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for object in moto.objects("hose")? {
        ensure!(!object.body.contains(&b'\n'), "a newline in a record");
        for record in serde_json::Deserializer::from_slice(&object.body).into_iter::<Value>() {
            let record = record?;
            let message = record["message"].as_str().context("message")?;
            ensure!(record.as_object().is_some_and(|fields| fields.len() == 1), "{record}");
            records.push(Record::parse(message)?);
        }
    }
    Ok(records)
}

/// Without those that are there again: what is delivered at least once.
pub fn distinct(records: Vec<Record>) -> Vec<Record> {
    let mut seen = std::collections::HashSet::new();
    records.into_iter().filter(|record| seen.insert(format!("{record:?}"))).collect()
}

/// Whether no segment is left in any spool below a state directory.
pub fn is_delivered(state: &Path) -> Result<bool> {
    Ok(files(&state.join("spool"))?.iter().all(|path| path.extension().is_none_or(|kind| kind != "seg")))
}

/// All files below a directory.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { files.extend(self::files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
