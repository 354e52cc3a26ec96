//! Packets that the kernel dropped for a policy's sake.
use crate::flow::WideKey;

/// Reasons that have an entry of their own in the table of reasons; the last entry takes all others
/// (subsystems number theirs from 65,536 on).
pub const REASONS: u32 = 512;

/// What a drop reason says, as user space looked it up by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Class {
    /// Not a policy's drop, or not known: never REJECT.
    Other = 0,
    /// REJECT. On ingress our classifier has already counted the packet; on egress it has not.
    Policy = 1,
    /// REJECT, dropped before our classifier on ingress.
    BeforeIngress = 2,
    /// REJECT, dropped on egress by a classifier behind ours, which has counted the packet.
    BehindEgress = 3,
}

/// One reason on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Reason {
    /// A [`Class`].
    pub class: u32,
    pub reserved: u32,
    /// Frees that were not a policy's, for every namespace of the host.
    pub frees: u64,
}

/// Key of the hash of rejected flows; its value is `WideCounters` whose flags are part of the key instead.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DropKey {
    /// Its epoch is the drops' epoch, which lags behind the packets'.
    pub flow: WideKey,
    /// Value of `enum skb_drop_reason` in the running kernel.
    pub reason: u32,
    /// Reduced TCP flags.
    pub flags: u16,
    /// A [`Class`].
    pub class: u16,
}

/// Why a policy's drop is in no flow. The value indexes the array of losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Loss {
    /// Of another network namespace: nothing is lost.
    OtherNamespace = 0,
    /// Neither the packet nor its route names an interface.
    NoInterface = 1,
    /// Not IP, or headers that cannot be read.
    Unparsable = 2,
    /// The hash is full; also counted with the interface.
    NoRoom = 3,
}

/// Number of [`Loss`]es.
pub const LOSSES: u32 = 4;
