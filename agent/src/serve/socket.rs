//! The Unix socket: where it is, who may use it, and whose it is.
//! Must not know what is said over it.
//! Always: one on which somebody answers is left alone, and so is what is no socket; ours goes when we do.
#![forbid(unsafe_code)]

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{AccessFlags, Group, access};

use crate::config::DEFAULT_STATE_DIRECTORY;

/// Its members may ask.
pub(crate) const GROUP: &str = "flowlogd";
const MODE: u32 = 0o660;
const RUN: &str = "/run/flowlogd";
const NAME: &str = "flowlogd.sock";
/// Of `sockaddr_un`, with the zero byte that ends it.
const PATH_BYTES_MAX: usize = 108;

/// Where an agent with this state directory is asked, and where one asks it, unless a path is given.
pub(crate) fn default_path(state_directory: &Path) -> PathBuf {
    if state_directory == Path::new(DEFAULT_STATE_DIRECTORY) {
        Path::new(RUN).join(NAME)
    } else {
        state_directory.join(NAME)
    }
}

/// The default path, if a socket can be there. Makes its directory where we may.
pub(crate) fn usable_default(state_directory: &Path) -> Option<PathBuf> {
    let path = default_path(state_directory);
    let directory = path.parent()?;
    if directory == Path::new(RUN) && !directory.exists() {
        // Says nothing of a failure: the look below does.
        let _ = fs::create_dir(directory);
    }
    match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::info!("no socket for flowlogd status: {}: {error}; choose one with --socket", directory.display());
            None
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("{}: longer than {} bytes, which is the most for a socket; choose another with --socket", .0.display(), PATH_BYTES_MAX - 1)]
    TooLong(PathBuf),
    #[error("{}: another process answers there; choose another with --socket", .0.display())]
    InUse(PathBuf),
    #[error("{}: is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    // The cause is in the line itself and so must not also be the error's source, or it would print twice.
    #[error("cannot {verb} {}: {cause}", path.display())]
    Io { verb: &'static str, path: PathBuf, cause: io::Error },
}

/// Removed when it is dropped.
#[derive(Debug)]
pub(super) struct Bound {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the path may be another agent's by the time we end.
    identity: (u64, u64),
}

impl Bound {
    pub(super) fn open(path: &Path) -> Result<Self, SocketError> {
        let at = |verb| move |cause| SocketError::Io { verb, path: path.to_owned(), cause };
        if path.as_os_str().len() >= PATH_BYTES_MAX {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        remove_stale(path)?;
        // Until its mode is set, what the umask leaves: nobody but us may connect.
        let listener = UnixListener::bind(path).map_err(at("listen on"))?;
        listener.set_nonblocking(true).map_err(at("listen on"))?;
        share(path).map_err(at("set the mode of"))?;
        let found = fs::symlink_metadata(path).map_err(at("look at"))?;
        Ok(Self { listener, path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }

    /// For the runtime that is entered.
    pub(super) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Without the group, or without the privilege to give it away, the socket is our own group's.
fn share(path: &Path) -> io::Result<()> {
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))
    {
        tracing::debug!(%error, "{} stays with our own group", path.display());
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))
}

/// What an agent that is dead left behind.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let at = |verb| move |cause| SocketError::Io { verb, path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match knock(path) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(at("remove")),
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN: so many wait there that we would have to as well.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(at("connect to")(error.into())),
    }
}

fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_one_socket() {
        assert_eq!(default_path(Path::new("/var/lib/flowlogd")), Path::new("/run/flowlogd/flowlogd.sock"));
        assert_eq!(default_path(Path::new("/tmp/s")), Path::new("/tmp/s/flowlogd.sock"));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(usable_default(directory.path()), Some(directory.path().join("flowlogd.sock")));
        assert_eq!(usable_default(&directory.path().join("missing")), None);
    }

    #[test]
    fn a_stale_one_is_replaced_and_one_that_answers_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let bound = Bound::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert!(matches!(Bound::open(&path), Err(SocketError::InUse(_))));
        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(matches!(Bound::open(&path), Err(SocketError::NoSocket(_))));
        assert!(path.exists());
    }

    #[test]
    fn anothers_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let bound = Bound::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_said() {
        let path = PathBuf::from(format!("/{}", "x".repeat(107)));
        let error = Bound::open(&path).unwrap_err().to_string();
        assert!(error.contains("longer than 107 bytes"), "{error}");
    }
}
