//! Compile-time proof of the layout: sizes, alignment and every offset.
use crate::drop::{DropKey, Reason};
use crate::flow::{Entry4, Entry6, Packed, Set4, Set6, WideCounters, WideKey};
use crate::interface::{CAUSES, Count, InterfaceEntry, InterfaceKey, InterfaceSet};
use core::mem::{align_of, offset_of, size_of};

const _: () = {
    assert!(size_of::<crate::Control>() == 16 && offset_of!(crate::Control, drop_epoch) == 8);
    assert!(size_of::<DropKey>() == 56 && offset_of!(DropKey, flow) == 0 && offset_of!(DropKey, reason) == 48);
    assert!(offset_of!(DropKey, flags) == 52 && offset_of!(DropKey, class) == 54);
    assert!(size_of::<Reason>() == 16 && offset_of!(Reason, class) == 0 && offset_of!(Reason, frees) == 8);
    assert!(size_of::<Packed>() == 16 && offset_of!(Packed, c) == 0 && offset_of!(Packed, d) == 8);
    assert!(size_of::<Entry4>() == 32 && align_of::<Entry4>() == 8);
    assert!(offset_of!(Entry4, a) == 0 && offset_of!(Entry4, b) == 8 && offset_of!(Entry4, n) == 16);
    assert!(size_of::<Entry6>() == 64 && align_of::<Entry6>() == 8);
    assert!(offset_of!(Entry6, src) == 0 && offset_of!(Entry6, dst) == 16 && offset_of!(Entry6, b) == 32);
    assert!(offset_of!(Entry6, n) == 40 && offset_of!(Entry6, reserved) == 56);
    assert!(size_of::<Set4>() == 128 && size_of::<Set6>() == 256);
    assert!(size_of::<WideKey>() == 48 && offset_of!(WideKey, src) == 0 && offset_of!(WideKey, dst) == 16);
    assert!(offset_of!(WideKey, ports) == 32 && offset_of!(WideKey, ifindex) == 36);
    assert!(offset_of!(WideKey, epoch) == 40 && offset_of!(WideKey, protocol) == 44);
    assert!(offset_of!(WideKey, direction) == 45 && offset_of!(WideKey, family) == 46);
    assert!(offset_of!(WideKey, reserved) == 47);
    assert!(size_of::<WideCounters>() == 40 && offset_of!(WideCounters, packets) == 0);
    assert!(offset_of!(WideCounters, bytes) == 8 && offset_of!(WideCounters, first) == 16);
    assert!(offset_of!(WideCounters, last) == 24 && offset_of!(WideCounters, flags) == 32);
    assert!(size_of::<Count>() == 16 && offset_of!(Count, packets) == 0 && offset_of!(Count, bytes) == 8);
    assert!(size_of::<InterfaceEntry>() == 128 && offset_of!(InterfaceEntry, key) == 0);
    assert!(offset_of!(InterfaceEntry, seen) == 8 && offset_of!(InterfaceEntry, causes) == 24);
    assert!(offset_of!(InterfaceEntry, beyond) == 24 + 16 * CAUSES);
    assert!(offset_of!(InterfaceEntry, around) == 40 + 16 * CAUSES);
    assert!(size_of::<InterfaceSet>() == 512);
    assert!(size_of::<InterfaceKey>() == 16 && offset_of!(InterfaceKey, ifindex) == 0);
    assert!(offset_of!(InterfaceKey, epoch) == 4 && offset_of!(InterfaceKey, direction) == 8);
    assert!(offset_of!(InterfaceKey, cause) == 12);
};
