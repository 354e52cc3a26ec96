//! Where the kernel side is kept while no agent runs: the directories below `--bpf-directory`, their names, and the lock
//! that keeps a second agent out. Knows nothing of what the maps hold, nor how links are updated.
//!
//! ```text
//! v1/                     the layout's version: maps of another one cannot be read
//!   links/                7-ingress, 7-egress (TCX links by ifindex), 7-qdisc (a clsact qdisc that we made),
//!                         drop_before, drop_first, drop_second
//!   shared/               maps that outlive an agent: what the drop programs in `links` use
//!   000012ab…/            one agent's counting maps, named after the moment of its start; reading takes no other
//!     interfaces/         7 -> eth0: names, for counters of interfaces that are gone; and their network namespace. Made
//!                         last: without it, the agent died before anything was counted
//! ```
//! A reboot empties a bpf file system, so nothing in here is older than the running kernel.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_common::LAYOUT_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::attach::Side;
use super::generation::{Generation, monotonic};

/// Where it is if nobody says otherwise.
pub const DEFAULT_DIRECTORY: &str = "/sys/fs/bpf/flowlogd";

/// Maps of one agent.
pub(crate) const COUNTING: [&str; 7] =
    ["CONTROL", "FLOW4", "FLOW6", "OVERFLOW", "INTERFACES", "INTERFACE_OVERFLOW", "DROPS"];
/// Maps that the next agent goes on with.
pub(crate) const SHARED: [&str; 4] = ["DROP_REASONS", "HAND_OFF", "DROP_HANDLER", "FRAGMENTS"];
/// Programs on `kfree_skb` in the order in which they run, whose links and programs are pinned: such a link cannot be
/// updated.
pub(crate) const STUBS: [&str; 3] = ["drop_before", "drop_first", "drop_second"];

const LINKS: &str = "links";
const SHARED_DIRECTORY: &str = "shared";
const INTERFACES: &str = "interfaces";
const NAMESPACE: &str = "namespace";

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not on a bpf file system; mount one with: mount -t bpf bpf /sys/fs/bpf")]
    NotBpf,
    #[error("another flowlogd uses it")]
    InUse,
}

