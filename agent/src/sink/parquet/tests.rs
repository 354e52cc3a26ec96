use ::parquet::basic::{Encoding, PageType, Type as Physical};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::file::statistics::Statistics;
use ::parquet::record::Field as Value;
use bytes::Bytes;

use super::*;

const HEADER: &str = "version account_id interface_id srcaddr dstaddr srcport dstport protocol packets bytes start end \
     action log_status";
const NODATA: &str = "2 012345678901 eni-1 - - - - - - - 60 119 - NODATA\n";

fn line(number: usize) -> String {
    let (port, packets, at) = (number % 65_536, number % 97 + 1, 1_795_517_884 + number / 1000);
    format!("2 012345678901 eni-1 10.0.0.1 2001:db8::{port:x} 443 {port} 6 {packets} 9000000000 {at} {at} ACCEPT OK\n")
}

fn table(lines: &str, row_group_bytes: usize) -> Bytes {
    let mut table = Table::with(&Format::default(), row_group_bytes).unwrap();
    // In pieces, as blocks are.
    let (before, after) = lines.split_at(lines.find('\n').unwrap() + 1);
    let rows = [before, after].map(|text| table.push(text.as_bytes()).unwrap());
    assert_eq!(rows.iter().sum::<u64>(), lines.lines().count() as u64);
    table.finish().unwrap().into()
}

fn open(file: Bytes) -> SerializedFileReader<Bytes> {
    SerializedFileReader::new(file).unwrap()
}

fn chunks(file: Bytes) -> Vec<ColumnChunkMetaData> {
    open(file).metadata().row_groups().iter().flat_map(|group| group.columns().to_vec()).collect()
}

/// Of a file: its rows as lines, null as `-`.
pub(in crate::sink) fn lines(file: &[u8]) -> String {
    let reader = open(Bytes::copy_from_slice(file));
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::Str(text) => text.clone(),
        number => number.to_string(),
    };
    let line = |row: ::parquet::record::Row| {
        let words: Vec<String> = row.get_column_iter().map(|(_, value)| word(value)).collect();
        words.join(" ") + "\n"
    };
    reader.get_row_iter(None).unwrap().map(|row| line(row.unwrap())).collect()
}

#[test]
fn rows_are_the_lines() {
    let text: String = [NODATA.to_owned()].into_iter().chain((0..10_000).map(line)).collect();
    let file = table(&text, usize::MAX);
    assert!(lines(&file) == text);
    assert_eq!(table(&text, usize::MAX), file, "other bytes of the same lines");
    let metadata = open(file).metadata().file_metadata().clone();
    assert_eq!((metadata.num_rows(), metadata.created_by()), (10_001, Some("flowlogd")));
    let columns = metadata.schema_descr().columns().iter();
    let of_type = |wanted: Physical| {
        let columns = columns.clone().filter(|column| column.physical_type() == wanted);
        columns.map(|column| column.name()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(columns.clone().map(|column| column.name()).collect::<Vec<_>>().join(" "), HEADER);
    assert_eq!(of_type(Physical::INT32), "version srcport dstport protocol");
    assert_eq!(of_type(Physical::INT64), "packets bytes start end");
}

#[test]
fn a_number_that_is_missing_is_null_and_a_text_is_a_dash() {
    let file = table(NODATA, usize::MAX);
    let reader = open(file);
    let row = reader.get_row_iter(None).unwrap().next().unwrap().unwrap();
    let nulls: Vec<&str> =
        row.get_column_iter().filter(|(_, value)| **value == Value::Null).map(|(name, _)| name.as_str()).collect();
    assert_eq!(nulls, ["srcport", "dstport", "protocol", "packets", "bytes"]);
    assert!(row.get_column_iter().any(|(name, value)| name == "srcaddr" && *value == Value::Str("-".to_owned())));
}

#[test]
fn row_groups_are_bounded() {
    let text: String = (0..5000).map(line).collect();
    let file = table(&text, 64 << 10);
    assert!(lines(&file) == text);
    let reader = open(file);
    let rows: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    let most = (64 << 10) / line(0).len() as i64 + 1;
    assert!(rows.len() > 5 && rows.iter().all(|rows| *rows <= most), "{rows:?}");
}

/// Few rows are better off without; and what refers to a dictionary has the name that readers of Parquet 1 know.
#[test]
fn dictionaries_in_the_way_of_parquet_1() {
    let few: String = (0..DICTIONARY_ROWS_LEAST - 1).map(line).collect();
    assert!(chunks(table(&few, usize::MAX)).iter().all(|chunk| chunk.dictionary_page_offset().is_none()));
    let many: String = (0..DICTIONARY_ROWS_LEAST).map(line).collect();
    for chunk in chunks(table(&many, usize::MAX)) {
        assert!(chunk.dictionary_page_offset().is_some());
        assert!(chunk.encodings().all(|encoding| encoding != Encoding::RLE_DICTIONARY), "{chunk:?}");
        let pages = chunk.page_encoding_stats_mask().unwrap();
        assert!(pages.is_only(Encoding::PLAIN_DICTIONARY), "{pages:?}");
    }
    let file = table(&many, usize::MAX);
    let reader = open(file);
    for page in reader.get_row_group(0).unwrap().get_column_page_reader(3).unwrap() {
        let page = page.unwrap();
        let is_data = page.page_type() == PageType::DATA_PAGE;
        assert_eq!(page.encoding(), if is_data { Encoding::PLAIN_DICTIONARY } else { Encoding::PLAIN });
    }
}

#[test]
fn a_query_by_time_can_skip_row_groups() {
    let text: String = (0..2000).map(line).collect();
    let chunks = chunks(table(&text, usize::MAX));
    let start = chunks.iter().find(|chunk| chunk.column_path().string() == "start").unwrap();
    let Some(Statistics::Int64(range)) = start.statistics() else { panic!("{start:?}") };
    assert_eq!((range.min_opt(), range.max_opt()), (Some(&1_795_517_884), Some(&1_795_517_885)));
}

#[test]
fn what_is_no_row_is_left_out() {
    let good = line(7);
    let mut table = Table::new(&Format::default()).unwrap();
    for (line, rows) in [
        (good.clone(), 1),
        (good.replace(" OK\n", "\n"), 0),
        (good.replace(" OK\n", " OK OK\n"), 0),
        (good.replace(" 443 ", " 4294967296 "), 0),
        (good.replace(" 443 ", " x "), 0),
        ("\n".to_owned(), 0),
        (String::new(), 0),
        (good.trim_end().to_owned(), 1),
    ] {
        assert_eq!(table.push(line.as_bytes()).unwrap(), rows, "{line:?}");
    }
    assert_eq!(table.push(b"2 \xff - - - - - - - - - - - -\n").unwrap(), 0);
    assert_eq!(lines(&table.finish().unwrap()), good.repeat(2));
}
