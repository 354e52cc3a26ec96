//! One column of a row group.
//!
//! The crate writes pages that refer to a dictionary as `RLE_DICTIONARY`, which is of Parquet 2; readers of Parquet 1
//! (flowlogs-reader is one) want the same bytes under their old name, `PLAIN_DICTIONARY`, as the writers of Hadoop give
//! them, and all others take both.
#![forbid(unsafe_code)]

use std::sync::Arc;

use ::parquet::basic::Encoding;
use ::parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use ::parquet::column::writer::{ColumnCloseResult, ColumnWriter, ColumnWriterImpl, get_column_writer};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::Result;
use ::parquet::file::metadata::PageEncodingStats;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::ColumnDescPtr;
use bytes::Bytes;

use super::rows::{Done, number};

/// Values that are in memory as such.
const BATCH: usize = 4096;

/// Its bytes, and what the row group says of it.
pub(super) fn write(
    column: ColumnDescPtr,
    properties: Arc<WriterProperties>,
    rows: &Done,
    at: usize,
) -> Result<(Bytes, ColumnCloseResult)> {
    let mut out = TrackedWrite::new(Vec::new());
    let pages = Box::new(OldNames(SerializedPageWriter::new(&mut out)));
    let mut writer = get_column_writer(column, properties, pages);
    match &mut writer {
        ColumnWriter::Int32ColumnWriter(writer) => write_values(writer, rows.column(at), |value| number(&value))?,
        ColumnWriter::Int64ColumnWriter(writer) => write_values(writer, rows.column(at), |value| number(&value))?,
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            write_values(writer, rows.column(at), |value| Some(ByteArray::from(value)))?;
        }
        _ => {}
    }
    let closed = with_old_names(writer.close()?)?;
    Ok((out.into_inner()?.into(), closed))
}

/// None is null.
fn write_values<T: DataType>(
    writer: &mut ColumnWriterImpl<T>,
    mut column: impl Iterator<Item = Bytes>,
    value: impl Fn(Bytes) -> Option<T::T>,
) -> Result<()> {
    let (mut values, mut levels) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    loop {
        values.clear();
        levels.clear();
        for text in column.by_ref().take(BATCH) {
            let value = value(text);
            levels.push(i16::from(value.is_some()));
            values.extend(value);
        }
        if levels.is_empty() {
            return Ok(());
        }
        writer.write_batch(&values, Some(&levels), None)?;
    }
}

struct OldNames<W>(W);

impl<W: PageWriter> PageWriter for OldNames<W> {
    fn write_page(&mut self, page: CompressedPage) -> Result<PageWriteSpec> {
        let uncompressed = page.uncompressed_size();
        let mut page = page.compressed_page().clone();
        if let Page::DataPage { encoding, .. } | Page::DictionaryPage { encoding, .. } = &mut page {
            *encoding = old_name(*encoding);
        }
        self.0.write_page(CompressedPage::new(page, uncompressed))
    }

    fn close(&mut self) -> Result<()> {
        self.0.close()
    }
}

fn old_name(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::RLE_DICTIONARY => Encoding::PLAIN_DICTIONARY,
        other => other,
    }
}

fn with_old_names(mut closed: ColumnCloseResult) -> Result<ColumnCloseResult> {
    let metadata = closed.metadata;
    let encodings = metadata.encodings().map(old_name).collect();
    let pages = metadata.page_encoding_stats().cloned().unwrap_or_default();
    let pages = pages.into_iter().map(|it| PageEncodingStats { encoding: old_name(it.encoding), ..it }).collect();
    closed.metadata = metadata.into_builder().set_encodings(encodings).set_page_encoding_stats(pages).build()?;
    Ok(closed)
}
