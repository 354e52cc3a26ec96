//! The way of a window: drains in, merged, verdicts told, exclusions out; then to every flow log.
//! Must not know how packets are counted, nor where records go.
//! Always: the sum is taken over everything seen, before anything is left out by choice of the user.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::capture::flow::{Drained, Flow, InterfaceTotals, Total, Verdict};
use crate::exclude::{self, Settings};
use crate::journal::{CARRIED, Closing, Frame, WindowId};
use crate::known::Known;
use crate::select::Named;
use crate::subscription::{Subscription, Taken};
use crate::verdict::{Outcome, Verdicts};
use crate::window::{self, Closed, LoggedBy, Windows};

mod open;

pub(crate) use open::{Open, Settled};

pub(crate) struct Pipeline {
    windows: Windows,
    verdicts: Verdicts,
    /// Interfaces that have had traffic: AWS writes nothing at all before an interface's first.
    known: BTreeSet<u32>,
    exclusions: Settings,
    /// Also those of the last window, for what an interface did before it went away.
    names: BTreeMap<u32, Named>,
    /// Interfaces of an earlier run whose index is another's now, or nobody's.
    strangers: BTreeMap<u32, Named>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// How many flow logs still need a window's journal.
    held: BTreeMap<WindowId, usize>,
}

/// A part of time that every flow log's windows are made of: as long as the greatest common divisor of their
/// intervals, or shorter.
pub(crate) struct Slice {
    pub(crate) start: i64,
    /// Inclusive.
    pub(crate) end: i64,
    /// Random, the same when it is replayed.
    pub(crate) number: u64,
    /// Where it is kept until every flow log has it.
    pub(crate) file: Option<WindowId>,
    /// The windows of all flow logs end with it.
    pub(crate) ends: bool,
    pub(crate) flows: Vec<Flow>,
    pub(crate) names: BTreeMap<u32, Named>,
    /// Interfaces with flows.
    pub(crate) active: BTreeSet<u32>,
    /// Everything that was seen.
    pub(crate) totals: Vec<InterfaceTotals>,
    /// What the flows come to.
    pub(crate) logged: LoggedBy,
    /// Interfaces with packets that are in no record.
    pub(crate) skipped: BTreeSet<u32>,
    gaps: BTreeSet<u32>,
    /// Interfaces whose silence is worth a record.
    pub(crate) known: BTreeSet<u32>,
    summary: Summary,
}

/// What became of a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Lines of any status, of all flow logs.
    pub(crate) records: u64,
    /// Flows not written for want of an interface id.
    pub(crate) unnamed: u64,
    pub(crate) seen: Total,
    /// Not logged: neither IPv4 nor IPv6, and what cannot be read.
    pub(crate) non_ip: Total,
    pub(crate) unparsable: Total,
    pub(crate) skipped: Total,
    /// A policy's drops that are not logged as such, for want of room.
    pub(crate) drops_skipped: Total,
    /// In records with REJECT, before exclusions.
    pub(crate) rejected: Total,
    /// Drops whose packets were in no accepted flow: translated or reassembled before they were dropped.
    pub(crate) unmatched: Total,
    pub(crate) excluded: Total,
    pub(crate) excluded_by: [Total; exclude::COUNT],
    /// Packets and bytes. Not (0, 0) is a bug of ours.
    pub(crate) sum_error: (i128, i128),
    /// Windows that cannot be put into their flow log's spool, and why.
    pub(crate) waiting: u64,
    pub(crate) error: Option<String>,
    /// Windows that need not be kept any longer.
    pub(crate) published: Vec<WindowId>,
    /// Given up because too much waited.
    pub(crate) lost_records: u64,
}

impl Pipeline {
    pub(crate) fn new(exclusions: Settings, subscriptions: Vec<Subscription>) -> Self {
        let (windows, verdicts, known, names, strangers, held) = Default::default();
        Self { windows, verdicts, known, exclusions, names, strangers, subscriptions, held }
    }

