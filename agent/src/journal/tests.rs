use super::format::{HEAD_BYTES, VERSION};
use super::scan::{Cause, Damage};
use super::*;
use crate::capture::flow::{Buffers, Direction, Dropped, Flow, FlowKey, InterfaceTotals, Total, Verdict};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};

const START: i64 = 1_795_517_880;
const WINDOW: (i64, i64) = (START, START + 59);
const NUMBER: u64 = 0x0102_0304_0506_0708;
const NO_LIMIT: u64 = u64::MAX;

fn flow(number: u32) -> Flow {
    let key = FlowKey {
        ifindex: 2,
        direction: Direction::Egress,
        verdict: Verdict::Accept,
        protocol: 6,
        src: [10, 0, 0, 1].into(),
        dst: (0xc633_6400 | number).to_be_bytes().into(),
        src_port: 40_000,
        dst_port: 443,
    };
    Flow { key, packets: 11, bytes: 4_242, first: START + 5, last: START + 42, tcp_flags: 19, reason: 0 }
}

fn frame(epoch: u32, flows: u32) -> Frame {
    let total = Total { packets: 11, bytes: 4_242 };
    let totals = InterfaceTotals {
        ifindex: 2,
        direction: Direction::Egress,
        seen: total,
        non_ip: Total::default(),
        unparsable: [Total::default(); 3],
        skipped: total,
        drops_skipped: Total::default(),
        buffers: Buffers::default(),
    };
    let drained =
        Drained { batches: vec![(0..flows).map(flow).collect(), vec![]], totals: vec![totals], drops: Vec::new() };
    Frame { generation: 7, epoch, drained }
}

fn closing(end: i64) -> Closing {
    Closing { end, ends: true, gaps: BTreeSet::from([3]), known: BTreeSet::from([2, 3]) }
}

fn frames(recovered: &Recovered) -> Vec<Frame> {
    recovered.frames().unwrap().map(Result::unwrap).collect()
}

fn open(directory: &Path) -> (Journal, Recovery) {
    Journal::open(directory, NO_LIMIT).unwrap()
}

/// One window with these frames, and its file.
fn written(directory: &Path, frames: &[Frame]) -> PathBuf {
    let (mut journal, _) = open(directory);
    journal.begin(WINDOW, NUMBER);
    for frame in frames {
        journal.append(frame).unwrap();
    }
    journal.path(journal.current().unwrap())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A change here needs a new `VERSION`: an older agent's journal must not be misread.
#[test]
fn the_format_of_this_version() {
    let root = tempfile::tempdir().unwrap();
    let path = written(root.path(), &[frame(3, 1)]);
    let hex: String = fs::read(path).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let want = [
        // File header: magic, version, window, number, CRC.
        "666c6f776c6f674a 02000000 b86d056b00000000 f36d056b00000000 0807060504030201 af71391b",
        // Head: length, CRC, check.
        "36000000 8ce75fd9 aa43fa2e",
        // A drain of generation 7, epoch 3, two batches, one flow in the first.
        "00 07 03 02 01",
        "00 0a000001 c6336400 409c bb01 02 01 00 06 13 00 0b 9221 fab6abb00d 25",
        // None in the second, one interface, no drops.
        "00 01 02 01 0b9221 0000 0000 0000 0000 0b9221 0000 00",
    ];
    assert_eq!((VERSION, hex), (2, want.concat().replace(' ', "")));
}

#[test]
fn windows_come_back_until_they_are_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("journal");
    let (mut journal, recovery) = open(&directory);
    assert!(recovery.windows.is_empty() && recovery.left_alone.is_empty());
    assert!(matches!(journal.append(&frame(1, 1)), Err(JournalError::NoWindow(_))));

    journal.begin(WINDOW, NUMBER);
    assert_eq!(names(&directory), [""; 0]);
    assert_eq!(journal.close(closing(START + 59)).unwrap(), None);
    journal.begin(WINDOW, NUMBER);
    journal.append(&frame(1, 1)).unwrap();
    journal.append(&frame(2, 300)).unwrap();
    let first = journal.close(closing(START + 30)).unwrap().unwrap();
    // The clock was set back: the same window again. It stays open.
    journal.begin(WINDOW, NUMBER);
    journal.append(&frame(3, 0)).unwrap();
    assert_eq!(names(&directory), [format!("{START}-0.journal"), format!("{START}-1.journal")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&journal.path(first))), (0o700, 0o600));
    assert!(matches!(Journal::open(&directory, NO_LIMIT), Err(JournalError::InUse(_))));
    drop(journal);

    let (mut journal, recovery) = open(&directory);
    let got: Vec<_> =
        recovery.windows.iter().map(|w| (w.window, w.closed.clone().map(|closing| closing.end), frames(w))).collect();
    let want = [(WINDOW, Some(START + 30), vec![frame(1, 1), frame(2, 300)]), (WINDOW, None, vec![frame(3, 0)])];
    assert_eq!(got, want);
    journal.forget(first).unwrap();
    // Once more is no error.
    journal.forget(first).unwrap();
    journal.resume(&recovery.windows[1]).unwrap();
    journal.append(&frame(4, 2)).unwrap();
    drop(journal);

    let (mut journal, recovery) = open(&directory);
    assert_eq!(recovery.windows.len(), 1);
    assert_eq!(frames(&recovery.windows[0]), [frame(3, 0), frame(4, 2)]);
    journal.forget(recovery.windows[0].id).unwrap();
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn full_is_the_sum_of_all_files() {
    let root = tempfile::tempdir().unwrap();
    let path = written(root.path(), &[frame(1, 100)]);
    let bytes = fs::metadata(path).unwrap().len();
    for (limit, is_full) in [(bytes, false), (bytes - 1, true)] {
        assert_eq!(Journal::open(root.path(), limit).unwrap().0.is_full(), is_full);
    }
    let (mut journal, recovery) = Journal::open(root.path(), bytes).unwrap();
    journal.begin((START + 60, START + 119), NUMBER);
    journal.append(&frame(2, 0)).unwrap();
    assert!(journal.is_full());
    journal.forget(recovery.windows[0].id).unwrap();
    assert!(!journal.is_full());
}

