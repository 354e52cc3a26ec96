//! Blocks of a segment, one at a time.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::format::{self, BLOCK_BYTES_MAX, Block, HEAD_BYTES, SEAL_BYTES, Summary};
use super::{SegmentId, SpoolError, State};

/// The whole blocks, in order. Ends after an error. What is damaged is left out, and counted when the end is reached.
pub(crate) struct Reader {
    file: File,
    path: PathBuf,
    id: SegmentId,
    places: Places,
    /// What is still to come, if nothing is damaged.
    missing: (u64, u64),
    is_over: bool,
    state: Arc<Mutex<State>>,
}

/// How the next block is found.
enum Places {
    /// By the footer.
    Listed { at: u64, lengths: std::vec::IntoIter<u32> },
    /// The footer is damaged: by what each block says of its length.
    Chained { at: u64, end: u64, left: u32 },
}

/// What is whole of a segment's ends.
pub(super) struct Ends {
    pub(super) summary: Summary,
    pub(super) bytes: u64,
    lengths: Option<Vec<u32>>,
}

impl Ends {
    /// Invalid data: neither end is whole.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let header = read_at::<SEAL_BYTES>(file, 0, bytes)?.and_then(|header| format::read_header(&header));
        let footer = read_footer(file, bytes)?;
        let lengths_fit = |lengths: &Vec<u32>| {
            let blocks: u64 = lengths.iter().copied().map(u64::from).sum();
            (2 * SEAL_BYTES + 4 * lengths.len()) as u64 + blocks == bytes
        };
        let footer = footer.filter(|(lengths, _)| lengths_fit(lengths));
        let (lengths, of_footer) = footer.unzip();
        let summary = header.or(of_footer).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { summary, bytes, lengths })
    }

    pub(super) fn is_whole(&self) -> bool {
        self.lengths.is_some()
    }

    fn places(self) -> Places {
        let (at, left) = (SEAL_BYTES as u64, self.summary.blocks);
        match self.lengths {
            Some(lengths) => Places::Listed { at, lengths: lengths.into_iter() },
            None => Places::Chained { at, end: self.bytes, left },
        }
    }
}

fn read_footer(file: &File, bytes: u64) -> io::Result<Option<(Vec<u32>, Summary)>> {
    let Some(at) = bytes.checked_sub(SEAL_BYTES as u64) else { return Ok(None) };
    let Some(seal) = read_at(file, at, bytes)? else { return Ok(None) };
    let len = format::footer_len(&seal);
    let Some(start) = bytes.checked_sub(len as u64) else { return Ok(None) };
    let mut footer = vec![0; len];
    file.read_exact_at(&mut footer, start)?;
    Ok(format::read_footer(&footer))
}

/// None when the file, of `bytes`, ends before.
fn read_at<const N: usize>(file: &File, at: u64, bytes: u64) -> io::Result<Option<[u8; N]>> {
    if bytes < at + N as u64 {
        return Ok(None);
    }
    let mut read = [0; N];
    file.read_exact_at(&mut read, at)?;
    Ok(Some(read))
}

impl Reader {
    pub(super) fn open(path: &Path, id: SegmentId, state: Arc<Mutex<State>>) -> Result<Self, SpoolError> {
        let file = super::open_file(path)?;
        let ends = Ends::read(&file).map_err(SpoolError::at("read segment", path))?;
        let missing = (u64::from(ends.summary.blocks), ends.summary.records);
        Ok(Self { file, path: path.to_owned(), id, places: ends.places(), missing, is_over: false, state })
    }

    /// The next block's bytes.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((at, len)) = self.places.next(&self.file)? else { return Ok(None) };
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Some(bytes))
    }

    /// Again when the segment is read again, with the same result.
    fn count_corrupt(&self) {
        let (blocks, records) = self.missing;
        if blocks > 0 && super::lock(&self.state).corrupt.insert(self.id, self.missing).is_none() {
            let path = self.path.display();
            tracing::error!("segment {path} is damaged: {blocks} blocks with {records} records of it are lost");
        }
    }
}

impl Places {
    fn next(&mut self, file: &File) -> io::Result<Option<(u64, usize)>> {
        match self {
            Self::Listed { at, lengths } => {
                let Some(len) = lengths.next() else { return Ok(None) };
                let start = *at;
                *at += u64::from(len);
                Ok(Some((start, len as usize)))
            }
            Self::Chained { left: 0, .. } => Ok(None),
            Self::Chained { at, end, left } => {
                let Some(head) = read_at::<HEAD_BYTES>(file, *at, *end)? else { return Ok(None) };
                let (start, len) = (*at, format::block_len(&head));
                // A damaged length leads nowhere: the rest is lost.
                if len > 2 * BLOCK_BYTES_MAX || start + len as u64 > *end {
                    return Ok(None);
                }
                (*at, *left) = (start + len as u64, *left - 1);
                Ok(Some((start, len)))
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Block, SpoolError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            match self.read() {
                Ok(Some(bytes)) => {
                    let Some(block) = format::read_block(bytes) else { continue };
                    self.missing.0 = self.missing.0.saturating_sub(1);
                    self.missing.1 = self.missing.1.saturating_sub(u64::from(block.records));
                    return Some(Ok(block));
                }
                Ok(None) => {
                    self.is_over = true;
                    self.count_corrupt();
                }
                Err(cause) => {
                    self.is_over = true;
                    return Some(Err(SpoolError::at("read segment", &self.path)(cause)));
                }
            }
        }
        None
    }
}
