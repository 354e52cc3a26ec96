//! Find or insert a flow, add to it. A full set overflows into a hash; what finds no room there is "skipped".
//! Knows nothing of packets.
#![allow(unsafe_code)]
use crate::maps::{CLOCK, CONTROL, FLOW4, FLOW6, INTERFACE_OVERFLOW, INTERFACES, OVERFLOW};
use crate::settings;
use crate::wake;
use crate::warn;
use agent_common::flow::{Entry4, Entry6, IFINDEX_MAX, Packed, TIME_BITS, TIME_MASK, WideCounters, WideKey, pack_b};
use agent_common::interface::{AROUND, BEYOND, Cause, Count, InterfaceEntry, InterfaceKey, SEEN};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_jiffies64};

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;

/// The epoch of a packet and this CPU's part of its half of every table.
#[derive(Clone, Copy)]
pub struct Place {
    pub epoch: u32,
    part: u32,
}

impl Place {
    /// The current epoch, on this CPU.
    #[inline(always)]
    pub fn now() -> Self {
        let epoch = match CONTROL.get_ptr(0) {
            // SAFETY: a live map value; volatile because user space writes it. One word, so never torn.
            Some(control) => unsafe { core::ptr::read_volatile(&raw const (*control).epoch) as u32 },
            // The array has one element; the verifier wants this branch.
            None => 0,
        };
        // SAFETY: no arguments; inlined to a load.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        Self { epoch, part: (epoch & 1) * settings::cpus() + cpu }
    }
}

/// One packet's place and size.
#[derive(Clone, Copy)]
pub struct Sample {
    pub place: Place,
    pub ifindex: u32,
    pub direction: u8,
    pub protocol: u8,
    pub flags: u8,
    pub ports: u32,
    pub packets: u32,
    pub bytes: u64,
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments; inlined to a load on 64-bit machines.
    unsafe { bpf_jiffies64() >> settings::time_shift() }
}

#[inline(always)]
fn hash(a: u64, b: u64) -> u64 {
    let h = (a ^ settings::seed()).wrapping_mul(K1);
    (h ^ (h >> 32) ^ b).wrapping_mul(K2)
}

/// Adds to an entry's counters.
#[inline(always)]
fn add(n: &mut Packed, sample: &Sample, now: u64) {
    n.c += sample.bytes << TIME_BITS;
    n.d =
        (n.d & !TIME_MASK | now & TIME_MASK | u64::from(sample.flags) << TIME_BITS) + (u64::from(sample.packets) << 32);
}

#[inline(always)]
fn fresh(sample: &Sample, now: u64) -> Packed {
    let now = now & TIME_MASK;
    Packed {
        c: sample.bytes << TIME_BITS | now,
        d: u64::from(sample.packets) << 32 | u64::from(sample.flags) << TIME_BITS | now,
    }
}

/// Half of a counter's bits are used up: move it out before it can wrap.
#[inline(always)]
fn half_full(n: &Packed) -> bool {
    ((n.c | n.d) as i64) < 0
}

/// Counts an IPv4 packet under its flow; false when the flow's set is full. `sample` must never be lent to a function
/// that is not inlined: then the fast path keeps it in registers.
#[inline(always)]
pub fn flow4(addresses: u64, sample: &Sample) -> bool {
    if sample.ifindex >= IFINDEX_MAX {
        return false;
    }
    let b = pack_b(sample.ports, sample.protocol, sample.direction, sample.ifindex);
    let index = sample.place.part * settings::sets4() + (hash(addresses, b) >> settings::shift4()) as u32;
    let Some(set) = FLOW4.get_ptr_mut(index) else { return false };
    let now = now();
    macro_rules! way {
        ($i:literal, $then:expr) => {
            // SAFETY: the set is this CPU's alone; the index is below WAYS.
            let entry: &mut Entry4 = unsafe { &mut *set.cast::<Entry4>().add($i) };
            if entry.a == addresses && entry.b == b {
                add(&mut entry.n, sample, now);
                if half_full(&entry.n) {
                    spill4(entry, sample.place.epoch);
                }
                return true;
            }
            if entry.b == 0 {
                *entry = Entry4 { a: addresses, b, n: fresh(sample, now) };
                $then;
                return true;
            }
        };
    }
    way!(0, {});
    way!(1, {});
    way!(2, {});
    way!(3, wake::set_full(sample.place.epoch));
    false
}

