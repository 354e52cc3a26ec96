//! Names of S3 objects, as AWS gives them.
//! Must not know of files, windows or records.
//! Always: the same input gives the same key, in UTC, with no `_` in the hash.
#![forbid(unsafe_code)]

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::flow_log::Layout;
use crate::identity::{Identity, hex_digest};

/// Of one flow log's objects.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    identity: Identity,
    flow_log_id: String,
    /// Without slashes at either end; may be empty.
    folder: String,
    layout: Layout,
}

impl Names {
    pub(crate) fn new(identity: Identity, flow_log_id: &str, folder: &str, layout: Layout) -> Self {
        Self { identity, flow_log_id: flow_log_id.to_owned(), folder: folder.to_owned(), layout }
    }

    /// See [`Layout::slot_of`].
    pub(crate) fn slot_of(&self, end: i64) -> i64 {
        self.layout.slot_of(end)
    }

    /// Of the object with a part of what a batch has for a slot. `number`: of the batch's first window.
    pub(crate) fn key(&self, number: u64, slot: i64, part: u32) -> String {
        let hash = hex_digest(
            &[
                self.flow_log_id.as_bytes(),
                // Random, so that another batch of the same slot never takes this one's place.
                &number.to_be_bytes(),
                &slot.to_be_bytes(),
                &part.to_be_bytes(),
            ],
            // As in every real key seen; nothing says what AWS hashes.
            8,
        );
        self.key_with(slot, &hash)
    }

    fn key_with(&self, slot: i64, hash: &str) -> String {
        let utc = utc(slot);
        let Layout { hive_compatible_partitions, per_hour_partition, file_format, .. } = self.layout;
        let date = match (hive_compatible_partitions, per_hour_partition) {
            (false, false) => "%Y/%m/%d",
            (false, true) => "%Y/%m/%d/%H",
            (true, false) => "year=%Y/month=%m/day=%d",
            (true, true) => "year=%Y/month=%m/day=%d/hour=%H",
        };
        let (prefix, stem) = (self.prefix(), self.stem());
        let (date, stamp, suffix) = (utc.strftime(date), utc.strftime("%Y%m%dT%H%MZ"), file_format.suffix());
        format!("{prefix}/{date}/{stem}{stamp}_{hash}{suffix}")
    }

    /// Everything before the date.
    pub(crate) fn prefix(&self) -> String {
        let Identity { account_id, region } = &self.identity;
        let folder = if self.folder.is_empty() { String::new() } else { format!("{}/", self.folder) };
        if self.layout.hive_compatible_partitions {
            format!("{folder}AWSLogs/aws-account-id={account_id}/aws-service=vpcflowlogs/aws-region={region}")
        } else {
            format!("{folder}AWSLogs/{account_id}/vpcflowlogs/{region}")
        }
    }

    /// What the names of all objects begin with.
    pub(crate) fn stem(&self) -> String {
        let Identity { account_id, region } = &self.identity;
        format!("{account_id}_vpcflowlogs_{region}_{}_", self.flow_log_id)
    }
}

/// Times no clock shows are 1970; better than no object.
fn utc(seconds: i64) -> DateTime {
    Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_log::FileFormat;

    fn names(folder: &str, hive_compatible_partitions: bool, per_hour_partition: bool) -> Names {
        let identity = Identity::new(Some("123456789012"), Some("us-east-1")).unwrap();
        let layout =
            Layout { hive_compatible_partitions, per_hour_partition, object_interval: 300, ..Layout::default() };
        Names::new(identity, "fl-1234abcd", folder, layout)
    }

    /// The layouts and the example of the user guide's page flow-logs-s3-path.
    #[test]
    fn keys_as_in_the_user_guide() {
        let slot: i64 = "2018-06-20T16:20:00Z".parse::<Timestamp>().unwrap().as_second();
        let plain = "AWSLogs/123456789012/vpcflowlogs/us-east-1";
        let hive = "AWSLogs/aws-account-id=123456789012/aws-service=vpcflowlogs/aws-region=us-east-1";
        for (folder, hive_compatible, per_hour, prefix, date) in [
            ("", false, false, plain.to_owned(), "2018/06/20"),
            ("", false, true, plain.to_owned(), "2018/06/20/16"),
            ("", true, false, hive.to_owned(), "year=2018/month=06/day=20"),
            ("", true, true, hive.to_owned(), "year=2018/month=06/day=20/hour=16"),
            ("my-logs", false, false, format!("my-logs/{plain}"), "2018/06/20"),
            ("a/b", true, true, format!("a/b/{hive}"), "year=2018/month=06/day=20/hour=16"),
        ] {
            let names = names(folder, hive_compatible, per_hour);
            let file = "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_20180620T1620Z_fe123456.log.gz";
            assert_eq!(names.key_with(slot, "fe123456"), format!("{prefix}/{date}/{file}"));
            assert_eq!((names.prefix(), file.starts_with(&names.stem())), (prefix, true));
        }
    }

    #[test]
    fn parquet_has_no_gzip_around_it() {
        let identity = Identity::new(Some("123456789012"), Some("us-east-1")).unwrap();
        let layout = Layout { file_format: FileFormat::Parquet, ..Layout::default() };
        let key = Names::new(identity, "fl-1234abcd", "", layout).key_with(0, "fe123456");
        assert!(key.ends_with("/123456789012_vpcflowlogs_us-east-1_fl-1234abcd_19700101T0000Z_fe123456.log.parquet"));
    }

    #[test]
    fn every_part_of_every_batch_has_its_name() {
        let names = names("", false, false);
        let key = names.key(1, 0, 0);
        let hash = key.strip_suffix(".log.gz").unwrap().rsplit_once('_').unwrap().1;
        assert!(hash.len() == 8 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{key}");
        assert_eq!(key, names.key(1, 0, 0));
        for (number, slot, part) in [(2, 0, 0), (1, 300, 0), (1, 0, 1)] {
            assert_ne!(key, names.key(number, slot, part));
        }
    }
}
