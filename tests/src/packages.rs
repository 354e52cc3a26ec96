//! The packages under test, and a system to install them in: this one's files, with all that is written to them kept
//! apart. Nothing reaches the host: its /run, /proc and /sys are not there, and the network is another.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Of the workspace, and so of the packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `$FLOWLOGD_PACKAGES`, or else where `cargo xtask test` puts them.
pub fn directory() -> Result<PathBuf> {
    let path = match env::var_os("FLOWLOGD_PACKAGES") {
        Some(path) => PathBuf::from(path),
        None => repository().join("target/package/tests"),
    };
    path.canonicalize().with_context(|| format!("{}: run `cargo xtask test` or set FLOWLOGD_PACKAGES", path.display()))
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of the workspace")
}

/// The later one's, which nobody else has; it is the build with fault points.
pub const LATER: &str = "9.0.0";

pub fn named(ends: &str) -> Result<PathBuf> {
    of_version(VERSION, ends)
}

pub fn of_version(version: &str, ends: &str) -> Result<PathBuf> {
    let directory = directory()?;
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = [format!("flowlogd_{version}-"), format!("flowlogd-{version}-")];
        if is_ours.iter().any(|start| name.starts_with(start)) && name.ends_with(ends) {
            return Ok(path);
        }
    }
    bail!("{}: no flowlogd {version} with {ends}: run `cargo xtask test`", directory.display())
}

/// Mounts are the script's own: they go with it, however it ends. Overlay of a tmpfs over this system's files.
const ENTER: &str = r#"
mount -t tmpfs -o mode=755 tmpfs "$1/disk"
mkdir "$1/disk/upper" "$1/disk/work" "$1/disk/root"
root="$1/disk/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/disk/upper,workdir=$1/disk/work" overlay "$root"
for directory in run tmp sys; do mount -t tmpfs tmpfs "$root/$directory"; done
mkdir -p "$root/sys/fs/bpf"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
rm -f "$root/var/lib/man-db/auto-update"
cp -- "$2" "$root/tmp/package"
inside() { chroot "$root" sh -euc "$1"; }
# What was written, but for the package manager's own books and what is kept of an edited file.
left() {
    cd "$1/disk/upper"
    find . -name '*flowlogd*' ! -type c ! -path './var/lib/dpkg/*'
    grep -rl flowlogd etc usr var --exclude-dir=dpkg --exclude-dir=rpm --exclude-dir=log --exclude-dir=cache --exclude='*-' || true
    cd /
}
"#;

/// Runs `script` with `inside COMMANDS`, and `left "$1"`, which lists what has to do with flowlogd and is not gone. The
/// package is /tmp/package inside.
pub fn install(package: &Path, script: &str) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    fs::create_dir(scratch.path().join("disk"))?;
    let mut command = Command::new("timeout");
    command.args(["--kill-after=2", "300", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]);
    command.args(["--propagation", "private", "sh", "-euc", &format!("{ENTER}{script}"), "sh"]);
    command.arg(scratch.path()).arg(package).stdin(Stdio::null());
    // As a package manager calls its scripts; what cargo sets is none of their business.
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").env("HOME", "/root");
    let output = command.output().context("unshare")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
