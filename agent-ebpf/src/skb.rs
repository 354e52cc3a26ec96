//! A `struct sk_buff` as tracepoints get it: where it belongs and its network header. Every offset comes from the
//! running kernel's BTF.
#![allow(unsafe_code)]
use agent_common::interface::Cause;
use agent_ebpf_parse::packet::{Head, Packet};
use agent_ebpf_parse::parse::{self, Fragment};
use agent_ebpf_parse::size::Gso;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::arch::asm;
use core::mem::{MaybeUninit, size_of};

use crate::settings;

/// Reads kernel memory that the verifier knows nothing of; a bad address is `None`.
#[inline(always)]
pub fn probe<T: Copy>(at: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes size_of::<T>() bytes or fails; the value is read only on success.
    unsafe {
        let failed = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, at as *const _);
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}

/// The address in a pointer, as a number to the verifier. It allows no arithmetic on most pointers, and a kernel since
/// 6.17 takes more for pointers than older ones; but to negate one (with CAP_PERFMON) gives a number in all.
#[inline(always)]
pub fn address(pointer: *const u8) -> u64 {
    let mut number = pointer as u64;
    // SAFETY: changes a register, twice to what it was.
    unsafe { asm!("{0} = -{0}", "{0} = -{0}", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// A pointer that the verifier knows the type of: loads through it need no helper and cannot fault.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

impl Typed {
    /// # Safety
    /// The verifier must know a field of this type at `offset`, else the program does not load.
    #[inline(always)]
    pub unsafe fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: checked by the verifier against the kernel's BTF; a stale pointer reads zeros.
        unsafe { core::ptr::read_volatile(self.0.add(offset as usize).cast::<T>()) }
    }
}

/// Interface and network namespace of a `struct net_device`.
#[derive(Clone, Copy)]
pub struct Device {
    pub ifindex: u32,
    pub namespace: u32,
}

/// The kernel's number of `lo` in every namespace (include/net/flow.h).
const LOOPBACK: u32 = 1;

/// The device that the packet is on, or the route's for a packet on its way out that has none yet. IPv6 `reject`
/// writes the loopback device into such a packet (net/ipv6/netfilter/nf_reject_ipv6.c), so the route is asked then too.
#[inline(always)]
pub fn device(skb: Typed, outgoing: bool) -> Option<Device> {
    let device = own_device(skb);
    match device {
        Some(found) if !outgoing || found.ifindex != LOOPBACK => device,
        _ => route_device(skb).or(device),
    }
}

#[inline(always)]
fn own_device(skb: Typed) -> Option<Device> {
    // SAFETY: sk_buff.dev is a pointer to a net_device, whose fields and those of possible_net_t and net these are.
    unsafe {
        let device = Typed(skb.load::<*const u8>(settings::skb_dev()));
        if device.0.is_null() {
            return None;
        }
        let net = Typed(device.load::<*const u8>(settings::dev_net()));
        if net.0.is_null() {
            return None;
        }
        let (ifindex, namespace) = (device.load(settings::dev_ifindex()), net.load(settings::net_inum()));
        Some(Device { ifindex, namespace })
    }
}

#[inline(always)]
fn route_device(skb: Typed) -> Option<Device> {
    // SAFETY: sk_buff._skb_refdst, a pointer whose lowest bit says whether it is counted.
    let route = unsafe { skb.load::<u64>(settings::skb_refdst()) } & !1;
    if route == 0 {
        return None;
    }
    let device: u64 = probe(route + u64::from(settings::dst_dev()))?;
    let net: u64 = probe(device + u64::from(settings::dev_net()))?;
    Some(Device {
        ifindex: probe(device + u64::from(settings::dev_ifindex()))?,
        namespace: probe(net + u64::from(settings::net_inum()))?,
    })
}

/// Where the packet's bytes are. Offsets count from `head`.
#[derive(Clone, Copy)]
pub struct Area {
    tail: u32,
    end: u32,
    head: u64,
    data: u64,
}

impl Area {
    #[inline(always)]
    pub fn of(skb: Typed) -> Self {
        // SAFETY: fields of sk_buff; `tail` and `end` are offsets on 64-bit machines.
        unsafe {
            Self {
                tail: skb.load(settings::skb_tail()),
                end: skb.load(settings::skb_end()),
                head: address(skb.load(settings::skb_head())),
                data: address(skb.load(settings::skb_data())),
            }
        }
    }

    /// What `struct skb_shared_info`, at the end of the linear area, says of segments.
    #[inline(always)]
    pub fn gso(&self) -> Gso {
        let info = self.head + u64::from(self.end);
        // Side by side, as user space has made sure.
        let [size, segments] = probe::<[u16; 2]>(info + u64::from(settings::info_gso_size())).unwrap_or_default();
        Gso { size: u32::from(size), segments: u32::from(segments) }
    }
}

/// The linear area from the network header on.
pub struct Probing {
    base: u64,
    /// Length of the packet from there.
    len: u32,
    linear: u32,
}

impl Probing {
    /// None when the network header is outside the linear area.
    #[inline(always)]
    pub fn new(skb: Typed, area: &Area) -> Option<Self> {
        // SAFETY: fields of sk_buff.
        let (network, len) = unsafe {
            (u32::from(skb.load::<u16>(settings::skb_network_header())), skb.load::<u32>(settings::skb_len()))
        };
        if network >= area.tail {
            return None;
        }
        // `len` counts from `data`, which may be before the network header or behind it.
        let data = (area.data - area.head) as u32;
        let len = len.wrapping_add(data).wrapping_sub(network);
        Some(Self { base: area.head + u64::from(network), len, linear: area.tail - network })
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset + size_of::<T>() as u32 > self.linear {
            return None;
        }
        probe(self.base + u64::from(offset))
    }
}

/// Bytes of the longest headers without options: IPv6, and TCP up to its flags.
const FRONT_WORDS: usize = (40 + 16) / 4;

/// The front of a packet, read at once: a helper's call costs more than the bytes. For headers whose place is known.
pub struct Front {
    words: [u32; FRONT_WORDS],
    len: u32,
    linear: u32,
}

impl Front {
    /// What lies behind a shorter packet is read too, and not used: the area ends in `skb_shared_info`, which is longer.
    #[inline(always)]
    pub fn of(packet: &Probing) -> Option<Self> {
        Some(Self { words: probe(packet.base)?, len: packet.len, linear: packet.linear })
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let end = offset + size_of::<T>() as u32;
        if end > self.linear || end as usize > size_of_val(&self.words) {
            return None;
        }
        // SAFETY: inside `words` by the check above.
        Some(unsafe { self.words.as_ptr().cast::<u8>().add(offset as usize).cast::<T>().read_unaligned() })
    }
}

impl Packet for Front {
    const WALKS: bool = false;

    agent_ebpf_parse::loads!();

    #[inline(always)]
    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        self.load::<Head<W, L>>(offset).map(|head| head.joined())
    }
}

/// [`parse::walk`] in a function of its own, which the verifier checks once and not at every call: it is global, and
/// all that goes in and out is numbers. `limits`: length of the packet, of its linear area. `start`: offset of the
/// first header, end of the packet, number of the first header (8 bits).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_probing(base: u64, limits: u64, start: u64, first: u64) -> u64 {
    let packet = Probing { base, len: (limits >> 32) as u32, linear: limits as u32 };
    parse::pack_walk(parse::walk(&packet, (start >> 32) as u32, first as u8, start as u32))
}

impl Packet for Probing {
    const WALKS: bool = true;

    #[inline(always)]
    fn walk(&self, start: u32, first: u8, end: u32) -> Result<(u32, u8, Fragment), Cause> {
        let limits = u64::from(self.len) << 32 | u64::from(self.linear);
        let start = u64::from(start) << 32 | u64::from(end);
        parse::unpack_walk(walk_probing(self.base, limits, start, u64::from(first)))
    }

    agent_ebpf_parse::loads!();

    #[inline(always)]
    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        self.load::<Head<W, L>>(offset).map(|head| head.joined())
    }
}
