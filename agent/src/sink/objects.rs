//! Publishes the spool as objects: batches of segments, in each batch an object for every slot of `end`.
//! Must not know what a line is, nor how a store keeps objects.
//! Always: a record is in one object; a batch that was begun is the same one after a crash, under the same names, so
//! that what is published again takes its own place; no object without records.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;

use super::body::{Body, Object, Shape};
use super::due::{due, next_look};
use super::member::TEXT_BYTES_MAX;
use super::{Delivered, Directory, Names, Outcome, S3};
use crate::fault;
use crate::register::Register;
use crate::spool::{Block, Segment, SegmentId, Spool, SpoolError};

/// Keeps whole objects by name.
pub(crate) enum Store {
    Directory(Directory),
    S3(Box<S3>),
}

impl Store {
    async fn put(&mut self, key: &str, body: Bytes) -> Outcome {
        match self {
            Self::Directory(directory) => directory.put(key, &body),
            Self::S3(bucket) => bucket.put(key, body).await,
        }
    }

    /// What is in a bucket is kept as the bucket says.
    fn tidy(&mut self, now: i64) {
        if let Self::Directory(directory) = self {
            directory.tidy(now);
        }
    }
}

pub(crate) struct Objects {
    spool: Arc<Spool>,
    names: Names,
    shape: Shape,
    /// Seconds that a batch is collected for, see [`due`].
    interval: u32,
    store: Store,
    batch: Option<Batch>,
    /// The newest batch's last segment.
    batch_file: Register,
    delivered: Delivered,
    text_bytes_max: u64,
}

/// Of the first segment to `through`.
struct Batch {
    segments: Vec<Segment>,
    through: SegmentId,
    /// What is not published yet.
    left: Vec<Part>,
}

/// One object: a slot's records, or as many of them as one object may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Part {
    slot: i64,
    number: u32,
}

impl Objects {
    /// To be made before a window is finished in the spool: what a batch
    /// that was begun is made of must not make room for it.
    pub(crate) fn open(
        spool: Arc<Spool>,
        names: Names,
        shape: Shape,
        interval: u32,
        store: Store,
    ) -> Result<Self, SpoolError> {
        let (mut batch_file, through) = read_batch_file(&spool)?;
        // Makes room for what is to be said when there is none.
        if let Err(error) = write_batch_file(&mut batch_file, through) {
            tracing::warn!("{error}");
        }
        let (batch, delivered, text_bytes_max) = (None, Delivered::default(), TEXT_BYTES_MAX);
        let mut objects = Self { spool, names, shape, interval, store, batch, batch_file, delivered, text_bytes_max };
        // None of it is there when the batch was settled.
        objects.batch = objects.batch_through(through)?;
        Ok(objects)
    }