#[test]
fn an_unfinished_append_is_dropped_and_its_place_used_again() {
    let root = tempfile::tempdir().unwrap();
    let path = written(root.path(), &[frame(1, 2), frame(2, 2)]);
    let whole = fs::read(&path).unwrap();
    let second = FILE_HEADER_BYTES + (whole.len() - FILE_HEADER_BYTES) / 2;
    for length in [second + 1, second + HEAD_BYTES, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let (mut journal, recovery) = open(root.path());
        let window = &recovery.windows[0];
        assert_eq!(frames(window), [frame(1, 2)]);
        let lost = length - second;
        let want = format!("journal {}: dropped an unfinished append, {lost} bytes from byte {second}", path.display());
        assert_eq!(window.damage.as_ref().unwrap().to_string(), want);
        journal.resume(window).unwrap();
        journal.append(&frame(3, 1)).unwrap();
        drop(journal);
        let (_, recovery) = open(root.path());
        assert_eq!(
            (frames(&recovery.windows[0]), &recovery.windows[0].damage),
            (vec![frame(1, 2), frame(3, 1)], &None)
        );
    }
}

#[test]
fn damage_in_the_middle_costs_its_own_frame_only() {
    let root = tempfile::tempdir().unwrap();
    let path = written(root.path(), &[frame(1, 3), frame(2, 3), frame(3, 3)]);
    let whole = fs::read(&path).unwrap();
    let entry = (whole.len() - FILE_HEADER_BYTES) / 3;
    let second = FILE_HEADER_BYTES + entry;
    let recover = |alter: &dyn Fn(&mut [u8])| {
        let mut bytes = whole.clone();
        alter(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let (_, recovery) = open(root.path());
        let window = &recovery.windows[0];
        let Damage { from, bytes, places, ref cause, .. } = *window.damage.as_ref().unwrap();
        let epochs: Vec<u32> = frames(window).iter().map(|frame| frame.epoch).collect();
        (epochs, from as usize, bytes as usize, places, cause.clone())
    };
    assert_eq!(recover(&|bytes| bytes[second + HEAD_BYTES] ^= 0x10), (vec![1, 3], second, entry, 1, Cause::Corrupt));
    // A length that is not to be trusted, however large, is neither allocated nor followed.
    assert_eq!(recover(&|bytes| bytes[second + 3] ^= 0x10), (vec![1], second, 2 * entry, 1, Cause::Corrupt));
    // A whole entry in another's place would be counted twice.
    let astray = |bytes: &mut [u8]| bytes.copy_within(FILE_HEADER_BYTES..second, second);
    assert_eq!(recover(&astray), (vec![1], second, 2 * entry, 1, Cause::Corrupt));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("journal");
    let path = written(&directory, &[frame(1, 1)]);
    let good = fs::read(&path).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes).unwrap();
    let mut other_version = good.clone();
    other_version[8] = 9;
    let mut damaged = good.clone();
    damaged[12] ^= 1;
    put("1-0.journal", &other_version);
    put("2-0.journal", &damaged);
    put("3-0.journal", b"notes");
    put("4-0.journal", b"");
    put("05-0.journal", &good);
    put("notes", &good);
    fs::create_dir(directory.join("6-0.journal")).unwrap();
    symlink(&path, directory.join("7-0.journal")).unwrap();
    fs::create_dir(directory.join("8-0.journal.tmp")).unwrap();
    // These are ours, and say nothing.
    put("9-0.journal.tmp", b"flow");
    put("9-1.journal", &good[..FILE_HEADER_BYTES]);

    let (mut journal, recovery) = open(&directory);
    let left: Vec<String> = recovery.left_alone.iter().map(ToString::to_string).collect();
    let want: Vec<String> = [
        ("05-0.journal", "its name is not a journal's"),
        ("1-0.journal", "its format is version 9, this flowlogd knows 2"),
        ("2-0.journal", "its header is damaged"),
        ("3-0.journal", "it is not a journal"),
        ("4-0.journal", "it is not a journal"),
        ("6-0.journal", "it is not a regular file"),
        ("7-0.journal", "it is not a regular file"),
        ("8-0.journal.tmp", "it is not a regular file"),
        ("notes", "its name is not a journal's"),
    ]
    .iter()
    .map(|(name, why)| format!("left {} in the journal directory alone: {why}", directory.join(name).display()))
    .collect();
    assert_eq!(left, want);
    assert_eq!(recovery.windows.len(), 1);
    // Windows of the same starts get other names.
    for start in [1, 8] {
        journal.begin((start, start + 59), NUMBER);
        journal.append(&frame(1, 1)).unwrap();
        assert_eq!(journal.current(), Some(WindowId { start, counter: 1 }));
    }
    assert_eq!(fs::read(directory.join("1-0.journal")).unwrap(), other_version);
    assert!(!directory.join("9-0.journal.tmp").exists() && !directory.join("9-1.journal").exists());
}

