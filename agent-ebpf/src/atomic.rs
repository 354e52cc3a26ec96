//! Adding to memory that other CPUs or a nested program write too.
#![allow(unsafe_code)]
use core::arch::asm;

/// `core`'s atomics have no fetch-and-add for this target.
///
/// # Safety
/// `at` must point to a live, 8-byte aligned map value.
#[inline(always)]
pub unsafe fn add(at: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) at, in(reg) value) };
}
