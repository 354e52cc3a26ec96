//! Takes over what a former agent left counting. The order makes it exact: our programs replace the former ones in place
//! (`attach`), what is left of those is detached, a grace period ends the last that still run, and only then are the old
//! maps read; they are freed when the caller says that what was in them is safe. A crash in the midst of it leaves one
//! more generation for the next agent.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent_common::drop::REASONS;

use super::attach::{self, Side};
use super::clock::Reading;
use super::flow::Drained;
use super::generation::Generation;
use super::load::Sizes;
use super::pin::{self, Pinned, Pins};
use super::tables::{self, Tables};
use super::{Capture, Error, clsact, filter, interfaces, stubs};

/// One epoch that a former agent did not hand on.
#[derive(Debug)]
pub struct Adopted {
    pub generation: Generation,
    pub epoch: u32,
    pub drained: Drained,
    /// Names of the interfaces of that time, by ifindex.
    pub interfaces: BTreeMap<u32, String>,
}

/// Entries of `FRAGMENTS` in `agent-ebpf/src/maps.rs`.
const FRAGMENTS: u32 = 8192;

/// Before loading: takes away shared maps that ours could not be, and the programs that use them.
pub(crate) fn check_shared(pins: &Pins, sizes: &Sizes) {
    let entries = [sizes.cpus * REASONS, sizes.cpus, 1, FRAGMENTS];
    for (name, entries) in pin::SHARED.into_iter().zip(entries) {
        let path = pins.shared(name);
        if !path.exists() || tables::is_as_wanted(&path, name, entries) {
            continue;
        }
        tracing::warn!(path = %path.display(), "not the map that it should be: discarded");
        stubs::detach(pins);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot unpin");
        }
    }
}

/// What is said about other things below the directory, before anything else is done.
pub(crate) fn look_around(pins: &Pins) {
    for path in pins.foreign() {
        tracing::warn!(path = %path.display(), "not ours: left alone");
    }
    for version in pins.other_versions() {
        tracing::warn!(
            path = %version.display(),
            "counters of another version of flowlogd, which this one cannot read: discarded"
        );
        remove_tree(&version);
    }
}

/// Unpins all below a directory, which detaches what hangs on it.
fn remove_tree(directory: &Path) {
    for name in pin::names_in(directory) {
        let path = directory.join(name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_directory {
            remove_tree(&path);
        } else if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot unpin");
        }
    }
    let _ = fs::remove_dir(directory);
}

impl Capture {
    /// Detaches what former agents left elsewhere, then reads what they counted and did not hand on: oldest first,
    /// without the epochs that are `journalled`. To be called once, when the interfaces are attached. What is returned
    /// stays pinned until [`Self::release_old`].
    pub fn adopt(&mut self, journalled: impl Fn(Generation, u32) -> bool) -> Result<Vec<Adopted>, Error> {
        let Some(pins) = &self.pins else { return Ok(Vec::new()) };
        self.sweep(pins)?;
        let mut adopted = Vec::new();
        let old = pins.old();
        if old.is_empty() {
            return Ok(adopted);
        }
        self.loaded.grace.wait().map_err(|source| Error::Io { what: "wait for a grace period", source })?;
        let clock = self.loaded.read_clock(0)?;
        for generation in old {
            let Some(names) = pins.names(generation) else {
                tracing::info!(%generation, "maps of an agent that died before it counted: freed");
                pins.remove(generation);
                continue;
            };
            if !pins.is_of_here(generation) {
                tracing::warn!(%generation, "counters of interfaces in another network namespace: discarded");
                pins.remove(generation);
                continue;
            }
            let tables = match Tables::pinned(&pins.directory(generation), self.loaded.tables.sizes.cpus) {
                Ok(tables) => tables,
                Err(error) => {
                    tracing::warn!(%error, "a former agent's counters are not as expected: discarded");
                    pins.remove(generation);
                    continue;
                }
            };
            if pins.age(generation) > self.loaded.ticks.range() {
                tracing::warn!(
                    %generation,
                    days = self.loaded.ticks.range().as_secs() / 86_400,
                    "no agent for longer than times in the tables reach back: some will be too late"
                );
            }
            match read(&tables, &clock, |epoch| journalled(generation, epoch)) {
                // Nothing is in it that is not safe.
                Ok(epochs) if epochs.is_empty() => pins.remove(generation),
                Ok(epochs) => {
                    let adopt = |(epoch, drained)| Adopted { generation, epoch, drained, interfaces: names.clone() };
                    adopted.extend(epochs.into_iter().map(adopt));
                    self.adopted.push(generation);
                }
                Err(error) => {
                    tracing::error!(%generation, %error, "cannot read a former agent's counters: kept for the next start")
                }
            }
        }
        Ok(adopted)
    }

    /// Frees the maps of former agents: all that [`Self::adopt`] returned is safe.
    pub fn release_old(&mut self) {
        if let Some(pins) = &self.pins {
            self.adopted.drain(..).for_each(|generation| pins.remove(generation));
        }
    }

    /// Removes what former agents attached and we have not taken over.
    fn sweep(&self, pins: &Pins) -> Result<(), Error> {
        let handle = filter::handle(pins.root());
        let by = |ifindex: u32| self.attached.get(&ifindex).map(|(_, attachment)| attachment.hook);
        let all = interfaces::list()?;
        for interface in all.iter().filter(|interface| by(interface.index) != Some(attach::Hook::Clsact)) {
            for side in Side::BOTH {
                let filters = filter::left(interface.index, side, handle);
                filter::remove(interface, side, &filters)?;
            }
            if pins.made_qdisc(interface.index) {
                drop(clsact::Made::before(interface));
            }
        }
        let links = pins.links();
        for name in pin::names_in(&links) {
            match Pinned::parse(&name) {
                Some(Pinned::Link(ifindex, _)) if by(ifindex) != Some(attach::Hook::Tcx) => {
                    if let Err(error) = fs::remove_file(links.join(&name)) {
                        tracing::warn!(%error, pin = name, "cannot unpin a former agent's link: its program still runs");
                    }
                }
                Some(Pinned::Qdisc(ifindex)) if by(ifindex) != Some(attach::Hook::Clsact) => {
                    pins.mark_qdisc(ifindex, false);
                }
                _ => {}
            }
        }
        if self.loaded.drops.is_none() {
            stubs::detach(pins);
        }
        Ok(())
    }
}

/// The epochs that may hold something, but for those that are `safe`: the current one, and the one before it, if its agent
/// died between handing it on and clearing it.
fn read(tables: &Tables, clock: &Reading, safe: impl Fn(u32) -> bool) -> Result<Vec<(u32, Drained)>, Error> {
    let current = tables.epoch();
    let mut found = Vec::new();
    for epoch in [current.wrapping_sub(1), current].into_iter().filter(|&epoch| !safe(epoch)) {
        let drained = tables.read(epoch, clock)?;
        if !drained.is_empty() {
            found.push((epoch, drained));
        }
    }
    Ok(found)
}
