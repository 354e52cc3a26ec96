//! What the tables hold at this moment, for whoever looks at the agent. The programs go on writing meanwhile: a count may
//! be a packet behind, and none is ever higher than what the next drain finds.
//! Always: nothing is changed; a set with nothing in it costs one cache line.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use super::{
    DROP_KEY_WORDS, Error, KEY_WORD4, KEY_WORD6, KEY_WORDS, Mapped, Shape, Tables, VALUE_WORDS, WAYS, WORDS4, WORDS6,
    relaxed, sys,
};
use crate::capture::Span;
use crate::capture::flow::InterfaceTotals;

/// Of the epoch that is counted in.
#[derive(Clone, Debug, Default)]
pub struct Census {
    pub totals: Vec<InterfaceTotals>,
    /// When the totals were read.
    pub read: Span,
    /// By ifindex. One that is in the overflow hash as well counts twice.
    pub flows: BTreeMap<u32, u64>,
    pub tables: Vec<TableUse>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    pub name: &'static str,
    /// Over all CPUs.
    pub entries: u64,
    pub capacity: u64,
    /// Of the kernel's memory, with the half that is drained; of a hash, about.
    pub bytes: u64,
}

/// Counts an epoch's entries, and its flows by interface: a flow has an entry on each CPU that saw it.
fn count<const WORDS: usize, const KEY_WORD: usize>(
    table: &Mapped,
    shape: Shape,
    epoch: u32,
    flows: &mut BTreeMap<u32, u64>,
) -> u64 {
    let (entries, _) = table.words().as_chunks::<WORDS>();
    let (mut used, mut keys) = (0, Vec::new());
    for set in 0..shape.sets {
        keys.clear();
        for cpu in 0..shape.cpus {
            let start = shape.set_start(epoch, cpu, set) / WORDS;
            for entry in entries[start..start + WAYS].iter().take_while(|entry| relaxed(&entry[KEY_WORD]) != 0) {
                used += 1;
                // The key ends with this word.
                let mut key = [0; WORDS];
                for (word, value) in key.iter_mut().zip(&entry[..=KEY_WORD]) {
                    *word = relaxed(value);
                }
                if !keys.contains(&key) {
                    keys.push(key);
                    *flows.entry((key[KEY_WORD] >> 41) as u32).or_default() += 1;
                }
            }
        }
    }
    used
}

impl Tables {
    pub(crate) fn census(&self) -> Result<Census, Error> {
        let epoch = self.epoch();
        let mut flows = BTreeMap::new();
        let flow4 = count::<WORDS4, KEY_WORD4>(&self.flow4, self.shape4(), epoch, &mut flows);
        let flow6 = count::<WORDS6, KEY_WORD6>(&self.flow6, self.shape6(), epoch, &mut flows);
        let (mut overflow, mut drops) = (0, 0);
        sys::for_each(self.overflow_fd.as_fd(), KEY_WORDS, VALUE_WORDS * self.possible_cpus, |wide, _| {
            if wide[5] as u32 == epoch {
                overflow += 1;
                *flows.entry((wide[4] >> 32) as u32).or_default() += 1;
            }
        })
        .map_err(|source| Error::Io { what: "look at the overflow hash", source })?;
        sys::for_each(self.dropped_fd.as_fd(), DROP_KEY_WORDS, VALUE_WORDS, |_, _| drops += 1)
            .map_err(|source| Error::Io { what: "look at the hash of rejected flows", source })?;
        let used = [flow4, flow6, overflow, drops];
        let tables = self.sizes.tables().into_iter().zip(used);
        let tables = tables.map(|((name, capacity, bytes), entries)| TableUse { name, entries, capacity, bytes });
        let tables = tables.collect();
        let (totals, read) = Span::of(|| self.read_totals(epoch));
        Ok(Census { totals: totals?, read, flows, tables })
    }
}
