//! Wakes user space when tables fill up, so that it need not look while they do not.
//! Must not know when a table is drained.
#![allow(unsafe_code)]
use crate::maps::{WAKE, WOKEN};
use crate::settings;

/// The index of `WOKEN`.
enum Why {
    Crowded = 0,
    Refused = 1,
}

/// A set has no room for another flow, for the first time in this epoch: of a table with thousands of sets a few
/// hundredths are in use then.
#[inline(never)]
pub fn set_full(epoch: u32) {
    let Some(last) = WOKEN.get_ptr_mut(Why::Crowded as u32) else { return };
    let this = u64::from(epoch) + 1;
    // SAFETY: a live map value; two CPUs at once may both wake.
    unsafe {
        if core::ptr::read_volatile(last) != this {
            core::ptr::write_volatile(last, this);
            wake();
        }
    }
}

/// Once for as many refused flows as are a part of what their hash may hold. Other CPUs may count at the same time, and
/// some are lost then; but no count is passed over.
#[inline(always)]
pub fn refused() {
    let Some(count) = WOKEN.get_ptr_mut(Why::Refused as u32) else { return };
    // SAFETY: a live map value.
    let next = unsafe { core::ptr::read_volatile(count) } + 1;
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(count, next) };
    if next & u64::from(settings::refused_mask()) == 0 {
        wake();
    }
}

/// No room: it has not read the last one yet, and will.
#[inline(always)]
fn wake() {
    let _ = WAKE.output::<u64>(&0, 0);
}
