//! The reader interface: what the parser may ask of a packet. The kernel-side readers are in `reader.rs` and `skb.rs`.

use crate::parse::{self, Fragment};
use agent_common::interface::Cause;

/// A packet from its first byte on. Offsets count from there.
pub trait Packet {
    /// Whether header chains of unknown length are followed. The direct reader leaves them to the slow path.
    const WALKS: bool;
    /// Length of the packet, payload outside the linear area included.
    fn len(&self) -> u32;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Follows IPv6 extension headers, see [`parse::walk`]. A reader may do it in a function that the verifier checks
    /// alone: inlined everywhere, the walk is most of what it has to explore.
    #[inline(always)]
    fn walk(&self, start: u32, first: u8, end: u32) -> Result<(u32, u8, Fragment), Cause>
    where
        Self: Sized,
    {
        parse::walk(self, start, first, end)
    }
    fn load_u8(&self, offset: u32) -> Option<u8>;
    /// As in memory: network byte order.
    fn load_u16(&self, offset: u32) -> Option<u16>;
    fn load_u32(&self, offset: u32) -> Option<u32>;
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// `W` 32-bit words and then `L` 64-bit ones, as in memory: addresses are compared 64 bits at a time.
    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])>;
}

/// The loads of a reader that has a generic `load`, which every one but bytes in memory has.
#[macro_export]
macro_rules! loads {
    () => {
        #[inline(always)]
        fn len(&self) -> u32 {
            self.len
        }

        #[inline(always)]
        fn load_u8(&self, offset: u32) -> Option<u8> {
            self.load(offset)
        }

        #[inline(always)]
        fn load_u16(&self, offset: u32) -> Option<u16> {
            self.load(offset)
        }

        #[inline(always)]
        fn load_u32(&self, offset: u32) -> Option<u32> {
            self.load(offset)
        }

        #[inline(always)]
        fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
            self.load(offset)
        }
    };
}

/// A header as it lies in memory, without alignment above that of its 32-bit words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Head<const W: usize, const L: usize> {
    pub words: [u32; W],
    pub longs: [[u32; 2]; L],
}

impl<const W: usize, const L: usize> Head<W, L> {
    /// The 64-bit words, joined from their halves.
    #[inline(always)]
    #[must_use]
    pub fn joined(&self) -> ([u32; W], [u64; L]) {
        let join = |[low, high]: [u32; 2]| {
            if cfg!(target_endian = "little") {
                u64::from(low) | u64::from(high) << 32
            } else {
                u64::from(high) | u64::from(low) << 32
            }
        };
        (self.words, self.longs.map(join))
    }
}

/// Bytes in memory, for tests.
pub struct Slice<'a>(pub &'a [u8]);

impl Slice<'_> {
    fn array<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk::<N>().copied()
    }
}

impl Packet for Slice<'_> {
    const WALKS: bool = true;

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn load_u8(&self, offset: u32) -> Option<u8> {
        self.0.get(offset as usize).copied()
    }

    fn load_u16(&self, offset: u32) -> Option<u16> {
        self.array(offset).map(u16::from_ne_bytes)
    }

    fn load_u32(&self, offset: u32) -> Option<u32> {
        self.array(offset).map(u32::from_ne_bytes)
    }

    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        self.load_u32(offset + 4 * (N as u32).saturating_sub(1))?;
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.load_u32(offset + 4 * i as u32)?;
        }
        Some(words)
    }

    fn load_head<const W: usize, const L: usize>(&self, offset: u32) -> Option<([u32; W], [u64; L])> {
        let words = self.load_words::<W>(offset)?;
        let mut longs = [[0; 2]; L];
        for (i, long) in longs.iter_mut().enumerate() {
            *long = self.load_words::<2>(offset + 4 * W as u32 + 8 * i as u32)?;
        }
        Some(Head { words, longs }.joined())
    }
}