    /// Publishes one object, the next that is due. None: nothing is due. `all`: nothing more comes, so everything is.
    pub(crate) async fn deliver(&mut self, now: i64, all: bool) -> Option<Outcome> {
        match self.begin(now, all) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => return Some(error.into()),
        }
        let batch = self.batch.as_ref()?;
        let Some(&part) = batch.left.last() else { return Some(self.settle()) };
        let Object { bytes, records, text_bytes, misfits } = match self.assemble(batch, part) {
            Ok(object) => object,
            Err(outcome) => return Some(outcome),
        };
        let key = self.names.key(batch.segments.first()?.window.number, part.slot, part.number);
        if misfits > 0 {
            tracing::error!("{misfits} records are no rows of {key}, and are left out");
        }
        if records > 0 {
            let length = bytes.len() as u64;
            let outcome = self.store.put(&key, bytes.into()).await;
            if outcome != Outcome::Done {
                return Some(outcome);
            }
            self.store.tidy(now);
            self.delivered.calls += 1;
            self.delivered.bytes += length;
            self.delivered.text_bytes += text_bytes;
            self.delivered.records += records;
        }
        self.delivered.dead_letters += misfits;
        let batch = self.batch.as_mut()?;
        batch.left.pop();
        Some(if batch.left.is_empty() { self.settle() } else { Outcome::Done })
    }

    /// When something may become due, in seconds, if the spool stays as it is.
    pub(crate) fn next_look(&self, now: i64) -> i64 {
        next_look(now, self.interval)
    }

    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Whether there is a batch, perhaps a new one.
    fn begin(&mut self, now: i64, all: bool) -> Result<bool, SpoolError> {
        if self.batch.is_none() {
            let Some(through) = due(&self.spool.segments(), now, self.interval, all) else { return Ok(false) };
            let batch = self.batch_through(through)?;
            if batch.is_some() {
                write_batch_file(&mut self.batch_file, through)?;
                fault::point("batch-made");
            }
            self.batch = batch;
        }
        Ok(self.batch.is_some())
    }

    /// Held, so that none of it makes room for others. None if there is nothing.
    fn batch_through(&self, through: SegmentId) -> Result<Option<Batch>, SpoolError> {
        self.spool.hold(Some(through));
        let mut segments = self.spool.segments();
        segments.retain(|segment| segment.id <= through);
        if segments.is_empty() {
            self.spool.hold(None);
            return Ok(None);
        }
        let mut parts = BTreeSet::new();
        self.visit(&segments, |part, _| -> Result<(), SpoolError> {
            parts.insert(part);
            Ok(())
        })?;
        // The last is the next.
        Ok(Some(Batch { segments, through, left: parts.into_iter().rev().collect() }))
    }

    /// Everything is out.
    fn settle(&mut self) -> Outcome {
        let Some(batch) = &self.batch else { return Outcome::Done };
        if let Err(error) = self.spool.remove(batch.through) {
            return error.into();
        }
        self.delivered.segments += batch.segments.len() as u64;
        self.batch = None;
        self.spool.hold(None);
        Outcome::Done
    }

    fn assemble(&self, batch: &Batch, wanted: Part) -> Result<Object, Outcome> {
        let mut body = Body::new(&self.shape)?;
        self.visit(&batch.segments, |part, block| if part == wanted { body.push(block) } else { Ok(()) })?;
        body.finish()
    }

    /// Every block that has records, with the object that it belongs to; always the same one.
    fn visit<E: From<SpoolError>>(
        &self,
        segments: &[Segment],
        mut visit: impl FnMut(Part, &Block) -> Result<(), E>,
    ) -> Result<(), E> {
        // By slot: the part that is being filled, and its text.
        let mut filling: BTreeMap<i64, (u32, u64)> = BTreeMap::new();
        for segment in segments {
            for block in self.spool.read(segment.id)? {
                let block = block?;
                if block.records == 0 {
                    continue;
                }
                let slot = block.key.parse().unwrap_or_else(|_| self.names.slot_of(segment.window.end));
                let header = self.shape.text_bytes();
                let (number, text_bytes) = filling.entry(slot).or_insert((0, header));
                if *text_bytes > header && *text_bytes + u64::from(block.raw_len) > self.text_bytes_max {
                    (*number, *text_bytes) = (*number + 1, header);
                }
                *text_bytes += u64::from(block.raw_len);
                visit(Part { slot, number: *number }, &block)?;
            }
        }
        Ok(())
    }
}

fn write_batch_file(file: &mut Register, through: SegmentId) -> Result<(), SpoolError> {
    file.write(&through.to_string()).map_err(SpoolError::at("write", file.path()))
}

