//! Maintenance windows: a time that comes back, and how long it lasts.
//!
//! Five fields as in crontab (minute, hour, day of month, month, day of week; lists, ranges and steps; 0 and 7 are Sunday),
//! in UTC. Where both days are written either will do, as cron has it.

use crds::cluster::upgrade::MaintenanceWindow;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The longest window, so that looking back ends.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Which values a field takes, as bits.
type Field = u64;

/// Whether the window is open, or what is wrong with it.
pub fn is_open(window: &MaintenanceWindow, now: Timestamp) -> Result<bool, String> {
    let wrong = |what: &str| format!("spec.upgrade.maintenanceWindow.{what}");
    let fields: Vec<&str> = window.cron.split(' ').collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(wrong("cron: write five fields, as in \"0 2 * * 6\""));
    };
    let field = |text: &str, least: u32, most: u32| {
        parse(text, least, most).ok_or_else(|| wrong(&format!("cron: {text:?} is not understood")))
    };
    let (minutes, hours, months) = (field(minute, 0, 59)?, field(hour, 0, 23)?, field(month, 1, 12)?);
    let days = field(day, 1, 31)?;
    // Sunday is 0 and 7.
    let weekdays = field(weekday, 0, 7)?;
    let weekdays = weekdays | (weekdays >> 7 & 1);
    let length = window
        .duration
        .duration()
        .map_err(|error| wrong(&format!("duration: {error}")))?;
    let length = SignedDuration::try_from(length).unwrap_or(LONGEST).min(LONGEST);

    let is_begin = |at: Timestamp| {
        let at = at.to_zoned(TimeZone::UTC);
        let has = |field: Field, value: i8| field >> value.max(0) & 1 == 1;
        let by_day = has(days, at.day());
        let by_weekday = has(weekdays, at.weekday().to_sunday_zero_offset());
        let is_day = match (*day == "*", *weekday == "*") {
            (false, false) => by_day || by_weekday,
            _ => by_day && by_weekday,
        };
        has(minutes, at.minute()) && has(hours, at.hour()) && has(months, at.month()) && is_day
    };
    // The minutes in which a window that is open now may have begun.
    let this_minute = Timestamp::from_second(now.as_second() - now.as_second().rem_euclid(60)).unwrap_or(now);
    let mut at = this_minute;
    while now.duration_since(at) < length {
        if is_begin(at) {
            return Ok(true);
        }
        match at.checked_sub(SignedDuration::from_mins(1)) {
            Ok(earlier) => at = earlier,
            Err(_) => break,
        }
    }
    Ok(false)
}

/// The values of one field: `*`, `5`, `1-5`, `*/15`, `10-20/2`, and lists of these.
fn parse(text: &str, least: u32, most: u32) -> Option<Field> {
    let mut field = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
            None => {
                let value = range.parse().ok()?;
                (value, if part.contains('/') { most } else { value })
            }
        };
        if from < least || to > most || from > to {
            return None;
        }
        for value in (from..=to).step_by(usize::try_from(step).ok()?) {
            field |= 1 << value;
        }
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    //! A window and a time in, open or not out.

    use super::*;

    fn open(cron: &str, length: &str, now: &str) -> Result<bool, String> {
        let window = MaintenanceWindow {
            cron: cron.to_owned(),
            duration: crds::Period::new(length),
        };
        is_open(&window, now.parse().unwrap())
    }

    #[test]
    fn windows_open_and_close_to_the_minute() {
        // The 22nd of November 2026 is a Sunday.
        for (cron, length, now, wanted) in [
            ("0 2 * * *", "2h", "2026-11-22T01:59:59Z", false),
            ("0 2 * * *", "2h", "2026-11-22T02:00:00Z", true),
            ("0 2 * * *", "2h", "2026-11-22T03:59:59Z", true),
            ("0 2 * * *", "2h", "2026-11-22T04:00:00Z", false),
            ("0 23 * * 6", "2h", "2026-11-22T00:30:00Z", true),
            ("0 23 * * 6", "2h", "2026-11-23T00:30:00Z", false),
            ("0 0 * * 0", "1h", "2026-11-22T00:30:00Z", true),
            ("0 0 * * 7", "1h", "2026-11-22T00:30:00Z", true),
            ("0 0 * * 1-5", "1h", "2026-11-22T00:30:00Z", false),
            ("*/15 8-18/2 * * *", "1m", "2026-11-22T10:15:30Z", true),
            ("*/15 8-18/2 * * *", "1m", "2026-11-22T09:15:30Z", false),
            ("0 0 1,15 * *", "1d", "2026-11-15T23:59:59Z", true),
            ("0 0 1 * 0", "1h", "2026-11-22T00:10:00Z", true),
            ("0 0 1 12 *", "1h", "2026-11-01T00:10:00Z", false),
            ("0 0 * * *", "0s", "2026-11-22T00:00:00Z", false),
        ] {
            assert_eq!(open(cron, length, now), Ok(wanted), "{cron} {length} {now}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for cron in [
            "0 24 * * *",
            "60 0 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "* * * *",
            "a * * * *",
        ] {
            assert!(open(cron, "1h", "2026-11-22T00:00:00Z").is_err(), "{cron}");
        }
    }
}
