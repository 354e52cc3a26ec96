//! Takes up what a former agent left: windows in its journal, counters in the kernel, drops that waited.
//! Always: an epoch that is in both the journal and the kernel is taken once.
#![forbid(unsafe_code)]

use super::{Daemon, now};
use crate::capture::Generation;
use crate::capture::flow::Drained;
use crate::cli::Failure;
use crate::fault;
use crate::journal::{CARRIED, Frame, JournalError, Recovered, Recovery};
use crate::select::Named;
use std::collections::{BTreeMap, BTreeSet};

fn said(error: JournalError) -> Failure {
    Failure::Run(error.to_string())
}

impl Daemon {
    /// Takes up what a former agent left: windows in its journal, and counters in the kernel.
    pub(super) fn recover(&mut self, recovery: Recovery) -> Result<(), Failure> {
        let windows = recovery.windows;
        let mut journalled = BTreeSet::new();
        for window in &windows {
            for frame in window.frames().map_err(said)?.filter_map(Result::ok) {
                journalled.insert((frame.generation, frame.epoch));
            }
        }
        let numbers: Vec<u64> = windows.iter().map(|window| window.number).collect();
        for subscription in &mut self.pipeline.subscriptions {
            subscription.expect_replay(&numbers);
        }
        // The last one goes on, if it was not closed and no index is another interface's now; its end is the present
        // window's.
        let goes_on = |window: &Recovered| {
            let is_same = |(index, named): (&u32, &Named)| self.tracked.get(index).is_none_or(|now| now.id == named.id);
            window.closed.is_none() && window.names.iter().all(is_same)
        };
        let (open, complete) = match windows.split_last() {
            Some((last, rest)) if goes_on(last) => (Some(last), rest),
            _ => (None, windows.as_slice()),
        };
        let mut has_carried = false;
        if let Some(window) = open {
            self.durable.resume(window);
            self.window.0 = window.window.0.min(self.window.0);
            self.pipeline.know_strangers(&window.names);
            for mut frame in window.frames().map_err(said)?.filter_map(Result::ok) {
                has_carried |= frame.generation == CARRIED;
                self.pipeline.rename_former(&mut frame.drained, &window.names, &self.tracked);
                self.pipeline.absorb_frame(frame);
            }
            tracing::info!(window = window.window.0, "going on with a former agent's window");
        } else {
            self.durable.begin(self.window);
        }
        self.durable.name(&self.tracked);
        self.adopt(&journalled)?;
        // Only now: when their files are gone, nothing tells that an epoch which the kernel still has was published.
        for (at, window) in complete.iter().enumerate() {
            let end = match &window.closed {
                Some(closing) => closing.end,
                None => window.window.1.min(now()).max(window.window.0),
            };
            let frames = window.frames().map_err(said)?.filter_map(Result::ok);
            let span = (window.window.0, end);
            let (mut slice, left) = self.pipeline.replay(frames, span, &window.names, window.closed.clone());
            (slice.number, slice.file) = (window.number, Some(window.id));
            // The other ones' next windows have it, or the present one if its agent had begun it.
            if let Some(left) = left.filter(|_| at + 1 == complete.len() && !has_carried) {
                self.keep_former(CARRIED, 0, left, &window.names);
            }
            tracing::info!(window = window.window.0, "publishing what a former agent could not");
            self.publish(&slice);
            fault::point("republished");
        }
        Ok(())
    }

    /// Takes over what a former agent left counting, but for epochs that are in its journal.
    fn adopt(&mut self, journalled: &BTreeSet<(u64, u32)>) -> Result<(), Failure> {
        let is_known = |generation: Generation, epoch| journalled.contains(&(generation.0, epoch));
        for old in self.capture.adopt(is_known)? {
            let packets: u64 = old.drained.totals.iter().map(|totals| totals.seen.packets).sum();
            tracing::info!(generation = %old.generation, epoch = old.epoch, packets, "took over a former agent's counters");
            let named = |name: &String| {
                let id = self.known.host.interface_id(name);
                // As it is now, if it is still there.
                let now = self.tracked.values().find(|now| now.id == id).cloned();
                now.unwrap_or_else(|| Named { id, name: name.clone(), addresses: None, loopback: false })
            };
            let names = old.interfaces.iter().map(|(index, name)| (*index, named(name))).collect();
            self.keep_former(old.generation.0, old.epoch, old.drained, &names);
            fault::point("adopted");
        }
        // Every epoch is in the journal, or in memory where there is none.
        self.capture.release_old();
        fault::point("released");
        Ok(())
    }

    /// Into the present window and its journal, where it goes by the names that its interfaces had.
    fn keep_former(&mut self, generation: u64, epoch: u32, mut drained: Drained, names: &BTreeMap<u32, Named>) {
        self.pipeline.rename_former(&mut drained, names, &self.tracked);
        self.durable.name(self.pipeline.strangers());
        let frame = Frame { generation, epoch, drained };
        self.durable.append(&frame);
        self.pipeline.absorb_frame(frame);
    }
}
