//! Which events go into which PutLogEvents call, and what its answer says of them. Pure.
//! Always: every batch is within all limits of the call, and the batches hold all events in order.
#![forbid(unsafe_code)]

use std::ops::Range;

use aws_sdk_cloudwatchlogs::types::RejectedLogEventsInfo;

pub(super) const EVENTS_MAX: usize = 10_000;
pub(super) const BYTES_MAX: usize = 1_048_576;
/// What every event counts for besides its message.
pub(super) const EVENT_BYTES: usize = 26;
pub(super) const MESSAGE_BYTES_MAX: usize = BYTES_MAX - EVENT_BYTES;
/// Milliseconds.
pub(super) const SPAN_MAX: i64 = 24 * 3_600_000;

/// A message within a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Unix milliseconds.
    pub(super) time: i64,
    pub(super) message: Range<usize>,
}

/// Splits `<start> <line>\n…`. Lines that cannot be an event come with the reason.
pub(super) fn events(text: &[u8]) -> (Vec<Event>, Vec<(&'static str, Range<usize>)>) {
    let (mut events, mut unfit) = (Vec::new(), Vec::new());
    let mut at = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let line_start = at;
        at += line.len();
        let line_end = at - usize::from(line.ends_with(b"\n"));
        let digits = line.iter().position(|&byte| byte == b' ');
        let start = digits.and_then(|end| str::from_utf8(&line[..end]).ok()).and_then(|text| text.parse::<u32>().ok());
        match (start, digits) {
            (Some(start), Some(digits)) if line_start + digits + 1 < line_end => {
                let message = line_start + digits + 1..line_end;
                match message.len() > MESSAGE_BYTES_MAX {
                    true => unfit.push(("too-long", message)),
                    false => events.push(Event { time: i64::from(start) * 1000, message }),
                }
            }
            _ => unfit.push(("malformed", line_start..line_end)),
        }
    }
    (events, unfit)
}

