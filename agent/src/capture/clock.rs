//! Jiffies of the kernel side -> Unix seconds. Knows nothing of flows.
//! A reading pairs both clocks at one moment; a time is decoded backwards from it, so a clock step before the
//! reading never yields a time in the future.
#![forbid(unsafe_code)]

use agent_common::flow::TIME_MASK;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a tick and how far programs shift jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    tick: Duration,
    pub(crate) shift: u32,
}

impl Ticks {
    /// Units of 32 to 64 ms: with 24 bits they reach back six days and more, far beyond any window.
    pub(crate) fn new(tick: Duration) -> Self {
        let mut shift = 0;
        while tick * (1 << shift) < Duration::from_millis(32) {
            shift += 1;
        }
        Self { tick, shift }
    }

    /// How far a 24-bit time stamp reaches back.
    pub(crate) fn range(self) -> Duration {
        self.tick * (1 << self.shift) * (TIME_MASK as u32 + 1)
    }

    /// The running kernel's: the coarse clock's resolution is one tick (kernel/time/posix-timers.c).
    pub(crate) fn of_kernel() -> nix::Result<Self> {
        nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).map(|tick| Self::new(tick.into()))
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Nanoseconds of one unit of `now`. 64 bits, here and below: two times of each flow are decoded, and a 128-bit
    /// division takes longer than the rest of it.
    unit: u64,
    /// `jiffies64 >> shift`.
    now: u64,
    /// Unix nanoseconds.
    unix: u64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Reading {
    pub(crate) fn new(ticks: Ticks, jiffies: u64, at: SystemTime) -> Self {
        let unix = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { unit: nanos(ticks.tick) << ticks.shift, now: jiffies >> ticks.shift, unix: nanos(unix) }
    }

    /// Unix seconds of a 24-bit time stamp.
    pub(crate) fn seconds_of_low(&self, low: u64) -> i64 {
        self.seconds_ago(self.now.wrapping_sub(low) & TIME_MASK)
    }

    /// Unix seconds of a whole time stamp.
    pub(crate) fn seconds(&self, whole: u64) -> i64 {
        self.seconds_ago(self.now.saturating_sub(whole))
    }

    fn seconds_ago(&self, units: u64) -> i64 {
        let ago = self.unit.saturating_mul(units);
        // Below 2^63 by the division.
        (self.unix.saturating_sub(ago) / 1_000_000_000).cast_signed()
    }
}

/// Begin and end of some work, in nanoseconds of the monotonic clock: processes of one host can compare theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}

impl Span {
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let from = monotonic();
        let done = work();
        (done, Self { from, to: monotonic() })
    }
}

/// A clock that cannot be read gives 0.
fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| nanos(now.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_backwards_from_the_reading() {
        let ticks = Ticks::new(Duration::from_millis(4));
        assert_eq!((ticks.shift, ticks.range().as_secs()), (3, (32 << 24) / 1000));
        let jiffies = (1u64 << 33) + 8 * 5;
        let reading = Reading::new(ticks, jiffies, UNIX_EPOCH + Duration::from_secs(1_000_000));
        let now = jiffies >> 3;
        for (units_ago, seconds) in [(0, 1_000_000), (31, 999_999), (32, 999_998), (1 << 20, 1_000_000 - 33_555)] {
            assert_eq!(reading.seconds(now - units_ago), seconds, "{units_ago}");
            assert_eq!(reading.seconds_of_low((now - units_ago) & TIME_MASK), seconds, "{units_ago} low");
        }
        // Older than the clock itself: the epoch, also where the product is more than 64 bits.
        let old = Reading::new(ticks, u64::MAX, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(old.seconds(0), 0);
        // The 24 bits went round between the stamp and the reading.
        let round = Reading::new(ticks, (1 << 24) << 3, UNIX_EPOCH + Duration::from_secs(1_000_000));
        assert_eq!(round.seconds_of_low(TIME_MASK - 31), 999_998);
    }

    #[test]
    fn units_fit_every_hz() {
        for (hz, shift) in [(100, 2), (250, 3), (300, 4), (1000, 5)] {
            assert_eq!(Ticks::new(Duration::from_nanos(1_000_000_000 / hz)).shift, shift, "{hz}");
        }
    }
}
