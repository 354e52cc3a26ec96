//! A machine with a real systemd as its process 1: Debian in a container, whose network is that of a host of the harness.
//! The root is `target/tools/debian`, which `cargo xtask test` makes; what a machine writes goes with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::wait_for;

const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Of any command, and of what is waited for.
pub const LIMIT: Duration = Duration::from_secs(60);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Ended, with all that runs on it, on drop and when the test is killed.
#[derive(Debug)]
pub struct Machine {
    manager: Child,
    /// Its process 1, as we see it.
    init: u32,
    directory: TempDir,
}

/// bpffs is mounted by process 1 on a host and not in a container.
const BPFFS: &str = "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target systemd-tmpfiles-setup.service\n\
     [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=mkdir -p /sys/fs/bpf\n\
     ExecStart=mount -t bpf -o mode=700 bpf /sys/fs/bpf\n[Install]\nWantedBy=sysinit.target\n";

impl Machine {
    /// Boots with these files on it, each from a path here to one there.
    pub fn boot(ns: &Netns, files: &[(&Path, &str)]) -> Result<Self> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/debian");
        let base = base.canonicalize().with_context(|| format!("{}: cargo xtask test makes it", base.display()))?;
        let directory = TempDir::new()?;
        let made = |name: &str| -> Result<PathBuf> {
            let path = directory.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let (upper, work, root) = (made("upper")?, made("work")?, made("root")?);
        let write = |path: &str, text: &str| -> Result<()> {
            let path = upper.join(path);
            fs::create_dir_all(path.parent().context("parent")?)?;
            Ok(fs::write(path, text)?)
        };
        write("etc/systemd/system/bpffs.service", BPFFS)?;
        fs::create_dir_all(upper.join("etc/systemd/system/sysinit.target.wants"))?;
        std::os::unix::fs::symlink(
            "../bpffs.service",
            upper.join("etc/systemd/system/sysinit.target.wants/bpffs.service"),
        )?;
        // Nothing goes out, and nobody waits for it.
        write("etc/resolv.conf", "")?;
        for (from, to) in files {
            let to = upper.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("parent")?)?;
            fs::copy(from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        }
        let name = format!("fl{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let layers = format!("lowerdir={},upperdir={},workdir={}", base.display(), upper.display(), work.display());
        // The overlay is in a mount namespace that ends with the container, and the container in a process namespace that
        // ends with `unshare`: process 1 of a container has been seen to outlive a killed systemd-nspawn.
        let script = "mount -t overlay overlay -o \"$0\" \"$1\" && shift && exec \"$@\"";
        let console = File::create(directory.path().join("console"))?;
        let mut manager = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])
            .arg(layers)
            .arg(&root)
            .args(["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--console=pipe"])
            .args(["--capability=all", "--system-call-filter=bpf perf_event_open", "--link-journal=no"])
            .arg(format!("--network-namespace-path={}", ns.path()))
            .arg(format!("--machine={name}"))
            .arg(format!("--directory={}", root.display()))
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("systemd-nspawn")?;
        let init = wait_for("process 1 of the machine", BOOT_LIMIT, || {
            let ended = manager.try_wait()?;
            ensure!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(directory.path().join("console"))?);
            init_of(manager.id())
        });
        let init = match init {
            Ok(init) => init,
            Err(error) => {
                let _ = manager.kill();
                let _ = manager.wait();
                return Err(error);
            }
        };
        let machine = Self { manager, init, directory };
        let booted = wait_for("end of the boot", BOOT_LIMIT, || {
            Ok(machine.output(&["systemctl", "is-active", "multi-user.target"])?.status.success().then_some(()))
        });
        booted.with_context(|| machine.console())?;
        Ok(machine)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }

    /// A file of the machine's, as seen from here.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// A command of root's, whatever becomes of it.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        let seconds = LIMIT.as_secs().to_string();
        let output = Command::new("timeout")
            .args(["--kill-after=2", &seconds, "nsenter", "--target", &self.init.to_string(), "--all"])
            .args(argv)
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C.UTF-8"),
                ("DEBIAN_FRONTEND", "noninteractive"),
            ])
            .stdin(Stdio::null())
            .output();
        output.with_context(|| argv.join(" "))
    }

    /// What a command that succeeds prints.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let output = self.output(argv)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        ensure!(output.status.success(), "`{}`: {}\n{stdout}{stderr}", argv.join(" "), output.status);
        Ok(stdout)
    }

    /// As [`Self::run`], by a shell.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(&["sh", "-c", line])
    }

    /// As [`Self::run`], by an ordinary user who is in this group only.
    pub fn run_as(&self, user: &str, group: &str, argv: &[&str]) -> Result<Output> {
        let user = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--inh-caps=-all"];
        self.output(&[&user[..], argv].concat())
    }

    /// A property of a unit.
    pub fn unit(&self, unit: &str, property: &str) -> Result<String> {
        Ok(self.run(&["systemctl", "show", "--value", "--property", property, unit])?.trim().to_owned())
    }

    /// What a unit has logged, all of it.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Waits until a unit has logged this, so many times.
    pub fn wait_logged(&self, unit: &str, what: &str, times: usize) -> Result<()> {
        let found = wait_for(&format!("`{what}` in the journal"), LIMIT, || {
            Ok((self.journal(unit)?.matches(what).count() >= times).then_some(()))
        });
        found.with_context(|| self.journal(unit).unwrap_or_default())
    }
}

/// Process 1 of the machine that `unshare` has started, when both it and its manager are what they will be.
fn init_of(unshare: u32) -> Result<Option<u32>> {
    let child = |pid: u32, name: &str| -> Option<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let child = text.split_whitespace().next()?.parse().ok()?;
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (comm.trim() == name).then_some(child)
    };
    Ok(child(unshare, "systemd-nspawn").and_then(|nspawn| child(nspawn, "systemd")))
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All that it runs dies with it.
        let _ = self.manager.kill();
        let _ = self.manager.wait();
        let gone = || Ok((!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(()));
        let _ = wait_for("the machine's end", Duration::from_secs(10), gone);
    }
}
