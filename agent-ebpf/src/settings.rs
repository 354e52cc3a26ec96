//! Read-only globals, set by user space before load. After load the verifier knows them as constants.
#![allow(unsafe_code)]

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $get:ident, $ty:ty) => {
        #[unsafe(no_mangle)]
        static $name: $ty = 0;

        $(#[$doc])*
        #[inline(always)]
        pub fn $get() -> $ty {
            // SAFETY: a static of this type; volatile because the loader rewrites its bytes in the object.
            unsafe { core::ptr::read_volatile(&raw const $name) }
        }
    };
}

setting!(
    /// Possible CPUs: each owns its part of every table.
    CPUS, cpus, u32);
setting!(
    /// Random per load, so that nobody can choose flows that share a set.
    SEED, seed, u64);
setting!(
    /// Sets of one CPU's part of `FLOW4`: a power of two.
    SETS4, sets4, u32);
setting!(
    /// `64 - log2(SETS4)`: what is left of a 64-bit hash is a set index.
    SHIFT4, shift4, u32);
setting!(
    /// As [`sets4`], of `FLOW6`.
    SETS6, sets6, u32);
setting!(
    /// As [`shift4`], of `FLOW6`.
    SHIFT6, shift6, u32);
setting!(
    /// Sets of one CPU's part of `INTERFACES`: a power of two.
    SETS_INTERFACE, sets_interface, u32);
setting!(
    /// Network namespace whose drops are counted (`ns.inum`, the number in `/proc/self/ns/net`).
    NAMESPACE, namespace, u32);

setting!(
    /// A power of two minus one: so many refused flows later user space is woken again.
    REFUSED_MASK, refused_mask, u32);

// Byte offsets in structs of the running kernel.
setting!(SKB_DEV, skb_dev, u32);
setting!(SKB_REFDST, skb_refdst, u32);
setting!(SKB_IIF, skb_iif, u32);
setting!(SKB_PROTOCOL, skb_protocol, u32);
setting!(SKB_NETWORK_HEADER, skb_network_header, u32);
setting!(SKB_TAIL, skb_tail, u32);
setting!(SKB_END, skb_end, u32);
setting!(SKB_HEAD, skb_head, u32);
setting!(SKB_DATA, skb_data, u32);
setting!(SKB_LEN, skb_len, u32);
setting!(INFO_GSO_SIZE, info_gso_size, u32);
setting!(DEV_IFINDEX, dev_ifindex, u32);
setting!(DEV_NET, dev_net, u32);
setting!(NET_INUM, net_inum, u32);
setting!(DST_DEV, dst_dev, u32);
setting!(TASK_STACK, task_stack, u32);
setting!(SKB_NFCT, skb_nfct, u32);
setting!(
    /// Of a connection's first `struct nf_conntrack_tuple`; 0 on a kernel without connection tracking.
    CONN_TUPLE, conn_tuple, u32);
setting!(
    /// From there to the tuple of the direction of replies.
    CONN_TUPLE_SIZE, conn_tuple_size, u32);
setting!(
    /// Time stamps count `jiffies64 >> TIME_SHIFT`.
    TIME_SHIFT, time_shift, u32);
