//! Numbers as people write them: byte counts (`64MiB`), durations (`7d`, `1h30m`) and points in time (RFC 3339, or an age
//! such as `5m`). Reading refuses what is ambiguous and says how to write it; writing gives text that reads back equal.

use std::fmt;
use std::time::Duration;

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIME_UNITS_US: [(&str, u64); 8] = [
    ("w", 7 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
    ("µs", 1),
];

/// Why a number was not understood, as the end of a sentence that begins with the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UnitError(String);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, UnitError> {
    Err(UnitError(why.into()))
}

/// Splits leading digits from what follows them.
fn leading_number(text: &str) -> Result<(u64, &str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return refuse("does not begin with a digit");
    }
    match text[..digits].parse() {
        Ok(number) => Ok((number, &text[digits..])),
        Err(_) => refuse("is too large"),
    }
}

/// Reads a byte count: a whole number and a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`, or the decimal `kB`, `MB`, `GB`, `TB`). Without
/// a unit it is bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, UnitError> {
    let (number, rest) = leading_number(text.trim())?;
    let unit = rest.trim_start();
    if unit.starts_with('.') {
        return refuse("is not a whole number: take the next smaller unit (1536MiB for 1.5GiB)");
    }
    let scale = if unit.is_empty() {
        1
    } else {
        match BYTE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        {
            Some((_, scale)) => *scale,
            None => {
                return refuse(format!(
                    "has the unknown unit {unit:?}: write B, KiB, MiB, GiB or TiB"
                ));
            }
        }
    };
    number
        .checked_mul(scale)
        .map_or_else(|| refuse("is too large"), Ok)
}

/// Writes a byte count in the largest unit that divides it, binary or decimal.
pub(crate) fn show_bytes(bytes: u64) -> String {
    let divides = |(_, scale): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*scale);
    match BYTE_UNITS
        .iter()
        .filter(divides)
        .max_by_key(|(_, scale)| *scale)
    {
        Some((name, scale)) => format!("{}{name}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// Reads a duration: whole numbers with units, largest first (`90s`, `1h30m`, `7d`). A number without a unit is refused,
/// except 0.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total_us = 0_u64;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let letters = after
            .bytes()
            .take_while(|byte| !byte.is_ascii_digit())
            .count();
        let unit = after[..letters].trim();
        if unit.is_empty() {
            return refuse("has no unit: write us, ms, s, m, h, d or w");
        }
        if unit.starts_with('.') {
            return refuse("is not a whole number: take the next smaller unit (90m for 1.5h)");
        }
        let Some((_, scale)) = TIME_UNITS_US.iter().find(|(name, _)| *name == unit) else {
            return refuse(format!(
                "has the unknown unit {unit:?}: write us, ms, s, m, h, d or w"
            ));
        };
        if *scale >= smaller_than {
            return refuse("has its units out of order: write the largest first (1h30m)");
        }
        smaller_than = *scale;
        let sum = number
            .checked_mul(*scale)
            .and_then(|part| total_us.checked_add(part));
        match sum {
            Some(sum) => total_us = sum,
            None => return refuse("is too large"),
        }
        rest = after[letters..].trim_start();
    }
    if smaller_than == u64::MAX {
        return refuse("is empty");
    }
    Ok(Duration::from_micros(total_us))
}

/// Writes a duration so that [`duration`] reads it back, to the microsecond.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut shown = String::new();
    for (name, scale) in TIME_UNITS_US
        .iter()
        .filter(|(name, _)| !matches!(*name, "w" | "µs"))
    {
        if rest >= *scale {
            shown.push_str(&format!("{}{name}", rest / scale));
            rest %= scale;
        }
    }
    shown
}

const DAY_S: i64 = 86_400;

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Reads a point in time, in microseconds since 1970: RFC 3339 (`2013-01-01T10:15:00Z`, `2013-01-01 11:15:00.5+01:00`), a date
/// (its midnight, UTC), or an age before `now_us` (`5m`, `2h ago`).
pub(crate) fn time_us(text: &str, now_us: u64) -> Result<u64, UnitError> {
    let text = text.trim();
    if text == "now" {
        return Ok(now_us);
    }
    if text.len() >= 10 && text.as_bytes().get(4) == Some(&b'-') {
        return rfc3339_us(text);
    }
    let age = text.strip_suffix("ago").unwrap_or(text);
    match duration(age) {
        Ok(age) => Ok(now_us.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX))),
        Err(UnitError(why)) => refuse(format!(
            "{why}; a time is RFC 3339 (2013-01-01T10:15:00Z) or an age (5m, \"2h ago\")"
        )),
    }
}

