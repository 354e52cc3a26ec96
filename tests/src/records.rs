//! Version 2 flow log records, parsed independently of the agent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::GzDecoder;
use flate2::read::MultiGzDecoder;

use crate::{Flow, Hosts, Totals};

const HEADER: &str = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Ok { flow: Flow, totals: Totals, action: String },
    NoData,
    SkipData,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub account: String,
    pub interface: String,
    pub start: u64,
    pub end: u64,
    pub status: Status,
}

impl Record {
    pub fn parse(line: &str) -> Result<Self> {
        Self::parse_fields(line).with_context(|| format!("record `{line}`"))
    }

    fn parse_fields(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        ensure!(fields.len() == 14, "{} fields", fields.len());
        ensure!(fields[0] == "2", "version {}", fields[0]);
        let status = match fields[13] {
            "OK" => Status::Ok {
                flow: Flow {
                    src: fields[3].parse()?,
                    dst: fields[4].parse()?,
                    sport: fields[5].parse()?,
                    dport: fields[6].parse()?,
                    protocol: fields[7].parse()?,
                },
                totals: Totals { packets: fields[8].parse()?, bytes: fields[9].parse()? },
                action: fields[12].to_owned(),
            },
            other => {
                let absent = fields[3..10].iter().chain([&fields[12]]).all(|field| *field == "-");
                ensure!(absent, "{other} with flow fields");
                match other {
                    "NODATA" => Status::NoData,
                    "SKIPDATA" => Status::SkipData,
                    _ => bail!("log status {other}"),
                }
            }
        };
        let (start, end) = (fields[10].parse()?, fields[11].parse()?);
        ensure!(start <= end, "ends before it starts");
        Ok(Self { account: fields[1].into(), interface: fields[2].into(), start, end, status })
    }

    pub fn flow(&self) -> Option<(Flow, Totals)> {
        match &self.status {
            Status::Ok { flow, totals, .. } => Some((*flow, *totals)),
            _ => None,
        }
    }
}

/// Parses lines, passing over the header line of a log file.
pub fn parse_lines(text: &str) -> Result<Vec<Record>> {
    text.lines().filter(|line| !line.starts_with("version ")).map(Record::parse).collect()
}

/// Parses an object: one gzip member, AWS's header line, then records, each with its newline.
pub fn parse_object(body: &[u8]) -> Result<Vec<Record>> {
    let mut member = GzDecoder::new(body);
    let mut text = String::new();
    member.read_to_string(&mut text)?;
    ensure!(member.get_ref().is_empty(), "{} bytes behind the first gzip member", member.get_ref().len());
    let name_and_time = member.header().map(|header| (header.filename().is_some(), header.mtime()));
    ensure!(name_and_time == Some((false, 0)), "gzip header with a name or a time: {name_and_time:?}");
    let lines = text.strip_suffix('\n').context("no newline at the end")?;
    let lines = lines.strip_prefix(HEADER).and_then(|lines| lines.strip_prefix('\n')).context("header line")?;
    lines.split('\n').map(Record::parse).collect()
}

/// Reads every `.log.gz` below `directory`.
pub fn read_directory(directory: &Path) -> Result<Vec<Record>> {
    Ok(read_objects(directory)?.concat())
}

/// As [`read_directory`], each object's records by themselves.
pub fn read_objects(directory: &Path) -> Result<Vec<Vec<Record>>> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            objects.extend(read_objects(&path)?);
        } else if path.to_str().is_some_and(|name| name.ends_with(".log.gz")) {
            let mut text = String::new();
            MultiGzDecoder::new(File::open(&path)?)
                .read_to_string(&mut text)
                .with_context(|| path.display().to_string())?;
            objects.push(parse_lines(&text)?);
        }
    }
    Ok(objects)
}

pub fn by_flow(records: &[Record]) -> BTreeMap<Flow, Totals> {
    let mut sums = BTreeMap::new();
    for (flow, totals) in records.iter().filter_map(Record::flow) {
        *sums.entry(flow).or_default() += totals;
    }
    sums
}

/// As [`by_flow`], of the records with this action.
pub fn by_action(records: &[Record], wanted: &str) -> BTreeMap<Flow, Totals> {
    let of_action = |record: &&Record| matches!(&record.status, Status::Ok { action, .. } if action == wanted);
    by_flow(&records.iter().filter(of_action).cloned().collect::<Vec<_>>())
}

pub fn by_hosts(records: &[Record]) -> BTreeMap<Hosts, Totals> {
    let mut sums = BTreeMap::new();
    for (flow, totals) in records.iter().filter_map(Record::flow) {
        *sums.entry(flow.hosts()).or_default() += totals;
    }
    sums
}
