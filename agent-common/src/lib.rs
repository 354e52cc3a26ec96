//! The types both sides of the kernel boundary share: what a map holds, byte for byte.
//! Knows nothing of parsing, names or AWS. Every type is `repr(C)`, integers only, with its
//! layout asserted in [`layout`].
#![no_std]
#![forbid(unsafe_code)]

pub mod drop;
pub mod flow;
pub mod interface;
mod layout;

/// Version of everything below. It is part of any path under which maps are kept.
pub const LAYOUT_VERSION: u32 = 1;

/// Direction of a packet relative to the interface it was counted on.
pub const INGRESS: u8 = 0;
/// See [`INGRESS`].
pub const EGRESS: u8 = 1;

/// Words of the one-element control array, written by user space only.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Control {
    /// Low 32 bits: epoch number. The rest is 0: one word, so that no program ever sees half a change.
    pub epoch: u64,
    /// The same for drops. User space moves it one grace period later, so that every drop of a packet of an epoch is
    /// in that epoch or, for packets of the next one, early; never late.
    pub drop_epoch: u64,
}
