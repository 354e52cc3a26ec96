use super::format::{HEAD_BYTES, SEAL_BYTES, VERSION};
use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

const NO_LIMIT: u64 = u64::MAX;

fn window(number: u64) -> Window {
    let start = 1_795_517_880 + 60 * number.cast_signed();
    Window { start, end: start + 59, number }
}

/// The text of a window's block, unlike any other's.
fn text(number: u64, block: u64) -> String {
    (0..20).map(|line| format!("window {number} block {block} line {line} {}\n", number * 7919 + block * 31)).collect()
}

fn append(spool: &Spool, number: u64, blocks: u64) -> Result<(), SpoolError> {
    let mut writer = spool.begin(window(number))?;
    for block in 0..blocks {
        writer.block(&format!("key-{block}"), 20, text(number, block).as_bytes())?;
    }
    writer.finish()
}

fn open(root: &Path) -> Spool {
    Spool::open(root, NO_LIMIT).unwrap()
}

/// Number of the window and of the block, of each that can be read.
fn blocks(spool: &Spool) -> Vec<(u64, u64)> {
    let of_segment = |segment: Segment| {
        let blocks = spool.read(segment.id).unwrap().map(Result::unwrap);
        blocks.map(move |block| {
            let number: u64 = block.key.strip_prefix("key-").unwrap().parse().unwrap();
            let (window, text) = (segment.window.number, block.text().unwrap());
            assert_eq!(String::from_utf8(text).unwrap(), self::text(window, number));
            assert_eq!((segment.window, block.records), (self::window(window), 20));
            (window, number)
        })
    };
    spool.segments().into_iter().flat_map(of_segment).collect()
}

fn numbers(spool: &Spool) -> Vec<u64> {
    spool.segments().iter().map(|segment| segment.window.number).collect()
}

fn files(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
