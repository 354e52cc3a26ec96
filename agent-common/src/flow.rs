//! Flow table entries (the packed fast path) and the overflow hash (the wide slow path).

/// Ways of one set. A set is searched linearly.
pub const WAYS: usize = 4;

/// `b` of an entry: ports in the low half, then protocol, direction and ifindex.
/// `ports` is the first word of the L4 header as loaded: source port, destination port, each in network byte order.
/// Never 0 for a real flow because ifindex is at least 1. Only for ifindex < [`IFINDEX_MAX`].
#[inline(always)]
#[must_use]
pub const fn pack_b(ports: u32, protocol: u8, direction: u8, ifindex: u32) -> u64 {
    let high = protocol as u32 | (direction as u32) << 8 | ifindex << 9;
    ports as u64 | (high as u64) << 32
}

/// First ifindex that does not fit in an entry; such interfaces use the overflow hash.
pub const IFINDEX_MAX: u32 = 1 << 23;

/// Bits of a time stamp in an entry.
pub const TIME_BITS: u32 = 24;
/// Mask of a time stamp in an entry.
pub const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Counters of an entry. `c` = bytes:40 | first:24, `d` = packets:32 | flags:8 | last:24.
/// Both counters sit on top, so that one sign test of `c | d` says "half full, spill".
/// Times are `jiffies64 >> time_shift`, truncated to 24 bits.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Packed {
    pub c: u64,
    pub d: u64,
}

/// IPv4 entry, half a cache line. `a` = source | destination << 32, each in network byte order as loaded.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Entry4 {
    pub a: u64,
    pub b: u64,
    pub n: Packed,
}

/// IPv6 entry, one cache line. Address words are as loaded from the packet (network byte order in memory).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Entry6 {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub b: u64,
    pub n: Packed,
    pub reserved: u64,
}

/// One set of the IPv4 table.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Set4 {
    pub ways: [Entry4; WAYS],
}

/// One set of the IPv6 table.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Set6 {
    pub ways: [Entry6; WAYS],
}

/// Key of the overflow hash. IPv4 addresses sit in the first word's low 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Hash)]
pub struct WideKey {
    pub src: [u64; 2],
    pub dst: [u64; 2],
    pub ports: u32,
    pub ifindex: u32,
    pub epoch: u32,
    pub protocol: u8,
    pub direction: u8,
    /// 4 or 6.
    pub family: u8,
    pub reserved: u8,
}

/// Value of the overflow hash, one per CPU. Times are whole `jiffies64 >> time_shift`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct WideCounters {
    pub packets: u64,
    pub bytes: u64,
    pub first: u64,
    pub last: u64,
    pub flags: u64,
}
