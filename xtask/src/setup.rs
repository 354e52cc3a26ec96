//! Finds or installs what building, testing and measuring need. Does nothing when it is all there.
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{command, need_root, output, root, step};

const LINKER_VERSION: &str = "0.13.0";
/// `core` for BPF as Debian ships it. agent/build.rs looks at the same path.
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Backported to stable releases for browsers, then what newer releases call it.
const DEBIAN_PACKAGES: [&[&str]; 2] =
    [&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"], &["rustc", "cargo", "libstd-rust-dev-bpf"]];

/// Beside what is essential.
const DEBIAN_CONTENTS: [&str; 5] = ["systemd", "systemd-sysv", "dbus", "iproute2", "nftables"];

pub(crate) fn build_tools() -> Result<()> {
    let version = if debian_has_core() {
        eprintln!("==> BPF compiler: Debian's {DEBIAN_RUSTC}, core in {DEBIAN_CORE}");
        output(DEBIAN_RUSTC, &["-vV"])
    } else if let Some(sysroot) = nightly_with_core() {
        eprintln!("==> BPF compiler: rustup's nightly with rust-src, {sysroot}");
        output("rustup", &["run", "nightly", "rustc", "-vV"])
    } else {
        install_debian_rustc()?;
        output(DEBIAN_RUSTC, &["-vV"])
    };
    let llvm = version.as_deref().and_then(llvm_major).context("rustc -vV does not tell its LLVM version")?;
    linker(llvm)
}

fn debian_has_core() -> bool {
    Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_CORE).exists()
}

fn nightly_with_core() -> Option<String> {
    // Unlike `rustc +nightly`, never downloads the toolchain.
    let sysroot = output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])?;
    let sysroot = sysroot.trim();
    Path::new(sysroot).join("lib/rustlib/src/rust/library/core").exists().then(|| sysroot.to_owned())
}

fn install_debian_rustc() -> Result<()> {
    eprintln!("==> BPF compiler: none found (no {DEBIAN_CORE}, no nightly with rust-src)");
    need_root("installing Debian's rustc")?;
    update()?;
    let available = DEBIAN_PACKAGES.into_iter().find(|packages| packages.iter().all(|package| in_archive(package)));
    let packages = available.context(
        "this system has no packages of rustc with core for BPF; \
         run `rustup toolchain install nightly --component rust-src` instead",
    )?;
    install(packages)?;
    if !debian_has_core() {
        bail!("installed {}, but {DEBIAN_CORE} is missing", packages.join(", "));
    }
    Ok(())
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
}

/// bpf-linker reads rustc's bitcode, so its LLVM must be rustc's.
fn linker(llvm: u32) -> Result<()> {
    let tools = root().join("target/tools");
    let linker = tools.join("bin/bpf-linker");
    if output(&linker.to_string_lossy(), &["--version"]).is_some() {
        eprintln!("==> BPF linker: {}", linker.display());
        return Ok(());
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() || output("c++", &["--version"]).is_none() {
        packages(&["g++", &format!("llvm-{llvm}-dev")])?;
    }
    let mut cargo = crate::cargo(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]).arg(&tools);
    cargo.env_remove("CARGO_TARGET_DIR").env("LLVM_PREFIX", &prefix);
    step("build bpf-linker (a minute or two)", &mut cargo)
}

/// Installs those Debian packages that are missing; needs root only then.
pub(crate) fn packages(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    need_root(&format!("installing {}", missing.join(" ")))?;
    update()?;
    install(&missing)
}

/// A program of a Debian package, unpacked into `target/tools` and not installed: its package would start a service.
pub(crate) fn unpacked(package: &str, program: &str) -> Result<()> {
    let tools = root().join("target/tools");
    let directory = tools.join(package);
    if output(&directory.join(program).to_string_lossy(), &["--version"]).is_some() {
        return Ok(());
    }
    if !in_archive(package) {
        need_root(&format!("downloading {package}"))?;
        update()?;
    }
    // Its file's name has a version that nobody knows before.
    let download = empty(&tools.join("download"))?;
    let mut apt = command("apt-get");
    apt.args(["-q", "download", package]).current_dir(&download).stdout(io::stderr());
    step(&format!("download {package} for {program}"), &mut apt)?;
    let file =
        std::fs::read_dir(&download)?.next().with_context(|| format!("apt-get download {package}: no file"))??;
    let mut unpack = command("dpkg-deb");
    step(&format!("unpack {package}"), unpack.arg("--extract").arg(file.path()).arg(&directory))?;
    Ok(std::fs::remove_dir_all(&download)?)
}

/// A Debian with systemd for containers that tests boot, in `target/tools/debian`.
pub(crate) fn debian() -> Result<()> {
    let root = root().join("target/tools/debian");
    // debootstrap's last step leaves none of its own files.
    if root.join("usr/lib/systemd/systemd").exists() && !root.join("debootstrap").exists() {
        eprintln!("==> Debian for containers: {}", root.display());
        return Ok(());
    }
    need_root("making a Debian for containers")?;
    packages(&["debootstrap", "systemd-container"])?;
    let release = std::fs::read_to_string("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let mut debootstrap = command("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={}", DEBIAN_CONTENTS.join(","))]);
    debootstrap.arg(suite.unwrap_or("stable")).arg(empty(&root)?).stdout(io::stderr());
    step("make a Debian for containers (a minute)", &mut debootstrap)?;
    // As on every new host, and on none that was copied.
    Ok(std::fs::write(root.join("etc/machine-id"), "")?)
}

/// An empty directory.
pub(crate) fn empty(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    std::fs::create_dir_all(path)?;
    Ok(path.to_owned())
}

pub(crate) fn installed(package: &str) -> bool {
    output("dpkg-query", &["--show", "--showformat=${db:Status-Status}", package]).as_deref() == Some("installed")
}

fn in_archive(package: &str) -> bool {
    output("apt-cache", &["show", "--no-all-versions", package]).is_some_and(|text| !text.is_empty())
}

fn update() -> Result<()> {
    apt_get("update the package lists", &["update"])
}

fn install(packages: &[&str]) -> Result<()> {
    apt_get("install packages", &[&["install", "-y", "--no-install-recommends"], packages].concat())
}

fn apt_get(what: &str, args: &[&str]) -> Result<()> {
    let mut apt = command("apt-get");
    // -q: progress as lines. The timeout: another apt, such as unattended-upgrades, may hold the lock.
    apt.args(["-q", "-o", "DPkg::Lock::Timeout=120"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
    apt.stdout(io::stderr());
    step(what, &mut apt)
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn reads_llvm_version_of_rustc() {
        assert_eq!(llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
