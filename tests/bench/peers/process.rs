//! A peer as a child process that captures in a namespace.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flowlogd_tests::netns::Netns;
use flowlogd_tests::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(15);

/// Killed on drop, and by the kernel when the benchmark is killed. Its files have no names that could stay behind.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Process {
    /// Starts a program with this on its standard input and waits until it captures.
    pub(crate) fn start(ns: &Netns, argv: &[&str], input: &str) -> Result<Self> {
        let (mut stdin, stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", ns.path()))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .args(argv)
            .stdin(stdin)
            .stdout(Stdio::from(stdout.try_clone()?))
            .stderr(Stdio::from(stderr.try_clone()?))
            .spawn()?;
        let mut process = Self { name: argv[0].to_owned(), child, stdout, stderr };
        let captures = wait_for("packet socket", LIMIT, || {
            if let Some(status) = process.child.try_wait()? {
                bail!("{status}");
            }
            // A heading, then a line for each packet socket of the namespace.
            let sockets = ns.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/packet")?))?;
            Ok((sockets.lines().count() > 1).then_some(()))
        });
        match captures {
            Ok(()) => Ok(process),
            Err(error) => bail!(
                "{} does not start ({error}): {}; `cargo xtask bench --peers` installs what is missing",
                process.name,
                read(&mut process.stderr)?.lines().last().unwrap_or("it said nothing"),
            ),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn interrupt(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?)
    }

    /// Waits until it ends, with this status, and returns its output.
    pub(crate) fn finish(mut self, code: i32) -> Result<String> {
        let status = wait_for(&format!("exit of {}", self.name), LIMIT, || Ok(self.child.try_wait()?))?;
        ensure!(status.code() == Some(code), "{}: {status}: {}", self.name, read(&mut self.stderr)?.trim());
        read(&mut self.stdout)
    }
}

fn read(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