    pub(crate) fn absorb(&mut self, drained: Drained) {
        self.windows.absorb(drained);
    }

    /// What was seen in the slice that is open, as far as it was drained.
    pub(crate) fn seen(&self) -> impl Iterator<Item = &InterfaceTotals> {
        self.windows.totals()
    }

    /// Drops that wait for their packets.
    pub(crate) fn drops_waiting(&self) -> Total {
        self.verdicts.waiting()
    }

    /// What a journal had kept.
    pub(crate) fn absorb_frame(&mut self, frame: Frame) {
        if frame.generation == CARRIED {
            self.verdicts.carry(frame.drained.drops);
        } else {
            self.absorb(frame.drained);
        }
    }

    /// The same, for the journal of the window that has begun.
    pub(crate) fn carried(&self) -> Option<Drained> {
        carried(&self.verdicts)
    }

    /// Ends a slice. `tracked` is what is captured, by ifindex; `gaps` are interfaces that were not counted for a while.
    /// `end` is inclusive. Nothing is published yet.
    pub(crate) fn close(
        &mut self,
        (start, end): (i64, i64),
        tracked: &BTreeMap<u32, Named>,
        gaps: BTreeSet<u32>,
        ends: bool,
    ) -> Slice {
        let mut closed = self.windows.close(start, end);
        let strangers = std::mem::take(&mut self.strangers);
        let is_ours = |ifindex: u32| tracked.contains_key(&ifindex) || strangers.contains_key(&ifindex);
        let (verdicts, excluded_by) = judge(&mut closed, &mut self.verdicts, is_ours, &self.exclusions);
        let mut summary = summarize(&closed, excluded_by, verdicts);

        let (logged, skipped) = (window::logged(&closed), window::skipped(&closed, &gaps));
        let active: BTreeSet<u32> = logged.keys().map(|(ifindex, ..)| *ifindex).collect();
        self.known.extend(active.union(&skipped));
        self.known.retain(|ifindex| tracked.contains_key(ifindex));
        let mut names = std::mem::replace(&mut self.names, tracked.clone());
        names.extend(tracked.iter().map(|(&ifindex, named)| (ifindex, named.clone())));
        names.extend(strangers);
        summary.unnamed = closed.flows.iter().filter(|flow| !names.contains_key(&flow.key.ifindex)).count() as u64;
        Slice {
            start: closed.start,
            end: closed.end,
            number: 0,
            file: None,
            ends,
            flows: closed.flows,
            names,
            active,
            totals: closed.totals,
            logged,
            skipped,
            gaps,
            known: self.known.clone(),
            summary,
        }
    }

    /// A slice of an earlier run, from its drains, and what of it the next one is to have. `closing`: as it was closed,
    /// if it was.
    pub(crate) fn replay(
        &mut self,
        frames: impl Iterator<Item = Frame>,
        span: (i64, i64),
        names: &BTreeMap<u32, Named>,
        closing: Option<Closing>,
    ) -> (Slice, Option<Drained>) {
        let (windows, verdicts) = (std::mem::take(&mut self.windows), std::mem::take(&mut self.verdicts));
        let (known, tracked) = (std::mem::take(&mut self.known), std::mem::take(&mut self.names));
        let strangers = std::mem::take(&mut self.strangers);
        frames.for_each(|frame| self.absorb_frame(frame));
        let gaps = closing.as_ref().map_or_else(BTreeSet::new, |closing| closing.gaps.clone());
        let mut slice = self.close(span, names, gaps, closing.as_ref().is_some_and(|closing| closing.ends));
        slice.known = closing.map_or_else(BTreeSet::new, |closing| closing.known);
        let left = carried(&self.verdicts);
        (self.windows, self.verdicts, self.known) = (windows, verdicts, known);
        (self.names, self.strangers) = (tracked, strangers);
        (slice, left)
    }

