//! The journal beside the open window. When it cannot be written the agent goes on: a crash would lose what a sound
//! journal had kept, and that is said.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;

use crate::fault;
use crate::journal::{Closing, Frame, Journal, JournalError, Recovered, Recovery, WindowId};
use crate::select::Named;

/// A quarter of a gigabyte: about nine million flows.
pub(crate) const LIMIT_BYTES: u64 = 256 << 20;

pub(crate) struct Durable {
    journal: Option<Journal>,
    /// What the open window's file says of interfaces.
    named: BTreeMap<u32, Named>,
    /// Of the open window.
    number: u64,
    /// The last write failed: said once, until one succeeds.
    failing: bool,
    /// The open window's file has not all of it.
    lacking: bool,
    pub(crate) errors: u64,
}

/// Different in every process and call.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Durable {
    /// With what an earlier run left.
    pub(crate) fn open(state_directory: &Path) -> (Self, Recovery) {
        let mut durable =
            Self { journal: None, named: BTreeMap::new(), number: random(), failing: false, lacking: false, errors: 0 };
        let recovery = match Journal::open(&state_directory.join("journal"), LIMIT_BYTES) {
            Ok((journal, recovery)) => {
                durable.journal = Some(journal);
                recovery
            }
            Err(error) => {
                durable.fail(&error);
                durable.lacking = true;
                Recovery::default()
            }
        };
        for left in &recovery.left_alone {
            tracing::warn!("{left}");
        }
        for damage in recovery.windows.iter().filter_map(|window| window.damage.as_ref()) {
            tracing::warn!("{damage}");
        }
        (durable, recovery)
    }

    fn fail(&mut self, error: &JournalError) {
        self.errors += 1;
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!("{error}: until it is mended, a crash loses what was counted before it");
        }
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Journal) -> Result<T, JournalError>) -> Option<T> {
        work(self.journal.as_mut()?).map_err(|error| self.fail(&error)).ok()
    }

    /// As [`Self::attempt`], of what shows that there is room again.
    fn try_write<T>(&mut self, write: impl FnOnce(&mut Journal) -> Result<T, JournalError>) -> Option<T> {
        let value = self.attempt(write)?;
        if std::mem::take(&mut self.failing) {
            tracing::info!("the journal can be written again");
        }
        Some(value)
    }

    pub(crate) fn begin(&mut self, window: (i64, i64)) {
        self.number = random();
        self.named.clear();
        self.lacking = self.journal.is_none();
        if let Some(journal) = &mut self.journal {
            journal.begin(window, self.number);
        }
    }

    pub(crate) fn resume(&mut self, recovered: &Recovered) {
        self.number = recovered.number;
        self.named.clone_from(&recovered.names);
        self.attempt(|journal| journal.resume(recovered));
    }

    /// Says which interfaces flows are of, as far as the open window's file does not say so.
    pub(crate) fn name(&mut self, interfaces: &BTreeMap<u32, Named>) {
        let news: Vec<(u32, Named)> = interfaces
            .iter()
            .filter(|(ifindex, named)| self.named.get(ifindex) != Some(named))
            .map(|(&ifindex, named)| (ifindex, named.clone()))
            .collect();
        if !news.is_empty() && self.try_write(|journal| journal.name(news.clone())).is_some() {
            self.named.extend(news);
        }
    }

    pub(crate) fn append(&mut self, frame: &Frame) {
        if self.try_write(|journal| journal.append(frame)).is_none() {
            self.lacking = true;
        }
        fault::point("journal-appended");
    }

    /// The window is complete: its number, and its file if there is one.
    pub(crate) fn close(&mut self, closing: Closing) -> (u64, Option<WindowId>) {
        // Also when that fails: once the window is out, its file must go.
        let file = self.journal.as_ref().and_then(Journal::current);
        // Without a file nothing is written.
        self.attempt(|journal| journal.close(closing));
        fault::point("journal-closed");
        (self.number, file)
    }

    pub(crate) fn forget(&mut self, files: &[WindowId]) {
        for &file in files {
            self.attempt(|journal| journal.forget(file));
            fault::point("forgotten");
        }
    }

    /// Whether a crash would lose what was counted.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether the open window's file has all that was counted in it.
    pub(crate) fn is_whole(&self) -> bool {
        !self.lacking
    }

    /// Whether the window should be closed early, because its journal grows too large.
    pub(crate) fn is_full(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_full)
    }
}