/// The directories, and our place in them. Dropping it takes the empty ones away.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    version: PathBuf,
    generation: Generation,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directories, those of a generation of our own among them, and locks out others.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if statfs(existing).map_err(io::Error::from)?.filesystem_type() != BPF_FS_MAGIC {
            return Err(PinError::NotBpf);
        }
        let lock = loop {
            make(root)?;
            if let Some(lock) = lock(root)? {
                break lock;
            }
        };
        let version = root.join(format!("v{LAYOUT_VERSION}"));
        // From here on dropping it tidies up.
        let pins = Self { root: root.to_owned(), version, generation: Generation::new(), _lock: lock };
        for directory in [pins.version.join(LINKS), pins.version.join(SHARED_DIRECTORY), pins.own()] {
            make(&directory)?;
        }
        Ok(pins)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn directory(&self, generation: Generation) -> PathBuf {
        self.version.join(generation.to_string())
    }

    fn own(&self) -> PathBuf {
        self.directory(self.generation)
    }

    /// Where a counting map of ours is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.own().join(name)
    }

    /// Whether another agent would find our maps: not when somebody has removed them.
    pub(crate) fn are_there(&self) -> bool {
        self.map(COUNTING[0]).exists()
    }

    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.version.join(SHARED_DIRECTORY).join(name)
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.version.join(LINKS)
    }

    pub(crate) fn link(&self, ifindex: u32, side: Side) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", side.name()))
    }

    pub(crate) fn stub(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.links().join(format!("{ifindex}-qdisc"))
    }

    /// Whether we, or an agent before us, made the interface's clsact qdisc.
    pub(crate) fn made_qdisc(&self, ifindex: u32) -> bool {
        self.qdisc(ifindex).exists()
    }

    pub(crate) fn mark_qdisc(&self, ifindex: u32, made: bool) {
        let path = self.qdisc(ifindex);
        let result = if made { make(&path) } else { gone(fs::remove_dir(&path)) };
        if let Err(error) = result {
            tracing::warn!(%error, path = %path.display(), "cannot note who made the qdisc");
        }
    }

    /// Our maps are complete: from now on a takeover reads them.
    pub(crate) fn complete(&self) -> io::Result<()> {
        let interfaces = self.own().join(INTERFACES);
        make(&interfaces)?;
        symlink(namespace()?, interfaces.join(NAMESPACE))?;
        self.drained();
        Ok(())
    }

    /// Notes when our maps were read last, in the directory's modification time: as long ago as that may be the time of
    /// what they hold.
    pub(crate) fn drained(&self) {
        let noted = File::open(self.own()).and_then(|own| own.set_modified(UNIX_EPOCH + monotonic()));
        if let Err(error) = noted {
            tracing::debug!(%error, "cannot note the time of the drain");
        }
    }

    /// How long ago a generation was read last, or made.
    pub(crate) fn age(&self, generation: Generation) -> Duration {
        let noted = fs::metadata(self.directory(generation)).and_then(|metadata| metadata.modified());
        let since = noted.unwrap_or(SystemTime::now()).duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = monotonic();
        // Later than now is wall-clock time: never noted.
        now.saturating_sub(if since > now { Duration::from_nanos(generation.0) } else { since })
    }

    /// Keeps an interface's name for who reads our maps when it is gone.
    pub(crate) fn keep_name(&self, ifindex: u32, name: &str) {
        let path = self.own().join(INTERFACES).join(ifindex.to_string());
        if fs::read_link(&path).is_ok_and(|kept| kept == Path::new(name)) {
            return;
        }
        if let Err(error) = gone(fs::remove_file(&path)).and_then(|()| symlink(name, &path)) {
            tracing::warn!(%error, path = %path.display(), "cannot keep the interface's name");
        }
    }

    pub(crate) fn forget_name(&self, ifindex: u32) {
        let _ = fs::remove_file(self.own().join(INTERFACES).join(ifindex.to_string()));
    }

    /// Interfaces of a generation, by ifindex. None: its agent died before it was complete.
    pub(crate) fn names(&self, generation: Generation) -> Option<BTreeMap<u32, String>> {
        let entries = fs::read_dir(self.directory(generation).join(INTERFACES)).ok()?;
        let name = |entry: fs::DirEntry| {
            let ifindex = entry.file_name().to_str()?.parse().ok()?;
            Some((ifindex, fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
        };
        Some(entries.flatten().filter_map(name).collect())
    }

    /// Whether a generation's interfaces are those of our network namespace.
    pub(crate) fn is_of_here(&self, generation: Generation) -> bool {
        let theirs = fs::read_link(self.directory(generation).join(INTERFACES).join(NAMESPACE));
        theirs.ok() == namespace().ok()
    }

    /// Generations of agents that are gone, oldest first.
    pub(crate) fn old(&self) -> Vec<Generation> {
        let mut old: Vec<_> = names_in(&self.version).iter().filter_map(|name| Generation::parse(name)).collect();
        old.retain(|generation| *generation != self.generation);
        old.sort();
        old
    }

    /// Frees a generation's maps.
    pub(crate) fn remove(&self, generation: Generation) {
        remove_generation(&self.directory(generation));
    }

    /// Frees our own maps and what only a running agent needs.
    pub(crate) fn close(&self) {
        self.remove(self.generation);
        remove_shared(&self.version);
    }

    /// Directories of other layouts.
    pub(crate) fn other_versions(&self) -> Vec<PathBuf> {
        versions(&self.root).into_iter().filter(|path| *path != self.version).collect()
    }

    /// What is below the directory and not ours.
    pub(crate) fn foreign(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> =
            names_in(&self.root).iter().filter(|name| !is_version(name)).map(|name| self.root.join(name)).collect();
        let is_ours = |name: &str| [LINKS, SHARED_DIRECTORY].contains(&name) || Generation::parse(name).is_some();
        found.extend(names_in(&self.version).iter().filter(|name| !is_ours(name)).map(|name| self.version.join(name)));
        let links = self.links();
        found.extend(names_in(&links).iter().filter(|name| Pinned::parse(name).is_none()).map(|name| links.join(name)));
        found
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Only what is empty goes.
        let _ = fs::remove_dir(self.own());
        prune(&self.root, &self.version);
    }
}

/// What a name in `links` stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pinned {
    Link(u32, Side),
    Qdisc(u32),
    Stub,
}

