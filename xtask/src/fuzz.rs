//! Fuzzes what reads data from outside, with the stable compiler: libFuzzer, the agent's library with its counters.
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, command, root, setup, step, target_dir};

const PROFILE: &str = "checked";
/// Of one target.
const SECONDS: &str = "60";
/// What an input may be: longer ones find nothing that these do not.
const BYTES_MAX: &str = "4096";

pub(crate) fn run(target: Option<&str>, seconds: Option<&OsString>) -> Result<()> {
    let known = targets()?;
    let wanted: Vec<&String> = known.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if wanted.is_empty() {
        bail!("no fuzz target {}; known are {}", target.unwrap_or_default(), known.join(", "));
    }
    let default = SECONDS.into();
    let seconds = seconds.unwrap_or(&default).to_str().filter(|text| text.parse::<u32>().is_ok());
    let seconds = seconds.context("how long: a number of seconds")?;
    setup::build_tools()?;
    let mut build = cargo(["build", "--profile", PROFILE, "--package", "flowlogd-fuzz"]);
    for name in &wanted {
        build.arg("--bin").arg(format!("fuzz-{name}"));
    }
    build.env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/instrument"));
    step("build", &mut build)?;
    wanted.into_iter().try_for_each(|name| fuzz(name, seconds))
}

/// By their files.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets"))? {
        names.extend(entry?.path().file_stem().map(|stem| stem.display().to_string()));
    }
    names.sort();
    Ok(names)
}

/// Begins with the corpus and leaves it as it is: what is new goes into target/fuzz, and what breaks into fuzz/artifacts.
fn fuzz(name: &str, seconds: &str) -> Result<()> {
    let found = target_dir().join("fuzz").join(name);
    let artifacts = root().join("fuzz/artifacts").join(name);
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut fuzzer = command(target_dir().join(PROFILE).join(format!("fuzz-{name}")));
    fuzzer.args([&found, &root().join("fuzz/corpus").join(name)]);
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={BYTES_MAX}"));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]);
    if Path::new("/dev/shm").is_dir() {
        fuzzer.env("TMPDIR", "/dev/shm");
    }
    step(&format!("fuzz {name}"), &mut fuzzer)
}
