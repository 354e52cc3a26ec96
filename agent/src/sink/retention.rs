//! Takes the oldest objects of a directory away, by age and by size.
//! Must not know when objects come, nor what is in them.
//! Always: only objects of this flow log, by their names, and never the newest one; links are not followed.
#![forbid(unsafe_code)]

use std::fs::{self, DirEntry, FileType};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::disk;
use crate::flow_log::Retention;

/// Between two looks at ages.
const LOOK_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 86_400;
/// What a file takes at least, and in steps of what.
const BLOCK_BYTES: u64 = 4096;
/// This part of the limit is made free, so that not every object makes us look through all of them.
const ROOM: u64 = 16;

pub(super) struct Keeper {
    /// Below it are folders for dates, whose order is that of time.
    base: PathBuf,
    /// What the objects' names begin with; what follows is a stamp.
    stem: String,
    retention: Retention,
    /// On disk; found out at the first look.
    bytes: u64,
    next_look: i64,
    /// Some cannot be removed: said once.
    is_failing: bool,
}

/// One of this flow log's.
struct Object {
    path: PathBuf,
    /// As in its name: the beginning of what it holds.
    since: i64,
    bytes: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    objects: u64,
    bytes: u64,
}

impl Keeper {
    pub(super) fn new(base: PathBuf, stem: String, retention: Retention) -> Self {
        Self { base, stem, retention, bytes: 0, next_look: 0, is_failing: false }
    }

    /// An object of so many bytes was added.
    pub(super) fn added(&mut self, bytes: u64) {
        self.bytes += bytes.next_multiple_of(BLOCK_BYTES);
    }

