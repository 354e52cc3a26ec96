//! Which records lines become, and which go into one PutRecordBatch call. Pure.
//! Always: every record and every call is within the limits, and all lines are there in order.
#![forbid(unsafe_code)]

use std::ops::Range;

use serde::Serialize;

use crate::flow_log::Framing;

pub(super) const RECORDS_MAX: usize = 500;
pub(super) const CALL_BYTES_MAX: usize = 4 << 20;
pub(super) const RECORD_BYTES_MAX: usize = 1_024_000;
/// Lines are packed up to here.
const PACK_BYTES: usize = 900_000;

/// As AWS's own flow logs come.
#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// Records, and lines that are too long for one.
pub(super) fn records(text: &[u8], framing: Framing) -> (Vec<Vec<u8>>, Vec<Range<usize>>) {
    let (mut records, mut unfit) = (Vec::<Vec<u8>>::new(), Vec::new());
    let mut at = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let start = at;
        at += line.len();
        let record = match framing {
            Framing::Json => json(line.strip_suffix(b"\n").unwrap_or(line)),
            Framing::Lines => line.to_vec(),
        };
        match records.last_mut() {
            _ if record.len() > RECORD_BYTES_MAX => unfit.push(start..at),
            Some(last) if framing == Framing::Lines && last.len() + record.len() <= PACK_BYTES => last.extend(record),
            _ => records.push(record),
        }
    }
    (records, unfit)
}

fn json(line: &[u8]) -> Vec<u8> {
    // Of one string: it cannot fail.
    serde_json::to_vec(&Message { message: &String::from_utf8_lossy(line) }).unwrap_or_default()
}

pub(super) fn calls(records: &[Vec<u8>]) -> Vec<Range<usize>> {
    let mut calls = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, record) in records.iter().enumerate() {
        if at - start == RECORDS_MAX || bytes + record.len() > CALL_BYTES_MAX {
            calls.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += record.len();
    }
    if start < records.len() {
        calls.push(start..records.len());
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_aws_frames_them() {
        let (records, unfit) = records(b"2 1 eni-1 OK\n2 \"\\\x01\xff\n", Framing::Json);
        assert_eq!(records[0], br#"{"message":"2 1 eni-1 OK"}"#);
        assert_eq!(records[1], r#"{"message":"2 \"\\\u0001�"}"#.as_bytes());
        assert!(unfit.is_empty());
    }

    #[test]
    fn a_line_that_is_too_long() {
        let text = format!("short\n{}\nshort\n", "x".repeat(RECORD_BYTES_MAX));
        for framing in [Framing::Json, Framing::Lines] {
            let (records, unfit) = records(text.as_bytes(), framing);
            assert_eq!((unfit.len(), &unfit[0]), (1, &(6..6 + RECORD_BYTES_MAX + 1)));
            assert_eq!(records.concat().len(), if framing == Framing::Json { 38 } else { 12 });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn within_the_limits(
            lengths in prop::collection::vec(prop_oneof![95 => 1..200usize, 5 => 100_000..1_000_000usize], 0..1500),
            json in any::<bool>(),
        ) {
            let lines: Vec<String> = lengths.iter().zip(0..).map(|(length, at)| format!("{at} {}", "x".repeat(*length))).collect();
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            let framing = if json { Framing::Json } else { Framing::Lines };
            let (records, unfit) = records(text.as_bytes(), framing);
            prop_assert!(unfit.is_empty());
            let mut next = 0;
            for call in calls(&records) {
                prop_assert_eq!(call.start, next);
                next = call.end;
                let bytes: usize = records[call.clone()].iter().map(Vec::len).sum();
                prop_assert!((1..=500).contains(&call.len()) && bytes <= 4 * 1024 * 1024);
            }
            prop_assert_eq!(next, records.len());
            let mut seen = Vec::new();
            for record in &records {
                prop_assert!(record.len() <= 1_024_000);
                let record = str::from_utf8(record).unwrap();
                if json {
                    let value: serde_json::Value = serde_json::from_str(record).unwrap();
                    seen.push(value["message"].as_str().unwrap().to_owned());
                } else {
                    prop_assert!(record.ends_with('\n'));
                    seen.extend(record.lines().map(str::to_owned));
                }
            }
            prop_assert_eq!(seen, lines);
        }
    }
}
