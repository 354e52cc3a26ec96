//! Times, sizes and colours for people.
#![forbid(unsafe_code)]

pub(super) fn stamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Of the day, UTC.
pub(super) fn clock(seconds: i64) -> String {
    let time = seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} KiB", bytes >> 10),
        10_000_000..10_000_000_000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..600 => format!("{seconds} s"),
        600..36_000 => format!("{} min", seconds / 60),
        36_000..864_000 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `code`: of the terminal, such as 31 for red.
pub(super) fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_numbers() {
        assert_eq!([9_999, 10_240, 10_485_760].map(size), ["9999 B", "10 KiB", "10 MiB"]);
        assert_eq!(size(20 << 30), "20 GiB");
        assert_eq!([0, 86_399, 86_400 + 3_661].map(clock), ["00:00:00", "23:59:59", "01:01:01"]);
        assert_eq!([599, 3_600, 172_800, 864_000].map(age), ["599 s", "60 min", "48 h", "10 days"]);
    }
}
