use super::format::{HEAD_BYTES, SEAL_BYTES, VERSION};
use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
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
/// A change here needs a new `VERSION`: an older agent's spool must not be misread.
#[test]
fn the_format_of_this_version() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path());
    let mut writer = spool.begin(Window { start: 60, end: 119, number: 0x0102_0304_0506_0708 }).unwrap();
    writer.block("key", 1, b"a\n").unwrap();
    writer.finish().unwrap();
    let bytes = fs::read(root.path().join("00000000000000000001.seg")).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let summary = "3c00000000000000 7700000000000000 0807060504030201 01000000 0100000000000000 0200000000000000";
    let want = [
        // Header: magic, version, window, blocks, records, bytes of text, CRC.
        &format!("666c6f776c6f6753 01000000 {summary} d79d6316"),
        // Block: CRC, lengths and records, CRC of the text, key, deflated text.
        "1ba94276 0300 01000000 02000000 07a1eadd 08000000 6b6579 4ae402000000ffff",
        // Footer: the block's length, seal.
        &format!("21000000 666c6f776c6f6745 01000000 {summary} faada030"),
    ];
    assert_eq!((VERSION, hex), (1, want.concat().replace(' ', "")));
}

#[test]
fn segments_come_back_until_they_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("spool");
    let spool = open(&directory);
    assert_eq!((spool.last(), spool.bytes()), (None, 0));
    for (number, blocks) in [(7, 1), (3, 2), (9, 1)] {
        append(&spool, number, blocks).unwrap();
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let first = directory.join("00000000000000000001.seg");
    assert_eq!((mode(&directory), mode(&first)), (0o700, 0o600));
    for spool in [&spool, &open(&directory)] {
        assert_eq!(blocks(spool), [(7, 0), (3, 0), (3, 1), (9, 0)]);
        assert_eq!(spool.last(), Some(9));
        let segment = spool.segments()[1];
        assert_eq!((segment.records, segment.text_bytes), (40, (text(3, 0).len() + text(3, 1).len()) as u64));
        let on_disk: u64 = spool.segments().iter().map(|one| fs::metadata(spool.path(one.id)).unwrap().len()).sum();
        assert_eq!(spool.bytes(), on_disk);
    }
    // What is being read stays readable.
    let segments = spool.segments();
    let mut reader = spool.read(segments[1].id).unwrap();
    spool.remove(segments[1].id).unwrap();
    assert_eq!((reader.by_ref().map(Result::unwrap).count(), numbers(&spool)), (2, vec![9]));
    // Again, and with what was never there.
    spool.remove(segments[1].id).unwrap();
    spool.remove(segments[0].id).unwrap();
    assert_eq!(numbers(&open(&directory)), [9]);
    assert!(spool.read(segments[0].id).is_err());
}

#[test]
fn the_last_number_outlives_the_segments() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path());
    append(&spool, 5, 1).unwrap();
    let first = spool.segments()[0].id;
    spool.remove(first).unwrap();
    assert_eq!((spool.last(), open(root.path()).last()), (Some(5), Some(5)));
    // Without a block there is no segment.
    append(&spool, 6, 0).unwrap();
    assert_eq!((numbers(&spool), files(root.path())), (vec![], vec!["last".to_owned()]));
    let spool = open(root.path());
    assert_eq!(spool.last(), Some(6));
    // No id comes again.
    append(&spool, 7, 1).unwrap();
    assert!(spool.segments()[0].id > first);
    assert_eq!((spool.last(), open(root.path()).last()), (Some(7), Some(7)));
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path());
    let mut writer = spool.begin(window(1)).unwrap();
    writer.block("key-0", 20, text(1, 0).as_bytes()).unwrap();
    assert_eq!(files(root.path()), ["00000000000000000001.seg.tmp", "last"]);
    drop(writer);
    assert_eq!((files(root.path()), spool.last()), (vec!["last".to_owned()], None));
    let Err(error) = spool.begin(window(1)).unwrap().block("", 1, &vec![b'\n'; (64 << 20) + 1]) else { panic!() };
    assert_eq!(error.to_string(), "a block of 67108865 bytes is too large for the spool");
}

