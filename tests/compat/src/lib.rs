//! Golden bytes of every published format: what was written by an older release must read the same for ever.
//! Here are the samples, one for each kind of frame, entry and body, and how golden files are read; the tests are beside
//! this file, in `tests/`. Run them with `TIDERACE_BLESS=1` to write golden files and tables that do not exist yet or
//! that were changed on purpose.

#![forbid(unsafe_code)]

pub mod samples;

use std::fs;
use std::path::{Path, PathBuf};

/// Whether golden files and tables are written instead of compared.
#[must_use]
pub fn is_blessing() -> bool {
    std::env::var_os("TIDERACE_BLESS").is_some()
}

/// A file of this crate or of the repository around it.
#[must_use]
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// Bytes as the golden files show them: rows of 16.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for row in bytes.chunks(16) {
        let row: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&row.join(" "));
        text.push('\n');
    }
    text
}

/// Reads such rows.
///
/// # Panics
/// When the text is not hexadecimal.
#[must_use]
pub fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

/// The golden bytes of this name; when blessing, these bytes are written first.
///
/// # Panics
/// When the file cannot be read or written.
#[must_use]
pub fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let file = path("golden").join(format!("{name}.hex"));
    if is_blessing() {
        fs::write(&file, to_hex(now)).expect("a golden file can be written");
    }
    let text = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; write it with TIDERACE_BLESS=1 and commit it",
            file.display()
        )
    });
    from_hex(&text)
}