#[test]
fn a_sound_entry_of_an_unknown_kind_is_an_error_and_no_end() {
    let root = tempfile::tempdir().unwrap();
    let path = written(root.path(), &[frame(1, 1)]);
    let mut bytes = fs::read(&path).unwrap();
    let crc = format::read_file_header(&bytes).unwrap().crc;
    for payload in [[9, 9].as_slice(), &[], &[0, 1, 2]] {
        let entry = [&[0; HEAD_BYTES], payload].concat();
        bytes.extend(format::seal(crc, bytes.len() as u64, entry).unwrap());
    }
    fs::write(&path, &bytes).unwrap();
    let (_, recovery) = open(root.path());
    let window = &recovery.windows[0];
    assert_eq!((&window.closed, &window.damage), (&None, &None));
    let got: Vec<bool> = window.frames().unwrap().map(|frame| frame.is_ok()).collect();
    assert_eq!(got, [true, false, false, false]);
}

/// A disk of 64 KiB in a mount namespace of this thread, which goes with it. Only root can make one; `tail.rs` has
/// the same without.
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let work = || {
        let root = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), root.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let (mut journal, _) = open(root.path());
        journal.begin(WINDOW, NUMBER);
        let mut epochs = 0;
        let error = loop {
            match journal.append(&frame(epochs, 500)) {
                Ok(()) => epochs += 1,
                Err(error) => break error.to_string(),
            }
        };
        let path = root.path().join(format!("{START}-0.journal"));
        let want = format!("cannot append to journal {}: No space left on device (os error 28)", path.display());
        assert_eq!(error, want);
        // What fits still goes in.
        journal.append(&frame(epochs, 1)).unwrap();
        drop(journal);
        let (_, recovery) = open(root.path());
        let window = &recovery.windows[0];
        assert_eq!(window.damage, None);
        let got: Vec<u32> = frames(window).iter().map(|frame| frame.epoch).collect();
        assert_eq!(got, (0..=epochs).collect::<Vec<u32>>());
        // The mount must go before its directory can.
        nix::mount::umount(root.path()).unwrap();
    };
    std::thread::spawn(work).join().unwrap();
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let key = (any::<u32>(), any::<bool>(), any::<bool>(), any::<u8>(), any::<[IpAddr; 2]>(), any::<[u16; 2]>());
    let values = (any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<u8>(), any::<u16>());
    (key, values).prop_map(|(key, (packets, bytes, first, last, tcp_flags, reason))| {
        let (ifindex, egress, reject, protocol, [src, dst], [src_port, dst_port]) = key;
        let direction = if egress { Direction::Egress } else { Direction::Ingress };
        let verdict = if reject { Verdict::Reject } else { Verdict::Accept };
        let key = FlowKey { ifindex, direction, verdict, protocol, src, dst, src_port, dst_port };
        Flow { key, packets, bytes, first, last, tcp_flags, reason }
    })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let batches = prop::collection::vec(prop::collection::vec(any_flow(), 0..4), 0..3);
    let drops = prop::collection::vec((any_flow(), any::<bool>()), 0..3);
    (any::<u64>(), any::<u32>(), batches, any::<u64>(), drops).prop_map(|(generation, epoch, batches, seen, drops)| {
        let drops = drops.into_iter().map(|(flow, counted)| Dropped { flow, counted }).collect();
        let totals = InterfaceTotals { seen: Total { packets: seen, bytes: !seen }, ..frame(0, 0).drained.totals[0] };
        Frame { generation, epoch, drained: Drained { batches, totals: vec![totals], drops } }
    })
}

