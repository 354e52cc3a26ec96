//! Writes AWS's S3 layout below a directory: gzipped text objects, one or more for each five minutes of `end`.
//! Must not know of interfaces, flows or how a window came about.
//! Always: an object appears whole, synced, with a header and at least one record, or not at all; none is replaced
//! but by the same batch published again.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::{SinkError, key};
use crate::encode;
use crate::fault;
use crate::identity::Identity;
use crate::record::Batch;

/// Text compresses about as well at 4 as at the usual 6, in a fraction of the time.
const LEVEL: Compression = Compression::new(4);
/// Lines collect up to here before they are compressed.
const BUFFER_BYTES: usize = 1 << 20;
/// AWS's old guide caps a file at 75 MB and does not say of what; before compression is the safe reading.
const PART_BYTES: usize = 75_000_000;
/// Longer than any line.
const LINE_BYTES: usize = 512;

pub(crate) struct DirectorySink {
    root: PathBuf,
    identity: Identity,
    flow_log_id: String,
    part_bytes: usize,
}

/// An object being written, under a hidden name.
struct Object {
    slot: i64,
    part: u32,
    /// Uncompressed, header and buffer included.
    bytes: usize,
    buffer: Vec<u8>,
    encoder: GzEncoder<File>,
    file: Hidden,
}

/// Removed when dropped before it was revealed.
struct Hidden {
    temporary: PathBuf,
    target: PathBuf,
    revealed: bool,
}

impl DirectorySink {
    /// Fails when the directory cannot be written to. Removes what a crashed run left half-written.
    pub(crate) fn create(root: PathBuf, identity: &Identity, flow_log_id: &str) -> Result<Self, SinkError> {
        let base = root.join(key::prefix(&identity.account_id, &identity.region));
        make_folder(&base)?;
        let stem = format!(".{}", key::stem(&identity.account_id, &identity.region, flow_log_id));
        remove_leftovers(&base, &stem)?;
        let probe = base.join(format!("{stem}probe.tmp"));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(SinkError::at("write to", &base))?;
        Ok(Self { root, identity: identity.clone(), flow_log_id: flow_log_id.to_owned(), part_bytes: PART_BYTES })
    }

    pub(crate) fn publish(&mut self, batch: &Batch) -> Result<u64, SinkError> {
        let mut records = 0;
        // One per slot; a window touches three slots at most.
        let mut open: Vec<Object> = Vec::new();
        let mut sealed: Vec<Hidden> = Vec::new();
        for record in batch.records() {
            let slot = key::slot_of(record.end);
            let at = match open.iter().position(|object| object.slot == slot) {
                Some(at) => at,
                None => {
                    open.push(self.open(batch, slot, 0)?);
                    open.len() - 1
                }
            };
            if open[at].bytes + LINE_BYTES > self.part_bytes {
                let next = self.open(batch, slot, open[at].part + 1)?;
                sealed.push(std::mem::replace(&mut open[at], next).seal()?);
            }
            open[at].append(|buffer| encode::append(&record, buffer))?;
            records += 1;
        }
        for object in open {
            sealed.push(object.seal()?);
        }
        for file in sealed {
            file.reveal()?;
            fault::point("revealed");
        }
        Ok(records)
    }

    /// With its header. Only called when there is a record to follow.
    fn open(&self, batch: &Batch, slot: i64, part: u32) -> Result<Object, SinkError> {
        let Identity { account_id, region } = &self.identity;
        let hash = key::hash8(&[
            self.flow_log_id.as_bytes(),
            // Random, so that another batch of the same window (a restart, a clock set back) never takes its place.
            &batch.number.to_be_bytes(),
            &batch.start.to_be_bytes(),
            &slot.to_be_bytes(),
            &part.to_be_bytes(),
        ]);
        let folder = self.root.join(key::folder(account_id, region, slot));
        make_folder(&folder)?;
        let name = key::file_name(account_id, region, &self.flow_log_id, slot, &hash);
        let file =
            Hidden { temporary: folder.join(format!(".{name}.tmp")), target: folder.join(name), revealed: false };
        let out = File::create(&file.temporary).map_err(SinkError::at("create", &file.temporary))?;
        // No name and no time in the gzip header, so equal records give equal bytes.
        let encoder = GzBuilder::new().mtime(0).write(out, LEVEL);
        let mut object =
            Object { slot, part, bytes: 0, buffer: Vec::with_capacity(BUFFER_BYTES + LINE_BYTES), encoder, file };
        object.append(|buffer| buffer.extend_from_slice(encode::HEADER.as_bytes()))?;
        Ok(object)
    }
}