#[test]
fn blocks_of_any_text() {
    let root = tempfile::tempdir().unwrap();
    let spool = open(root.path());
    let mut noise = 1u64;
    let mut incompressible = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 56) as u8
    };
    let texts: Vec<Vec<u8>> =
        vec![vec![], vec![b'\n'], (0..3_000_000).map(|_| incompressible()).collect(), vec![b'x'; 5_000_000]];
    let mut writer = spool.begin(window(1)).unwrap();
    for text in &texts {
        writer.block("", 1, text).unwrap();
    }
    writer.finish().unwrap();
    let read = spool.read(spool.segments()[0].id).unwrap();
    let read: Vec<Vec<u8>> = read.map(|block| block.unwrap().text().unwrap()).collect();
    assert!(read == texts);
}

/// A spool with one window of three blocks, and where in the file each is.
fn three_blocks(root: &Path) -> (PathBuf, Vec<u8>, Vec<std::ops::Range<usize>>) {
    append(&open(root), 1, 3).unwrap();
    let path = root.join("00000000000000000001.seg");
    let bytes = fs::read(&path).unwrap();
    let mut at = SEAL_BYTES;
    let mut next = || {
        let len = format::block_len(bytes[at..].first_chunk::<HEAD_BYTES>().unwrap());
        at += len;
        at - len..at
    };
    let ranges = vec![next(), next(), next()];
    assert_eq!(at + 3 * 4 + SEAL_BYTES, bytes.len());
    (path, bytes, ranges)
}

/// What comes back of a damaged file, and how many blocks and records are said to be lost; twice read, once counted.
fn read_damaged(root: &Path, path: &Path, bytes: &[u8]) -> (Vec<u64>, (u64, u64)) {
    fs::write(path, bytes).unwrap();
    let spool = open(root);
    let found = blocks(&spool);
    assert_eq!((blocks(&spool), spool.dropped().segments), (found.clone(), 0));
    let count = |spool: &Spool| (spool.dropped().corrupt_blocks, spool.dropped().corrupt_records);
    let lost = count(&spool);
    // Not in the spool, so that it can be damaged again.
    let last = fs::read(root.join(LAST)).unwrap();
    spool.remove(SegmentId(u64::MAX)).unwrap();
    assert_eq!(count(&spool), lost);
    fs::write(root.join(LAST), last).unwrap();
    (found.into_iter().map(|(_, block)| block).collect(), lost)
}

#[test]
fn a_flipped_bit_costs_its_block() {
    let root = tempfile::tempdir().unwrap();
    let (path, bytes, ranges) = three_blocks(root.path());
    for at in 0..bytes.len() {
        for flip in [1 << (at % 8), 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let hit = ranges.iter().position(|range| range.contains(&at)).map(|hit| hit as u64);
            let want: Vec<u64> = (0..3).filter(|block| Some(*block) != hit).collect();
            let lost = if hit.is_some() { (1, 20) } else { (0, 0) };
            assert_eq!(read_damaged(root.path(), &path, &damaged), (want, lost), "byte {at} ^ {flip:#x}");
        }
    }
}

#[test]
fn a_cut_file_gives_what_is_before_the_cut() {
    let root = tempfile::tempdir().unwrap();
    let (path, bytes, ranges) = three_blocks(root.path());
    for len in 0..bytes.len() {
        let whole = ranges.iter().filter(|range| range.end <= len).count() as u64;
        let want: Vec<u64> = (0..whole).collect();
        // Without its header nobody knows that there was anything.
        let lost = if len < SEAL_BYTES { 0 } else { 3 - whole };
        assert_eq!(read_damaged(root.path(), &path, &bytes[..len]), (want, (lost, 20 * lost)), "{len} bytes");
    }
}

#[test]
fn without_a_footer_blocks_are_found_by_their_lengths() {
    let root = tempfile::tempdir().unwrap();
    let (path, bytes, ranges) = three_blocks(root.path());
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let check = |at: usize, want: &[u64], lost: u64| {
        let mut damaged = damaged.clone();
        damaged[at] ^= 0x80;
        assert_eq!(read_damaged(root.path(), &path, &damaged), (want.to_vec(), (lost, 20 * lost)), "byte {at}");
    };
    // In the text.
    check(ranges[1].end - 1, &[0, 2], 1);
    // In the highest byte of the length: the rest cannot be found.
    check(ranges[1].start + 21, &[0], 2);
    // In both ends: it is left alone.
    check(0, &[], 0);
}

