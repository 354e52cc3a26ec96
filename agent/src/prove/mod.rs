//! Holds what the agent counted against counters that know nothing of it, while traffic goes on.
//! Must not know how packets are counted, and must not change traffic or the agent.
//! Always: a difference is only what no order of the packets under way could explain; what cannot be compared is said.
#![forbid(unsafe_code)]

mod answer;
mod bracket;
mod device;
mod interval;
mod line;
mod nft;
mod nft_json;
mod report;
mod session;

use crate::capture::flow::Direction;

pub(crate) use bracket::Finding;
pub(crate) use interval::Interval;
pub(crate) use line::Outcome;
pub(crate) use report::{Comparison, Report, grouped, range};
pub(crate) use session::{Error, Phase, Session};

/// An interface and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
}

impl Key {
    fn both(ifindex: u32) -> [Self; 2] {
        [Direction::Ingress, Direction::Egress].map(|direction| Self { ifindex, direction })
    }
}
