//! Every cause for which something is in no record, or not as it should be. One table: a cause that is not here is not
//! told of anywhere.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What a cause is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Packets,
    Records,
    /// How often it happened: what was missed is not known.
    Events,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    TablesFull,
    Unparsable,
    Unhooked,
    DropsFull,
    DropsUnparsable,
    DropsWithoutInterface,
    DropsUnmatched,
    Unnamed,
    Unspooled,
    SpoolFull,
    SpoolDamaged,
    NotTaken,
    JournalFailed,
    ClockStepped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub(crate) cause: Cause,
    pub(crate) unit: Unit,
    pub(crate) count: u64,
}

/// In the order of [`Cause`]: name, unit, and for people what it means and what to do.
const CAUSES: [(Cause, &str, Unit, &str); 14] = [
    (Cause::TablesFull, "tables-full", Unit::Packets, "in no flow, SKIPDATA written; raise flow-table-slots"),
    (Cause::Unparsable, "unparsable", Unit::Packets, "impossible or cut headers; not logged"),
    (Cause::Unhooked, "unhooked", Unit::Events, "windows in which our programs were taken off; SKIPDATA written"),
    (Cause::DropsFull, "drops-full", Unit::Packets, "refused, and ACCEPT in the records; raise flow-table-slots"),
    (Cause::DropsUnparsable, "drops-unparsable", Unit::Packets, "refused, and their headers cannot be read"),
    (Cause::DropsWithoutInterface, "drops-without-interface", Unit::Packets, "refused before they had an interface"),
    (Cause::DropsUnmatched, "drops-unmatched", Unit::Packets, "refused under another name than they came with"),
    (Cause::Unnamed, "unnamed", Unit::Records, "their interface was gone before it had an id"),
    (Cause::Unspooled, "unspooled", Unit::Records, "given up in memory; the spool could not be written"),
    (Cause::SpoolFull, "spool-full", Unit::Records, "the oldest made room; raise max-bytes or mend the destination"),
    (Cause::SpoolDamaged, "spool-damaged", Unit::Records, "lost to a damaged disk"),
    (Cause::NotTaken, "not-taken", Unit::Records, "refused by the destination; kept as dead letters"),
    (Cause::JournalFailed, "journal-failed", Unit::Events, "writes; a crash meanwhile would have lost a window"),
    (Cause::ClockStepped, "clock-stepped", Unit::Events, "windows cut short by a step of the wall clock"),
];

impl Cause {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        CAUSES.iter().map(|(cause, ..)| *cause)
    }

    fn row(self) -> &'static (Self, &'static str, Unit, &'static str) {
        &CAUSES[self as usize]
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    pub(crate) fn meaning(self) -> &'static str {
        self.row().3
    }

    pub(crate) fn loss(self, count: u64) -> Loss {
        Loss { cause: self, unit: self.row().2, count }
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Records => "records",
            Self::Events => "events",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_row_and_the_name_of_its_json() {
        for (at, cause) in Cause::all().enumerate() {
            assert_eq!(cause as usize, at);
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
        // The last one declared.
        assert_eq!(Cause::all().count(), Cause::ClockStepped as usize + 1);
    }
}
