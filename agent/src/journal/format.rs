//! The bytes of a journal file. All numbers are little-endian; payloads are postcard, whose format is stable.
//!
//! ```text
//! file header  magic 8 | version u32 | window start i64 | window's last second i64 | number u64 | CRC-32 of all this
//! entry        length u32 | CRC-32 of the payload | CRC-32 of these two, the file's CRC and the offset | payload
//! ```
//!
//! An entry's head has a check of its own so that a damaged payload can be stepped over: its length is known to be
//! good. The check binds the entry to its file and place, so that a block that went astray is not taken for an entry.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::select::Named;

/// To be raised with every change of what is written, also of the types inside `Drained`.
pub(super) const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"flowlogJ";
pub(super) const FILE_HEADER_BYTES: usize = 40;
pub(super) const HEAD_BYTES: usize = 12;
/// About 38 million flows. More is refused when written and damage when read.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// What an entry says. `F` is a frame, a reference to one, or nothing where only the kind is of interest.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Entry<F> {
    Drain(F),
    /// The interfaces of these indexes, which may be others' after a restart.
    Names(Vec<(u32, Named)>),
    /// The window is complete.
    Closed(Closing),
}

/// What cannot be found again from the drains alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Closing {
    /// The window's last second.
    pub(crate) end: i64,
    /// The windows of all flow logs end with it, wherever their intervals would: a stop, a step of the clock.
    pub(crate) ends: bool,
    /// Interfaces that were not counted for a while.
    pub(crate) gaps: BTreeSet<u32>,
    /// Interfaces that have had traffic, so that their silence is worth a record.
    pub(crate) known: BTreeSet<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileHeader {
    pub(super) window: (i64, i64),
    /// Random, the window's own: objects are named after it.
    pub(super) number: u64,
    /// The header's own CRC, which enters every entry's check.
    pub(super) crc: u32,
}

#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NotOurs {
    #[error("it is not a journal")]
    Foreign,
    #[error("its format is version {0}, this flowlogd knows {VERSION}")]
    OtherVersion(u32),
    #[error("its header is damaged")]
    Damaged,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) crc: u32,
}

pub(super) fn file_header(window: (i64, i64), number: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut out = [0; FILE_HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&window.0.to_le_bytes());
    out[20..28].copy_from_slice(&window.1.to_le_bytes());
    out[28..36].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&out[..36]);
    out[36..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(super) fn read_file_header(bytes: &[u8]) -> Result<FileHeader, NotOurs> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(NotOurs::Foreign)?;
    // The version first: only of ours is it known where the CRC is.
    let version = u32::from_le_bytes(take(&mut rest).ok_or(NotOurs::Damaged)?);
    if version != VERSION {
        return Err(NotOurs::OtherVersion(version));
    }
    let mut read = || {
        let window = (i64::from_le_bytes(take(&mut rest)?), i64::from_le_bytes(take(&mut rest)?));
        let number = u64::from_le_bytes(take(&mut rest)?);
        Some(FileHeader { window, number, crc: u32::from_le_bytes(take(&mut rest)?) })
    };
    let header = read().ok_or(NotOurs::Damaged)?;
    if crc32fast::hash(&bytes[..FILE_HEADER_BYTES - 4]) == header.crc { Ok(header) } else { Err(NotOurs::Damaged) }
}

/// An entry as it stands at `offset`, or nothing if it is too large.
pub(crate) fn entry<F: Serialize>(file_crc: u32, offset: u64, entry: &Entry<F>) -> Option<Vec<u8>> {
    let bytes = postcard::serialize_with_flavor(entry, Output(vec![0; HEAD_BYTES])).ok()?;
    seal(file_crc, offset, bytes)
}

/// Fills in the head of a payload that stands behind `HEAD_BYTES` free bytes.
pub(super) fn seal(file_crc: u32, offset: u64, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (head, payload) = bytes.split_at_mut(HEAD_BYTES);
    let length = u32::try_from(payload.len()).ok().filter(|&length| length as usize <= PAYLOAD_BYTES_MAX)?;
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let check = check(file_crc, offset, &head[..8]);
    head[8..].copy_from_slice(&check.to_le_bytes());
    Some(bytes)
}

/// Nothing if the head is damaged.
pub(super) fn read_head(file_crc: u32, offset: u64, bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
    let mut rest = &bytes[..];
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let crc = u32::from_le_bytes(take(&mut rest)?);
    let is_good = u32::from_le_bytes(take(&mut rest)?) == check(file_crc, offset, &bytes[..8]);
    (is_good && length <= PAYLOAD_BYTES_MAX).then_some(Head { length, crc })
}

/// Nothing if these bytes, although as they were written, are no entry of this version.
pub(super) fn read_payload<'a, F: Deserialize<'a>>(payload: &'a [u8]) -> Option<Entry<F>> {
    postcard::take_from_bytes(payload).ok().and_then(|(entry, rest)| rest.is_empty().then_some(entry))
}

/// Looks at the kind only and leaves a frame undecoded.
pub(super) fn read_kind(payload: &[u8]) -> Option<Entry<()>> {
    postcard::from_bytes(payload).ok()
}

fn check(file_crc: u32, offset: u64, head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(file_crc);
    hasher.update(&offset.to_le_bytes());
    hasher.update(head);
    hasher.finalize()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Postcard's own vector cannot start behind a head.
struct Output(Vec<u8>);

impl Flavor for Output {
    type Output = Vec<u8>;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}
