//! A fuzzer's way in: see [`crate::fuzzing`].
#![forbid(unsafe_code)]

use std::path::Path;

use super::Spool;
use super::format::{self, BLOCK_BYTES_MAX};

/// With segments of any bytes.
pub(crate) fn directory(directory: &Path) {
    let Ok(spool) = Spool::open(directory, 1 << 20) else { return };
    for segment in spool.segments() {
        let Ok(reader) = spool.read(segment.id) else { continue };
        for block in reader.map_while(Result::ok) {
            let _ = block.text();
        }
    }
}

/// A block that its sum vouches for.
pub(crate) fn block(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some((sum, rest)) = bytes.split_first_chunk_mut::<4>() {
        *sum = crc32fast::hash(rest).to_le_bytes();
    }
    let Some(block) = format::read_block(bytes) else { return };
    // Memory for text that is not there is the fuzzer's own limit.
    assert!(block.raw_len as usize <= BLOCK_BYTES_MAX);
    if block.raw_len < 1 << 20 {
        assert!(block.text().is_ok_and(|text| text.len() == block.raw_len as usize) || block.text().is_err());
    }
}
