//! Finds steps of the wall clock: set by hand or by NTP, or gone on during a suspend while the kernel's ticks stood.
//! Pure: the clocks are read by the caller.
#![forbid(unsafe_code)]

/// Nanoseconds. What NTP slews between two looks is far less (500 ppm), and records have seconds.
const STEP_MIN: i64 = 500_000_000;

/// How far the wall clock was ahead of the monotonic one at the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    ahead: i64,
}

impl Wall {
    /// Both clocks at one moment, in nanoseconds.
    pub(crate) fn new(wall: i64, monotonic: i64) -> Self {
        Self { ahead: wall.saturating_sub(monotonic) }
    }

    /// How far the wall clock was stepped since the last look, forwards or backwards.
    pub(crate) fn step(&mut self, wall: i64, monotonic: i64) -> Option<i64> {
        let before = std::mem::replace(&mut self.ahead, wall.saturating_sub(monotonic));
        let step = self.ahead.saturating_sub(before);
        (step.saturating_abs() >= STEP_MIN).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn steps_are_found_once_and_slews_are_not() {
        let mut wall = Wall::new(1_000 * SECOND, 5 * SECOND);
        // A slew of 500 ppm over a minute, in looks of a second.
        for look in 1..=60 {
            let elapsed = look * SECOND;
            assert_eq!(wall.step(1_000 * SECOND + elapsed + elapsed / 2_000, 5 * SECOND + elapsed), None);
        }
        let mut wall = Wall::new(1_000 * SECOND, 5 * SECOND);
        assert_eq!(wall.step(4_601 * SECOND, 6 * SECOND), Some(3_600 * SECOND));
        assert_eq!(wall.step(4_602 * SECOND, 7 * SECOND), None);
        assert_eq!(wall.step(1_003 * SECOND, 8 * SECOND), Some(-3_600 * SECOND));
        assert_eq!(wall.step(1_004 * SECOND, 9 * SECOND), None);
    }
}
