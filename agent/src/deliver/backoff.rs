//! How long to wait before the next attempt.
//! Has no clock and no source of chance.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Why the last attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Passes by itself.
    Passing,
    /// Needs a person, who is given time.
    Person,
}

#[derive(Default)]
pub(super) struct Backoff {
    cause: Option<Cause>,
    /// In a row, for the same cause.
    failures: u32,
}

/// What a service asks for is believed so far.
const ASKED_MAX: Duration = Duration::from_secs(300);

impl Cause {
    /// The least, the first and the last of the longest waits.
    fn bounds(self) -> (Duration, Duration, Duration) {
        let seconds = Duration::from_secs;
        match self {
            // From nothing, so that many hosts that failed together do not come back together.
            Self::Passing => (seconds(0), seconds(1), seconds(60)),
            Self::Person => (seconds(30), seconds(30), seconds(300)),
        }
    }
}

impl Backoff {
    /// `chance` from 0 to 1, `asked`: what the service asks for.
    pub(super) fn after(&mut self, cause: Cause, asked: Option<Duration>, chance: f64) -> Duration {
        self.failures = if self.cause == Some(cause) { self.failures.saturating_add(1) } else { 0 };
        self.cause = Some(cause);
        let (floor, first, last) = cause.bounds();
        let longest = first.saturating_mul(1 << self.failures.min(16)).min(last);
        let wait = floor + (longest - floor).mul_f64(chance.clamp(0.0, 1.0));
        wait.max(asked.unwrap_or_default().min(ASKED_MAX))
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(cause: Cause, count: usize) -> Vec<u64> {
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.after(cause, None, 1.0).as_secs()).collect()
    }

    #[test]
    fn grows_to_a_bound() {
        assert_eq!(longest(Cause::Passing, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(longest(Cause::Person, 6), [30, 60, 120, 240, 300, 300]);
        assert_eq!(longest(Cause::Passing, 10_000).last(), Some(&60));
    }

    #[test]
    fn any_time_up_to_it() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(Cause::Passing, None, 0.0), Duration::ZERO);
        assert_eq!(backoff.after(Cause::Passing, None, 0.5), Duration::from_secs(1));
        assert_eq!(backoff.after(Cause::Person, None, 0.0), Duration::from_secs(30));
        assert_eq!(backoff.after(Cause::Person, None, 0.5), Duration::from_secs(45));
        // Another cause begins anew.
        assert_eq!(backoff.after(Cause::Passing, None, 1.0), Duration::from_secs(1));
        backoff.reset();
        assert_eq!(backoff.after(Cause::Passing, None, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn what_is_asked_for_is_the_least() {
        let asked =
            |seconds| Backoff::default().after(Cause::Passing, Some(Duration::from_secs(seconds)), 1.0).as_secs();
        assert_eq!((asked(0), asked(20), asked(86_400)), (1, 20, 300));
    }
}
