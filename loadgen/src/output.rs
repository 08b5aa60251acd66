//! Reports on their way out: text for people on standard error, JSON to a file or to standard output.

use serde::Serialize;
use std::path::Path;

/// Writes a report as JSON; `-` is standard output.
///
/// # Errors
/// A sentence for people.
#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
pub(crate) fn json(path: &Path, report: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    if path == Path::new("-") {
        println!("{text}");
        return Ok(());
    }
    write(path, &(text + "\n"))
}

/// Prints what was asked for.
#[expect(clippy::print_stdout, reason = "the text is what was asked for")]
pub(crate) fn text(text: &str) {
    println!("{text}");
}

/// Writes a file.
///
/// # Errors
/// A sentence for people.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
