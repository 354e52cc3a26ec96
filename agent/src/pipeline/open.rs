//! The slice that goes on, as it would be if it ended now: for whoever looks at the agent's flows.
//! Must not know who looks, nor how the tables are read.
//! Always: the pipeline stays as it is; a packet is in one flow, under the verdict that its record would have.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{Pipeline, judge};
use crate::capture::flow::{Drained, Flow, Total};
use crate::exclude::Settings;
use crate::select::Named;
use crate::verdict::Verdicts;
use crate::window::Windows;

/// A copy, to be settled by another thread than the one that counts.
pub(crate) struct Open {
    windows: Windows,
    peeked: Drained,
    verdicts: Verdicts,
    exclusions: Settings,
    names: BTreeMap<u32, Named>,
}

/// What [`Open`] comes to.
pub(crate) struct Settled {
    /// One per key. All have a name.
    pub(crate) flows: Vec<Flow>,
    pub(crate) names: BTreeMap<u32, Named>,
    pub(crate) excluded: Total,
}

impl Pipeline {
    /// `peeked`: what the tables hold. `tracked`: as at the slice's end.
    pub(crate) fn open(&self, peeked: Drained, tracked: &BTreeMap<u32, Named>) -> Open {
        let mut names = self.strangers.clone();
        names.extend(tracked.iter().map(|(&ifindex, named)| (ifindex, named.clone())));
        Open {
            windows: self.windows.clone(),
            peeked,
            verdicts: self.verdicts.clone(),
            exclusions: self.exclusions.clone(),
            names,
        }
    }
}

impl Open {
    /// `end`: now.
    pub(crate) fn settle(self, start: i64, end: i64) -> Settled {
        let Self { mut windows, peeked, mut verdicts, exclusions, names } = self;
        windows.absorb(peeked);
        let mut closed = windows.close(start, end);
        let (_, excluded_by) = judge(&mut closed, &mut verdicts, |ifindex| names.contains_key(&ifindex), &exclusions);
        let mut excluded = Total::default();
        excluded_by.into_iter().for_each(|one| excluded += one);
        let mut flows = closed.flows;
        flows.retain(|flow| names.contains_key(&flow.key.ifindex));
        Settled { flows, names, excluded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, Dropped, FlowKey, Verdict};

    fn flow(verdict: Verdict, dst: [u8; 4], packets: u64) -> Flow {
        let key = FlowKey {
            ifindex: 2,
            direction: Direction::Ingress,
            verdict,
            protocol: 17,
            src: [10, 0, 0, 1].into(),
            dst: dst.into(),
            src_port: 5000,
            dst_port: 53,
        };
        Flow { key, packets, bytes: packets * 60, first: 5, last: 6, tcp_flags: 0, reason: 0 }
    }

    fn drained(accepted: &[Flow], dropped: &[Flow]) -> Drained {
        let drops = dropped.iter().map(|&flow| Dropped { flow, counted: true }).collect();
        Drained { batches: vec![accepted.to_vec()], totals: Vec::new(), drops }
    }

    #[test]
    fn what_was_drained_and_what_is_in_the_tables_are_one() {
        let named = Named { id: "eni-2".to_owned(), name: "eth0".to_owned(), addresses: None, loopback: false };
        let tracked = BTreeMap::from([(2, named)]);
        let mut pipeline = Pipeline::new(Settings::new(&[], &[], &[]).unwrap(), Vec::new());
        let (there, metadata) = ([10, 0, 0, 2], [169, 254, 169, 254]);
        let other = Flow {
            key: FlowKey { ifindex: 9, ..flow(Verdict::Accept, there, 1).key },
            ..flow(Verdict::Accept, there, 1)
        };
        pipeline.absorb(drained(&[flow(Verdict::Accept, there, 3), other], &[]));
        let peeked = || {
            let accepted = [flow(Verdict::Accept, there, 4), flow(Verdict::Accept, metadata, 2)];
            drained(&accepted, &[flow(Verdict::Reject, there, 5)])
        };
        for _ in 0..2 {
            // Asking changes nothing.
            let settled = pipeline.open(peeked(), &tracked).settle(0, 9);
            let mut flows: Vec<_> = settled.flows.iter().map(|it| (it.key.verdict, it.packets, it.bytes)).collect();
            flows.sort_unstable();
            assert_eq!(flows, [(Verdict::Accept, 2, 120), (Verdict::Reject, 5, 300)]);
            assert_eq!(settled.excluded, Total { packets: 2, bytes: 120 });
        }
    }
}
