//! One object's bytes: blocks of deflated text one after another, as one gzip member.
//! Must not know of slots, names or where objects go.
#![forbid(unsafe_code)]

use std::io;

use crc32fast::Hasher;

use crate::spool::{Block, Deflate};

/// Of text in one object: AWS's old guide caps a file at 75 MB and does not say of what; before compression is the safe
/// reading.
pub(super) const TEXT_BYTES_MAX: u64 = 75_000_000;

/// No name and no time, so that equal records give equal bytes; unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block of a DEFLATE stream, with nothing in it.
const DEFLATE_END: [u8; 2] = [3, 0];

pub(super) struct Member {
    bytes: Vec<u8>,
    crc: Hasher,
    /// Of text, as gzip counts it.
    len: u32,
}

impl Member {
    /// With the line that comes first, and its newline.
    pub(super) fn new(header: &str) -> io::Result<Self> {
        let mut bytes = GZIP_HEADER.to_vec();
        let mut crc = Hasher::new();
        crc.update(header.as_bytes());
        Deflate::new().append(header.as_bytes(), &mut bytes)?;
        Ok(Self { bytes, crc, len: header.len() as u32 })
    }

    pub(super) fn push(&mut self, block: &Block) {
        self.bytes.extend_from_slice(&block.deflated);
        self.crc.combine(&Hasher::new_with_initial_len(block.raw_crc, block.raw_len.into()));
        self.len = self.len.wrapping_add(block.raw_len);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let Self { mut bytes, crc, len } = self;
        bytes.extend_from_slice(&DEFLATE_END);
        bytes.extend_from_slice(&crc.finalize().to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes
    }
}