/// As [`flow4`], of an IPv6 packet.
#[inline(always)]
pub fn flow6(src: [u64; 2], dst: [u64; 2], sample: &Sample) -> bool {
    if sample.ifindex >= IFINDEX_MAX {
        return false;
    }
    let b = pack_b(sample.ports, sample.protocol, sample.direction, sample.ifindex);
    // Each word is multiplied on its own, so that equal words in source and destination do not cancel.
    let mixed = src[0].wrapping_mul(K2) ^ src[1].rotate_left(16) ^ dst[0].wrapping_mul(K1) ^ dst[1].rotate_left(40);
    let index = sample.place.part * settings::sets6() + (hash(mixed, b) >> settings::shift6()) as u32;
    let Some(set) = FLOW6.get_ptr_mut(index) else { return false };
    let now = now();
    macro_rules! way {
        ($i:literal, $then:expr) => {
            // SAFETY: as in `flow4`.
            let entry: &mut Entry6 = unsafe { &mut *set.cast::<Entry6>().add($i) };
            if entry.b == b
                && entry.src[0] == src[0]
                && entry.src[1] == src[1]
                && entry.dst[0] == dst[0]
                && entry.dst[1] == dst[1]
            {
                add(&mut entry.n, sample, now);
                if half_full(&entry.n) {
                    spill6(entry, sample.place.epoch);
                }
                return true;
            }
            if entry.b == 0 {
                *entry = Entry6 { src, dst, b, n: fresh(sample, now), reserved: 0 };
                $then;
                return true;
            }
        };
    }
    way!(0, {});
    way!(1, {});
    way!(2, {});
    way!(3, wake::set_full(sample.place.epoch));
    false
}

/// Moves a half-full entry's counters to the overflow hash. No room there: they stay, and the next packet tries
/// again; the other half of the bits lasts for 2^31 more packets.
#[inline(never)]
fn spill4(entry: &mut Entry4, epoch: u32) {
    let key = spilled([entry.a & 0xffff_ffff, 0], [entry.a >> 32, 0], entry.b, epoch, 4);
    if wide(&key, &unpacked(&entry.n)) {
        entry.n.c &= TIME_MASK;
        entry.n.d &= TIME_MASK;
    }
}

#[inline(never)]
fn spill6(entry: &mut Entry6, epoch: u32) {
    let key = spilled(entry.src, entry.dst, entry.b, epoch, 6);
    if wide(&key, &unpacked(&entry.n)) {
        entry.n.c &= TIME_MASK;
        entry.n.d &= TIME_MASK;
    }
}

/// The wide key of an entry with this `b`, see [`pack_b`].
#[inline(always)]
fn spilled(src: [u64; 2], dst: [u64; 2], b: u64, epoch: u32, family: u8) -> WideKey {
    let high = (b >> 32) as u32;
    let (protocol, direction) = (high as u8, (high >> 8 & 1) as u8);
    WideKey { src, dst, ports: b as u32, ifindex: high >> 9, epoch, protocol, direction, family, reserved: 0 }
}

#[inline(always)]
fn unpacked(n: &Packed) -> WideCounters {
    // Whole times: the entry's 24 bits are the low bits of a time not after now.
    let now = now();
    let whole = |low: u64| now - (now.wrapping_sub(low) & TIME_MASK);
    WideCounters {
        packets: n.d >> 32,
        bytes: n.c >> TIME_BITS,
        first: whole(n.c & TIME_MASK),
        last: whole(n.d & TIME_MASK),
        flags: n.d >> TIME_BITS & 0xff,
    }
}

#[inline(always)]
pub fn wide4(addresses: u64, sample: &Sample) -> WideKey {
    WideKey {
        src: [addresses & 0xffff_ffff, 0],
        dst: [addresses >> 32, 0],
        ports: sample.ports,
        ifindex: sample.ifindex,
        epoch: sample.place.epoch,
        protocol: sample.protocol,
        direction: sample.direction,
        family: 4,
        reserved: 0,
    }
}

#[inline(always)]
pub fn wide6(src: [u64; 2], dst: [u64; 2], sample: &Sample) -> WideKey {
    WideKey {
        src,
        dst,
        ports: sample.ports,
        ifindex: sample.ifindex,
        epoch: sample.place.epoch,
        protocol: sample.protocol,
        direction: sample.direction,
        family: 6,
        reserved: 0,
    }
}

/// One packet's share, for a hash.
#[inline(always)]
pub fn counters(sample: &Sample) -> WideCounters {
    let now = now();
    WideCounters {
        packets: u64::from(sample.packets),
        bytes: sample.bytes,
        first: now,
        last: now,
        flags: u64::from(sample.flags),
    }
}

/// Counts a packet whose set is full.
#[inline(never)]
pub fn overflow(key: &WideKey, sample: &Sample) {
    if !wide(key, &counters(sample)) {
        interface_cause(sample, Cause::Skipped);
        warn::no_room(warn::Table::Flows, sample.ifindex, sample.place.epoch);
    }
}

