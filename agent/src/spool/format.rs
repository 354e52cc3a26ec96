//! The bytes of a segment file.
//!
//! Header, blocks, footer; numbers in little-endian order.
//! - A seal: magic (8), version (4), window start, end and number (8 each), number of blocks (4), records (8), bytes of
//!   text (8), CRC-32 (4). The header is one, written last, and the footer ends with one.
//! - A block: CRC-32 (4) of all that follows, length of the key (2), records (4), bytes of text (4), CRC-32 of the text
//!   (4), length of the deflated text (4), key, deflated text.
//! - The footer: the length of every block (4 each), and a seal whose CRC-32 covers those too.
//!
//! So everything but the text is there twice: blocks are found by the footer or, when that is damaged, by their own
//! lengths, and what is missing is known from either seal.
//!
//! Deflated text is raw DEFLATE that needs no text before it, ends on a byte boundary, and is not the end of a stream:
//! blocks one after another, with an end, are one gzip member.
#![forbid(unsafe_code)]

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::{SpoolError, Window};

/// Changes with any change of the bytes.
pub(super) const VERSION: u32 = 1;
const HEADER_MAGIC: [u8; 8] = *b"flowlogS";
const FOOTER_MAGIC: [u8; 8] = *b"flowlogE";
pub(super) const SEAL_BYTES: usize = 60;
pub(super) const HEAD_BYTES: usize = 22;
/// Of text. Far above what anybody puts into a block: a bound on what a reader needs.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Lines take 8 % more room than at 4 and 17 % more than at the usual 6, in 0.6 and 0.35 of the time, which is nearly
/// all that a segment takes.
const LEVEL: Compression = Compression::new(2);

/// What a seal says of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Summary {
    pub(super) window: Window,
    pub(super) blocks: u32,
    pub(super) records: u64,
    pub(super) text_bytes: u64,
}

/// Whole lines that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) key: String,
    pub(crate) records: u32,
    pub(crate) raw_len: u32,
    /// CRC-32 of the text.
    pub(crate) raw_crc: u32,
    pub(crate) deflated: Vec<u8>,
}

impl Block {
    pub(crate) fn text(&self) -> Result<Vec<u8>, SpoolError> {
        // With room to spare, so that the end is seen.
        let mut text = Vec::with_capacity(self.raw_len as usize + 64);
        let inflated = Decompress::new(false).decompress_vec(&self.deflated, &mut text, FlushDecompress::Sync);
        let is_whole =
            inflated.is_ok() && text.len() == self.raw_len as usize && crc32fast::hash(&text) == self.raw_crc;
        if is_whole { Ok(text) } else { Err(SpoolError::Block) }
    }
}

/// Makes blocks, with the memory of the one before.
pub(crate) struct Deflate {
    compress: Compress,
}

impl Deflate {
    pub(crate) fn new() -> Self {
        Self { compress: Compress::new(LEVEL, false) }
    }

    /// Appends `text`, see [`Block::deflated`].
    pub(crate) fn append(&mut self, text: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.compress.reset();
        loop {
            out.reserve(text.len() / 4 + 1024);
            let taken = self.compress.total_in() as usize;
            self.compress.compress_vec(&text[taken..], out, FlushCompress::Sync).map_err(io::Error::other)?;
            // Room that is left says that nothing is held back.
            if self.compress.total_in() as usize == text.len() && out.len() < out.capacity() {
                return Ok(());
            }
        }
    }
}

pub(super) fn header(summary: &Summary) -> [u8; SEAL_BYTES] {
    seal(HEADER_MAGIC, &[], summary)
}

pub(super) fn footer(lengths: &[u32], summary: &Summary) -> Vec<u8> {
    let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
    let seal = seal(FOOTER_MAGIC, &bytes, summary);
    bytes.extend_from_slice(&seal);
    bytes
}

pub(super) fn read_header(bytes: &[u8; SEAL_BYTES]) -> Option<Summary> {
    read_seal(HEADER_MAGIC, &[], bytes)
}

/// The length of the footer whose seal this is, if it is whole.
pub(super) fn footer_len(seal: &[u8; SEAL_BYTES]) -> usize {
    Fields(&seal[36..]).u32() as usize * 4 + SEAL_BYTES
}

