//! Per-interface totals: everything seen, and why a packet is in no flow.

/// Why a packet that was seen is in no flow. The value indexes [`InterfaceEntry::causes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Cause {
    /// ARP, LLDP and every other ethertype than IPv4 and IPv6.
    NonIp = 0,
    /// The packet ends before its headers do, or before the length its IP header gives.
    Truncated = 1,
    /// IP version, header length or total length are impossible.
    BadHeader = 2,
    /// More IPv6 extension headers than the walk follows.
    LongChain = 3,
    /// A good packet for which no table had room.
    Skipped = 4,
}

/// Number of causes.
pub const CAUSES: usize = 5;

/// Packets seen, as [`InterfaceKey::cause`].
pub const SEEN: u32 = CAUSES as u32;
/// Policy drops that found no room, as [`InterfaceKey::cause`]; their epoch is the drops'.
pub const DROPS_SKIPPED: u32 = SEEN + 1;
/// [`InterfaceEntry::beyond`], as [`InterfaceKey::cause`].
pub const BEYOND: u32 = DROPS_SKIPPED + 1;
/// [`InterfaceEntry::around`], as [`InterfaceKey::cause`], in its bytes.
pub const AROUND: u32 = BEYOND + 1;

/// A cause's share.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// Totals of one interface and direction on one CPU in one epoch.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct InterfaceEntry {
    /// ifindex | direction << 32; 0 is free.
    pub key: u64,
    /// Everything the program saw: wire packets and L3 bytes.
    pub seen: Count,
    pub causes: [Count; CAUSES],
    /// Of `seen`, what is not in the kernel's own buffers: the packets of super-packets but one each, and the headers
    /// that those repeat. Together with `around` it leads back to what other counters in the kernel see.
    pub beyond: Count,
    /// The other way round: bytes behind the link-layer header of a buffer that are not in `seen`, such as VLAN tags.
    /// Padding of untagged packets is not among them: to see it would cost every packet.
    pub around: u64,
}

/// One set of the interface table.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct InterfaceSet {
    pub ways: [InterfaceEntry; 4],
}

/// Key of the hash that takes interfaces for which their set has no room.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct InterfaceKey {
    pub ifindex: u32,
    pub epoch: u32,
    pub direction: u32,
    /// A [`Cause`], [`SEEN`], [`DROPS_SKIPPED`], [`BEYOND`] or [`AROUND`].
    pub cause: u32,
}
