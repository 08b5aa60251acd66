//! What reads text from outside, open to whoever gives it text that nobody meant (`tests/fuzz`). Nothing else is to call it:
//! the program's own commands read through the modules beside it.

use crate::config::{Settings, file};
use crate::input::{Format, Reader};
use crate::units;
use std::path::Path;

/// A configuration file: the text of every key's value, and the file that says the same again.
///
/// # Errors
/// What the program would print before it refuses to start.
pub fn config(text: &str) -> Result<(Vec<String>, String), String> {
    let name = Path::new("hostile.toml");
    let said = |failure: crate::exit::Failure| failure.to_string();
    let values = file::parse(text, "hostile.toml").map_err(said)?;
    let flags = core::array::from_fn(|_| None);
    let settings = Settings::resolve(&flags, |_| None, Some((name, &values)));
    settings.check().map_err(said)?;
    Ok((settings.texts(), settings.print()))
}

/// A record's key and value.
pub type Record = (Option<Vec<u8>>, Vec<u8>);

/// Records of an input of `produce`.
///
/// # Errors
/// The line that cannot be understood, from 1, and why.
pub fn records(bytes: &[u8], name: &str, key: Option<&str>) -> Result<Vec<Record>, (u64, String)> {
    let format = Format::of_name(Path::new(name));
    let mut reader = Reader::new(bytes, format, key.map(str::to_owned));
    let mut records = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push((record.key, record.value)),
            Ok(None) => return Ok(records),
            Err(error) => return Err((error.line, error.why)),
        }
    }
}

/// A size, and as it is shown.
#[must_use]
pub fn bytes(text: &str) -> Option<(u64, String)> {
    let bytes = units::bytes(text).ok()?;
    Some((bytes, units::show_bytes(bytes)))
}

/// A duration in nanoseconds, and as it is shown.
#[must_use]
pub fn duration(text: &str) -> Option<(u128, String)> {
    let duration = units::duration(text).ok()?;
    Some((duration.as_nanos(), units::show_duration(duration)))
}

/// A point in time in microseconds since 1970, and as it is shown. `now_us` is what ages are counted from.
#[must_use]
pub fn time_us(text: &str, now_us: u64) -> Option<(u64, String)> {
    let us = units::time_us(text, now_us).ok()?;
    Some((us, units::show_time_us(us)))
}
