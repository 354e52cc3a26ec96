//! A number that is only known to lie between two others.
//! Must not know what is counted.
//! Always: `min` is not above `max`; what follows from two intervals holds for all numbers in them.
#![forbid(unsafe_code)]

use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Interval {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// How far a counter went on. It may have wrapped.
fn gone(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from).cast_signed()
}

impl Interval {
    /// How far a counter went on from a moment at which it was between the first two to one between the others.
    pub(crate) fn growth(from: [u64; 2], to: [u64; 2]) -> Self {
        let (min, max) = (gone(from[1], to[0]), gone(from[0], to[1]));
        Self { min: min.min(max), max: max.max(min) }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self { min: self.min.saturating_sub(other.max), max: self.max.saturating_sub(other.min) }
    }

    /// From the lowest of the one to the highest of the other.
    pub(crate) fn up_to(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    pub(crate) fn has_zero(self) -> bool {
        self.min <= 0 && 0 <= self.max
    }

    pub(crate) fn width(self) -> u64 {
        self.max.abs_diff(self.min)
    }

    /// The farthest from 0 that it can be.
    pub(crate) fn reach(self) -> u64 {
        self.min.unsigned_abs().max(self.max.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_exactly_stays_exact() {
        let grown = Interval::growth([100, 100], [150, 150]);
        assert_eq!(grown, Interval { min: 50, max: 50 });
        assert_eq!(grown.minus(Interval { min: 53, max: 53 }), Interval { min: -3, max: -3 });
        assert!(!grown.minus(Interval { min: 53, max: 53 }).has_zero() && grown.minus(grown).has_zero());
    }

    #[test]
    fn what_is_not_adds_up() {
        let grown = Interval::growth([100, 104], [150, 155]);
        assert_eq!(grown, Interval { min: 46, max: 55 });
        let difference = grown.minus(Interval { min: 50, max: 51 });
        assert_eq!(difference, Interval { min: -5, max: 5 });
        assert_eq!((difference.width(), difference.reach(), difference.has_zero()), (10, 5, true));
    }

    #[test]
    fn a_counter_wraps() {
        assert_eq!(Interval::growth([u64::MAX - 1; 2], [3, 4]), Interval { min: 5, max: 6 });
    }
}
