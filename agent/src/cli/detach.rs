//! `flowlogd detach`: removes what an agent that was killed left in the kernel. Refuses while one runs.
#![forbid(unsafe_code)]

use super::Failure;
use crate::capture::{self, DEFAULT_DIRECTORY};
use crate::state_lock;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  flowlogd detach\n  flowlogd detach --bpf-directory /sys/fs/bpf/flowlogd")]
pub(super) struct Args {
    /// Where the agent pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
    bpf_directory: PathBuf,
    /// The agent's state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/flowlogd")]
    state_directory: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let directory = args.bpf_directory.display();
    // Without the file no agent uses the directory.
    let exists = args.state_directory.join("lock").exists();
    let _state = if exists { Some(state_lock::lock(&args.state_directory)?) } else { None };
    let _pins = capture::lock(&args.bpf_directory)
        .map_err(|error| Failure::Run(format!("--bpf-directory '{directory}': {error}; stop it first")))?;
    let mut nothing = true;
    capture::detach(&args.bpf_directory, |line| {
        nothing = false;
        println!("{line}");
    })?;
    if nothing {
        println!("nothing to remove below {directory}");
    }
    Ok(())
}
