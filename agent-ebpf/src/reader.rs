//! Kernel-side readers of a packet: direct access for the fast path, `bpf_skb_load_bytes` for everything else.
#![allow(unsafe_code)]
use agent_common::interface::Cause;
use agent_ebpf_parse::packet::{Head, Packet};
use agent_ebpf_parse::parse::{self, Fragment};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use core::mem::{MaybeUninit, size_of};

/// The skb's linear area. A load outside it is `None`, and the slow path decides what that means.
pub struct Direct {
    data: usize,
    end: usize,
    len: u32,
}

impl Direct {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context pointer of a running classifier; the verifier checks these fields.
        unsafe { Self { data: (*skb).data as usize, end: (*skb).data_end as usize, len: (*skb).len } }
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let at = self.data + offset as usize;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: inside [data, data_end) by the check above, which the verifier proves again.
        Some(unsafe { *(at as *const T) })
    }
}

impl Packet for Direct {
    const WALKS: bool = false;

    agent_ebpf_parse::loads!();

    #[inline(always)]
    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        let at = self.data + offset as usize;
        if at + size_of::<Head<W, L>>() > self.end {
            return None;
        }
        // SAFETY: inside [data, data_end) by the check above. The kernel allows unaligned loads from packets where
        // the machine does (x86-64 and arm64, `BPF_F_STRICT_ALIGNMENT` elsewhere).
        unsafe { Some((*(at as *const [u32; W]), *((at + 4 * W) as *const [u64; L]))) }
    }
}

/// Copies out of the whole skb, paged data included. About 40 ns a load.
pub struct Copying {
    skb: *mut __sk_buff,
    len: u32,
}

impl Copying {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: as in `Direct::new`.
        let len = unsafe { (*skb).len };
        Self { skb, len }
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes size_of::<T>() bytes to the stack slot or fails; it is read only on success.
        unsafe {
            let failed = bpf_skb_load_bytes(self.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            if failed == 0 { Some(value.assume_init()) } else { None }
        }
    }
}

/// [`parse::walk`] in a function of its own, which the verifier checks once and not at every call: it is global, and
/// all that goes in and out but the context is numbers. `start`: offset of the first header, end of the packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_copying(skb: *mut __sk_buff, start: u64, first: u64) -> u64 {
    parse::pack_walk(parse::walk(&Copying::new(skb), (start >> 32) as u32, first as u8, start as u32))
}

impl Packet for Copying {
    const WALKS: bool = true;

    #[inline(always)]
    fn walk(&self, start: u32, first: u8, end: u32) -> Result<(u32, u8, Fragment), Cause> {
        parse::unpack_walk(walk_copying(self.skb, u64::from(start) << 32 | u64::from(end), u64::from(first)))
    }

    agent_ebpf_parse::loads!();

    #[inline(always)]
    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        self.load::<Head<W, L>>(offset).map(|head| head.joined())
    }
}
