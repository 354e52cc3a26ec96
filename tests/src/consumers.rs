//! What people read flow logs in S3 with, on what an agent has published to moto: DuckDB and pyarrow. The script checks what
//! can be checked without knowing the traffic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
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

/// Prints rows of Parquet files with AWS's names of the fields; null is what text has for it.
const ROWS: &str = r#"
import json, sys
import pyarrow.parquet
for path in sys.argv[1:]:
    for row in pyarrow.parquet.read_table(path).to_pylist():
        print(json.dumps({name.replace("_", "-"): "-" if value is None else str(value) for name, value in row.items()}))
"#;

/// Of Parquet files, as pyarrow reads them.
pub fn parquet_rows(files: &[PathBuf]) -> Result<Vec<BTreeMap<String, String>>> {
    let output = Command::new(venv::python()?).args(["-c", ROWS]).args(files).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
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