    /// Strangers of an earlier run's window that goes on.
    pub(crate) fn know_strangers(&mut self, names: &BTreeMap<u32, Named>) {
        self.strangers.extend(names.range(STRANGERS_FROM..).map(|(&index, named)| (index, named.clone())));
    }

    pub(crate) fn strangers(&self) -> &BTreeMap<u32, Named> {
        &self.strangers
    }

    /// Before [`Self::absorb`], of an earlier run: an index that goes by another id now, or by none, is given another,
    /// one of [`Self::strangers`].
    pub(crate) fn rename_former(
        &mut self,
        drained: &mut Drained,
        names: &BTreeMap<u32, Named>,
        tracked: &BTreeMap<u32, Named>,
    ) {
        let strangers = &mut self.strangers;
        let mut rename = |ifindex: &mut u32| {
            let is_other = |named: &&Named| tracked.get(ifindex).is_none_or(|now| now.id != named.id);
            let Some(named) = names.get(ifindex).filter(is_other) else { return };
            let known = strangers.iter().find(|(_, known)| known.id == named.id).map(|(&index, _)| index);
            *ifindex = known.unwrap_or_else(|| {
                let index = strangers.last_key_value().map_or(STRANGERS_FROM, |(last, _)| last + 1);
                strangers.insert(index, named.clone());
                index
            });
        };
        drained.batches.iter_mut().flatten().for_each(|flow| rename(&mut flow.key.ifindex));
        drained.totals.iter_mut().for_each(|totals| rename(&mut totals.ifindex));
        drained.drops.iter_mut().for_each(|dropped| rename(&mut dropped.flow.key.ifindex));
    }

    /// Hands a slice to every flow log. The summary says which windows' journals may go.
    pub(crate) fn publish(&mut self, slice: &Slice) -> Summary {
        let mut summary = slice.summary.clone();
        if let Some(file) = slice.file {
            self.held.insert(file, self.subscriptions.len());
        }
        for subscription in &mut self.subscriptions {
            let taken = subscription.take(slice);
            settle(&mut self.held, taken, &mut summary);
        }
        summary.waiting = self.waiting();
        summary
    }

    /// Spools what waits for room, as far as there is some now.
    pub(crate) fn try_again(&mut self) -> Summary {
        let mut summary = Summary::default();
        for subscription in &mut self.subscriptions {
            settle(&mut self.held, subscription.try_again(), &mut summary);
        }
        summary.waiting = self.waiting();
        summary
    }

    /// Windows that could not be spooled.
    pub(crate) fn waiting(&self) -> u64 {
        self.subscriptions.iter().map(Subscription::waiting).sum()
    }

    /// From now on records say what is known now.
    pub(crate) fn learn(&mut self, known: &Arc<Known>) {
        self.subscriptions.iter_mut().for_each(|one| one.learn(Arc::clone(known)));
    }

    /// From the next slice on.
    pub(crate) fn change(&mut self, exclusions: Settings, added: Vec<Subscription>) {
        self.exclusions = exclusions;
        self.subscriptions.extend(added);
    }

    /// Ends the open windows of flow logs that are no longer wanted, and takes these out.
    pub(crate) fn unsubscribe(&mut self, is_wanted: impl Fn(&str) -> bool) -> (Vec<Subscription>, Summary) {
        let (kept, mut removed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.subscriptions).into_iter().partition(|one| is_wanted(&one.log().id));
        self.subscriptions = kept;
        let mut summary = Summary::default();
        for subscription in &mut removed {
            let taken = subscription.end();
            settle(&mut self.held, taken, &mut summary);
            settle(&mut self.held, subscription.give_up(), &mut summary);
        }
        (removed, summary)
    }
}

