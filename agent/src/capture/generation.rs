//! The name of one agent's maps, and the clock that it is taken from.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The maps of one agent: nanoseconds of the monotonic clock at its start, so that the oldest comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u64);

impl Generation {
    pub(crate) fn new() -> Self {
        Self(u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let shape = name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if shape { u64::from_str_radix(name, 16).ok().map(Self) } else { None }
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Time since the boot as jiffies count it: without suspend.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sixteen_digits() {
        for (name, want) in [
            ("00000000000000ff", Some(Generation(255))),
            ("00000000000000FF", None),
            ("ff", None),
            ("+0000000000000ff", None),
        ] {
            assert_eq!(Generation::parse(name), want, "{name}");
        }
        assert_eq!(Generation(255).to_string(), "00000000000000ff");
    }
}
