//! Places at which a test has the process killed, or a thread stand still. Without the feature `fault-points` they are nothing.
//! `FLOWLOGD_FAULT=journal-appended:3` is the third pass of that place.
#![forbid(unsafe_code)]

#[cfg(feature = "fault-points")]
pub(crate) use armed::{point, point_after, stand_still};

/// A place by this name.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn point(_: &str) {}

/// As [`point`], where something is left half done, by `work`, only when the process ends there.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn point_after(_: &str, _: impl FnOnce()) {}

/// As [`point`], where the process does not end: the thread never goes on.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn stand_still(_: &str) {}

#[cfg(feature = "fault-points")]
mod armed {
    use std::env;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use nix::sys::signal::{Signal, raise};

    /// The place, and how many passes of it are left.
    static FAULT: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    fn read() -> Option<(String, AtomicU32)> {
        let text = env::var("FLOWLOGD_FAULT").ok()?;
        let (name, passes) = text.split_once(':')?;
        Some((name.to_owned(), AtomicU32::new(passes.parse().ok()?)))
    }

    pub(crate) fn point(name: &str) {
        point_after(name, || ());
    }

    pub(crate) fn point_after(name: &str, work: impl FnOnce()) {
        let Some((wanted, passes)) = FAULT.get_or_init(read) else { return };
        if wanted == name && passes.fetch_sub(1, Ordering::Relaxed) == 1 {
            work();
            // Nobody can catch or ignore it: it does not return.
            let _ = raise(Signal::SIGKILL);
        }
    }

    pub(crate) fn stand_still(name: &str) {
        point_after(name, || {
            loop {
                thread::park();
            }
        });
    }
}
