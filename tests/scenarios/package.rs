//! Packages: what they hold, that dpkg and rpm agree about it, that they come and go without a trace, and that the same
//! binary always gives the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowlogd_tests::netns::run;
use flowlogd_tests::packages::{VERSION, install, named, repository};

/// Beside man pages and documents.
const FILES: [(&str, &str); 10] = [
    ("-rwxr-xr-x", "/usr/bin/flowlogd"),
    ("-rw-r--r--", "/usr/lib/systemd/system/flowlogd.service"),
    ("-rw-r--r--", "/usr/lib/sysusers.d/flowlogd.conf"),
    ("-rw-r--r--", "/usr/lib/tmpfiles.d/flowlogd.conf"),
    ("-rw-r--r--", "/etc/flowlogd/flowlogd.toml"),
    ("-rw-r--r--", "/usr/share/bash-completion/completions/flowlogd"),
    ("-rw-r--r--", "/usr/share/fish/vendor_completions.d/flowlogd.fish"),
    ("-rw-r--r--", "/usr/share/man/man1/flowlogd.1.gz"),
    ("-rw-r--r--", "/usr/share/man/man1/flowlogd-run.1.gz"),
    ("-rw-r--r--", "/usr/share/man/man5/flowlogd.toml.5.gz"),
];
const CONFIGURATION: [&str; 2] = ["/etc/flowlogd/conf.d/README", "/etc/flowlogd/flowlogd.toml"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Mode, owner and name of each file, of lines as `ls -l` and tar have them.
fn files(listing: &str, owner: &str) -> Result<BTreeSet<(String, String)>> {
    let mut files = BTreeSet::new();
    for line in listing.lines().filter(|line| line.starts_with('-')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last().context("no name")?.trim_start_matches('.');
        ensure!(line.split_once(owner).is_some(), "not of root: {line}");
        files.insert((words[0].to_owned(), name.to_owned()));
    }
    Ok(files)
}

fn sorted(lines: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = lines.lines().collect();
    lines.sort_unstable();
    lines
}

fn path(ends: &str) -> Result<String> {
    Ok(named(ends)?.to_str().context("path")?.to_owned())
}

fn deb_files() -> Result<BTreeSet<(String, String)>> {
    files(&run(&["dpkg-deb", "--contents", &path(".deb")?])?, " 0/0 ")
}

#[test]
fn package_deb_holds_all_that_an_installation_has() -> Result<()> {
    let files = deb_files()?;
    for (mode, name) in FILES {
        ensure!(files.contains(&(mode.to_owned(), name.to_owned())), "no {mode} {name} in {files:#?}");
    }
    let deb = path(".deb")?;
    ensure!(sorted(&run(&["dpkg-deb", "--info", &deb, "conffiles"])?) == CONFIGURATION);
    let field = |name: &str| run(&["dpkg-deb", "--field", &deb, name]);
    ensure!(field("Version")?.trim() == format!("{VERSION}-1"));
    let depends = field("Depends")?;
    ensure!(depends.contains("libc6 (>= 2.") && depends.contains("systemd"), "{depends}");
    for script in SCRIPTS {
        let text = fs::read_to_string(repository().join("systemd/package").join(script))?;
        ensure!(run(&["dpkg-deb", "--info", &deb, script])? == text, "{script} is another");
    }
    Ok(())
}

#[test]
fn package_rpm_and_tarball_hold_the_same() -> Result<()> {
    let rpm = path(".rpm")?;
    // Each has its own place for the completions of zsh, and for licences.
    let common = |files: BTreeSet<(String, String)>| -> BTreeSet<(String, String)> {
        let own = ["/usr/share/zsh/", "/copyright", "/LICENSE", "/changelog.Debian.gz"];
        files.into_iter().filter(|(_, name)| !own.iter().any(|own| name.contains(own))).collect()
    };
    let deb = deb_files()?;
    let listing = run(&["rpm", "--query", "--list", "--verbose", "--package", &rpm])?;
    let of_rpm = files(&listing, " root     root ")?;
    ensure!(of_rpm.iter().filter(|(_, name)| name.ends_with("/_flowlogd")).count() == 1, "{listing}");
    let (ours, theirs) = (common(deb.clone()), common(of_rpm));
    ensure!(ours == theirs, "only in one: {:#?}", ours.symmetric_difference(&theirs));
    ensure!(sorted(&run(&["rpm", "--query", "--configfiles", "--package", &rpm])?) == CONFIGURATION);
    // With this the file of the administrator is kept.
    let flags = run(&["rpm", "--query", "--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\\n]", "--package", &rpm])?;
    ensure!(flags.contains("/etc/flowlogd/flowlogd.toml cn"), "{flags}");
    let scripts = run(&["rpm", "--query", "--scripts", "--package", &rpm])?;
    for script in SCRIPTS {
        let text = fs::read_to_string(repository().join("systemd/package").join(script))?;
        ensure!(scripts.contains(text.trim()), "{script} is another: {scripts}");
    }
    let tarball = path(".tar.gz")?;
    let listing = run(&["tar", "--list", "--verbose", "--gzip", "--numeric-owner", "--file", &tarball])?;
    let above = Path::new(&tarball).file_name().unwrap_or_default().to_string_lossy().replace(".tar.gz", "");
    let listing = listing.replace(&format!(" {above}/"), " /");
    let tar = files(&listing, " 0/0 ")?;
    ensure!(tar == deb, "only in one: {:#?}", tar.symmetric_difference(&deb));
    Ok(())
}

/// A service that is enabled and runs, edited configuration, and what an agent wrote.
#[test]
fn package_deb_comes_and_goes() -> Result<()> {
    let link = "/etc/systemd/system/multi-user.target.wants/flowlogd.service";
    let script = format!(
        r##"
        inside '
            exec >&2
            dpkg --install /tmp/package
            flowlogd --version
            test "$(stat -c %U:%a /sys/fs/bpf/flowlogd)" = flowlogd:700
            test -L {link}
            mkdir -p /var/lib/flowlogd/records
            echo "# mine" >>/etc/flowlogd/flowlogd.toml
            # An upgrade keeps the file that was edited, and asks nothing.
            dpkg --install /tmp/package
            tail -n 1 /etc/flowlogd/flowlogd.toml | grep -qx "# mine"
            # Removed, and back again: enabled as before, with all that it had.
            dpkg --remove flowlogd
            test ! -e {link}
            test -d /var/lib/flowlogd/records
            dpkg --install /tmp/package
            test -L {link}
            tail -n 1 /etc/flowlogd/flowlogd.toml | grep -qx "# mine"
            # What somebody has disabled stays so.
            systemctl disable flowlogd
            dpkg --install /tmp/package
            dpkg --remove flowlogd
            dpkg --install /tmp/package
            test ! -e {link}
            dpkg --purge flowlogd
            test ! -e /sys/fs/bpf/flowlogd
        '
        left "$1"
    "##
    );
    let left = install(&named(".deb")?, &script)?;
    ensure!(left.is_empty(), "left after a purge:\n{left}");
    Ok(())
}

#[test]
fn package_rpm_comes_and_goes() -> Result<()> {
    // Debian's packages are not in rpm's books.
    let script = r##"
        inside '
            exec >&2
            rpm --install --nodeps /tmp/package
            flowlogd --version
            test "$(stat -c %U:%a /sys/fs/bpf/flowlogd)" = flowlogd:700
            rpm --upgrade --force --nodeps /tmp/package
            getent passwd flowlogd
            rpm --erase flowlogd
            test ! -e /sys/fs/bpf/flowlogd
            # Which rpm never takes back.
            userdel flowlogd
        '
        left "$1"
    "##;
    let left = install(&named(".rpm")?, script)?;
    ensure!(left.is_empty(), "left after it was erased:\n{left}");
    Ok(())
}

/// On another day, elsewhere, with other permissions.
#[test]
fn package_of_the_same_binary_is_the_same() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let tree = scratch.path().join("tree");
    let (deb, to) = (path(".deb")?, tree.to_str().context("path")?);
    run(&["dpkg-deb", "--extract", &deb, to])?;
    // When the packages were made, the last commit may have been another.
    let date = run(&["rpm", "--query", "--queryformat", "%{BUILDTIME}", "--package", &path(".rpm")?])?;
    let again = scratch.path().join("again");
    let mut package = Command::new("sh");
    package.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO"), "xtask", "package", "--binary"]);
    package.arg(tree.join("usr/bin/flowlogd")).arg("--output").arg(&again).current_dir(repository());
    package.env("SOURCE_DATE_EPOCH", date.trim()).env("TZ", "Asia/Kathmandu").env("LC_ALL", "C");
    let output = package.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for ends in [".deb", ".rpm", ".tar.gz"] {
        let first = named(ends)?;
        let second = again.join(first.file_name().context("name")?);
        ensure!(fs::read(&first)? == fs::read(&second)?, "{} is another each time", first.display());
    }
    Ok(())
}

#[test]
fn package_scripts_are_clean() -> Result<()> {
    let directory = repository().join("systemd/package");
    let scripts = SCRIPTS.map(|script| directory.join(script).display().to_string());
    run(&["shellcheck", &scripts[0], &scripts[1], &scripts[2]])?;
    Ok(())
}
