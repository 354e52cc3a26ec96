//! A packet as a capture has it: its first bytes, and how long it was.
//! Must not know of files.
//! Always: what the capture left out is not there to be read, and counts in the length.
#![forbid(unsafe_code)]

use agent_ebpf_parse::packet::{Packet, Slice};

pub(super) struct Cut<'a> {
    there: Slice<'a>,
    len: u32,
}

impl<'a> Cut<'a> {
    /// No more than `len` of the bytes are of the packet.
    pub(super) fn new(bytes: &'a [u8], len: u32) -> Self {
        let there = bytes.get(..len as usize).unwrap_or(bytes);
        Self { there: Slice(there), len }
    }

    /// Without its first `count` bytes.
    pub(super) fn skip(&self, count: u32) -> Self {
        let rest = self.there.0.get(count as usize..).unwrap_or_default();
        Self { there: Slice(rest), len: self.len.saturating_sub(count) }
    }
}

impl Packet for Cut<'_> {
    const WALKS: bool = true;

    fn len(&self) -> u32 {
        self.len
    }

    fn load_u8(&self, offset: u32) -> Option<u8> {
        self.there.load_u8(offset)
    }

    fn load_u16(&self, offset: u32) -> Option<u16> {
        self.there.load_u16(offset)
    }

    fn load_u32(&self, offset: u32) -> Option<u32> {
        self.there.load_u32(offset)
    }

    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.there.load_words(offset)
    }

    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        self.there.load_head(offset)
    }
}
