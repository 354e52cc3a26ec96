//! The kernel's own verdicts: packets freed with a drop reason that a policy gave (`tp_btf/kfree_skb`).
//!
//! One program would miss drops: while it runs in process context a softirq may free another packet on the same CPU,
//! and the kernel does not run a program that is already running there. So two are attached. The first leaves the
//! packet's address in a slot of its nesting level and counts; the second counts only what it does not find there,
//! because then the first was not run. Both go on in one handler by a tail call, so that an upgrade replaces the
//! handler alone.
//!
//! A third runs before them and empties the interrupts' slot. An address that is left there, because the second was not
//! run, would else be found by the second for another packet, at the same address, for which the first was not run:
//! when one interrupt comes in the second's last instructions and the next in the first's first ones, where neither has
//! told of itself.
#![allow(unsafe_code)]
use agent_common::drop::{Class, DropKey, Loss, REASONS};
use agent_common::flow::{WideCounters, WideKey};
use agent_common::interface::{Count, DROPS_SKIPPED, InterfaceKey};
use agent_common::{EGRESS, INGRESS};
use agent_ebpf_parse::packet::Packet;
use agent_ebpf_parse::parse::{self, Fragment, Network, Part, Transport};
use agent_ebpf_parse::size::{self, Gso};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_jiffies64};
use aya_ebpf::programs::BtfTracePointContext;

use crate::atomic;
use crate::conntrack;
use crate::maps::{
    CONTROL, DROP_HANDLER, DROP_LOSSES, DROP_REASONS, DROPS, FRAGMENTS, FragmentKey, HAND_OFF, INTERFACE_OVERFLOW,
};
use crate::settings;
use crate::skb::{self, Area, Front, Probing, Typed};
use crate::wake;

/// Kernel stacks are 16 KiB where flowlogd runs (x86-64 and arm64, `THREAD_SIZE`).
const STACK_SIZE: u64 = 16 << 10;

const PROTOCOL_IPV4: u16 = 0x0800u16.to_be();
const PROTOCOL_IPV6: u16 = 0x86ddu16.to_be();
const PROTOCOL_VLAN: u16 = 0x8100u16.to_be();
const PROTOCOL_QINQ: u16 = 0x88a8u16.to_be();

/// Arguments of the tracepoint since Linux 5.17: skb, location, reason.
#[inline(always)]
fn skb_of(ctx: &BtfTracePointContext) -> Typed {
    Typed(ctx.arg::<*const u8>(0))
}

#[inline(always)]
fn reason_of(ctx: &BtfTracePointContext) -> u32 {
    ctx.arg::<u64>(2) as u32
}

/// The class of a reason; counts frees that are no policy's when `counts`.
#[inline(always)]
fn class(reason: u32, counts: bool) -> u32 {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let slot = if reason < REASONS { reason } else { REASONS - 1 };
    let Some(entry) = DROP_REASONS.get_ptr_mut(cpu * REASONS + slot) else { return Class::Other as u32 };
    // SAFETY: a live map value; this CPU's part, but for a nested drop that may lose an addition: these counts only
    // describe, nothing is computed from them.
    let entry = unsafe { &mut *entry };
    if entry.class == Class::Other as u32 && counts {
        entry.frees += 1;
    }
    entry.class
}

/// 0 in process context, 1 in an interrupt of it: is our context on the current task's stack?
#[inline(always)]
fn level(ctx: &BtfTracePointContext) -> usize {
    // SAFETY: a field of the running task.
    let stack = unsafe { Typed(bpf_get_current_task_btf() as *const u8).load::<u64>(settings::task_stack()) };
    usize::from(skb::address(ctx.as_ptr().cast()).wrapping_sub(stack) >= STACK_SIZE)
}

/// This CPU's slots: the packet that the first program has counted in process context, and in an interrupt of it.
#[inline(always)]
fn slots() -> Option<&'static mut [u64; 2]> {
    // SAFETY: no arguments.
    let slots = HAND_OFF.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })?;
    // SAFETY: a live map value of this CPU; each nesting level has a slot of its own.
    Some(unsafe { &mut *slots })
}

/// Attached first, and run for every free: what an interrupt left behind is there whatever the next free's reason.
#[inline(always)]
pub fn forget() {
    if let Some(slots) = slots() {
        // SAFETY: volatile because a nested program writes it.
        unsafe { core::ptr::write_volatile(&raw mut slots[1], 0) };
    }
}

