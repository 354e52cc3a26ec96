//! One object's bytes as a Parquet file: lines of a flow log, a row each, in row groups of bounded size.
//! Must not know of slots, names or where objects go.
//! Always: the same lines give the same bytes; a row has the line's values, `-` as null in a column of numbers and as
//! `-` in a column of text, as AWS has it.
//!
//! What was decided, and by which readers, is in docs/parquet.md.
#![forbid(unsafe_code)]

mod chunk;
mod column;
mod rows;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

use ::parquet::basic::{Compression, GzipLevel};
use ::parquet::errors::Result;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::TypePtr;

use rows::Rows;

use crate::format::Format;

/// Of a row group's lines: what an object needs in memory beside its own bytes. Many thousand rows.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// With fewer rows than these a dictionary takes more than it saves.
const DICTIONARY_ROWS_LEAST: usize = 4096;
/// Six takes 2 % less room and more than twice the time.
const LEVEL: u32 = 2;

/// A file that grows.
pub(super) struct Table {
    file: SerializedFileWriter<Vec<u8>>,
    rows: Rows,
    row_group_bytes: usize,
    properties: Properties,
}

/// Of column chunks.
struct Properties {
    plain: Arc<WriterProperties>,
    dictionary: Arc<WriterProperties>,
}

impl Properties {
    fn new() -> Result<Self> {
        let level = GzipLevel::try_new(LEVEL)?;
        let with = |dictionary| {
            let properties = WriterProperties::builder()
                .set_created_by("flowlogd".to_owned())
                .set_writer_version(WriterVersion::PARQUET_1_0)
                .set_compression(Compression::GZIP(level))
                .set_dictionary_enabled(dictionary)
                // What a query by time or port skips a row group by; objects are too small for more.
                .set_statistics_enabled(EnabledStatistics::Chunk)
                .set_offset_index_disabled(true);
            Arc::new(properties.build())
        };
        Ok(Self { plain: with(false), dictionary: with(true) })
    }
}

impl Table {
    pub(super) fn new(format: &Format) -> Result<Self> {
        Self::with(format, ROW_GROUP_BYTES)
    }

    fn with(format: &Format, row_group_bytes: usize) -> Result<Self> {
        let (properties, schema) = (Properties::new()?, column::schema(format)?);
        let file = SerializedFileWriter::new(Vec::new(), TypePtr::from(schema), Arc::clone(&properties.plain))?;
        Ok(Self { file, rows: Rows::new(format), row_group_bytes, properties })
    }

    /// Lines with their newlines. The number of those that are rows: a line that is not of the format is left out.
    pub(super) fn push(&mut self, text: &[u8]) -> Result<u64> {
        let mut rows = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            rows += u64::from(self.rows.push(line.strip_suffix(b"\n").unwrap_or(line)));
            if self.rows.bytes() >= self.row_group_bytes {
                self.flush()?;
            }
        }
        Ok(rows)
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.flush()?;
        self.file.into_inner()
    }

    fn flush(&mut self) -> Result<()> {
        let rows = self.rows.take();
        if rows.len() == 0 {
            return Ok(());
        }
        let Properties { plain, dictionary } = &self.properties;
        let properties = if rows.len() < DICTIONARY_ROWS_LEAST { plain } else { dictionary };
        let columns = self.file.schema_descr().columns().to_vec();
        let mut group = self.file.next_row_group()?;
        for (at, column) in columns.into_iter().enumerate() {
            let (bytes, closed) = chunk::write(column, Arc::clone(properties), &rows, at)?;
            group.append_column(&bytes, closed)?;
        }
        group.close()?;
        Ok(())
    }
}
