//! One moment at which the agent counted, between two looks at another counter; and what two such moments tell.
//! Pure. Must not know which counter it is.
//! Always: as much as was under way during the looks is left open, and no more.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::interval::Interval;
use crate::capture::flow::Total;

/// What the agent counted in terms of the other counter, which need not be one number: the device of a super-packet may
/// count one packet, or those on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(super) least: Total,
    pub(super) most: Total,
    /// On the wire, as in the records.
    pub(super) wire: Total,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bracket {
    pub(super) before: Total,
    pub(super) agent: Counted,
    pub(super) after: Total,
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) counter: Total,
    pub(crate) agent: Total,
    pub(crate) wire: Total,
    /// The agent's less the counter's.
    pub(crate) packets: Interval,
    pub(crate) bytes: Interval,
}

impl Bracket {
    /// Nothing passed meanwhile.
    pub(super) fn is_idle(&self) -> bool {
        self.before == self.after
    }

    /// Packets that passed meanwhile.
    pub(super) fn width(&self) -> u64 {
        self.after.packets.wrapping_sub(self.before.packets)
    }

    pub(super) fn until(&self, later: &Self) -> Finding {
        let difference = |of: fn(&Total) -> u64| {
            let counter = Interval::growth([of(&self.before), of(&self.after)], [of(&later.before), of(&later.after)]);
            let agent = |which: fn(&Counted) -> &Total| {
                Interval::growth([of(which(&self.agent)); 2], [of(which(&later.agent)); 2])
            };
            agent(|counted| &counted.least).up_to(agent(|counted| &counted.most)).minus(counter)
        };
        Finding {
            counter: grown(self.before, later.before),
            agent: grown(self.agent.least, later.agent.least),
            wire: grown(self.agent.wire, later.agent.wire),
            packets: difference(|total| total.packets),
            bytes: difference(|total| total.bytes),
        }
    }
}

fn grown(from: Total, to: Total) -> Total {
    Total { packets: to.packets.wrapping_sub(from.packets), bytes: to.bytes.wrapping_sub(from.bytes) }
}

impl Finding {
    /// Nothing that must be a difference.
    pub(crate) fn agrees(&self) -> bool {
        self.packets.has_zero() && self.bytes.has_zero()
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.packets.width() == 0 && self.bytes.width() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(packets: u64) -> Total {
        Total { packets, bytes: packets * 100 }
    }

    fn bracket(before: u64, agent: u64, after: u64) -> Bracket {
        let agent = Counted { least: total(agent), most: total(agent), wire: total(agent) };
        Bracket { before: total(before), agent, after: total(after) }
    }

    #[test]
    fn idle_moments_are_exact() {
        let found = bracket(10, 1010, 10).until(&bracket(60, 1060, 60));
        assert!(found.agrees() && found.is_exact() && found.counter == total(50) && found.wire == total(50));
        let lost = bracket(10, 1010, 10).until(&bracket(60, 1057, 60));
        assert!(!lost.agrees() && lost.is_exact());
        assert_eq!((lost.packets, lost.bytes), (Interval { min: -3, max: -3 }, Interval { min: -300, max: -300 }));
    }

    #[test]
    fn what_is_under_way_is_no_difference() {
        let found = bracket(10, 1012, 14).until(&bracket(60, 1063, 65));
        assert!(found.agrees() && !found.is_exact());
        assert_eq!(found.packets, Interval { min: -4, max: 5 });
        // More than was under way at both ends.
        assert!(!bracket(10, 1012, 14).until(&bracket(60, 1050, 65)).agrees());
    }

    #[test]
    fn bytes_alone_may_differ() {
        let mut later = bracket(60, 1060, 60);
        later.agent.least.bytes += 1;
        later.agent.most.bytes += 1;
        let found = bracket(10, 1010, 10).until(&later);
        assert!(!found.agrees() && found.packets.has_zero() && found.bytes == Interval { min: 1, max: 1 });
    }

    #[test]
    fn a_device_counts_super_packets_or_what_they_become() {
        let counted = |least, most| Counted { least: total(least), most: total(most), wire: total(most) };
        let start = Bracket { before: total(0), agent: counted(5, 5), after: total(0) };
        let end = |device| Bracket { before: total(device), agent: counted(15, 45), after: total(device) };
        for (device, agrees) in [(9, false), (10, true), (33, true), (40, true), (41, false)] {
            assert_eq!(start.until(&end(device)).agrees(), agrees, "{device}");
        }
    }
}
