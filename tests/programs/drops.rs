//! The drop programs on this kernel.

use crate::open;

#[test]
fn verdicts_can_be_turned_on() {
    let mut capture = open();
    capture.watch_drops().expect("this kernel has BTF and drop reasons");
}