fn rfc3339_us(text: &str) -> Result<u64, UnitError> {
    const HOW: &str =
        "is no RFC 3339 time: write 2013-01-01T10:15:00Z or 2013-01-01T11:15:00+01:00";
    // A newcomer's non-ASCII dash must not split a character below.
    if !text.is_ascii() {
        return refuse(HOW);
    }
    let field = |range: core::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let at = |index: usize, allowed: &[u8]| {
        text.as_bytes()
            .get(index)
            .is_some_and(|byte| allowed.contains(byte))
    };
    let date = field(0..4)
        .zip(field(5..7))
        .zip(field(8..10))
        .filter(|_| at(4, b"-") && at(7, b"-"));
    let Some(((year, month), day)) = date else {
        return refuse(HOW);
    };
    if !(1..=12).contains(&month)
        || day < 1
        || civil_from_days(days_from_civil(year, month, day)) != (year, month, day)
    {
        return refuse("is a date that the calendar does not have");
    }
    let mut seconds = days_from_civil(year, month, day) * DAY_S;
    let mut fraction_us = 0;
    if text.len() > 10 {
        let clock = field(11..13)
            .zip(field(14..16))
            .zip(field(17..19))
            .filter(|_| at(10, b"Tt ") && at(13, b":") && at(16, b":"));
        let Some(((hour, minute), second)) = clock else {
            return refuse(HOW);
        };
        // A leap second is the first of the next minute.
        if hour > 23 || minute > 59 || second > 60 {
            return refuse("is a time that the clock does not have");
        }
        seconds += hour * 3600 + minute * 60 + second;
        let mut rest = &text[19..];
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return refuse(HOW);
            }
            let padded = format!("{:0<6}", &after[..digits]);
            fraction_us = padded[..6].parse().unwrap_or(0);
            rest = &after[digits..];
        }
        seconds -= match rest {
            "Z" | "z" => 0,
            "" => {
                return refuse("has no offset from UTC: end it with Z, or with one such as +01:00");
            }
            offset => match offset_s(offset) {
                Some(offset) => offset,
                None => return refuse(HOW),
            },
        };
    }
    match u64::try_from(seconds) {
        Ok(seconds) => Ok(seconds * 1_000_000 + fraction_us),
        Err(_) => refuse("lies before 1970"),
    }
}

fn offset_s(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let is_two_digits =
        |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_two_digits(hours) || !is_two_digits(minutes) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Writes a point in time as RFC 3339 in UTC, to the millisecond.
pub(crate) fn show_time_us(us: u64) -> String {
    let seconds = i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    let (year, month, day) = civil_from_days(seconds / DAY_S);
    let of_day = seconds % DAY_S;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        us / 1000 % 1000
    )
}

/// Writes a count with its thousands apart.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_read_and_write() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
            ("5MB", 5_000_000),
            ("7B", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
            assert_eq!(bytes(&show_bytes(expected)), Ok(expected), "{text}");
        }
        for (count, shown) in [
            (0, "0B"),
            (1001, "1001B"),
            (64 << 20, "64MiB"),
            (1536 << 20, "1536MiB"),
            (10_000_000_000, "10GB"),
            (1_024_000, "1000KiB"),
        ] {
            assert_eq!(show_bytes(count), shown);
        }
        for (text, why) in [
            ("", "begin with a digit"),
            ("MiB", "begin with a digit"),
            ("-1", "begin with a digit"),
            ("1.5GiB", "1536MiB"),
            ("64M", "unknown unit"),
            ("64MiB/s", "unknown unit"),
            ("99999999999999999999", "too large"),
            ("99999999TiB", "too large"),
        ] {
            let error = bytes(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn durations_read_and_write() {
        for (text, us) in [
            ("0", 0),
            ("250ms", 250_000),
            ("30s", 30_000_000),
            ("1h30m", 5_400_000_000),
            ("1h 30m", 5_400_000_000),
            ("7d", 604_800_000_000),
            ("1w", 604_800_000_000),
            ("3us", 3),
            ("1s500ms", 1_500_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(us)), "{text}");
            assert_eq!(
                duration(&show_duration(Duration::from_micros(us))),
                Ok(Duration::from_micros(us))
            );
        }
        for (text, why) in [
            ("", "is empty"),
            ("10", "has no unit"),
            ("s", "begin with a digit"),
            ("1.5h", "90m"),
            ("5 fortnights", "unknown unit"),
            ("30m1h", "out of order"),
            ("1h1h", "out of order"),
            ("99999999999999999w", "too large"),
        ] {
            let error = duration(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn times_read_and_write() {
        const NOW: u64 = 1_700_000_000_000_000;
        for (text, us) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-01T10:15:00Z", 1_357_035_300_000_000),
            ("2013-01-01t10:15:00z", 1_357_035_300_000_000),
            ("2013-01-01 11:15:00+01:00", 1_357_035_300_000_000),
            ("2013-01-01T04:45:00.25-05:30", 1_357_035_300_250_000),
            ("2000-02-29", 951_782_400_000_000),
            ("5m", NOW - 300_000_000),
            ("2h ago", NOW - 7_200_000_000),
            ("now", NOW),
        ] {
            assert_eq!(time_us(text, NOW), Ok(us), "{text}");
        }
        for (text, why) in [
            ("2013-02-29", "calendar"),
            ("2013-13-01", "calendar"),
            ("2013-01-00", "calendar"),
            ("2013-01-01T25:00:00Z", "clock"),
            ("2013-01-01T10:15:00", "offset from UTC"),
            ("2013-01-01T10:15Z", "RFC 3339"),
            ("2013-01-01T10:15:00.Z", "RFC 3339"),
            ("2013-01-01T10:15:00+1:00", "RFC 3339"),
            ("2013-01-01T10:15:00+é", "RFC 3339"),
            ("1969-12-31", "before 1970"),
            ("yesterday", "RFC 3339"),
        ] {
            let error = time_us(text, NOW).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        for day in 0..146_097 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
        assert_eq!(
            show_time_us(1_357_035_300_250_000),
            "2013-01-01T10:15:00.250Z"
        );
        assert_eq!(
            show_time_us(951_782_400_000_000),
            "2000-02-29T00:00:00.000Z"
        );
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!(show_count(0), "0");
        assert_eq!(show_count(999), "999");
        assert_eq!(show_count(1_234_567), "1,234,567");
    }
}
