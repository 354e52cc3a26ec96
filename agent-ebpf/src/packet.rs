//! The reader interface: what the parser may ask of a packet. The kernel-side readers are in `reader.rs`.

/// A packet from its first byte on. Offsets count from there.
pub trait Packet {
    /// Whether header chains of unknown length are followed. The direct reader leaves them to the slow path.
    const WALKS: bool;
    /// Length of the packet, payload outside the linear area included.
    fn len(&self) -> u32;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn load_u8(&self, offset: u32) -> Option<u8>;
    /// As in memory: network byte order.
    fn load_u16(&self, offset: u32) -> Option<u16>;
    fn load_u32(&self, offset: u32) -> Option<u32>;
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
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
}