pub(super) fn read_footer(bytes: &[u8]) -> Option<(Vec<u32>, Summary)> {
    let (lengths, seal) = bytes.split_last_chunk()?;
    let summary = read_seal(FOOTER_MAGIC, lengths, seal)?;
    let lengths = lengths.chunks_exact(4).map(|bytes| Fields(bytes).u32()).collect();
    Some((lengths, summary))
}

fn seal(magic: [u8; 8], before: &[u8], summary: &Summary) -> [u8; SEAL_BYTES] {
    let Summary { window, blocks, records, text_bytes } = summary;
    let mut seal = [0; SEAL_BYTES];
    let fields = [
        &magic[..],
        &VERSION.to_le_bytes(),
        &window.start.to_le_bytes(),
        &window.end.to_le_bytes(),
        &window.number.to_le_bytes(),
        &blocks.to_le_bytes(),
        &records.to_le_bytes(),
        &text_bytes.to_le_bytes(),
    ];
    seal[..SEAL_BYTES - 4].copy_from_slice(&fields.concat());
    let crc = seal_crc(before, &seal);
    seal[SEAL_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    seal
}

fn seal_crc(before: &[u8], seal: &[u8; SEAL_BYTES]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(before);
    crc.update(&seal[..SEAL_BYTES - 4]);
    crc.finalize()
}

fn read_seal(magic: [u8; 8], before: &[u8], seal: &[u8; SEAL_BYTES]) -> Option<Summary> {
    let mut fields = Fields(&seal[8..]);
    if seal[..8] != magic || fields.u32() != VERSION {
        return None;
    }
    let window = Window { start: fields.u64().cast_signed(), end: fields.u64().cast_signed(), number: fields.u64() };
    let summary = Summary { window, blocks: fields.u32(), records: fields.u64(), text_bytes: fields.u64() };
    (fields.u32() == seal_crc(before, seal)).then_some(summary)
}

/// Clears `out` and puts a block there.
pub(super) fn block(
    deflate: &mut Deflate,
    key: &str,
    records: u32,
    text: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SpoolError> {
    let (Ok(key_len), true) = (u16::try_from(key.len()), text.len() <= BLOCK_BYTES_MAX) else {
        return Err(SpoolError::TooLarge(text.len()));
    };
    out.clear();
    out.resize(HEAD_BYTES, 0);
    out.extend_from_slice(key.as_bytes());
    let start = out.len();
    deflate.append(text, out).map_err(|_| SpoolError::Block)?;
    let deflated_len = (out.len() - start) as u32;
    let fields = [
        &key_len.to_le_bytes()[..],
        &records.to_le_bytes(),
        &(text.len() as u32).to_le_bytes(),
        &crc32fast::hash(text).to_le_bytes(),
        &deflated_len.to_le_bytes(),
    ];
    out[4..HEAD_BYTES].copy_from_slice(&fields.concat());
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// What a block's own head says of the block's length.
pub(super) fn block_len(head: &[u8; HEAD_BYTES]) -> usize {
    let (mut key, mut deflated) = (Fields(&head[4..]), Fields(&head[18..]));
    HEAD_BYTES + usize::from(key.u16()) + deflated.u32() as usize
}

/// None when it is damaged.
pub(super) fn read_block(mut bytes: Vec<u8>) -> Option<Block> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    if block_len(head) != bytes.len() {
        return None;
    }
    let mut fields = Fields(head);
    if fields.u32() != crc32fast::hash(&bytes[4..]) {
        return None;
    }
    let key_end = HEAD_BYTES + usize::from(fields.u16());
    let (records, raw_len, raw_crc) = (fields.u32(), fields.u32(), fields.u32());
    let key = str::from_utf8(&bytes[HEAD_BYTES..key_end]).ok()?.to_owned();
    if raw_len as usize > BLOCK_BYTES_MAX {
        return None;
    }
    bytes.drain(..key_end);
    Some(Block { key, records, raw_len, raw_crc, deflated: bytes })
}

/// Numbers off the front. What is too short is zeros; every caller has checked the length or the CRC.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((bytes, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