/// What may happen to bytes on a disk.
#[derive(Clone, Debug)]
enum Accident {
    Flip {
        at: prop::sample::Index,
        mask: u8,
    },
    Truncate {
        at: prop::sample::Index,
    },
    Zero {
        at: prop::sample::Index,
        length: usize,
    },
    /// A block that went astray.
    Copy {
        from: prop::sample::Index,
        to: prop::sample::Index,
        length: usize,
    },
    Append {
        bytes: Vec<u8>,
    },
}

fn any_accident() -> impl Strategy<Value = Accident> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 1u8..).prop_map(|(at, mask)| Accident::Flip { at, mask }),
        index().prop_map(|at| Accident::Truncate { at }),
        (index(), 1usize..200).prop_map(|(at, length)| Accident::Zero { at, length }),
        (index(), index(), 1usize..600).prop_map(|(from, to, length)| Accident::Copy { from, to, length }),
        prop::collection::vec(any::<u8>(), 1..40).prop_map(|bytes| Accident::Append { bytes }),
    ]
}

impl Accident {
    /// Spares the file's header, whose damage has a test of its own.
    fn happen(&self, bytes: &mut Vec<u8>) {
        let body = bytes.len() - FILE_HEADER_BYTES;
        let place = |index: &prop::sample::Index| FILE_HEADER_BYTES + if body == 0 { 0 } else { index.index(body) };
        match self {
            Self::Append { bytes: more } => bytes.extend(more),
            _ if body == 0 => {}
            Self::Flip { at, mask } => bytes[place(at)] ^= mask,
            Self::Truncate { at } => bytes.truncate(place(at)),
            Self::Zero { at, length } => bytes[place(at)..].iter_mut().take(*length).for_each(|byte| *byte = 0),
            Self::Copy { from, to, length } => {
                let length = (*length).min(bytes.len() - place(from)).min(bytes.len() - place(to));
                bytes.copy_within(place(from)..place(from) + length, place(to));
            }
        }
    }
}

proptest! {
    #[test]
    fn accidents_lose_frames_and_alter_none(
        written in prop::collection::vec(any_frame(), 1..6),
        accidents in prop::collection::vec(any_accident(), 0..4),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = format::file_header(WINDOW, NUMBER).to_vec();
        let crc = format::read_file_header(&bytes).unwrap().crc;
        let mut sizes = Vec::new();
        for frame in &written {
            let entry = format::entry(crc, bytes.len() as u64, &Entry::Drain(frame)).unwrap();
            sizes.push(entry.len());
            bytes.extend(entry);
        }
        for accident in &accidents {
            accident.happen(&mut bytes);
        }
        fs::write(root.path().join(format!("{START}-0.journal")), &bytes).unwrap();

        let (_, recovery) = open(root.path());
        prop_assert!(recovery.left_alone.is_empty());
        let found: Vec<Frame> = recovery.windows.iter().flat_map(frames).collect();
        // Each is the next of those written, some left out.
        let mut rest = written.iter().zip(&sizes);
        let mut kept = FILE_HEADER_BYTES;
        for frame in &found {
            let size = rest.find(|(written, _)| *written == frame).map(|(_, &size)| size);
            prop_assert!(size.is_some(), "a frame that was not written");
            kept += size.unwrap_or_default();
        }
        if accidents.is_empty() {
            prop_assert_eq!(&found, &written);
        }
        // Every byte is either kept or said to be lost.
        let lost: u64 = recovery.windows.iter().filter_map(|w| w.damage.as_ref()).map(|damage| damage.bytes).sum();
        prop_assert_eq!(kept as u64 + lost, bytes.len() as u64);
    }

    #[test]
    fn no_content_panics(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        raw in any::<bool>(),
        closed in any::<bool>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let mut bytes = format::file_header(WINDOW, NUMBER).to_vec();
        let crc = format::read_file_header(&bytes).unwrap().crc;
        if raw {
            bytes.extend(payload);
        } else {
            // Sound, but of whatever content.
            let mut entry = vec![0; HEAD_BYTES];
            entry.push(u8::from(closed));
            entry.extend(payload);
            bytes.extend(format::seal(crc, bytes.len() as u64, entry).unwrap());
        }
        fs::write(root.path().join("0-0.journal"), &bytes).unwrap();
        let (_, recovery) = open(root.path());
        for window in &recovery.windows {
            let _ = window.frames().unwrap().count();
        }
    }
}
