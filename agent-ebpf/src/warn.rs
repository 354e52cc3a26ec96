//! The programs' own warnings, off the packet path: only where something cannot be counted, and once in an epoch.
#![allow(unsafe_code)]
use aya_log_ebpf::warn;

use crate::maps::WARNED;

/// A table that has no room, and the interface that is short for it.
#[inline(never)]
pub fn no_room(table: Table, ifindex: u32, epoch: u32) {
    let Some(last) = WARNED.get_ptr_mut(table as u32) else { return };
    // SAFETY: a live map value; two CPUs at once may both warn.
    unsafe {
        if *last == u64::from(epoch) + 1 {
            return;
        }
        *last = u64::from(epoch) + 1;
    }
    match table {
        Table::Flows => warn!(&(), "no room for a flow of interface {}: its packets are skipped", ifindex),
        Table::Interfaces => warn!(&(), "no room for interface {}: its sums will not add up", ifindex),
    }
}

/// Which one; the index of `WARNED`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Table {
    Flows = 0,
    Interfaces = 1,
}
