//! When the loop goes on: what wakes it, and when it turns by itself.
//! Always: a quiet host's loop turns once a second; tables that fill up are looked at every [`TICK`].
#![forbid(unsafe_code)]

use super::{Daemon, LOOK, NANOSECONDS, TICK, clocks};
use crate::cli::Failure;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::Duration;

impl Daemon {
    /// Waits for one of: the interfaces' changes, a signal, a question. Whether it was one of the first two.
    pub(super) fn wait(&mut self, [changes, signals, asks]: [BorrowedFd<'_>; 3]) -> Result<[bool; 2], Failure> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let timeout = PollTimeout::try_from(self.patience()).unwrap_or(PollTimeout::MAX);
        let mut fds = [changes, signals, asks, self.capture.wake()].map(readable);
        // Once is enough: then the tables are looked at again and again.
        let fds = if self.is_filling { &mut fds[..3] } else { &mut fds[..] };
        match poll(fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::Run(format!("poll: {error}"))),
        }
        // Also what is an error there: reading tells.
        let woken = [0, 1].map(|at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(true)));
        self.is_filling |= self.capture.filling();
        Ok(woken)
    }

    /// Until the tables, the programs or the window's end want to be looked at.
    fn patience(&self) -> Duration {
        if self.is_filling {
            return TICK;
        }
        let (now, _) = clocks();
        let end = (self.window.1 + 1).saturating_mul(NANOSECONDS).saturating_sub(now);
        let end = Duration::from_nanos(u64::try_from(end).unwrap_or(0));
        // In whole milliseconds, as poll takes them: none too few, or it would turn in vain.
        LOOK.saturating_sub(self.looked.elapsed()).min(end) + Duration::from_millis(1)
    }
}
