//! Times as people read them.

/// Nanoseconds since the epoch as `2023-11-14T22:13:20.123Z`.
pub(crate) fn instant(unix_nanos: u64) -> String {
    let seconds = unix_nanos / 1_000_000_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        unix_nanos / 1_000_000 % 1000
    )
}

/// The Gregorian date so many days after 1970-01-01, counting years from March so that a leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, month + 3);
    if month > 12 {
        (year + 1, month - 12, day)
    } else {
        (year, month, day)
    }
}

/// A duration with three digits or so: `1.5s`, `230ms`, `12.3µs`.
pub(super) fn duration(nanos: u64) -> String {
    let shown = |value: f64, unit: &str| {
        let digits = if value < 10.0 {
            2
        } else if value < 100.0 {
            1
        } else {
            0
        };
        let text = format!("{value:.digits$}");
        let text = if digits > 0 {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        format!("{text}{unit}")
    };
    let value = nanos as f64;
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => shown(value / 1e3, "µs"),
        1_000_000..1_000_000_000 => shown(value / 1e6, "ms"),
        1_000_000_000..120_000_000_000 => shown(value / 1e9, "s"),
        120_000_000_000..7_200_000_000_000 => shown(value / 60e9, "m"),
        _ => shown(value / 3600e9, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_back_as_they_are_known() {
        for (unix_nanos, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789_000_000, "2000-02-29T12:34:56.789Z"),
            (1_700_000_000_000_000_000, "2023-11-14T22:13:20.000Z"),
            (4_107_542_399_999_000_000, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(instant(unix_nanos), text);
        }
    }

    #[test]
    fn durations_have_few_digits() {
        for (nanos, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (12_345, "12.3µs"),
            (230_000_000, "230ms"),
            (1_000_000_000, "1s"),
            (119_000_000_000, "119s"),
            (150_000_000_000, "2.5m"),
            (7_200_000_000_000, "2h"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }
}
