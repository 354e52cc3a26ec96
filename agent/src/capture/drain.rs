//! Epoch swap, scan, merge over CPUs, clear. Knows nothing of windows or AWS.
//! Reading destroys nothing: the old half is cleared only when the caller says that what it held is safe.
#![forbid(unsafe_code)]

mod census;

use agent_common::drop::{Class, DropKey};
use agent_common::flow::{Entry4, Entry6, TIME_BITS, TIME_MASK, WAYS, WideCounters, WideKey};
use agent_common::interface::{AROUND, BEYOND, CAUSES, Cause, DROPS_SKIPPED, InterfaceEntry};
use agent_common::{Control, EGRESS};
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use super::clock::Reading;
use super::flow::{Buffers, Direction, Drained, Dropped, Flow, FlowKey, InterfaceTotals, Total, Verdict};
use super::sys::{self, GracePeriod, Mapped};
use super::tables::Tables;
use crate::fault;
pub use census::{Census, TableUse};

const WORD: usize = size_of::<u64>();
const WORDS4: usize = size_of::<Entry4>() / WORD;
const WORDS6: usize = size_of::<Entry6>() / WORD;
/// The word of an entry that is 0 only while it is free: `b`, or an interface's `key`.
const KEY_WORD4: usize = offset_of!(Entry4, b) / WORD;
const KEY_WORD6: usize = offset_of!(Entry6, b) / WORD;
const KEY_WORD_INTERFACE: usize = offset_of!(InterfaceEntry, key) / WORD;
const KEY_WORDS: usize = size_of::<WideKey>() / WORD;
const DROP_KEY_WORDS: usize = size_of::<DropKey>() / WORD;
const VALUE_WORDS: usize = size_of::<WideCounters>() / WORD;
const CONTROL_EPOCH: usize = offset_of!(Control, epoch) / WORD;
const CONTROL_DROP_EPOCH: usize = offset_of!(Control, drop_epoch) / WORD;
const WORDS_INTERFACE: usize = size_of::<InterfaceEntry>() / WORD;
const SEEN_WORD: usize = offset_of!(InterfaceEntry, seen) / WORD;
const CAUSES_WORD: usize = offset_of!(InterfaceEntry, causes) / WORD;
const BEYOND_WORD: usize = offset_of!(InterfaceEntry, beyond) / WORD;
const AROUND_WORD: usize = offset_of!(InterfaceEntry, around) / WORD;

/// One table's shape: `[epoch & 1][cpu][set][way]`.
#[derive(Clone, Copy)]
struct Shape {
    cpus: usize,
    sets: usize,
    entry_words: usize,
}

impl Shape {
    fn half_words(self) -> usize {
        self.cpus * self.sets * WAYS * self.entry_words
    }

    fn set_start(self, epoch: u32, cpu: usize, set: usize) -> usize {
        (epoch as usize & 1) * self.half_words() + (cpu * self.sets + set) * WAYS * self.entry_words
    }
}

fn direction(raw: u8) -> Direction {
    if raw == EGRESS { Direction::Egress } else { Direction::Ingress }
}

fn key(b: u64, src: IpAddr, dst: IpAddr) -> FlowKey {
    let high = (b >> 32) as u32;
    FlowKey {
        ifindex: high >> 9,
        direction: direction((high >> 8 & 1) as u8),
        verdict: Verdict::Accept,
        protocol: high as u8,
        src,
        dst,
        // The ports' bytes are in network order: the first two are the source port.
        src_port: u16::from_be(b as u16),
        dst_port: u16::from_be((b >> 16) as u16),
    }
}

fn flow(key: FlowKey, c: u64, d: u64, clock: &Reading) -> Flow {
    let first = clock.seconds_of_low(c & TIME_MASK);
    let last = clock.seconds_of_low(d & TIME_MASK);
    Flow {
        key,
        packets: d >> 32,
        bytes: c >> TIME_BITS,
        first,
        last: last.max(first),
        tcp_flags: (d >> TIME_BITS) as u8,
        reason: 0,
    }
}

