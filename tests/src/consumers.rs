//! What people read flow logs in S3 with, on what an agent has published to moto: DuckDB and pyarrow. The script checks what
//! can be checked without knowing the traffic.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::flowlogs_reader::{Answer, Reading};
use crate::moto::Moto;
use crate::netns::Netns;
use crate::venv;

/// A flow log's objects, in a folder of its own; and what `flowlogd athena` prints of it.
#[derive(Debug, Serialize)]
pub struct Published {
    pub folder: String,
    pub is_parquet: bool,
    pub athena: String,
    pub duckdb: String,
}

#[derive(Deserialize)]
struct Read {
    readings: BTreeMap<String, BTreeMap<String, Answer>>,
    empty: Vec<String>,
}

/// By folder and reader what was read, and which queries of docs/queries have no answer.
pub type Readings = (BTreeMap<(String, String), Reading>, Vec<String>);

pub fn read(ns: &Netns, moto: &Moto<'_>, bucket: &str, logs: &[Published]) -> Result<Readings> {
    let (directory, input) = (tempfile::tempdir()?, tempfile::NamedTempFile::new()?);
    fs::write(input.path(), serde_json::to_vec(logs)?)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("nsenter")
        .arg(format!("--net={}", ns.path()))
        .arg(venv::python()?)
        .arg(here.join("src/consumers.py"))
        .args([&format!("http://{}", moto.address), bucket])
        .args([directory.path(), &here.join("../docs/queries/athena")])
        .stdin(Stdio::from(input.reopen()?))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Read = serde_json::from_slice(&output.stdout).context("what the script prints")?;
    let mut readings = BTreeMap::new();
    for (folder, readers) in read.readings {
        for (reader, answer) in readers {
            readings.insert((folder.clone(), reader), answer.reading()?);
        }
    }
    Ok((readings, read.empty))
}