/// Adds to this CPU's value of the overflow hash; false when there is no room.
#[inline(always)]
fn wide(key: &WideKey, counters: &WideCounters) -> bool {
    if let Some(value) = OVERFLOW.get_ptr_mut(key) {
        // SAFETY: this CPU's own slot, softirqs are off.
        merge(unsafe { &mut *value }, counters);
        return true;
    }
    if OVERFLOW.insert(key, counters, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    // Another CPU was faster: the key is there now, with zeros for this CPU. Anything else is "no room".
    match OVERFLOW.get_ptr_mut(key) {
        Some(value) => {
            // SAFETY: as above.
            merge(unsafe { &mut *value }, counters);
            true
        }
        None => false,
    }
}

#[inline(always)]
pub fn merge(value: &mut WideCounters, counters: &WideCounters) {
    // Another CPU's insert leaves zeros here: no time yet.
    if value.packets == 0 {
        value.first = counters.first;
    }
    value.packets += counters.packets;
    value.bytes += counters.bytes;
    value.last = counters.last;
    value.flags |= counters.flags;
}

/// Finds this CPU's totals of the packet's interface.
#[inline(always)]
fn interface(sample: &Sample) -> Option<&'static mut InterfaceEntry> {
    let sets = settings::sets_interface();
    let key = u64::from(sample.ifindex) | u64::from(sample.direction) << 32;
    // Both directions of an interface get neighbouring sets.
    let set = (sample.ifindex << 1 | u32::from(sample.direction)) & (sets - 1);
    let set = INTERFACES.get_ptr_mut(sample.place.part * sets + set)?;
    macro_rules! way {
        ($i:literal) => {
            // SAFETY: the set is this CPU's alone; the index is below the number of ways.
            let entry = unsafe { &mut *set.cast::<InterfaceEntry>().add($i) };
            if entry.key == key {
                return Some(entry);
            }
            if entry.key == 0 {
                entry.key = key;
                return Some(entry);
            }
        };
    }
    way!(0);
    way!(1);
    way!(2);
    way!(3);
    None
}

/// Counts a packet as seen at its interface. As [`flow4`], never lends `sample`.
#[inline(always)]
pub fn seen(sample: &Sample) {
    match interface(sample) {
        Some(entry) => {
            entry.seen.packets += u64::from(sample.packets);
            entry.seen.bytes += sample.bytes;
        }
        None => crowded_interface(sample, SEEN),
    }
}

/// As [`seen`], of a packet that is not one whole buffer of `buffer` bytes behind the link-layer header. What differs is
/// counted first: who reads the entry meanwhile finds too much of it rather than too little.
#[inline(never)]
pub fn seen_as(sample: &Sample, buffer: u32) {
    let buffer = u64::from(buffer);
    let beyond =
        Count { packets: u64::from(sample.packets.saturating_sub(1)), bytes: sample.bytes.saturating_sub(buffer) };
    let around = buffer.saturating_sub(sample.bytes);
    match interface(sample) {
        Some(entry) => {
            entry.beyond.packets += beyond.packets;
            entry.beyond.bytes += beyond.bytes;
            entry.around += around;
            entry.seen.packets += u64::from(sample.packets);
            entry.seen.bytes += sample.bytes;
        }
        None => {
            let of = |what: u32| u64::from(sample.direction) | u64::from(what) << 32;
            let (ifindex, epoch) = (sample.ifindex, sample.place.epoch);
            interface_overflow(ifindex, epoch, of(BEYOND), sample.packets.saturating_sub(1), beyond.bytes);
            interface_overflow(ifindex, epoch, of(AROUND), 0, around);
            interface_overflow(ifindex, epoch, of(SEEN), sample.packets, sample.bytes);
        }
    }
}

/// Counts why a packet is in no flow.
#[inline(always)]
pub fn interface_cause(sample: &Sample, cause: Cause) {
    match interface(sample) {
        Some(entry) => {
            if let Some(count) = entry.causes.get_mut(cause as usize) {
                count.packets += u64::from(sample.packets);
                count.bytes += sample.bytes;
            }
        }
        None => crowded_interface(sample, cause as u32),
    }
}

#[inline(always)]
fn crowded_interface(sample: &Sample, cause: u32) {
    let direction_and_cause = u64::from(sample.direction) | u64::from(cause) << 32;
    interface_overflow(sample.ifindex, sample.place.epoch, direction_and_cause, sample.packets, sample.bytes);
}

#[inline(never)]
fn interface_overflow(ifindex: u32, epoch: u32, direction_and_cause: u64, packets: u32, bytes: u64) {
    let (direction, cause) = (direction_and_cause as u32, (direction_and_cause >> 32) as u32);
    let key = InterfaceKey { ifindex, epoch, direction, cause };
    if INTERFACE_OVERFLOW.get_ptr_mut(&key).is_none() {
        // A failed insert is another CPU's success, or no room; the look-up below tells.
        let _ = INTERFACE_OVERFLOW.insert(&key, &Count { packets: 0, bytes: 0 }, u64::from(BPF_NOEXIST));
    }
    if let Some(value) = INTERFACE_OVERFLOW.get_ptr_mut(&key) {
        // SAFETY: this CPU's own slot, softirqs are off.
        let value = unsafe { &mut *value };
        value.packets += u64::from(packets);
        value.bytes += bytes;
        return;
    }
    warn::no_room(warn::Table::Interfaces, ifindex, epoch);
}

/// Leaves the current jiffies for user space.
#[inline(always)]
pub fn clock() {
    if let Some(value) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a live map value; inlined helper without arguments.
        unsafe { *value = bpf_jiffies64() };
    }
}