fn read_batch_file(spool: &Spool) -> Result<(Register, SegmentId), SpoolError> {
    let (file, line) = Register::open(spool.directory().join("batch"));
    let through = match line {
        Ok(None) => Some(SegmentId::NONE),
        Ok(Some(line)) => line.parse().ok(),
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => return Err(SpoolError::at("read", file.path())(error)),
    };
    let through = through.unwrap_or_else(|| {
        let path = file.path().display();
        tracing::warn!("{path} is damaged: objects may be published again under other names");
        SegmentId::NONE
    });
    Ok((file, through))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;
    use crate::flow_log::{FileFormat, Layout};
    use crate::format::Format;
    use crate::identity::Identity;
    use crate::spool::Window;
    use flate2::bufread::GzDecoder;
    use std::future::Future;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::task::{Context, Poll, Waker};
    use std::{fs, pin::pin};

    /// Of as many fields as the lines here have words.
    const FORMAT: &str = "${action} ${srcaddr} ${dstaddr} ${log-status}";
    const HEADER: &str = "action srcaddr dstaddr log-status";
    /// 2018-06-20T16:20:00Z
    const SLOT: i64 = 1_529_511_600;

    /// Of what never waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("a directory never waits"),
        }
    }

    struct Place(tempfile::TempDir, FileFormat);

    impl Place {
        fn new() -> Self {
            Self::of(FileFormat::PlainText)
        }

        fn of(file_format: FileFormat) -> Self {
            Self(tempfile::tempdir().unwrap(), file_format)
        }

        fn spool_directory(&self) -> PathBuf {
            self.0.path().join("spool")
        }

        fn objects_directory(&self) -> PathBuf {
            self.0.path().join("objects")
        }

        /// As an agent that starts.
        fn open(&self, interval: u32) -> Option<Objects> {
            let spool = Arc::new(Spool::open(&self.spool_directory(), u64::MAX).ok()?);
            let identity = Identity::new(Some("123456789012"), Some("us-east-1")).unwrap();
            let names = Names::new(identity, "fl-1234abcd", "", Layout { file_format: self.1, ..Layout::default() });
            let directory = Directory::create(self.objects_directory(), &names).ok()?;
            let shape = Shape::new(self.1, &Format::parse(FORMAT).unwrap());
            Objects::open(spool, names, shape, interval, Store::Directory(directory)).ok()
        }

        /// What is there under names that are not hidden.
        fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
            let (mut files, mut folders) = (BTreeMap::new(), vec![self.objects_directory()]);
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        folders.push(path);
                    } else if !path.file_name().unwrap().as_bytes().starts_with(b".") {
                        files.insert(path.clone(), fs::read(path).unwrap());
                    }
                }
            }
            files
        }

        /// Stamp and text of each object, sorted.
        fn objects(&self) -> Vec<(String, String)> {
            let mut objects: Vec<_> = self.files().iter().map(|(path, bytes)| object(path, bytes)).collect();
            objects.sort();
            objects
        }

        fn lines(&self) -> Vec<String> {
            let mut lines: Vec<String> =
                self.objects().iter().flat_map(|(_, text)| text.lines().map(str::to_owned)).collect();
            lines.sort();
            lines
        }
    }

    /// Of one gzip member with the header, or a Parquet file.
    fn object(path: &Path, bytes: &[u8]) -> (String, String) {
        let stamp = path.to_str().unwrap().rsplit('_').nth(1).unwrap().to_owned();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            return (stamp, super::super::parquet::tests::lines(bytes));
        }
        assert_eq!(&bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "a name or time in the gzip header");
        let mut member = GzDecoder::new(bytes);
        let mut text = String::new();
        member.read_to_string(&mut text).unwrap();
        assert!(member.into_inner().is_empty(), "a second gzip member");
        let text = text.strip_prefix(HEADER).and_then(|text| text.strip_prefix('\n')).expect("no header");
        (stamp, text.to_owned())
    }

    /// A minute's window with a block for each of these slots.
    fn append(spool: &Spool, minute: i64, slots: &[i64]) -> Result<(), SpoolError> {
        let start = SLOT + 60 * minute;
        let mut writer = spool.begin(Window { start, end: start + 59, number: minute.cast_unsigned() })?;
        for (at, slot) in slots.iter().enumerate() {
            writer.block(&slot.to_string(), 1, line(minute, at).as_bytes())?;
        }
        writer.finish()
    }

    fn line(minute: i64, block: usize) -> String {
        format!("minute {minute} block {block}\n")
    }

    fn deliver_all(objects: &mut Objects, at: i64, all: bool) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(outcome) = now(objects.deliver(at, all)) {
            let is_done = outcome == Outcome::Done;
            outcomes.push(outcome);
            if !is_done {
                break;
            }
        }
        outcomes
    }

    #[test]
    fn a_batch_is_an_object_for_each_slot() {
        let place = Place::new();
        let mut objects = place.open(300).unwrap();
        let spool = Arc::clone(&objects.spool);
        for minute in 0..4 {
            append(&spool, minute, &[SLOT]).unwrap();
        }
        assert_eq!(deliver_all(&mut objects, SLOT + 299, false), []);
        append(&spool, 4, &[SLOT, SLOT + 300]).unwrap();
        append(&spool, 5, &[SLOT + 300]).unwrap();
        assert_eq!(deliver_all(&mut objects, SLOT + 360, false), [Outcome::Done, Outcome::Done]);
        let texts = [(0..4).map(|minute| line(minute, 0)).collect::<String>() + &line(4, 0), line(4, 1)];
        let want = ["20180620T1620Z", "20180620T1625Z"].map(str::to_owned).into_iter().zip(texts).collect::<Vec<_>>();
        assert_eq!((place.objects(), spool.segments().len()), (want, 1));
        // Another batch of the same slot is another object.
        assert_eq!(deliver_all(&mut objects, SLOT + 361, true), [Outcome::Done]);
        assert_eq!((place.objects().len(), spool.segments().len()), (3, 0));
        let Delivered { segments, records, calls, bytes, text_bytes, .. } = objects.delivered();
        assert_eq!((segments, records, calls), (6, 7, 3));
        let sum = |sizes: Vec<usize>| sizes.into_iter().sum::<usize>() as u64;
        assert_eq!(bytes, sum(place.files().values().map(Vec::len).collect()));
        let header = HEADER.len() + 1;
        assert_eq!(text_bytes, sum(place.objects().iter().map(|(_, text)| text.len() + header).collect()));
    }

    #[test]
    fn no_records_no_object() {
        let place = Place::new();
        let mut objects = place.open(0).unwrap();
        append(&objects.spool, 1, &[]).unwrap();
        let mut writer = objects.spool.begin(Window { start: SLOT, end: SLOT + 59, number: 2 }).unwrap();
        writer.block("0", 0, b"").unwrap();
        writer.finish().unwrap();
        assert_eq!(deliver_all(&mut objects, SLOT, false), [Outcome::Done]);
        assert_eq!((place.objects(), objects.spool.segments().len()), (vec![], 0));
    }

    #[test]
    fn an_object_for_each_window() {
        let place = Place::new();
        let mut objects = place.open(0).unwrap();
        (0..3).for_each(|minute| append(&objects.spool, minute, &[SLOT]).unwrap());
        assert_eq!(deliver_all(&mut objects, SLOT + 180, false).len(), 3);
        let texts: Vec<String> = place.objects().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, [line(0, 0), line(1, 0), line(2, 0)]);
    }

    #[test]
    fn parts_start_at_the_limit() {
        let place = Place::new();
        let mut objects = place.open(300).unwrap();
        objects.text_bytes_max = 120;
        for minute in 0..3 {
            append(&objects.spool, minute, &[SLOT; 10]).unwrap();
        }
        assert!(deliver_all(&mut objects, SLOT, true).iter().all(|outcome| *outcome == Outcome::Done));
        let sizes: Vec<usize> = place.objects().iter().map(|(_, text)| HEADER.len() + 1 + text.len()).collect();
        assert!(sizes.len() == 6 && sizes.iter().all(|size| (90..=120).contains(size)), "{sizes:?}");
        let mut want: Vec<String> =
            (0..3).flat_map(|minute| (0..10).map(move |at| line(minute, at).trim().to_owned())).collect();
        want.sort();
        assert_eq!(place.lines(), want);
    }

    /// What is published of a segment of three blocks after something happened to its file, and the records lost.
    fn published(file_format: FileFormat, damage: impl Fn(&mut Vec<u8>)) -> (Vec<String>, u64) {
        let place = Place::of(file_format);
        let mut objects = place.open(0).unwrap();
        append(&objects.spool, 0, &[SLOT; 3]).unwrap();
        let path = fs::read_dir(place.spool_directory()).unwrap().map(|entry| entry.unwrap().path());
        let path = path.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "seg")).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        assert_eq!(deliver_all(&mut objects, SLOT, false), [Outcome::Done]);
        assert_eq!(objects.spool.segments(), []);
        (place.objects().into_iter().map(|(_, text)| text).collect(), objects.spool.dropped().corrupt_records)
    }

    #[test]
    fn a_damaged_block_is_all_that_is_missing() {
        for file_format in [FileFormat::PlainText, FileFormat::Parquet] {
            let flip = |bytes: &mut Vec<u8>| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            };
            assert_eq!(published(file_format, flip), (vec![line(0, 0) + &line(0, 2)], 1));
        }
    }

    /// Every object is whole, whatever is left of the segment: the blocks before the cut.
    #[test]
    fn a_truncated_segment_never_makes_a_broken_object() {
        let mut seen = BTreeSet::new();
        for length in (60..400).step_by(11) {
            let cut = |bytes: &mut Vec<u8>| bytes.truncate(length);
            let text = published(FileFormat::PlainText, cut);
            assert_eq!(published(FileFormat::Parquet, cut), text, "cut to {length}");
            let (objects, lost) = text;
            let lines: usize = objects.iter().map(|text| text.lines().count()).sum();
            assert_eq!(lines as u64 + lost, 3, "cut to {length}");
            seen.insert(lines);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    /// One that cannot be published is kept, and published under the same name when it can; others wait behind it.
    #[test]
    fn a_refusal_keeps_everything() {
        let place = Place::new();
        let mut objects = place.open(300).unwrap();
        append(&objects.spool, 0, &[SLOT, SLOT + 86_400]).unwrap();
        let tomorrow = place.objects_directory().join("AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/21");
        fs::create_dir_all(tomorrow.parent().unwrap()).unwrap();
        fs::write(&tomorrow, "").unwrap();
        let outcomes = deliver_all(&mut objects, SLOT + 303, false);
        assert!(matches!(outcomes[..], [Outcome::Done, Outcome::Refuse(_)]), "{outcomes:?}");
        append(&objects.spool, 5, &[SLOT]).unwrap();
        fs::remove_file(&tomorrow).unwrap();
        assert_eq!(deliver_all(&mut objects, SLOT + 361, false), [Outcome::Done]);
        assert_eq!((place.lines().len(), objects.spool.segments().len()), (2, 1));
    }

    /// What a run does until it is killed: windows that come, batches in between. The minutes that are in the spool.
    fn run(place: &Place, appended: &mut Vec<i64>, under_way: &mut Option<i64>) {
        for (at, is_restart) in [(0, false), (4, false), (8, true)] {
            let Some(mut objects) = place.open(300) else { return };
            for minute in at..at + 4 {
                let slot = SLOT + 300 * (minute / 5);
                *under_way = Some(minute);
                if append(&objects.spool, minute, &[slot, slot + 300]).is_err() {
                    return;
                }
                *under_way = None;
                appended.push(minute);
                let now = SLOT + 60 * (minute + 1);
                if deliver_all(&mut objects, now, is_restart).last().is_some_and(|last| *last != Outcome::Done) {
                    return;
                }
            }
        }
    }

    /// A run is killed after any number of changes to files, the next one goes on: every window is there, once.
    #[test]
    fn a_kill_at_any_point() {
        let mut changes = 0;
        loop {
            let place = Place::new();
            let (mut appended, mut under_way) = (Vec::new(), None);
            let is_killed = disk::kill_after(changes, || run(&place, &mut appended, &mut under_way));
            let published = place.files();
            // And once more, as soon as it delivers.
            disk::kill_after(changes % 11, || {
                let _ = place.open(300).map(|mut objects| deliver_all(&mut objects, SLOT + 3600, true));
            });
            let mut objects = place.open(300).unwrap();
            append(&objects.spool, 50, &[SLOT]).unwrap();
            let outcomes = deliver_all(&mut objects, SLOT + 3600, true);
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done), "{outcomes:?} after {changes}");
            assert_eq!(objects.spool.segments(), []);
            let want = |minutes: &[i64]| -> Vec<String> {
                let of = |minute: &i64| [line(*minute, 0), line(*minute, 1)].map(|line| line.trim().to_owned());
                let mut lines: Vec<String> = minutes.iter().flat_map(of).collect();
                lines.push(line(50, 0).trim().to_owned());
                lines.sort();
                lines
            };
            // Whoever has read an object has read all that it ever holds.
            let files = place.files();
            assert!(published.iter().all(|(path, bytes)| files.get(path) == Some(bytes)), "after {changes} changes");
            let lines = place.lines();
            let without = want(&appended);
            appended.extend(under_way);
            assert!(lines == without || lines == want(&appended), "{lines:?} after {changes} changes");
            if !is_killed {
                break;
            }
            changes += 1;
        }
        assert!(changes > 100, "{changes}");
    }
}
