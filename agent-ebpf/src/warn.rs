//! The programs' own warnings, off the packet path: only where something cannot be counted, and once in an epoch.
#![allow(unsafe_code)]
use aya_log_ebpf::warn;

use crate::maps::WARNED;

/// Which table has no room; the index of `WARNED`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Table {
    Flows = 0,
    Interfaces = 1,
}

/// A table that has no room, and the interface that is short for it.
#[inline(always)]
pub fn no_room(table: Table, ifindex: u32, epoch: u32) {
    warn_no_room(table as u64, u64::from(ifindex), u64::from(epoch));
}

/// A global function, which the verifier checks once: writing a log record is long, and it would explore that again
/// wherever something may have no room. The value says nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn warn_no_room(table: u64, ifindex: u64, epoch: u64) -> u64 {
    let Some(last) = WARNED.get_ptr_mut(table as u32) else { return 0 };
    // SAFETY: a live map value; two CPUs at once may both warn.
    unsafe {
        if *last == epoch + 1 {
            return 0;
        }
        *last = epoch + 1;
    }
    let ifindex = ifindex as u32;
    if table == Table::Flows as u64 {
        warn!(&(), "no room for a flow of interface {}: its packets are skipped", ifindex);
    } else {
        warn!(&(), "no room for interface {}: its sums will not add up", ifindex);
    }
    1
}