fn v4(word: u64) -> IpAddr {
    // As loaded from the packet: the lowest byte of the word is the address's first.
    Ipv4Addr::from((word as u32).to_le_bytes()).into()
}

fn v6(words: [u64; 2]) -> IpAddr {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].to_le_bytes());
    Ipv6Addr::from(bytes).into()
}

/// The key in the words of a `WideKey`.
fn wide_key(wide: &[u64], verdict: Verdict) -> FlowKey {
    let word5 = wide[5] >> 32;
    let (src, dst) = if (word5 >> 16) as u8 == 4 {
        (v4(wide[0]), v4(wide[2]))
    } else {
        (v6([wide[0], wide[1]]), v6([wide[2], wide[3]]))
    };
    FlowKey {
        ifindex: (wide[4] >> 32) as u32,
        direction: direction((word5 >> 8) as u8),
        verdict,
        protocol: word5 as u8,
        src,
        dst,
        src_port: u16::from_be(wide[4] as u16),
        dst_port: u16::from_be((wide[4] >> 16) as u16),
    }
}

/// Whole counters: those of a `WideCounters`.
fn wide_flow(key: FlowKey, value: &[u64], clock: &Reading, tcp_flags: u8, reason: u16) -> Flow {
    let (first, last) = (clock.seconds(value[2]), clock.seconds(value[3]));
    Flow { key, packets: value[0], bytes: value[1], first, last: last.max(first), tcp_flags, reason }
}

/// A flow of the overflow hash, merged over the CPUs; none if no CPU has counted anything.
fn overflow_flow(wide: &[u64], values: &[u64], clock: &Reading) -> Option<Flow> {
    let key = wide_key(wide, Verdict::Accept);
    let used = values.chunks_exact(VALUE_WORDS).filter(|value| value[0] != 0);
    used.map(|value| wide_flow(key, value, clock, value[4] as u8, 0)).reduce(|mut all, one| {
        all.merge(&one);
        all
    })
}

/// Whether our classifier counts what is dropped for a reason of this class.
fn is_counted(class: u16, direction: Direction) -> bool {
    class == Class::BehindEgress as u16 || class == Class::Policy as u16 && direction == Direction::Ingress
}

/// A flow of the hash of rejected flows.
fn dropped(words: &[u64], value: &[u64], clock: &Reading) -> Dropped {
    let key = wide_key(words, Verdict::Reject);
    let (reason, flags, class) = (words[6] as u32, (words[6] >> 32) as u16, (words[6] >> 48) as u16);
    let reason = u16::try_from(reason).unwrap_or(u16::MAX);
    Dropped { flow: wide_flow(key, value, clock, flags as u8, reason), counted: is_counted(class, key.direction) }
}