/// As few as come of taking the events one after another.
pub(super) fn batches(events: &[Event]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, event) in events.iter().enumerate() {
        let size = event.message.len() + EVENT_BYTES;
        let fits = at - start < EVENTS_MAX
            && bytes + size <= BYTES_MAX
            && (at == start || event.time >= events[at - 1].time)
            && event.time - events[start].time < SPAN_MAX;
        if !fits {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    if start < events.len() {
        batches.push(start..events.len());
    }
    batches
}

/// Which of `count` events were not taken, and why: the start index is of the first one, the end indices are one past
/// the last.
pub(super) fn rejected(info: &RejectedLogEventsInfo, count: usize) -> Vec<(&'static str, Range<usize>)> {
    let index = |index: Option<i32>| index.map(|index| usize::try_from(index).unwrap_or(0).min(count));
    let expired = index(info.expired_log_event_end_index()).unwrap_or(0);
    let too_old = index(info.too_old_log_event_end_index()).unwrap_or(0).max(expired);
    let too_new = index(info.too_new_log_event_start_index()).unwrap_or(count).max(too_old);
    let ranges = [("expired", 0..expired), ("too-old", expired..too_old), ("too-new", too_new..count)];
    ranges.into_iter().filter(|(_, range)| !range.is_empty()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the service checks, from its documentation and not from the code above.
    pub(crate) fn check_put_log_events<'a>(events: impl IntoIterator<Item = (i64, &'a str)>) -> Result<(), String> {
        let (mut count, mut bytes, mut first, mut last) = (0, 0, None, i64::MIN);
        for (time, message) in events {
            if message.is_empty() {
                return Err("an empty message".to_owned());
            }
            if time < last {
                return Err("not in chronological order".to_owned());
            }
            if time - *first.get_or_insert(time) > 86_400_000 {
                return Err("more than 24 hours".to_owned());
            }
            last = time;
            count += 1;
            bytes += message.len() + 26;
        }
        match (count, bytes) {
            (0, _) => Err("no events".to_owned()),
            (count, _) if count > 10_000 => Err(format!("{count} events")),
            (_, bytes) if bytes > 1_048_576 => Err(format!("{bytes} bytes")),
            _ => Ok(()),
        }
    }

    #[test]
    fn the_check_checks() {
        let long = "x".repeat(1_048_551);
        let many = vec![(0, "x"); 10_001];
        for (events, good) in [
            (vec![(0, "x")], true),
            (vec![], false),
            (vec![(0, "")], false),
            (vec![(1, "x"), (0, "x")], false),
            (vec![(0, "x"), (86_400_000, "x")], true),
            (vec![(0, "x"), (86_400_001, "x")], false),
            (vec![(0, &long[1..])], true),
            (vec![(0, &long[..])], false),
            (many[1..].to_vec(), true),
            (many, false),
        ] {
            assert_eq!(check_put_log_events(events.iter().copied()).is_ok(), good, "{:?}", events.first());
        }
    }

    /// Lines of the spool, and how long they are: many short ones, few very long ones, some out of order or days apart.
    fn lines() -> impl Strategy<Value = Vec<(u32, usize)>> {
        let start = prop_oneof![8 => 0..100u32, 2 => 0..200_000u32];
        let length = prop_oneof![90 => 1..200usize, 9 => 50_000..300_000usize, 1 => Just(MESSAGE_BYTES_MAX)];
        let few = prop::collection::vec((start.clone(), length), 0..60);
        // 30,000 of them pass the number of events, sorted as they usually are.
        let many = (prop::collection::vec((start, 1..40usize), 1..40), 1..1000usize).prop_map(|(lines, times)| {
            let mut lines: Vec<_> = lines.iter().copied().cycle().take(lines.len() * times).collect();
            lines.sort_unstable();
            lines
        });
        prop_oneof![few, many]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_batch_is_within_the_limits_and_none_is_split_for_nothing(lines in lines()) {
            let mut text = Vec::new();
            for (start, length) in &lines {
                text.extend_from_slice(format!("{start} {}\n", "x".repeat(*length)).as_bytes());
            }
            let (events, unfit) = events(&text);
            prop_assert!(unfit.is_empty());
            prop_assert_eq!(events.len(), lines.len());
            let with_messages = |range: Range<usize>| -> Vec<(i64, &str)> {
                events[range].iter().map(|e| (e.time, str::from_utf8(&text[e.message.clone()]).unwrap())).collect()
            };
            let batches = batches(&events);
            let mut next = 0;
            for batch in &batches {
                prop_assert_eq!(batch.start, next);
                next = batch.end;
                if let Err(why) = check_put_log_events(with_messages(batch.clone())) {
                    return Err(TestCaseError::fail(why));
                }
                if next < events.len() && events[next].time - events[batch.start].time != SPAN_MAX {
                    prop_assert!(check_put_log_events(with_messages(batch.start..next + 1)).is_err());
                }
            }
            prop_assert_eq!(next, events.len());
        }
    }

    #[test]
    fn lines_that_are_no_event() {
        let long = "x".repeat(MESSAGE_BYTES_MAX + 1);
        let text = format!("60 a b\n61 {long}\nx y\n62 \n63\n\n 64 a\n65 c");
        let (events, unfit) = events(text.as_bytes());
        let messages: Vec<_> = events.iter().map(|e| (e.time, &text[e.message.clone()])).collect();
        assert_eq!(messages, [(60_000, "a b"), (65_000, "c")]);
        let unfit: Vec<_> = unfit
            .iter()
            .map(|(why, range)| (*why, text[range.clone()].get(..4).unwrap_or(&text[range.clone()])))
            .collect();
        assert_eq!(
            unfit,
            [
                ("too-long", "xxxx"),
                ("malformed", "x y"),
                ("malformed", "62 "),
                ("malformed", "63"),
                ("malformed", ""),
                ("malformed", " 64 ")
            ]
        );
    }

    /// botocore's model: the start index is inclusive, the end indices are exclusive.
    #[test]
    fn rejected_indices() {
        let info = |new, old, expired| {
            RejectedLogEventsInfo::builder()
                .set_too_new_log_event_start_index(new)
                .set_too_old_log_event_end_index(old)
                .set_expired_log_event_end_index(expired)
                .build()
        };
        for (info, expected) in [
            (info(None, None, None), vec![]),
            (info(Some(3), None, None), vec![("too-new", 3..5)]),
            (info(Some(0), None, None), vec![("too-new", 0..5)]),
            (info(None, Some(2), None), vec![("too-old", 0..2)]),
            (info(None, None, Some(5)), vec![("expired", 0..5)]),
            (info(None, Some(3), Some(1)), vec![("expired", 0..1), ("too-old", 1..3)]),
            (info(None, Some(1), Some(3)), vec![("expired", 0..3)]),
            (info(Some(4), Some(1), None), vec![("too-old", 0..1), ("too-new", 4..5)]),
            // Nonsense stays within bounds, and no event is kept twice.
            (info(Some(1), Some(9), Some(-1)), vec![("too-old", 0..5)]),
            (info(Some(9), None, None), vec![]),
        ] {
            assert_eq!(rejected(&info, 5), expected, "{info:?}");
        }
    }
}
