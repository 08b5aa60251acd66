//! What people write for the program, as functions of that text alone: the configuration file, the command line, quantities
//! and times, paths and addresses, and what `produce` reads. Opens, connects and starts nothing. It is public so that
//! `tests/fuzz` can hand it any text; the program itself takes each from the module that owns it.

use crate::cli::Cli;
use crate::config::{Settings, file};
use crate::input::{Format, Reader};
use crate::{session, stream, units};
use clap::Parser;
use std::path::Path;
use std::time::Duration;

/// A record that was read: its key, if it has one, and its value.
pub type Record = (Option<Vec<u8>>, Vec<u8>);

/// Checks the text of a configuration file and writes the whole configuration as a file again.
///
/// # Errors
/// What is wrong with it, where, and what to do.
pub fn config(text: &str) -> Result<String, String> {
    let name = "tiderace.toml";
    let values = file::parse(text, name).map_err(|failure| failure.to_string())?;
    let settings = Settings::resolve(
        &Default::default(),
        |_| None,
        Some((Path::new(name), &values)),
    );
    settings.check().map_err(|failure| failure.to_string())?;
    Ok(settings.print())
}

/// Checks a command line, the program's name first.
///
/// # Errors
/// What is wrong with it; the help, when that was asked for.
pub fn command(words: &[String]) -> Result<(), String> {
    Cli::try_parse_from(words)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Reads a byte count.
///
/// # Errors
/// Why it is none.
pub fn bytes(text: &str) -> Result<u64, String> {
    units::bytes(text).map_err(|error| error.to_string())
}

/// Writes a byte count, as [`bytes`] reads it back.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    units::show_bytes(bytes)
}

/// Reads a duration, exact to the microsecond.
///
/// # Errors
/// Why it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| error.to_string())
}

/// Writes a duration, as [`duration`] reads it back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    units::show_duration(duration)
}

/// Reads a point in time, in microseconds since 1970; ages count back from `now_us`.
///
/// # Errors
/// Why it is none.
pub fn time_us(text: &str, now_us: u64) -> Result<u64, String> {
    units::time_us(text, now_us).map_err(|error| error.to_string())
}

/// Writes a point in time, as [`time_us`] reads it back to the millisecond.
#[must_use]
pub fn show_time_us(us: u64) -> String {
    units::show_time_us(us)
}

/// Why a stream's path is none; `None` when it is one.
#[must_use]
pub fn path_fault(path: &str) -> Option<String> {
    stream::path_fault(path)
}

/// Splits an address into host and port.
///
/// # Errors
/// Why it is none.
pub fn address(text: &str) -> Result<(&str, u16), &'static str> {
    session::split_address(text)
}

/// Reads what `produce` is given: `lines`, `ndjson` or `csv` by the name of the format, with the key from a field or column.
/// Unknown names are lines.
///
/// # Errors
/// The line, from 1, and what is wrong there.
pub fn records(
    format: &str,
    key: Option<&str>,
    input: &[u8],
) -> Result<Vec<Record>, (u64, String)> {
    let format = match format {
        "ndjson" => Format::Ndjson,
        "csv" => Format::Csv,
        _ => Format::Lines,
    };
    let mut reader = Reader::new(input, format, key.map(str::to_owned));
    let mut records = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(record)) => records.push((record.key, record.value)),
            Ok(None) => return Ok(records),
            Err(error) => return Err((error.line, error.why)),
        }
    }
}