impl Pinned {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if STUBS.contains(&name) {
            return Some(Self::Stub);
        }
        let (ifindex, what) = name.split_once('-')?;
        let ifindex = ifindex.parse().ok()?;
        let side = Side::BOTH.into_iter().find(|side| side.name() == what);
        side.map(|side| Self::Link(ifindex, side)).or((what == "qdisc").then_some(Self::Qdisc(ifindex)))
    }
}

/// The lock on the directory itself, so that it holds whatever state directories agents use. None: it was taken away
/// before it was locked, by an agent that ended.
pub(crate) fn lock(root: &Path) -> Result<Option<Flock<File>>, PinError> {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let directory = match File::open(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let opened = inode(directory.metadata()?);
    let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| PinError::InUse)?;
    Ok(fs::metadata(root).is_ok_and(|now| inode(now) == opened).then_some(lock))
}

/// Our network namespace, as `drops` has it: `net:[4026531840]`.
fn namespace() -> io::Result<PathBuf> {
    fs::read_link("/proc/thread-self/ns/net")
}

/// Makes a directory that only its owner may read: counters tell who talks to whom.
fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// As good as done if there was nothing.
pub(crate) fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Names in a directory, sorted; none if it cannot be read.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

pub(crate) fn versions(root: &Path) -> Vec<PathBuf> {
    names_in(root).iter().filter(|name| is_version(name)).map(|name| root.join(name)).collect()
}

/// Generations below a version's directory.
pub(crate) fn generations(version: &Path) -> Vec<PathBuf> {
    names_in(version).iter().filter(|name| Generation::parse(name).is_some()).map(|name| version.join(name)).collect()
}

/// Removes our pins of one generation; anything else in there stays, and the directory with it.
pub(crate) fn remove_generation(directory: &Path) {
    let interfaces = directory.join(INTERFACES);
    for name in names_in(&interfaces) {
        let _ = fs::remove_file(interfaces.join(name));
    }
    let _ = fs::remove_dir(interfaces);
    remove_files(directory, &COUNTING);
}

pub(crate) fn remove_shared(version: &Path) {
    remove_files(&version.join(SHARED_DIRECTORY), &[SHARED.as_slice(), &STUBS].concat());
}

fn remove_files(directory: &Path, names: &[&str]) {
    for name in names {
        if let Err(error) = gone(fs::remove_file(directory.join(name))) {
            tracing::warn!(%error, path = %directory.join(name).display(), "cannot unpin");
        }
    }
    if let Err(error) = gone(fs::remove_dir(directory)) {
        tracing::warn!(%error, path = %directory.display(), "left behind: something else is in it");
    }
}

/// Takes the directories away that hold nothing.
pub(crate) fn prune(root: &Path, version: &Path) {
    for directory in [&version.join(LINKS), &version.join(SHARED_DIRECTORY), version, root] {
        let _ = fs::remove_dir(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        for (name, want) in [
            ("7-ingress", Some(Pinned::Link(7, Side::Ingress))),
            ("4294967295-egress", Some(Pinned::Link(u32::MAX, Side::Egress))),
            ("7-qdisc", Some(Pinned::Qdisc(7))),
            ("drop_first", Some(Pinned::Stub)),
            ("7-other", None),
            ("eth0-ingress", None),
            ("", None),
        ] {
            assert_eq!(Pinned::parse(name), want, "{name}");
        }
    }

    #[test]
    fn another_file_system_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(Pins::open(&root.path().join("a/b")), Err(PinError::NotBpf)));
        assert!(!root.path().join("a").exists());
    }
}
