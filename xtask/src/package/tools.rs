//! The programs that make packages, built once into target/tools, as fast as they can be built.
//! Must not know what they are given.
//! Nothing is built when they are there in the version that is wanted.
use std::process::Command;

use anyhow::Result;

use crate::{cargo, output, root, step};

const TOOLS: [(&str, &str); 2] = [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1")];

pub(crate) fn install() -> Result<()> {
    for (name, version) in TOOLS {
        let program = program(name);
        let found = output(&program, &["--version"]);
        if found.is_some_and(|text| text.split_whitespace().any(|word| word == version)) {
            eprintln!("==> {name} {version}: {program}");
            continue;
        }
        let mut cargo = cargo(["install", name, "--version", version, "--locked", "--force", "--no-default-features"]);
        // Not optimised: they run for seconds, and would take twice as long to build.
        cargo.args(["--debug", "--root"]).arg(root().join("target/tools"));
        cargo.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "false");
        step(&format!("build {name} (a minute or two)"), &mut cargo)?;
    }
    Ok(())
}

pub(crate) fn command(name: &str) -> Command {
    crate::command(program(name))
}

fn program(name: &str) -> String {
    root().join("target/tools/bin").join(name).display().to_string()
}
