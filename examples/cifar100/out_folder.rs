//! The folder of a run that was given none: ./result/YYYYmmdd-HHMMSS, the time in UTC.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A folder, named after the time, that does not exist yet.
pub fn default() -> PathBuf {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = stamp(since_epoch.as_secs());
    let base = PathBuf::from("result");
    let first = base.join(&stamp);
    // Two runs begun in the same second.
    let others = (2..).map(|n| base.join(format!("{stamp}-{n}")));
    std::iter::once(first).chain(others).find(|path| !path.exists()).expect("endless candidates")
}

/// Seconds since 1970-01-01 00:00 UTC as YYYYmmdd-HHMMSS.
fn stamp(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Days since 1970-01-01 as (year, month, day) of the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap_day = |year: u64| {
        u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)))
    };
    let mut year = 1970;
    while days >= 365 + leap_day(year) {
        days -= 365 + leap_day(year);
        year += 1;
    }
    let lengths = [31, 28 + leap_day(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}
