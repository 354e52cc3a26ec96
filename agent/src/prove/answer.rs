//! What of the agent's answer is compared. Pure.
//! Must not know with what.
//! Always: two answers of one agent can be subtracted, and those of two agents are told apart.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Key;
use crate::capture::Span;
use crate::capture::flow::{Direction, Total};
use crate::status::{Side, Snapshot, SumRule};

pub(super) struct Answer {
    /// Which agent, by process and start.
    pub(super) agent: (u32, i64),
    pub(super) namespace: Option<u64>,
    /// When the packets were counted up.
    pub(super) counted: Span,
    pub(super) sides: BTreeMap<Key, Part>,
    pub(super) sum_rule: SumRule,
}

pub(super) struct Part {
    pub(super) name: String,
    /// Else the interface or our program is gone.
    pub(super) is_hooked: bool,
    pub(super) wire: Total,
    /// As they lie in the kernel's buffers.
    pub(super) buffers: Total,
    /// Seen, but in no record.
    pub(super) skipped: Total,
    /// Programs of others on the same hook.
    pub(super) others: u32,
}

impl Answer {
    /// None: of an agent that does not tell what is needed. `asked`: the question and its answer.
    pub(super) fn new(snapshot: &Snapshot, asked: Span) -> Option<Self> {
        let counted = snapshot.counted?;
        // Clocks of different time namespaces: what we know ourselves is less narrow and as right.
        let is_ours = asked.from <= counted.from && counted.to <= asked.to;
        let sides = snapshot.interfaces.iter().flat_map(|it| {
            let part = |side: &Side| Part {
                name: it.name.clone(),
                is_hooked: it.hook.is_some(),
                wire: side.seen,
                buffers: side.buffers.of(side.seen),
                skipped: side.skipped,
                others: side.position.map_or(0, |position| position.of.saturating_sub(1)),
            };
            let key = |direction| Key { ifindex: it.ifindex, direction };
            [(key(Direction::Ingress), part(&it.ingress)), (key(Direction::Egress), part(&it.egress))]
        });
        Some(Self {
            agent: (snapshot.pid, snapshot.started),
            namespace: snapshot.network_namespace,
            counted: if is_ours { counted } else { asked },
            sides: sides.collect(),
            sum_rule: snapshot.sum_rule.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::example;

    #[test]
    fn a_clock_of_somebody_else_is_not_believed() {
        let snapshot = example::snapshot();
        let counted = snapshot.counted.unwrap();
        let asked = Span { from: counted.from - 1, to: counted.to + 1 };
        assert_eq!(Answer::new(&snapshot, asked).unwrap().counted, counted);
        let later = Span { from: counted.from + 1, to: counted.to + 1 };
        assert_eq!(Answer::new(&snapshot, later).unwrap().counted, later);
        assert!(Answer::new(&Snapshot { counted: None, ..snapshot }, asked).is_none());
    }
}