fn relaxed(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Appends the flows of all CPUs, merged: all CPUs use the same set for a flow, so a set is searched alone.
/// `KEY_WORD` is the word of an entry that is 0 only while it is free.
fn scan<const WORDS: usize, const KEY_WORD: usize>(
    table: &Mapped,
    shape: Shape,
    epoch: u32,
    decode: impl Fn([u64; WORDS]) -> Flow,
    flows: &mut Vec<Flow>,
) {
    let (entries, _) = table.words().as_chunks::<WORDS>();
    for set in 0..shape.sets {
        let first_of_set = flows.len();
        for cpu in 0..shape.cpus {
            let first_of_cpu = flows.len();
            let start = shape.set_start(epoch, cpu, set) / WORDS;
            for entry in &entries[start..start + WAYS] {
                // Ways fill in order.
                if relaxed(&entry[KEY_WORD]) == 0 {
                    break;
                }
                let found = decode(entry.each_ref().map(relaxed));
                // A spilled entry keeps its key with nothing counted.
                if found.packets == 0 {
                    continue;
                }
                // Within one CPU keys are distinct.
                match flows[first_of_set..first_of_cpu].iter_mut().find(|flow| flow.key == found.key) {
                    Some(flow) => flow.merge(&found),
                    None => flows.push(found),
                }
            }
        }
    }
}

/// Zeroes the entries in use: ways fill in order, so behind the first free one there is nothing.
fn clear<const WORDS: usize, const KEY_WORD: usize>(table: &Mapped, shape: Shape, epoch: u32) {
    let (entries, _) = table.words().as_chunks::<WORDS>();
    let start = shape.set_start(epoch, 0, 0) / WORDS;
    for set in entries[start..start + shape.half_words() / WORDS].chunks_exact(WAYS) {
        for entry in set.iter().take_while(|entry| relaxed(&entry[KEY_WORD]) != 0) {
            for word in entry {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Entries in use among some of a CPU's sets, and how many entries were looked at.
fn sample(table: &Mapped, shape: Shape, epoch: u32, cpu: usize, key_word: usize, sets: usize) -> (usize, usize) {
    let step = (shape.sets / sets).max(1);
    let (mut used, mut slots) = (0, 0);
    for set in (0..shape.sets).step_by(step) {
        let start = shape.set_start(epoch, cpu, set);
        slots += WAYS;
        used += (0..WAYS).filter(|way| table.load(start + way * shape.entry_words + key_word) != 0).count();
    }
    (used, slots)
}

/// About how many entries of an epoch are in use, rather too many.
fn estimate(table: &Mapped, shape: Shape, epoch: u32, key_word: usize) -> usize {
    let of_cpu = |cpu| {
        let (used, slots) = sample(table, shape, epoch, cpu, key_word, SAMPLE_SETS);
        (used + used / 8) * shape.sets * WAYS / slots.max(1)
    };
    (0..shape.cpus).map(of_cpu).sum()
}

impl Tables {
    fn shape4(&self) -> Shape {
        Shape { cpus: self.sizes.cpus as usize, sets: self.sizes.sets4 as usize, entry_words: WORDS4 }
    }

    fn shape6(&self) -> Shape {
        Shape { cpus: self.sizes.cpus as usize, sets: self.sizes.sets6 as usize, entry_words: WORDS6 }
    }

    fn shape_interface(&self) -> Shape {
        Shape { cpus: self.sizes.cpus as usize, sets: self.sizes.sets_interface as usize, entry_words: WORDS_INTERFACE }
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.control.load(CONTROL_EPOCH) as u32
    }

    /// Lets the programs write the other half and waits until none writes the old one. Returns the old epoch.
    pub(crate) fn swap(&self, grace: &GracePeriod) -> Result<u32, Error> {
        let old = self.epoch();
        // First the packets' epoch, then the drops': a packet is counted and dropped within one RCU section, so after
        // the first wait every drop of a packet of the old epoch is in the old epoch of drops.
        for word in [CONTROL_EPOCH, CONTROL_DROP_EPOCH] {
            self.control.store(word, u64::from(old.wrapping_add(1)));
            grace.wait().map_err(|source| Error::Io { what: "wait for a grace period", source })?;
            // The first pass is between the two words.
            fault::point("switched");
        }
        Ok(old)
    }

    /// Reads an epoch that nobody writes any more, or the one that is written, as far as it is.
    pub(crate) fn read(&self, epoch: u32, clock: &Reading) -> Result<Drained, Error> {
        let (shape4, shape6) = (self.shape4(), self.shape6());
        let mut flows = Vec::with_capacity(
            estimate(&self.flow4, shape4, epoch, KEY_WORD4) + estimate(&self.flow6, shape6, epoch, KEY_WORD6),
        );
        sys::prefer_huge_pages(flows.spare_capacity_mut());
        let decode4 = |e: [u64; WORDS4]| flow(key(e[1], v4(e[0]), v4(e[0] >> 32)), e[2], e[3], clock);
        scan::<WORDS4, KEY_WORD4>(&self.flow4, shape4, epoch, decode4, &mut flows);
        let decode6 = |e: [u64; WORDS6]| flow(key(e[4], v6([e[0], e[1]]), v6([e[2], e[3]])), e[5], e[6], clock);
        scan::<WORDS6, KEY_WORD6>(&self.flow6, shape6, epoch, decode6, &mut flows);
        let overflow = self.read_overflow(epoch, clock)?;
        let drops = self.read_drops(epoch, clock)?;
        Ok(Drained { batches: vec![flows, overflow], totals: self.read_totals(epoch)?, drops })
    }

    fn read_overflow(&self, epoch: u32, clock: &Reading) -> Result<Vec<Flow>, Error> {
        let mut flows = Vec::new();
        sys::for_each(self.overflow_fd.as_fd(), KEY_WORDS, VALUE_WORDS * self.possible_cpus, |wide, values| {
            if wide[5] as u32 == epoch {
                flows.extend(overflow_flow(wide, values, clock));
            }
        })
        .map_err(|source| Error::Io { what: "read the overflow hash", source })?;
        Ok(flows)
    }

    fn read_drops(&self, epoch: u32, clock: &Reading) -> Result<Vec<Dropped>, Error> {
        let mut drops = Vec::new();
        sys::for_each(self.dropped_fd.as_fd(), DROP_KEY_WORDS, VALUE_WORDS, |words, value| {
            if words[5] as u32 == epoch {
                drops.push(dropped(words, value, clock));
            }
        })
        .map_err(|source| Error::Io { what: "read the hash of rejected flows", source })?;
        Ok(drops)
    }

    fn read_totals(&self, epoch: u32) -> Result<Vec<InterfaceTotals>, Error> {
        // [causes.., seen, drops skipped, beyond, around] by (ifindex, direction).
        let mut by_key: BTreeMap<(u32, u8), [Total; SUMS]> = BTreeMap::new();
        let shape = self.shape_interface();
        let half = (epoch as usize & 1) * shape.half_words();
        for start in (half..half + shape.half_words()).step_by(WORDS_INTERFACE) {
            if self.interfaces.load(start) == 0 {
                continue;
            }
            let entry = self.interface_entry(start);
            let sums = by_key.entry((entry[0] as u32, (entry[0] >> 32) as u8)).or_default();
            let count = |word: usize| Total { packets: entry[word], bytes: entry[word + 1] };
            sums[CAUSES] += count(SEEN_WORD);
            for (cause, sum) in sums.iter_mut().take(CAUSES).enumerate() {
                *sum += count(CAUSES_WORD + 2 * cause);
            }
            sums[BEYOND as usize] += count(BEYOND_WORD);
            sums[AROUND as usize].bytes += entry[AROUND_WORD];
        }
        for entry in self.interface_overflow.iter() {
            let ([ifindex, key_epoch, direction, cause], values) = entry?;
            if key_epoch == epoch {
                let sums = by_key.entry((ifindex, direction as u8)).or_default();
                for value in values.iter() {
                    sums[(cause as usize).min(SUMS - 1)] += Total { packets: value[0], bytes: value[1] };
                }
            }
        }
        Ok(by_key.into_iter().map(|((ifindex, dir), sums)| totals(ifindex, dir, &sums)).collect())
    }

    /// An interface's words, all of one moment where that can be had: of an epoch that is still written, what is read
    /// twice alike, and under a flood the last try.
    fn interface_entry(&self, start: usize) -> [u64; WORDS_INTERFACE] {
        let read = || std::array::from_fn(|word| self.interfaces.load(start + word));
        let mut entry = read();
        for _ in 0..READS_MAX {
            let again = read();
            if again == entry {
                break;
            }
            entry = again;
        }
        entry
    }

    /// Forgets an epoch.
    pub(crate) fn clear(&mut self, epoch: u32) -> Result<(), Error> {
        clear::<WORDS4, KEY_WORD4>(&self.flow4, self.shape4(), epoch);
        clear::<WORDS6, KEY_WORD6>(&self.flow6, self.shape6(), epoch);
        clear::<WORDS_INTERFACE, KEY_WORD_INTERFACE>(&self.interfaces, self.shape_interface(), epoch);
        let forget = |map: BorrowedFd<'_>, key_words: usize, value_words: usize| {
            let mut keys = Vec::new();
            sys::for_each(map, key_words, value_words, |key, _| {
                // The epoch is the low half of the same word in both kinds of key.
                if key[5] as u32 == epoch {
                    keys.extend_from_slice(key);
                }
            })
            .and_then(|()| sys::delete(map, key_words, &keys))
        };
        forget(self.overflow_fd.as_fd(), KEY_WORDS, VALUE_WORDS * self.possible_cpus)
            .map_err(|source| Error::Io { what: "clear the overflow hash", source })?;
        forget(self.dropped_fd.as_fd(), DROP_KEY_WORDS, VALUE_WORDS)
            .map_err(|source| Error::Io { what: "clear the hash of rejected flows", source })?;
        let keys: Vec<_> = self.interface_overflow.keys().collect::<Result<_, _>>()?;
        for key in keys.iter().filter(|key| key[1] == epoch) {
            self.interface_overflow.remove(key)?;
        }
        Ok(())
    }

    /// Whether the current epoch should be drained before its time: a sample of the sets is more than half full, or a
    /// quarter of a hash is in use. The kernel goes through all buckets of an empty hash.
    pub(crate) fn is_crowded(&self) -> bool {
        let epoch = self.epoch();
        // The fullest CPU decides: each fills its own part.
        let is_full = |table: &Mapped, shape: Shape, key_word: usize| {
            (0..shape.cpus).any(|cpu| {
                let used = |sets| sample(table, shape, epoch, cpu, key_word, sets);
                // A glance is enough, nearly always: a table that is half full never looks a quarter full.
                let (glanced, slots) = used(GLANCE_SETS);
                glanced * 4 > slots && {
                    let (used, slots) = used(SAMPLE_SETS);
                    used * 2 > slots
                }
            })
        };
        is_full(&self.flow4, self.shape4(), KEY_WORD4)
            || is_full(&self.flow6, self.shape6(), KEY_WORD6)
            || has_more(self.overflow.keys(), self.sizes.overflow / 4)
            || has_more(self.dropped.keys(), self.sizes.drops / 4)
    }
}

fn has_more<T>(keys: impl Iterator<Item = T>, than: u32) -> bool {
    keys.take(than as usize + 1).count() > than as usize
}

/// By `InterfaceKey::cause`.
const SUMS: usize = AROUND as usize + 1;

/// Of an interface's entry.
const READS_MAX: usize = 64;

/// Sets looked at to estimate how full a table is.
const SAMPLE_SETS: usize = 256;
/// 128 slots: of a half-full table a quarter is more than five standard deviations away.
const GLANCE_SETS: usize = 32;

fn totals(ifindex: u32, raw_direction: u8, sums: &[Total; SUMS]) -> InterfaceTotals {
    let of = |cause: Cause| sums[cause as usize];
    InterfaceTotals {
        ifindex,
        direction: direction(raw_direction),
        seen: sums[CAUSES],
        non_ip: of(Cause::NonIp),
        unparsable: [of(Cause::Truncated), of(Cause::BadHeader), of(Cause::LongChain)],
        skipped: of(Cause::Skipped),
        drops_skipped: sums[DROPS_SKIPPED as usize],
        buffers: Buffers { beyond: sums[BEYOND as usize], around: sums[AROUND as usize].bytes },
    }
}