/// Anything, also with a seal that is right.
#[test]
fn rubbish_is_read_without_panic() {
    let root = tempfile::tempdir().unwrap();
    let (path, bytes, _) = three_blocks(root.path());
    proptest!(ProptestConfig::with_cases(500), |(
        len in 0..2 * bytes.len(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        seed in any::<u8>(),
    )| {
        let mut damaged: Vec<u8> = bytes.iter().copied().chain(std::iter::repeat(seed)).take(len).collect();
        if len > 0 {
            noise.iter().for_each(|(at, byte)| damaged[at.index(len)] = *byte);
        }
        let (found, (blocks, records)) = read_damaged(root.path(), &path, &damaged);
        prop_assert_eq!(records, blocks * 20);
        prop_assert!(blocks == 0 || found.len() as u64 + blocks == 3);
    });
}

#[test]
fn a_damaged_last_is_said_and_done_without() {
    let root = tempfile::tempdir().unwrap();
    append(&open(root.path()), 4, 1).unwrap();
    fs::write(root.path().join(LAST), "rubbish").unwrap();
    assert_eq!((open(root.path()).last(), blocks(&open(root.path()))), (Some(4), vec![(4, 0)]));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    append(&open(root.path()), 1, 1).unwrap();
    let path = |name: &str| root.path().join(name);
    let foreign = ["00000000000000000002.seg", "3.seg", "+0000000000000000004.seg", "notes.txt", "status.json"];
    for name in foreign {
        fs::write(path(name), "of somebody else").unwrap();
    }
    // Another version of ours.
    let mut newer = fs::read(path("00000000000000000001.seg")).unwrap();
    for at in [8, newer.len() - SEAL_BYTES + 8] {
        newer[at] = 9;
    }
    fs::write(path("00000000000000000005.seg"), newer).unwrap();
    fs::create_dir(path("00000000000000000006.seg")).unwrap();
    symlink(path("00000000000000000001.seg"), path("00000000000000000007.seg")).unwrap();
    fs::write(path("00000000000000000008.seg.tmp"), "half").unwrap();
    let before = files(root.path()).len();

    let spool = open(root.path());
    assert_eq!((blocks(&spool), files(root.path()).len()), (vec![(1, 0)], before - 1));
    // Their names are taken.
    append(&spool, 2, 1).unwrap();
    assert_eq!(spool.segments()[1].id.file_name(), "00000000000000000009.seg");
    spool.remove(spool.segments()[1].id).unwrap();
    assert_eq!(files(root.path()).len(), before - 2);
    assert_eq!(fs::read_to_string(path(foreign[0])).unwrap(), "of somebody else");
}

#[test]
fn the_oldest_make_room() {
    let root = tempfile::tempdir().unwrap();
    append(&open(root.path()), 1, 1).unwrap();
    let size = open(root.path()).bytes();
    let spool = Spool::open(root.path(), 3 * size + size / 2).unwrap();
    (2..=5).for_each(|number| append(&spool, number, 1).unwrap());
    let dropped = Dropped { segments: 2, records: 40, ..Dropped::default() };
    assert_eq!((numbers(&spool), spool.dropped()), (vec![3, 4, 5], dropped));
    // What is being delivered stays; the next oldest go.
    spool.hold(Some(spool.segments()[1].id));
    append(&spool, 6, 1).unwrap();
    assert_eq!(numbers(&spool), [3, 4, 6]);
    spool.hold(None);
    append(&spool, 7, 1).unwrap();
    assert_eq!(numbers(&spool), [4, 6, 7]);
    assert_eq!(numbers(&open(root.path())), [4, 6, 7]);
    // One that is larger than the limit, alone.
    let spool = Spool::open(root.path(), 1).unwrap();
    append(&spool, 8, 2).unwrap();
    assert_eq!((numbers(&spool), spool.dropped().records), (vec![8], 60));
    append(&spool, 9, 1).unwrap();
    assert_eq!((numbers(&spool), spool.last()), (vec![9], Some(9)));
}

/// A full disk can be emptied, and then filled again.
#[test]
fn a_full_disk() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let work = || {
        let root = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), root.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let spool = open(root.path());
        let mut full = 1;
        let error = loop {
            match append(&spool, full, 2) {
                Ok(()) => full += 1,
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("No space left on device (os error 28)"), "{error}");
        assert_eq!((numbers(&spool), spool.last()), ((1..full).collect(), Some(full - 1)));
        // Not a byte is left.
        let filler = fs::write(root.path().join("filler"), [0; 1 << 16]);
        assert!(filler.is_err() && append(&spool, full, 2).is_err());
        spool.remove(spool.segments()[2].id).unwrap();
        append(&spool, full, 2).unwrap();
        let spool = open(root.path());
        assert_eq!((numbers(&spool), blocks(&spool).len() as u64), ((4..=full).collect(), 2 * (full - 3)));
        // The mount must go before its directory can.
        nix::mount::umount(root.path()).unwrap();
    };
    std::thread::spawn(work).join().unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// With so many blocks.
    Append(u64),
    /// As many of the oldest.
    Remove(usize),
    Reopen,
}

