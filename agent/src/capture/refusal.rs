//! Says of an error whether somebody has forbidden us what we asked the kernel for.
//! Must not know why: what we may do is read elsewhere. What the verifier refuses is no prohibition.
//! Always one line, with the cause in it.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use nix::errno::Errno;

use super::Error;
use crate::privileges::Privileges;

impl Error {
    /// In one line, for people: also who is likely to have forbidden it.
    #[must_use]
    pub fn explained(&self) -> String {
        self.explained_to(&Privileges::read())
    }

    fn explained_to(&self, privileges: &Privileges) -> String {
        let text = self.to_string();
        // The verifier's log has many lines; the first says what failed.
        let first = text.lines().next().unwrap_or_default();
        let Some(errno) = self.prohibition() else { return first.to_owned() };
        let cause = io::Error::from(errno).to_string();
        let cause = if first.contains(&cause) { String::new() } else { format!(": {cause}") };
        let why = privileges.denial().map(|why| format!("; {why}")).unwrap_or_default();
        format!("{first}{cause}{why}")
    }

    /// What a system call has failed with, if that says that it was forbidden.
    fn prohibition(&self) -> Option<Errno> {
        let errno = self.errno()?;
        // The verifier says EACCES of a program that reads where it must not.
        let by_verifier = matches!(self, Self::Program(load) | Self::Load(EbpfError::ProgramError(load))
            if matches!(load, ProgramError::LoadError { .. }));
        match errno {
            Errno::EPERM => Some(errno),
            Errno::EACCES if !by_verifier => Some(errno),
            _ => None,
        }
    }

    fn errno(&self) -> Option<Errno> {
        let number = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
        // One that stands for its cause and does not name it.
        if let Self::Map(MapError::IoError(error)) | Self::Load(EbpfError::MapError(MapError::IoError(error))) = self {
            return number(error);
        }
        let mut next = self.source();
        while let Some(error) = next {
            if let Some(errno) = error.downcast_ref().and_then(number) {
                return Some(errno);
            }
            next = error.source();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORBIDDEN: &str = "CapEff:\t000000c000001000\nSeccomp:\t2\n";

    fn create(errno: i32) -> Error {
        let io_error = io::Error::from_raw_os_error(errno);
        Error::Load(EbpfError::MapError(MapError::CreateError { name: "FLOW4".to_owned(), io_error }))
    }

    #[test]
    fn what_is_forbidden_says_by_whom() {
        let privileges = Privileges::parse(FORBIDDEN);
        let text = create(libc::EPERM).explained_to(&privileges);
        assert!(text.contains("failed to create map `FLOW4`: "), "{text}");
        assert!(text.contains("Operation not permitted") || text.contains("EPERM"), "{text}");
        assert!(text.contains("a seccomp filter (Seccomp: 2,"), "{text}");
        let text =
            Error::Io { what: "open", source: io::Error::from_raw_os_error(libc::EPERM) }.explained_to(&privileges);
        assert_eq!(text.matches("Operation not permitted").count(), 1, "{text}");
    }

    #[test]
    fn other_failures_are_left_as_they_are() {
        let privileges = Privileges::parse(FORBIDDEN);
        assert_eq!(create(libc::ENOMEM).explained_to(&privileges), create(libc::ENOMEM).to_string());
        // The capabilities are what is missing, and that is said beforehand.
        let text = create(libc::EPERM).explained_to(&Privileges::parse(""));
        assert!(!text.contains("seccomp"), "{text}");
    }
}
