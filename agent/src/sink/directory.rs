//! Keeps objects below a directory.
//! Must not know what is in them.
//! Always: an object appears whole and synced, under its name, or not at all.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::retention::Keeper;
use super::{Fault, Names, Outcome};
use crate::flow_log::Retention;
use crate::{disk, fault};

#[derive(Debug, thiserror::Error)]
// The cause is in the line itself and so must not also be the error's source, or it would print twice.
#[error("cannot {verb} {}: {cause}", path.display())]
pub(crate) struct DirectoryError {
    verb: &'static str,
    path: PathBuf,
    cause: io::Error,
}

impl DirectoryError {
    fn at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self { verb, path: path.to_owned(), cause }
    }
}

impl From<DirectoryError> for Outcome {
    fn from(error: DirectoryError) -> Self {
        let todo = match error.cause.kind() {
            ErrorKind::PermissionDenied => "allow the agent's user to write there",
            ErrorKind::ReadOnlyFilesystem => "mount it writable",
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => "move the file that is in the way",
            _ => return Self::Retry(Fault::new("disk", error)),
        };
        Self::Refuse(Fault::new("disk", format_args!("{error}; {todo}")))
    }
}

pub(crate) struct Directory {
    root: PathBuf,
    /// None: everything is kept.
    keeper: Option<Keeper>,
}

impl Directory {
    /// Fails when the directory cannot be written to. Removes what a crashed run left half-written.
    pub(crate) fn create(root: PathBuf, names: &Names) -> Result<Self, DirectoryError> {
        let base = root.join(names.prefix());
        make_folder(&base)?;
        let stem = format!(".{}", names.stem());
        remove_leftovers(&base, &stem)?;
        let probe = base.join(format!("{stem}probe.tmp"));
        let written = disk::create(&probe, 0o666).and_then(|_| disk::remove(&probe));
        written.map_err(DirectoryError::at("write to", &base))?;
        Ok(Self { root, keeper: None })
    }

    pub(crate) fn keeping(mut self, retention: Retention, names: &Names) -> Self {
        let base = self.root.join(names.prefix());
        self.keeper = (retention != Retention::default()).then(|| Keeper::new(base, names.stem(), retention));
        self
    }

    /// Removes what is older or more than is kept.
    pub(super) fn tidy(&mut self, now: i64) {
        if let Some(keeper) = &mut self.keeper {
            keeper.tidy(now);
        }
    }

    /// Takes the place of an object of the same name.
    pub(super) fn put(&mut self, key: &str, body: &[u8]) -> Outcome {
        match self.write(&self.root.join(key), body) {
            Ok(()) => {
                self.keeper.iter_mut().for_each(|keeper| keeper.added(body.len() as u64));
                Outcome::Done
            }
            Err(error) => error.into(),
        }
    }

    fn write(&self, target: &Path, body: &[u8]) -> Result<(), DirectoryError> {
        let folder = target.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        let name = target.file_name().unwrap_or_default();
        let temporary = folder.join(format!(".{}.tmp", name.display()));
        let file = disk::create(&temporary, 0o666).map_err(DirectoryError::at("create", &temporary))?;
        let written = disk::write_all(&file, body).and_then(|()| disk::sync(&file));
        let written = written
            .map_err(DirectoryError::at("write", &temporary))
            .and_then(|()| disk::rename(&temporary, target).map_err(DirectoryError::at("rename to", target)));
        // What cannot be removed now goes at the next start.
        written.inspect_err(|_| drop(disk::remove(&temporary)))?;
        sync_folder(folder)?;
        fault::point("revealed");
        Ok(())
    }
}