/// Says at our level that the first program has counted this packet.
#[inline(always)]
fn leave(slots: &mut [u64; 2], level: usize, skb: u64) {
    // SAFETY: volatile because a nested program writes the other slot.
    unsafe { core::ptr::write_volatile(slots.as_mut_ptr().add(level & 1), skb) }
}

/// Whether the first program has counted this packet. The level need not be known: a packet that is being freed in
/// process context is not freed in an interrupt of it, so it is in the slot of its own level or in none.
#[inline(always)]
fn take(slots: &mut [u64; 2], skb: u64) -> bool {
    let [process, interrupt] = slots;
    // SAFETY: as in `leave`.
    unsafe {
        let is_process = core::ptr::read_volatile(process) == skb;
        let known = is_process || core::ptr::read_volatile(interrupt) == skb;
        if is_process {
            core::ptr::write_volatile(process, 0);
        }
        core::ptr::write_volatile(interrupt, 0);
        known
    }
}

/// Attached twice, see the module.
#[inline(always)]
pub fn stub<const SECOND: bool>(ctx: &BtfTracePointContext) {
    if class(reason_of(ctx), !SECOND) == Class::Other as u32 {
        return;
    }
    let Some(slots) = slots() else { return };
    let skb = ctx.arg::<u64>(0);
    if SECOND {
        if take(slots, skb) {
            return;
        }
    } else {
        leave(slots, level(ctx), skb);
    }
    // SAFETY: fails only on an empty slot, and it is filled before this is attached.
    unsafe {
        let _ = DROP_HANDLER.tail_call(ctx, 0);
    }
}

/// Counts one packet that a policy dropped.
#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    if let Err(loss) = count(skb_of(ctx), reason_of(ctx)) {
        lose(loss);
    }
}

#[inline(always)]
fn lose(loss: Loss) {
    if let Some(count) = DROP_LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: a live map value.
        unsafe { atomic::add(count, 1) };
    }
}

#[inline(always)]
fn count(skb: Typed, reason: u32) -> Result<(), Loss> {
    // The class was looked up by the stub; here it goes into the key.
    let class = class(reason, false) as u16;
    // SAFETY: fields of sk_buff.
    let (mut arrived_on, protocol) =
        unsafe { (skb.load::<u32>(settings::skb_iif()), skb.load::<u16>(settings::skb_protocol())) };
    if class == Class::BehindEgress as u16 {
        // Counted where it goes out, also when it came in by another interface of this host.
        arrived_on = 0;
    }
    let device = skb::device(skb, arrived_on == 0).ok_or(Loss::NoInterface)?;
    if device.namespace != settings::namespace() {
        return Err(Loss::OtherNamespace);
    }
    // A packet that arrived keeps its interface until it is sent on, and is dropped there; others are on their way out.
    let (ifindex, direction) = if arrived_on != 0 { (arrived_on, INGRESS) } else { (device.ifindex, EGRESS) };
    if !matches!(protocol, PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_VLAN | PROTOCOL_QINQ) {
        return Err(Loss::Unparsable);
    }
    let area = Area::of(skb);
    let packet = Probing::new(skb, &area).ok_or(Loss::Unparsable)?;
    let gso = area.gso();
    let mut key = DropKey { reason, class, ..DropKey::default() };
    key.flow.ifindex = ifindex;
    key.flow.direction = direction;
    let plain = Front::of(&packet).and_then(|front| headers(&front, gso, &mut key.flow));
    let parsed = plain.or_else(|| headers(&packet, gso, &mut key.flow));
    let (network, transport) = parsed.ok_or(Loss::Unparsable)?;
    key.flow.protocol = transport.protocol;
    key.flow.ports = ports(&key.flow, &transport);
    key.flags = u16::from(transport.flags);
    if direction == INGRESS {
        conntrack::restore(skb, &mut key.flow);
    }
    let (packets, bytes) = wire(&packet, network, &transport, gso);
    add(&mut key, packets, bytes);
    Ok(())
}