impl Object {
    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), SinkError> {
        let before = self.buffer.len();
        write(&mut self.buffer);
        self.bytes += self.buffer.len() - before;
        if self.buffer.len() >= BUFFER_BYTES { self.compress() } else { Ok(()) }
    }

    fn compress(&mut self) -> Result<(), SinkError> {
        self.encoder.write_all(&self.buffer).map_err(SinkError::at("write", &self.file.temporary))?;
        self.buffer.clear();
        Ok(())
    }

    /// On disk, but still hidden.
    fn seal(mut self) -> Result<Hidden, SinkError> {
        self.compress()?;
        let Self { encoder, file, .. } = self;
        encoder.finish().and_then(|out| out.sync_all()).map_err(SinkError::at("write", &file.temporary))?;
        Ok(file)
    }
}

impl Hidden {
    fn reveal(mut self) -> Result<(), SinkError> {
        fs::rename(&self.temporary, &self.target).map_err(SinkError::at("rename to", &self.target))?;
        self.revealed = true;
        self.target.parent().map_or(Ok(()), sync_folder)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.revealed {
            // What cannot be removed now goes at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// New folders are synced into their parents, else a power cut could take a synced object along with its folder.
fn make_folder(folder: &Path) -> Result<(), SinkError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        // Another process was faster.
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) => Err(SinkError::at("create directory", folder)(error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), SinkError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(SinkError::at("sync", folder))
}

/// Only this flow log's, for others may be writing theirs here right now. Links are not followed.
fn remove_leftovers(folder: &Path, stem: &str) -> Result<(), SinkError> {
    let is_leftover = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(stem) && name.ends_with(".tmp"));
    let visit = |entry: DirEntry| {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return remove_leftovers(&entry.path(), stem);
        }
        if is_leftover(&entry.file_name()) {
            fs::remove_file(entry.path()).map_err(SinkError::at("remove", &entry.path()))?;
        }
        Ok(())
    };
    let mut entries = fs::read_dir(folder).map_err(SinkError::at("read", folder))?;
    entries.try_for_each(|entry| visit(entry.map_err(SinkError::at("read", folder))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::flow::{Direction, Flow, FlowKey, Verdict};
    use crate::record::Status;
    use flate2::bufread::GzDecoder;
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    const DAY: &str = "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20";
    const STEM: &str = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_";
    /// 2018-06-20T16:20:00Z
    const START: i64 = 1_529_511_600;

    fn flow(port: u16, last: i64) -> Flow {
        let key = FlowKey {
            ifindex: 1,
            direction: Direction::Ingress,
            verdict: Verdict::Accept,
            protocol: 6,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: port,
            dst_port: 443,
        };
        Flow { key, packets: 1, bytes: 40, first: START, last, tcp_flags: 0, reason: 0 }
    }

    fn sink(root: &Path) -> DirectorySink {
        let identity = Identity::new(Some("123456789012"), Some("us-east-1")).unwrap();
        DirectorySink::create(root.to_owned(), &identity, "fl-1234abcd").unwrap()
    }

    fn publish(sink: &mut DirectorySink, flows: &[Flow], statuses: &[(u32, Status)]) -> Result<u64, SinkError> {
        publish_as(1, sink, flows, statuses)
    }

    fn publish_as(
        number: u64,
        sink: &mut DirectorySink,
        flows: &[Flow],
        statuses: &[(u32, Status)],
    ) -> Result<u64, SinkError> {
        let interface_ids = BTreeMap::from([(1, "eni-1".to_owned())]);
        let account_id = "123456789012";
        sink.publish(&Batch {
            account_id,
            number,
            start: START,
            end: START + 599,
            flows,
            statuses,
            interface_ids: &interface_ids,
        })
    }

    /// Names in the day's folder without the hash, and what the one gzip member in each holds, sorted.
    fn objects(root: &Path) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(root.join(DAY)) else { return Vec::new() };
        let mut objects: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                assert_eq!(&bytes[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "a name or time in the gzip header");
                let mut member = GzDecoder::new(bytes.as_slice());
                let mut text = String::new();
                member.read_to_string(&mut text).unwrap();
                assert!(member.into_inner().is_empty(), "a second gzip member");
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let (start, rest) = name.rsplit_once('_').unwrap();
                let hash = rest.strip_suffix(".log.gz").unwrap();
                assert!(hash.len() == 8 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
                (start.to_owned(), text)
            })
            .collect();
        objects.sort();
        objects
    }

    fn line(port: u16, last: i64) -> String {
        format!("2 123456789012 eni-1 10.0.0.1 10.0.0.2 {port} 443 6 1 40 {START} {last} ACCEPT OK\n")
    }

    #[test]
    fn one_object_for_each_slot_of_end() {
        let root = tempfile::tempdir().unwrap();
        let flows = [flow(1, START), flow(2, START + 300), flow(3, START + 299)];
        assert_eq!(publish(&mut sink(root.path()), &flows, &[(1, Status::SkipData)]).unwrap(), 4);
        let skip = format!("2 123456789012 eni-1 - - - - - - - {START} {} - SKIPDATA\n", START + 599);
        let want = [
            (format!("{STEM}20180620T1620Z"), [encode::HEADER, &line(1, START), &line(3, START + 299)].concat()),
            (format!("{STEM}20180620T1625Z"), [encode::HEADER, &line(2, START + 300), &skip].concat()),
        ];
        assert_eq!(objects(root.path()), want);
    }

    #[test]
    fn no_records_no_object() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path());
        assert_eq!(publish(&mut sink, &[], &[]).unwrap(), 0);
        // Interface 9 has no id.
        assert_eq!(publish(&mut sink, &[], &[(9, Status::NoData)]).unwrap(), 0);
        assert_eq!(objects(root.path()), []);
    }

    #[test]
    fn parts_start_at_the_cap() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path());
        sink.part_bytes = 2000;
        let flows: Vec<Flow> = (0..100).map(|port| flow(port, START)).collect();
        assert_eq!(publish(&mut sink, &flows, &[]).unwrap(), 100);
        let objects = objects(root.path());
        assert!(objects.len() > 3);
        assert!(objects.iter().all(|(_, text)| text.len() <= 2000 && text.lines().count() > 1));
        let mut lines: Vec<String> = objects
            .iter()
            .flat_map(|(_, text)| text.strip_prefix(encode::HEADER).unwrap().split_inclusive('\n'))
            .map(str::to_owned)
            .collect();
        let mut want: Vec<String> = (0..100).map(|port| line(port, START)).collect();
        lines.sort();
        want.sort();
        assert_eq!(lines, want);
    }

    #[test]
    fn a_retry_overwrites_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path());
        publish(&mut sink, &[flow(1, START)], &[]).unwrap();
        // As after a failure halfway, also by the next run.
        publish(&mut sink, &[flow(1, START)], &[]).unwrap();
        publish(&mut self::sink(root.path()), &[flow(1, START)], &[]).unwrap();
        assert_eq!(objects(root.path()).len(), 1);
        // The same window again, but another batch: the clock was set back, or a restart.
        publish_as(2, &mut sink, &[flow(2, START)], &[]).unwrap();
        assert_eq!(objects(root.path()).len(), 2);
    }

    #[test]
    fn failure_leaves_nothing_and_a_retry_succeeds() {
        let root = tempfile::tempdir().unwrap();
        let mut sink = sink(root.path());
        // The second slot's day cannot be made: a file is in the way.
        let tomorrow = root.path().join(DAY).with_file_name("21");
        fs::create_dir_all(tomorrow.parent().unwrap()).unwrap();
        fs::write(&tomorrow, "").unwrap();
        let flows = [flow(1, START), flow(2, START + 86_400)];
        let error = publish(&mut sink, &flows, &[]).unwrap_err().to_string();
        assert_eq!(error, format!("cannot create directory {}: File exists (os error 17)", tomorrow.display()));
        assert_eq!(objects(root.path()), []);
        fs::remove_file(&tomorrow).unwrap();
        assert_eq!(publish(&mut sink, &flows, &[]).unwrap(), 2);
        assert_eq!(objects(root.path()).len(), 1);
    }

    #[test]
    fn leftovers_of_this_flow_log_go() {
        let root = tempfile::tempdir().unwrap();
        let day = root.path().join(DAY);
        fs::create_dir_all(&day).unwrap();
        let names = [
            (format!(".{STEM}20180620T1620Z_00000000.log.gz.tmp"), false),
            (format!("{STEM}20180620T1620Z_00000000.log.gz"), true),
            (".123456789012_vpcflowlogs_us-east-1_fl-9_20180620T1620Z_00000000.log.gz.tmp".to_owned(), true),
        ];
        for (name, _) in &names {
            fs::write(day.join(name), "x").unwrap();
        }
        sink(root.path());
        for (name, stays) in &names {
            assert_eq!(day.join(name).exists(), *stays, "{name}");
        }
    }

    #[test]
    fn tells_what_it_cannot_write_to() {
        let identity = Identity::new(None, None).unwrap();
        let error = DirectorySink::create("/proc/flowlogd".into(), &identity, "fl-1").err().unwrap().to_string();
        assert!(error.starts_with("cannot create directory /proc/flowlogd: "), "{error}");
        assert!(!error.contains('\n'));
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).unwrap();
        // Root writes anywhere.
        if File::create(root.path().join("probe")).is_err() {
            assert!(DirectorySink::create(root.path().to_owned(), &identity, "fl-1").is_err());
        }
    }
}