/// New folders are synced into their parents, else a power cut could take a synced object along with its folder.
fn make_folder(folder: &Path) -> Result<(), DirectoryError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    match disk::create_folder(folder) {
        Ok(()) => sync_folder(parent),
        // Another process was faster.
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) => Err(DirectoryError::at("create directory", folder)(error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), DirectoryError> {
    disk::sync_folder(folder).map_err(DirectoryError::at("sync", folder))
}

/// Only this flow log's, for others may be writing theirs here right now. Links are not followed.
fn remove_leftovers(folder: &Path, stem: &str) -> Result<(), DirectoryError> {
    let is_leftover = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(stem) && name.ends_with(".tmp"));
    let visit = |entry: DirEntry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return remove_leftovers(&entry.path(), stem);
        }
        if is_leftover(&entry.file_name()) {
            disk::remove(&entry.path()).map_err(DirectoryError::at("remove", &entry.path()))?;
        }
        Ok(())
    };
    let mut entries = fs::read_dir(folder).map_err(DirectoryError::at("read", folder))?;
    entries.try_for_each(|entry| visit(entry.map_err(DirectoryError::at("read", folder))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_log::Layout;
    use crate::identity::Identity;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    const STEM: &str = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_";

    fn names() -> Names {
        let identity = Identity::new(Some("123456789012"), Some("us-east-1")).unwrap();
        Names::new(identity, "fl-1234abcd", "", Layout::default())
    }

    /// Paths of all files below, and what is in them.
    fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(self::files(&path))
            } else {
                files.push((path.clone(), fs::read(path).unwrap()))
            }
        }
        files.sort();
        files
    }

    #[test]
    fn an_object_is_there_whole_or_not_at_all() {
        let mut changes = 0;
        loop {
            let root = tempfile::tempdir().unwrap();
            let mut directory = Directory::create(root.path().to_owned(), &names()).unwrap();
            let key = names().key(1, 0, 0);
            let mut outcome = None;
            let is_killed = disk::kill_after(changes, || outcome = Some(directory.put(&key, b"an object")));
            let mut directory = Directory::create(root.path().to_owned(), &names()).unwrap();
            let object = (root.path().join(&key), b"an object".to_vec());
            let found = files(root.path());
            assert!(found.is_empty() || found == [object.clone()], "{changes} changes: {found:?}");
            assert!(!found.is_empty() || outcome != Some(Outcome::Done), "{changes} changes");
            assert_eq!(directory.put(&key, b"an object"), Outcome::Done);
            assert_eq!(files(root.path()), [object]);
            if !is_killed {
                break;
            }
            changes += 1;
        }
        // Folders for a year, a month and a day, each synced, and the object.
        assert_eq!(changes, 2 * 3 + 5);
    }

    #[test]
    fn says_who_has_to_act() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::create(root.path().to_owned(), &names()).unwrap();
        let key = names().key(1, 0, 0);
        let year = root.path().join(names().prefix()).join("1970");
        fs::write(&year, "").unwrap();
        let Outcome::Refuse(fault) = directory.put(&key, b"x") else { panic!("taken") };
        let year = year.display();
        assert_eq!(
            fault.message,
            format!("cannot create directory {year}: File exists (os error 17); move the file that is in the way")
        );
        assert_eq!(files(root.path()).len(), 1);
    }

    #[test]
    fn leftovers_of_this_flow_log_go() {
        let root = tempfile::tempdir().unwrap();
        let day = root.path().join(names().prefix()).join("2018/06/20");
        fs::create_dir_all(&day).unwrap();
        let leftovers = [
            (format!(".{STEM}20180620T1620Z_00000000.log.gz.tmp"), false),
            (format!("{STEM}20180620T1620Z_00000000.log.gz"), true),
            (".123456789012_vpcflowlogs_us-east-1_fl-9_20180620T1620Z_00000000.log.gz.tmp".to_owned(), true),
        ];
        for (name, _) in &leftovers {
            fs::write(day.join(name), "x").unwrap();
        }
        Directory::create(root.path().to_owned(), &names()).unwrap();
        for (name, stays) in &leftovers {
            assert_eq!(day.join(name).exists(), *stays, "{name}");
        }
    }

    #[test]
    fn tells_what_it_cannot_write_to() {
        let error = Directory::create("/proc/flowlogd".into(), &names()).err().unwrap().to_string();
        assert!(error.starts_with("cannot create directory /proc/flowlogd: "), "{error}");
        assert!(!error.contains('\n'));
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).unwrap();
        // Root writes anywhere.
        if File::create(root.path().join("probe")).is_err() {
            assert!(Directory::create(root.path().to_owned(), &names()).is_err());
        }
    }
}
