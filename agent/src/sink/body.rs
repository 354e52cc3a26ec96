//! One object's bytes, of blocks: the one choice between text and Parquet.
//! Must not know of slots, names or where objects go.
#![forbid(unsafe_code)]

use super::Outcome;
use super::member::Member;
use super::parquet::Table;
use crate::flow_log::FileFormat;
use crate::format::Format;
use crate::spool::{Block, SpoolError};

/// How the objects of a flow log are made.
pub(crate) struct Shape {
    file_format: FileFormat,
    format: Format,
    /// The first line of a text, with its newline.
    header: String,
}

/// One that is whole.
pub(super) struct Object {
    pub(super) bytes: Vec<u8>,
    pub(super) records: u64,
    pub(super) text_bytes: u64,
    /// Records that are no rows; none while the spool has what we have put there.
    pub(super) misfits: u64,
}

/// One that grows.
pub(super) struct Body {
    kind: Kind,
    records: u64,
    text_bytes: u64,
    misfits: u64,
}

enum Kind {
    Text(Member),
    Parquet(Box<Table>),
}

impl Shape {
    pub(crate) fn new(file_format: FileFormat, format: &Format) -> Self {
        let header = match file_format {
            FileFormat::PlainText => format.header() + "\n",
            FileFormat::Parquet => String::new(),
        };
        Self { file_format, format: format.clone(), header }
    }

    /// Of text that an object has before all blocks.
    pub(super) fn text_bytes(&self) -> u64 {
        self.header.len() as u64
    }
}

impl Body {
    pub(super) fn new(shape: &Shape) -> Result<Self, Outcome> {
        let kind = match shape.file_format {
            FileFormat::PlainText => Kind::Text(Member::new(&shape.header).map_err(|_| SpoolError::Block)?),
            FileFormat::Parquet => Kind::Parquet(Box::new(Table::new(&shape.format)?)),
        };
        Ok(Self { kind, records: 0, text_bytes: shape.text_bytes(), misfits: 0 })
    }

    pub(super) fn push(&mut self, block: &Block) -> Result<(), Outcome> {
        let records = u64::from(block.records);
        let rows = match &mut self.kind {
            Kind::Text(member) => {
                member.push(block);
                records
            }
            // What cannot be inflated now can never be: its bytes are those that were written.
            Kind::Parquet(table) => block.text().map_or(Ok(0), |text| table.push(&text))?,
        };
        self.records += rows;
        self.misfits += records.saturating_sub(rows);
        self.text_bytes += u64::from(block.raw_len);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Object, Outcome> {
        let Self { kind, records, text_bytes, misfits } = self;
        let bytes = match kind {
            Kind::Text(member) => member.finish(),
            Kind::Parquet(table) => table.finish()?,
        };
        Ok(Object { bytes, records, text_bytes, misfits })
    }
}
