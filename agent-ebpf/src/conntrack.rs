//! What a packet was called when it arrived: address translation has changed it before most hooks can refuse it, and
//! our classifier counted it under its first name. Connection tracking knows both.
#![allow(unsafe_code)]
use agent_common::flow::WideKey;

use crate::settings;
use crate::skb::{Typed, probe};

/// The low bits of `sk_buff._nfct` are an `enum ip_conntrack_info`, the others a pointer to a `struct nf_conn`
/// (include/linux/skbuff.h).
const INFO_MASK: u64 = 7;
/// From here on the packet goes in the direction of replies.
const REPLY: u64 = 3;
/// In each direction: an error message about the connection, and not of it.
const RELATED: u64 = 1;

/// `struct nf_conntrack_tuple`, whose layout user space has compared with the kernel's.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tuple {
    src: [u32; 4],
    src_port: u16,
    /// An address family's number.
    family: u16,
    dst: [u32; 4],
    dst_port: u16,
    protocol: u8,
    direction: u8,
}

const FAMILY_IPV4: u16 = 2;
const FAMILY_IPV6: u16 = 10;

/// Puts back the addresses and ports that the packet arrived with. Without translation they are what they were.
#[inline(always)]
pub fn restore(skb: Typed, flow: &mut WideKey) {
    if settings::conn_tuple() == 0 {
        return;
    }
    // SAFETY: a field of sk_buff.
    let tracked = unsafe { skb.load::<u64>(settings::skb_nfct()) };
    let (connection, info) = (tracked & !INFO_MASK, tracked & INFO_MASK);
    if connection == 0 || info % REPLY == RELATED {
        return;
    }
    let of_direction = if info >= REPLY { settings::conn_tuple_size() } else { 0 };
    let Some(tuple) = probe::<Tuple>(connection + u64::from(settings::conn_tuple()) + u64::from(of_direction)) else {
        return;
    };
    if tuple.protocol != flow.protocol {
        return;
    }
    match (tuple.family, flow.family) {
        (FAMILY_IPV4, 4) => {
            flow.src[0] = u64::from(tuple.src[0]);
            flow.dst[0] = u64::from(tuple.dst[0]);
        }
        (FAMILY_IPV6, 6) => {
            flow.src = words(&tuple.src);
            flow.dst = words(&tuple.dst);
        }
        _ => return,
    }
    // Protocols without ports have other numbers there.
    if flow.ports != 0 {
        flow.ports = u32::from(tuple.src_port) | u32::from(tuple.dst_port) << 16;
    }
}

#[inline(always)]
fn words(address: &[u32; 4]) -> [u64; 2] {
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [word(address[0], address[1]), word(address[2], address[3])]
}