/// What the steps that returned Ok make of a spool.
#[derive(Default)]
struct Model {
    appended: u64,
    last: Option<u64>,
    kept: Vec<(u64, u64)>,
}

/// Takes the steps as far as they go. The step that failed, if one did.
fn take(root: &Path, steps: &[Step], model: &mut Model) -> Option<Step> {
    let mut spool = Spool::open(root, NO_LIMIT).ok();
    for &step in steps {
        let is_ok = match (step, &spool) {
            (Step::Append(blocks), Some(spool)) => {
                model.appended += 1;
                append(spool, model.appended, blocks).is_ok_and(|()| {
                    model.last = Some(model.appended);
                    model.kept.extend((blocks > 0).then_some((model.appended, blocks)));
                    true
                })
            }
            (Step::Remove(count), Some(spool)) => {
                let segments = spool.segments();
                let count = count.min(segments.len());
                count == 0
                    || spool.remove(segments[count - 1].id).is_ok_and(|()| {
                        model.kept.drain(..count);
                        true
                    })
            }
            (Step::Reopen, _) => {
                spool = Spool::open(root, NO_LIMIT).ok();
                spool.is_some()
            }
            _ => false,
        };
        if !is_ok {
            return Some(step);
        }
    }
    None
}

fn expand(kept: &[(u64, u64)]) -> Vec<(u64, u64)> {
    kept.iter().flat_map(|&(number, blocks)| (0..blocks).map(move |block| (number, block))).collect()
}

/// Everything that returned Ok is so afterwards; what was under way is done or not.
fn killed_after(changes: i32, steps: &[Step]) -> Result<bool, TestCaseError> {
    let root = tempfile::tempdir()?;
    let directory = root.path().join("spool");
    let (mut model, mut failed) = (Model::default(), None);
    let is_killed = disk::kill_after(changes, || failed = take(&directory, steps, &mut model));
    let spool = open(&directory);
    let mut with_failed = Model { kept: model.kept.clone(), ..model };
    match failed {
        Some(Step::Append(blocks)) => {
            with_failed.last = Some(model.appended);
            with_failed.kept.extend((blocks > 0).then_some((model.appended, blocks)));
        }
        Some(Step::Remove(count)) => drop(with_failed.kept.drain(..count.min(model.kept.len()))),
        _ => {}
    }
    let found = (blocks(&spool), spool.last());
    let is_done = found == (expand(&with_failed.kept), with_failed.last);
    prop_assert!(is_done || found == (expand(&model.kept), model.last), "{found:?} after {changes} of {steps:?}");
    prop_assert_eq!(spool.dropped(), Dropped::default());
    let is_ours = |name: &String| name == LAST || name == "last.tmp" || name.ends_with(EXTENSION);
    prop_assert!(files(&directory).iter().all(is_ours), "{:?}", files(&directory));
    // It goes on, behind all that was.
    append(&spool, 1000, 1).unwrap();
    let newest = spool.segments().last().copied().unwrap();
    prop_assert_eq!((newest.window.number, newest.id > SegmentId(0)), (1000, true));
    Ok(is_killed)
}

#[test]
fn a_kill_at_any_point() {
    use Step::{Append, Remove, Reopen};
    let steps =
        [Append(2), Append(0), Append(1), Remove(1), Reopen, Append(1), Remove(9), Append(0), Reopen, Append(3)];
    let mut changes = 0;
    while killed_after(changes, &steps).unwrap() {
        changes += 1;
    }
    assert!(changes > 50, "{changes}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_kill_at_any_point_of_anything(
        steps in prop::collection::vec(
            prop_oneof![3 => (0..3u64).prop_map(Step::Append), 2 => (0..4usize).prop_map(Step::Remove), 1 => Just(Step::Reopen)],
            1..10,
        ),
        changes in 0..60i32,
    ) {
        killed_after(changes, &steps)?;
    }
}
