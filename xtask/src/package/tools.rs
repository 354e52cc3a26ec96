//! The programs that make packages, built once into target/tools, as fast as they can be built.
//! Must not know what they are given.
//! Nothing is built when they are there in the version that is wanted.
use std::process::Command;

use anyhow::Result;

use crate::{cargo, output, root, step};

/// Name, version, and what of it is optimised, since it works on every byte. The rest runs for an instant, and would take
/// twice as long to build.
const TOOLS: [(&str, &str, &[&str]); 2] =
    [("cargo-deb", "3.8.0", &[]), ("cargo-generate-rpm", "0.21.1", &["keccak", "md-5", "sha2", "sha3", "zstd-sys"])];

pub(crate) fn install() -> Result<()> {
    for (name, version, optimised) in TOOLS {
        let program = program(name);
        let found = output(&program, &["--version"]);
        if found.is_some_and(|text| text.split_whitespace().any(|word| word == version)) {
            eprintln!("==> {name} {version}: {program}");
            continue;
        }
        let mut cargo = cargo(["install", name, "--version", version, "--locked", "--force", "--no-default-features"]);
        cargo.args(["--debug", "--root"]).arg(root().join("target/tools"));
        for package in optimised {
            cargo.args(["--config", &format!("profile.dev.package.{package}.opt-level=2")]);
        }
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
