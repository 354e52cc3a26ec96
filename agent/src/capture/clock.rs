//! Jiffies of the kernel side -> Unix seconds. Knows nothing of flows.
//! A reading pairs both clocks at one moment; a time is decoded backwards from it, so a clock step before the
//! reading never yields a time in the future.
#![forbid(unsafe_code)]

use agent_common::flow::TIME_MASK;
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

    /// The running kernel's: the coarse clock's resolution is one tick (kernel/time/posix-timers.c).
    pub(crate) fn of_kernel() -> nix::Result<Self> {
        nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).map(|tick| Self::new(tick.into()))
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    ticks: Ticks,
    /// `jiffies64 >> shift`.
    now: u64,
    unix: Duration,
}

impl Reading {
    pub(crate) fn new(ticks: Ticks, jiffies: u64, at: SystemTime) -> Self {
        Self { ticks, now: jiffies >> ticks.shift, unix: at.duration_since(UNIX_EPOCH).unwrap_or_default() }
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
        let unit = self.ticks.tick.as_nanos() << self.ticks.shift;
        let ago = unit * u128::from(units);
        i64::try_from(self.unix.as_nanos().saturating_sub(ago) / 1_000_000_000).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_backwards_from_the_reading() {
        let ticks = Ticks::new(Duration::from_millis(4));
        assert_eq!(ticks.shift, 3);
        let jiffies = (1u64 << 33) + 8 * 5;
        let reading = Reading::new(ticks, jiffies, UNIX_EPOCH + Duration::from_secs(1_000_000));
        let now = jiffies >> 3;
        for (units_ago, seconds) in [(0, 1_000_000), (31, 999_999), (32, 999_998), (1 << 20, 1_000_000 - 33_555)] {
            assert_eq!(reading.seconds(now - units_ago), seconds, "{units_ago}");
            assert_eq!(reading.seconds_of_low((now - units_ago) & TIME_MASK), seconds, "{units_ago} low");
        }
    }

    #[test]
    fn units_fit_every_hz() {
        for (hz, shift) in [(100, 2), (250, 3), (300, 4), (1000, 5)] {
            assert_eq!(Ticks::new(Duration::from_nanos(1_000_000_000 / hz)).shift, shift, "{hz}");
        }
    }
}