/// Puts a packet's addresses into `flow`.
#[inline(always)]
fn headers<P: Packet>(packet: &P, gso: Gso, flow: &mut WideKey) -> Option<(Network, Transport)> {
    let network = parse::bare(packet).ok()?;
    let transport = match network {
        Network::V4(l3) => {
            let ip = parse::ipv4(packet, l3, gso.size != 0).ok()?;
            flow.src[0] = ip.addresses & 0xffff_ffff;
            flow.dst[0] = ip.addresses >> 32;
            flow.family = 4;
            ip.transport
        }
        Network::V6(l3) => {
            let ip = parse::ipv6(packet, l3, gso.size != 0).ok()?;
            flow.src = ip.src;
            flow.dst = ip.dst;
            flow.family = 6;
            ip.transport
        }
    };
    Some((network, transport))
}

/// The ports of a later fragment are those that its first one left behind.
#[inline(always)]
fn ports(flow: &WideKey, transport: &Transport) -> u32 {
    let Fragment { part: Part::Later, id } = transport.fragment else { return transport.ports };
    let key = FragmentKey { src: flow.src, dst: flow.dst, id, protocol: transport.protocol, reserved: [0; 3] };
    // SAFETY: as in `classify::fragment`.
    FRAGMENTS.get_ptr(&key).map_or(0, |ports| unsafe { *ports })
}

/// Wire packets and IP bytes, as on ingress: nothing has summed up the segments of a packet on its way out yet.
#[inline(always)]
fn wire(packet: &Probing, network: Network, transport: &Transport, gso: Gso) -> (u32, u64) {
    if gso.size == 0 {
        return (1, u64::from(transport.ip_len));
    }
    let jumbo = if transport.jumbo { 8 } else { 0 };
    let headers = size::header_len(packet, network).unwrap_or(0).saturating_sub(jumbo);
    size::segments(transport.ip_len - jumbo, headers, gso)
}

/// Adds to the flow's counters. A shared hash and atomic additions: a nested drop may be of the same flow.
#[inline(never)]
fn add(key: &mut DropKey, packets: u32, bytes: u64) {
    let epoch = match CONTROL.get_ptr(0) {
        // SAFETY: a live map value; volatile because user space writes it.
        Some(control) => unsafe { core::ptr::read_volatile(&raw const (*control).drop_epoch) as u32 },
        None => 0,
    };
    key.flow.epoch = epoch;
    // SAFETY: no arguments.
    let now = unsafe { bpf_jiffies64() >> settings::time_shift() };
    let mut found = DROPS.get_ptr_mut(&*key);
    if found.is_none() {
        let fresh = WideCounters { packets: u64::from(packets), bytes, first: now, last: now, flags: 0 };
        if DROPS.insert(&*key, &fresh, u64::from(BPF_NOEXIST)).is_ok() {
            wake::refused();
            return;
        }
        // Another CPU was faster, or there is no room.
        found = DROPS.get_ptr_mut(&*key);
    }
    if let Some(value) = found {
        // SAFETY: a live map value; nobody deletes keys of the current epoch.
        unsafe {
            atomic::add(&raw mut (*value).packets, u64::from(packets));
            atomic::add(&raw mut (*value).bytes, bytes);
            core::ptr::write_volatile(&raw mut (*value).last, now);
        }
        return;
    }
    lose(Loss::NoRoom);
    skipped(&key.flow, packets, bytes);
}

/// Says at the interface that a rejected packet found no room.
#[inline(always)]
fn skipped(flow: &WideKey, packets: u32, bytes: u64) {
    let WideKey { ifindex, epoch, direction, .. } = *flow;
    let key = InterfaceKey { ifindex, epoch, direction: u32::from(direction), cause: DROPS_SKIPPED };
    if INTERFACE_OVERFLOW.get_ptr_mut(&key).is_none() {
        // A failed insert is another CPU's success, or no room; the look-up below tells.
        let _ = INTERFACE_OVERFLOW.insert(&key, &Count { packets: 0, bytes: 0 }, u64::from(BPF_NOEXIST));
    }
    if let Some(value) = INTERFACE_OVERFLOW.get_ptr_mut(&key) {
        // SAFETY: a live map value; atomic because a nested drop writes the same slot.
        unsafe {
            atomic::add(&raw mut (*value).packets, u64::from(packets));
            atomic::add(&raw mut (*value).bytes, bytes);
        }
    }
}
