//! Names of S3 objects, as AWS gives them.
//! Must not know of files, windows or records.
//! Always: the same input gives the same key, in UTC, with no `_` in the hash.
#![forbid(unsafe_code)]

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::identity::hex_digest;

/// AWS names objects after multiples of five minutes.
const SLOT_SECONDS: i64 = 300;

/// A file stamped HH:mm holds the records whose `end` is in HH:mm:00 to HH:mm+4:59 (flow-logs-s3-path).
pub(crate) fn slot_of(end: i64) -> i64 {
    end - end.rem_euclid(SLOT_SECONDS)
}

/// Eight lower-case hex digits, as in every real key seen; nothing says what AWS hashes.
pub(crate) fn hash8(parts: &[&[u8]]) -> String {
    hex_digest(parts, 8)
}

/// Everything before the date.
pub(crate) fn prefix(account_id: &str, region: &str) -> String {
    format!("AWSLogs/{account_id}/vpcflowlogs/{region}")
}

/// The folder of a slot's day.
pub(crate) fn folder(account_id: &str, region: &str, slot: i64) -> String {
    format!("{}/{}", prefix(account_id, region), utc(slot).strftime("%Y/%m/%d"))
}

/// What the names of all our objects begin with.
pub(crate) fn stem(account_id: &str, region: &str, flow_log_id: &str) -> String {
    format!("{account_id}_vpcflowlogs_{region}_{flow_log_id}_")
}

/// The object's name within its folder.
pub(crate) fn file_name(account_id: &str, region: &str, flow_log_id: &str, slot: i64, hash8: &str) -> String {
    format!("{}{}_{hash8}.log.gz", stem(account_id, region, flow_log_id), utc(slot).strftime("%Y%m%dT%H%MZ"))
}

/// Times no clock shows are 1970; better than no object.
fn utc(seconds: i64) -> DateTime {
    Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_five_minutes_of_ends() {
        for (end, slot) in
            [(0, 0), (299, 0), (300, 300), (1_418_530_199, 1_418_529_900), (1_418_530_200, 1_418_530_200)]
        {
            assert_eq!(slot_of(end), slot, "{end}");
        }
    }

    /// The example of the user guide's page flow-logs-s3-path.
    #[test]
    fn key_as_in_the_user_guide() {
        let slot: i64 = "2018-06-20T16:20:00Z".parse::<Timestamp>().unwrap().as_second();
        assert_eq!(folder("123456789012", "us-east-1", slot), "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20");
        assert_eq!(
            file_name("123456789012", "us-east-1", "fl-1234abcd", slot, "fe123456"),
            "123456789012_vpcflowlogs_us-east-1_fl-1234abcd_20180620T1620Z_fe123456.log.gz"
        );
        assert_eq!(hash8(&[b"abc"]), "ba7816bf");
    }
}
