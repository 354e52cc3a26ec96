//! A fuzzer's way in: see [`crate::fuzzing`].
#![forbid(unsafe_code)]

use std::path::Path;

use super::Frame;
use super::format::{self, Entry};
use super::scan::Scan;

/// Of any bytes.
pub(crate) fn file(path: &Path) {
    let Ok(mut scan) = Scan::open(path) else { return };
    let (mut before, end) = (0, scan.bytes());
    while let Some((offset, payload)) = scan.next() {
        assert!(offset > before && offset + payload.len() as u64 <= end);
        before = offset;
        entry(payload);
    }
}

/// Of what a sum vouches for.
pub(crate) fn payload(data: &[u8]) {
    entry(data);
}

fn entry(payload: &[u8]) {
    let _ = format::read_kind(payload);
    let Some(entry) = format::read_payload::<Frame>(payload) else { return };
    let written = format::entry(1, 2, &entry).expect("it is not larger than what was read");
    let again: Entry<Frame> = format::read_payload(&written[format::HEAD_BYTES..]).expect("it was written by us");
    assert_eq!(format::entry(1, 2, &again), Some(written));
}
