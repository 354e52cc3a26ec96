//! Makes the packages: .deb, .rpm and .tar.gz in target/package, of a release build or of any other binary.
//! Must not know what is in them: agent/Cargo.toml lists that.
//! The same binary, commit and version give the same bytes, wherever and whenever.
mod stage;
mod tools;

use std::env;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{command, output, root, run, setup, step, target_dir};

/// Of the package, not of the program: counts what was packaged again without a new version.
const RELEASE: &str = "1";
/// As in agent/Cargo.toml.
const MAINTAINER: &str = "flowlogd maintainers <maintainers@flowlogd.example>";

pub(crate) fn run(version: Option<&str>, binary: Option<&Path>, directory: Option<&Path>) -> Result<()> {
    let binary = match binary {
        // As the caller means it; the commands run at the root.
        Some(binary) => binary.canonicalize().with_context(|| format!("--binary {}", binary.display()))?,
        None => {
            run::build(true)?;
            target_dir().join("release/flowlogd")
        }
    };
    let directory = match directory {
        Some(directory) => std::path::absolute(directory).with_context(|| format!("{}", directory.display()))?,
        None => default_directory(),
    };
    make(version, &binary, &directory)
}

pub(crate) fn default_directory() -> PathBuf {
    root().join("target/package")
}

pub(crate) fn make(version: Option<&str>, binary: &Path, directory: &Path) -> Result<()> {
    let package = begin(version.unwrap_or(env!("CARGO_PKG_VERSION")), binary, directory)?;
    let deb = package.deb()?;
    for path in [&package.rpm()?, &package.tarball(&deb)?, &deb] {
        eprintln!("==> {} ({} KiB)", path.display(), fs::metadata(path)?.len().div_ceil(1024));
    }
    Ok(())
}

/// A .deb alone, which tests upgrade to.
pub(crate) fn later(version: &str, binary: &Path, directory: &Path) -> Result<()> {
    begin(version, binary, directory)?.deb().map(drop)
}

/// With all that it holds.
fn begin<'a>(version: &'a str, binary: &Path, directory: &'a Path) -> Result<Package<'a>> {
    if !is_version(version) {
        bail!("--version {version}: digits, letters, dots, + and ~, as in 1.2.0 and 1.2.0~rc1");
    }
    setup::packages(&["dpkg-dev", "binutils", "gzip"])?;
    tools::install()?;
    let package = Package { version, date: source_date()?, directory };
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    stage::fill(binary, &package)?;
    Ok(package)
}

/// What is made, and how it is named.
struct Package<'a> {
    version: &'a str,
    /// Seconds since the epoch: the time of all files, and of the packages.
    date: String,
    directory: &'a Path,
}

impl Package<'_> {
    fn deb(&self) -> Result<PathBuf> {
        let arch = output("dpkg", &["--print-architecture"]).context("dpkg --print-architecture fails")?;
        let version = format!("{}-{RELEASE}", self.version);
        let path = self.directory.join(format!("flowlogd_{version}_{}.deb", arch.trim()));
        let mut deb = tools::command("cargo-deb");
        // Its own xz is a library in C that would have to be compiled.
        deb.args(["deb", "--package", "flowlogd", "--no-build", "--no-strip", "--compress-system", "--quiet"]);
        deb.arg("--deb-version").arg(version).arg("--output").arg(&path);
        step("make the .deb", deb.env("SOURCE_DATE_EPOCH", &self.date))?;
        Ok(path)
    }

    fn rpm(&self) -> Result<PathBuf> {
        let path = self.directory.join(format!("flowlogd-{}-{RELEASE}.{ARCH}.rpm", self.version));
        let mut rpm = tools::command("cargo-generate-rpm");
        rpm.args(["generate-rpm", "--package", "agent", "--auto-req", "builtin", "--payload-compress", "zstd"]);
        rpm.arg("--set-metadata").arg(format!("version = \"{}\"\nrelease = \"{RELEASE}\"", self.version));
        rpm.arg("--output").arg(&path);
        step("make the .rpm", rpm.env("SOURCE_DATE_EPOCH", &self.date))?;
        Ok(path)
    }

    /// The files of the .deb below a directory, for systems that know neither.
    fn tarball(&self, deb: &Path) -> Result<PathBuf> {
        let name = format!("flowlogd-{}-{ARCH}-linux", self.version);
        let above = setup::empty(&stage::directory().join("tree"))?;
        step("unpack the .deb", command("dpkg-deb").arg("--extract").arg(deb).arg(above.join(&name)))?;
        let path = self.directory.join(format!("{name}.tar"));
        let mut tar = command("tar");
        tar.args(["--create", "--sort=name", "--format=gnu", "--owner=root:0", "--group=root:0"]);
        tar.arg(format!("--mtime=@{}", self.date)).arg("--file").arg(&path).arg("--directory").arg(above).arg(&name);
        step("make the .tar", &mut tar)?;
        stage::gzip([&path])?;
        Ok(path.with_extension("tar.gz"))
    }
}

/// Of the last commit, unless the packager says another.
fn source_date() -> Result<String> {
    let said = env::var("SOURCE_DATE_EPOCH").ok().filter(|said| !said.is_empty());
    let date = said.or_else(|| output("git", &["log", "-1", "--format=%ct"]));
    let date = date.context("no commit to take the date from: set SOURCE_DATE_EPOCH, seconds since 1970")?;
    let date = date.trim();
    date.parse::<u32>().with_context(|| format!("SOURCE_DATE_EPOCH '{date}': not seconds since 1970"))?;
    Ok(date.to_owned())
}

/// Both formats' common ground.
fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~'))
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions() {
        assert!(is_version("0.1.0") && is_version("1.2.0~rc1"));
        for bad in ["", "v1", "1-2", "1.0\"", "1 0"] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
