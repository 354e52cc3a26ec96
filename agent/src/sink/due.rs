//! Which segments make the next objects, and when.
//! Knows no clock and no files.
#![forbid(unsafe_code)]

use super::member::TEXT_BYTES_MAX;
use crate::spool::{Segment, SegmentId};

/// How long the last window before a boundary is waited for.
const GRACE_SECONDS: i64 = 3;

/// The last segment of the batch that is due, if one is. `segments` oldest first, `now` and `interval` in seconds;
/// `all`: nothing more comes, so that nothing is worth waiting for.
pub(super) fn due(segments: &[Segment], now: i64, interval: u32, all: bool) -> Option<SegmentId> {
    // An object for each window.
    if interval == 0 {
        return segments.first().map(|first| first.id);
    }
    let (fitting, is_full) = fitting(segments);
    if all || is_full {
        return fitting.last().map(|last| last.id);
    }
    let boundary = now - now.rem_euclid(i64::from(interval));
    let newest_end = segments.last()?.window.end;
    if newest_end + 1 < boundary && now < boundary + GRACE_SECONDS {
        return None;
    }
    // Behind a boundary; or from before the clock was set back, and then there is nothing to wait for.
    let is_ripe = |segment: &&Segment| segment.window.end < boundary || segment.window.end > now;
    fitting.iter().take_while(is_ripe).last().map(|last| last.id)
}

/// When something may become due, if no segment comes before.
pub(super) fn next_look(now: i64, interval: u32) -> i64 {
    let length = i64::from(interval.max(1));
    let boundary = now - now.rem_euclid(length);
    if now < boundary + GRACE_SECONDS { boundary + GRACE_SECONDS } else { boundary + length }
}

/// The oldest, up to as much text as one object holds, and whether there is more.
fn fitting(segments: &[Segment]) -> (&[Segment], bool) {
    let mut bytes = 0;
    let too_many = segments.iter().position(|segment| {
        bytes += segment.text_bytes;
        bytes > TEXT_BYTES_MAX
    });
    match too_many {
        // One that is too large on its own is a batch all the same.
        Some(count) => (&segments[..count.max(1)], true),
        None => (segments, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Window;

    /// A minute each, that ends at these seconds.
    fn segments(ends: &[i64], text_bytes: u64) -> Vec<Segment> {
        let numbered = ends.iter().zip(1u64..);
        numbered
            .map(|(&end, number)| Segment {
                id: number.to_string().parse().unwrap(),
                window: Window { start: end - 59, end, number },
                bytes: 1,
                text_bytes,
                records: 1,
            })
            .collect()
    }

    fn check(ends: &[i64], now: i64, interval: u32, all: bool, want: Option<u64>) {
        let want = want.map(|id| id.to_string().parse().unwrap());
        assert_eq!(due(&segments(ends, 1), now, interval, all), want, "{ends:?} at {now} by {interval}");
    }

    #[test]
    fn behind_a_boundary() {
        check(&[], 600, 300, false, None);
        check(&[], 600, 300, true, None);
        // Before the boundary, also a second.
        check(&[359, 419], 599, 300, false, None);
        // The window before the boundary is there: nothing to wait for.
        check(&[359, 419, 479, 539, 599], 600, 300, false, Some(5));
        // It is not: it may come within three seconds.
        check(&[359, 419, 479, 539], 600, 300, false, None);
        check(&[359, 419, 479, 539], 602, 300, false, None);
        check(&[359, 419, 479, 539], 603, 300, false, Some(4));
        // The next window is there and shows that none is to come, and waits itself.
        check(&[359, 419, 479, 659], 660, 300, false, Some(3));
        check(&[659], 660, 300, false, None);
        // After an outage.
        check(&[359, 659, 959, 1259], 1260, 300, false, Some(3));
        check(&[359, 659], 86_400, 3600, false, None);
        check(&[359, 659], 86_403, 3600, false, Some(2));
    }

    #[test]
    fn an_object_for_each_window() {
        check(&[359, 419], 420, 0, false, Some(1));
        check(&[], 420, 0, true, None);
    }

    #[test]
    fn nothing_more_comes() {
        check(&[359, 419], 420, 300, true, Some(2));
    }

    #[test]
    fn the_clock_was_set_back() {
        // By a year: it need not come round again.
        check(&[31_536_059], 603, 300, false, Some(1));
        check(&[31_536_059, 599], 603, 300, false, Some(2));
        check(&[31_536_059, 659], 660, 300, false, Some(1));
    }

    #[test]
    fn as_much_as_an_object_holds() {
        let ends = [359, 419, 479];
        let due = |text_bytes| due(&segments(&ends, text_bytes), 480, 300, false).map(|id| id.to_string());
        assert_eq!(due(TEXT_BYTES_MAX / 3), None);
        assert_eq!(due(TEXT_BYTES_MAX / 3 + 1), Some("2".to_owned()));
        assert_eq!(due(TEXT_BYTES_MAX), Some("1".to_owned()));
        assert_eq!(due(TEXT_BYTES_MAX * 2), Some("1".to_owned()));
    }

    #[test]
    fn looks_at_a_boundary_and_after_the_grace() {
        for (now, want) in [(599, 600), (600, 603), (602, 603), (603, 900), (0, 3)] {
            assert_eq!(next_look(now, 300), want, "{now}");
        }
        assert_eq!((next_look(86_399, 3600), next_look(60, 0)), (86_400, 63));
    }
}