/// Tells REJECT from ACCEPT and takes out what is not logged.
fn judge(
    closed: &mut Closed,
    verdicts: &mut Verdicts,
    is_ours: impl Fn(u32) -> bool,
    exclusions: &Settings,
) -> (Outcome, [Total; exclude::COUNT]) {
    let mut drops = std::mem::take(&mut closed.drops);
    // The kernel reports every drop of the namespace; flows are only of what is captured.
    drops.retain(|dropped| is_ours(dropped.flow.key.ifindex));
    let outcome = verdicts.apply(&mut closed.flows, drops);
    // What waited for its packets has the times of the slice before.
    let rejected = closed.flows.iter_mut().filter(|flow| flow.key.verdict == Verdict::Reject);
    rejected.for_each(|flow| window::clamp(flow, closed.start, closed.end));
    let kept = exclude::split(std::mem::take(&mut closed.flows), exclusions);
    closed.flows = kept.flows;
    (outcome, kept.excluded_by)
}

/// Adds what a flow log made of a slice; journals that it was the last to need are published.
fn settle(held: &mut BTreeMap<WindowId, usize>, taken: Taken, summary: &mut Summary) {
    summary.records += taken.records;
    summary.lost_records += taken.lost_records;
    if taken.error.is_some() {
        summary.error = taken.error;
    }
    for file in taken.released {
        let Some(holders) = held.get_mut(&file) else { continue };
        *holders -= 1;
        if *holders == 0 {
            held.remove(&file);
            summary.published.push(file);
        }
    }
}

fn carried(verdicts: &Verdicts) -> Option<Drained> {
    let drops = verdicts.carried();
    (!drops.is_empty()).then(|| Drained { batches: Vec::new(), totals: Vec::new(), drops })
}

/// No interface of Linux has such an index: they are positive 32-bit numbers.
const STRANGERS_FROM: u32 = 1 << 31;

impl Slice {
    /// Only flows of interfaces.
    #[cfg(test)]
    pub(crate) fn of(start: i64, end: i64, flows: Vec<Flow>, names: BTreeMap<u32, Named>) -> Self {
        let (active, skipped, gaps, known, summary) = Default::default();
        let (number, file, ends, totals, logged) = (0, None, false, Vec::new(), LoggedBy::new());
        Self { start, end, number, file, ends, flows, names, active, totals, logged, skipped, gaps, known, summary }
    }

    /// What its journal says of its end.
    pub(crate) fn closing(&self) -> Closing {
        Closing { end: self.end, ends: self.ends, gaps: self.gaps.clone(), known: self.known.clone() }
    }
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.unnamed += other.unnamed;
        self.seen += other.seen;
        self.non_ip += other.non_ip;
        self.unparsable += other.unparsable;
        self.skipped += other.skipped;
        self.drops_skipped += other.drops_skipped;
        self.rejected += other.rejected;
        self.unmatched += other.unmatched;
        self.excluded += other.excluded;
        for (sum, one) in self.excluded_by.iter_mut().zip(other.excluded_by) {
            *sum += one;
        }
        self.sum_error.0 += other.sum_error.0;
        self.sum_error.1 += other.sum_error.1;
        self.lost_records += other.lost_records;
    }
}

/// Everything but what depends on names and flow logs.
fn summarize(closed: &Closed, excluded_by: [Total; exclude::COUNT], verdicts: Outcome) -> Summary {
    let Outcome { rejected, unseen, unmatched } = verdicts;
    let mut summary = Summary { excluded_by, rejected, unmatched, ..Summary::default() };
    for total in excluded_by {
        summary.excluded += total;
    }
    for totals in &closed.totals {
        summary.seen += totals.seen;
        summary.non_ip += totals.non_ip;
        totals.unparsable.into_iter().for_each(|cause| summary.unparsable += cause);
        summary.skipped += totals.skipped;
        summary.drops_skipped += totals.drops_skipped;
    }
    summary.sum_error = window::sum_error(closed, summary.excluded, unseen);
    summary
}

#[cfg(test)]
mod tests;
