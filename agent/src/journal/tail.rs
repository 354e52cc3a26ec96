//! The end of a file that grows: what could not be made durable is taken back.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::fault;

/// What is asked of a file. A trait so that tests can have a disk that is full or breaks.
pub(super) trait Medium {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
}

impl Medium for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}

pub(super) struct Tail<M> {
    medium: M,
    len: u64,
    /// Whether nothing lies beyond `len`.
    is_clean: bool,
}

impl<M: Medium> Tail<M> {
    /// Whatever lies beyond `len` is cut off by the next append.
    pub(super) fn new(medium: M, len: u64) -> Self {
        Self { medium, len, is_clean: false }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Durable when it returns. After an error the file is as it was; if even that fails, the next append begins
    /// with it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.clean()?;
        self.is_clean = false;
        fault::point_after("journal-half-written", || {
            let _ = self.medium.write_all_at(&bytes[..bytes.len() / 2], self.len);
        });
        let written = self.medium.write_all_at(bytes, self.len).and_then(|()| self.medium.sync_data());
        match written {
            Ok(()) => {
                self.len += bytes.len() as u64;
                self.is_clean = true;
                Ok(())
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.clean();
                Err(error)
            }
        }
    }

    fn clean(&mut self) -> io::Result<()> {
        if !self.is_clean {
            self.medium.set_len(self.len)?;
            self.is_clean = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;
    use std::cell::Cell;

    /// A disk with `room` bytes that can also refuse to sync or to cut.
    struct Limited<'a> {
        file: &'a File,
        room: &'a Cell<u64>,
        sync: &'a Cell<i32>,
        cut: &'a Cell<i32>,
    }

    fn outcome(errno: i32) -> io::Result<()> {
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    impl Medium for Limited<'_> {
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let fits = bytes.len().min(self.room.get().saturating_sub(offset) as usize);
            FileExt::write_all_at(self.file, &bytes[..fits], offset)?;
            outcome(if fits == bytes.len() { 0 } else { libc::ENOSPC })
        }

        fn sync_data(&self) -> io::Result<()> {
            outcome(self.sync.get())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            outcome(self.cut.get())?;
            self.file.set_len(len)
        }
    }

    #[test]
    fn a_failed_append_leaves_the_file_as_it_was() {
        let file = tempfile::tempfile().unwrap();
        let (room, sync, cut) = (Cell::new(10), Cell::new(0), Cell::new(0));
        let mut tail = Tail::new(Limited { file: &file, room: &room, sync: &sync, cut: &cut }, 0);
        let content = || {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let errno = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());

        assert_eq!(errno(tail.append(b"12345")), None);
        assert_eq!(errno(tail.append(b"too long")), Some(libc::ENOSPC));
        assert_eq!((content().as_str(), tail.len()), ("12345", 5));
        sync.set(libc::EIO);
        assert_eq!(errno(tail.append(b"678")), Some(libc::EIO));
        assert_eq!((content().as_str(), tail.len()), ("12345", 5));
        // What cannot be cut now is cut before the next bytes, and they wait until it can be.
        cut.set(libc::EROFS);
        assert_eq!(errno(tail.append(b"678")), Some(libc::EIO));
        assert_eq!(content(), "12345678");
        sync.set(0);
        assert_eq!(errno(tail.append(b"x")), Some(libc::EROFS));
        cut.set(0);
        assert_eq!(errno(tail.append(b"x")), None);
        assert_eq!((content().as_str(), tail.len()), ("12345x", 6));
    }
}