    /// Removes what is too much, if it is time to look. A failure is no reason to stop delivering.
    pub(super) fn tidy(&mut self, now: i64) {
        let is_full = self.retention.bytes.is_some_and(|most| self.bytes > most);
        // A clock that was set back by more than this looks again, too.
        if !is_full && (self.next_look - LOOK_SECONDS..self.next_look).contains(&now) {
            return;
        }
        self.next_look = now + LOOK_SECONDS;
        match self.sweep(now) {
            Ok(Sum { objects: 0, .. }) => self.is_failing = false,
            Ok(Sum { objects, bytes }) => {
                self.is_failing = false;
                tracing::info!(objects, bytes, below = %self.base.display(), "removed, as retention says");
            }
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!("retention below {}: {error}", self.base.display());
            }
            Err(_) => {}
        }
    }

    fn sweep(&mut self, now: i64) -> io::Result<Sum> {
        let mut all = Sum::default();
        let _ = self.visit(&self.base, &mut |object| {
            all.objects += 1;
            all.bytes += object.bytes;
            ControlFlow::Continue(())
        })?;
        let oldest = self.retention.days.map_or(i64::MIN, |days| now - i64::from(days) * DAY_SECONDS);
        let most =
            self.retention.bytes.map_or(u64::MAX, |most| if all.bytes > most { most - most / ROOM } else { most });
        let (mut removed, mut failed) = (Sum::default(), None);
        let _ = self.visit(&self.base, &mut |object| {
            let is_newest = removed.objects + 1 >= all.objects;
            if is_newest || (object.since >= oldest && all.bytes - removed.bytes <= most) {
                return ControlFlow::Break(());
            }
            match disk::remove(&object.path) {
                Ok(()) => {
                    removed.objects += 1;
                    removed.bytes += object.bytes;
                    // Its folders, if they are empty now: of a day that is over.
                    let folders = object.path.ancestors().skip(1).take_while(|folder| *folder != self.base);
                    let _ = folders.into_iter().try_for_each(fs::remove_dir);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        self.bytes = all.bytes - removed.bytes;
        failed.map_or(Ok(removed), Err)
    }

    /// Every object, oldest first, one folder in memory at a time.
    fn visit(&self, folder: &Path, visit: &mut impl FnMut(Object) -> ControlFlow<()>) -> io::Result<ControlFlow<()>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
            Err(error) => return Err(error),
        };
        let mut entries: Vec<DirEntry> = entries.collect::<Result<_, _>>()?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            let flow = match kind.is_dir() {
                true => self.visit(&entry.path(), visit)?,
                false => self.object(&entry, kind).map_or(ControlFlow::Continue(()), &mut *visit),
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn object(&self, entry: &DirEntry, kind: FileType) -> Option<Object> {
        let name = entry.file_name();
        let (stamp, _) = name.to_str()?.strip_prefix(&self.stem)?.split_once('_')?;
        let since = seconds(stamp).filter(|_| kind.is_file())?;
        // Gone already: somebody else cleans up as well.
        let metadata = entry.metadata().ok()?;
        Some(Object { path: entry.path(), since, bytes: (metadata.blocks() * 512).max(BLOCK_BYTES) })
    }
}

/// `20180620T1620Z`
fn seconds(stamp: &str) -> Option<i64> {
    let time = DateTime::strptime("%Y%m%dT%H%MZ", stamp).ok()?;
    Offset::UTC.to_timestamp(time).ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: &str = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_";
    /// 2018-06-20T00:00:00Z
    const DAY: i64 = 1_529_452_800;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn keeper(&self, days: Option<u32>, bytes: Option<u64>) -> Keeper {
            Keeper::new(self.0.path().to_owned(), STEM.to_owned(), Retention { days, bytes })
        }

        /// Of one block.
        fn put(&self, day: &str, name: &str) {
            let folder = self.0.path().join(day);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), "x").unwrap();
        }

        fn put_days(&self, days: std::ops::RangeInclusive<u32>) {
            for day in days {
                self.put(&format!("2018/06/{day:02}"), &format!("{STEM}201806{day:02}T2355Z_00000000.log.gz"));
            }
        }

        /// Names below, folders too, without the stem.
        fn names(&self) -> Vec<String> {
            let (mut names, mut folders) = (Vec::new(), vec![self.0.path().to_owned()]);
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().replace(STEM, "");
                    if path.is_dir() {
                        folders.push(path);
                    } else {
                        names.push(name);
                    }
                }
            }
            names.sort();
            names
        }
    }

    fn day(day: u32) -> String {
        format!("2018/06/{day:02}/201806{day:02}T2355Z_00000000.log.gz")
    }

    #[test]
    fn what_is_older_goes() {
        let place = Place::new();
        place.put_days(10..=20);
        let mut keeper = place.keeper(Some(3), None);
        keeper.tidy(DAY);
        assert_eq!(
            place.names(),
            [17, 18, 19, 20].map(day),
            "23:55 of the 16th is older than three days, by 5 minutes"
        );
        assert!(!place.0.path().join("2018/06/16").exists());
        // Looks once an hour.
        keeper.tidy(DAY + LOOK_SECONDS - 1);
        place.put_days(10..=10);
        keeper.tidy(DAY + LOOK_SECONDS - 1);
        assert_eq!(place.names().len(), 5);
        keeper.tidy(DAY + LOOK_SECONDS);
        assert_eq!(place.names().len(), 4);
    }

    #[test]
    fn what_is_too_much_goes_oldest_first() {
        let place = Place::new();
        place.put_days(1..=20);
        let mut keeper = place.keeper(None, Some(16 * BLOCK_BYTES));
        keeper.tidy(DAY);
        assert_eq!(place.names(), (6..=20).map(day).collect::<Vec<_>>(), "the limit less a sixteenth");
        // At once when there is more, without waiting for the hour.
        place.put_days(21..=22);
        keeper.added(1);
        keeper.added(1);
        keeper.tidy(DAY + 1);
        assert_eq!(place.names(), (8..=22).map(day).collect::<Vec<_>>());
    }

    #[test]
    fn the_newest_stays_and_others_are_not_touched() {
        let place = Place::new();
        place.put_days(1..=2);
        let others = [
            "123456789012_vpcflowlogs_us-east-1_fl-9_20000101T0000Z_00000000.log.gz",
            "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_notes_0",
            ".123456789012_vpcflowlogs_us-east-1_fl-1234abcd_20000101T0000Z_00000000.log.gz.tmp",
        ];
        others.iter().for_each(|name| place.put("2018/06/01", name));
        let link = format!("{STEM}20000101T0000Z_00000001.log.gz");
        std::os::unix::fs::symlink("/dev/null", place.0.path().join(&link)).unwrap();
        place.keeper(Some(1), Some(1)).tidy(DAY + 1000 * DAY_SECONDS);
        assert_eq!(place.names().len(), others.len() + 2, "{:?}", place.names());
        assert!(place.names().contains(&day(2)));
    }

    #[test]
    fn nothing_there_is_no_failure() {
        let mut keeper = Keeper::new("/nonexistent/flowlogd".into(), STEM.to_owned(), Retention::default());
        keeper.tidy(DAY);
        assert!(!keeper.is_failing);
    }
}
