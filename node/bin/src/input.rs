//! What `produce` reads: lines, NDJSON and CSV, as records with an optional key. Streams: holds one record at a time and
//! refuses one that no batch could carry before it fills the memory. An error names the line.

pub(crate) mod csv;

use std::io::BufRead;
use std::path::Path;
use tiderace_base::limits::{BODY_BYTES_MAX, KEY_BYTES_MAX, KIB};

/// The largest record that is read: a batch of one, with room for its key and its frame.
pub(crate) const RECORD_BYTES_MAX: usize = BODY_BYTES_MAX - KEY_BYTES_MAX - 4 * KIB;

/// How the input is divided into records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// Each line is a value.
    Lines,
    /// Each line is a JSON value.
    Ndjson,
    /// Each row becomes a JSON object, named by the header line.
    Csv,
}

impl Format {
    /// What a file's name says about its format; lines when it says nothing.
    pub(crate) fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => Self::Csv,
            Some("ndjson" | "jsonl") => Self::Ndjson,
            _ => Self::Lines,
        }
    }
}

/// One record of the input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Parsed {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
}

/// Where and why the input could not be understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InputError {
    pub(crate) line: u64,
    pub(crate) why: String,
}

/// Reads records one after the other.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    from: R,
    format: Format,
    key: Option<String>,
    columns: Option<csv::Columns>,
    /// The line that was read last, from 1.
    line: u64,
    /// The line at which the record that was read last begins.
    record_line: u64,
    bytes_read: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// A reader whose records take their key from this field (NDJSON) or column (CSV).
    pub(crate) fn new(from: R, format: Format, key: Option<String>) -> Self {
        Self {
            from,
            format,
            key,
            columns: None,
            line: 0,
            record_line: 0,
            bytes_read: 0,
            buffer: Vec::new(),
        }
    }

    /// Bytes of input consumed so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The line at which the record that was read last begins, from 1.
    pub(crate) fn record_line(&self) -> u64 {
        self.record_line
    }

    /// The line behind it.
    pub(crate) fn next_line(&self) -> u64 {
        self.line + 1
    }

    /// Whether the next record would have to wait for more input.
    pub(crate) fn is_starved(&self, buffered: impl Fn(&R) -> usize) -> bool {
        buffered(&self.from) == 0
    }

    /// The next record, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Parsed>, InputError> {
        loop {
            let first_line = self.line + 1;
            if !self.read_record()? {
                return Ok(None);
            }
            self.record_line = first_line;
            let refuse = |why: String| InputError {
                line: first_line,
                why,
            };
            let raw = self.buffer.as_slice();
            let parsed = match self.format {
                Format::Lines => Some(Parsed {
                    key: None,
                    value: raw.to_vec(),
                }),
                Format::Ndjson if raw.iter().all(u8::is_ascii_whitespace) => None,
                Format::Ndjson => Some(json_line(raw, self.key.as_deref()).map_err(refuse)?),
                Format::Csv if raw.is_empty() => None,
                Format::Csv => match &self.columns {
                    Some(columns) => Some(columns.row(raw).map_err(refuse)?),
                    None => {
                        self.columns =
                            Some(csv::Columns::parse(raw, self.key.as_deref()).map_err(refuse)?);
                        None
                    }
                },
            };
            let Some(parsed) = parsed else { continue };
            if parsed
                .key
                .as_ref()
                .is_some_and(|key| key.len() > KEY_BYTES_MAX)
            {
                return Err(refuse(format!(
                    "its key is longer than {KEY_BYTES_MAX} bytes"
                )));
            }
            if parsed.value.len() > RECORD_BYTES_MAX {
                return Err(refuse(format!(
                    "it is longer than {RECORD_BYTES_MAX} bytes, the largest record"
                )));
            }
            return Ok(Some(parsed));
        }
    }

    /// Fills the buffer with the next record's bytes, without its line end. False at the end of the input.
    fn read_record(&mut self) -> Result<bool, InputError> {
        self.buffer.clear();
        let first_line = self.line + 1;
        let mut quotes = 0_usize;
        loop {
            let begin = self.buffer.len();
            let read = self.read_line()?;
            if read == 0 {
                return match begin {
                    0 => Ok(false),
                    _ => Err(InputError {
                        line: first_line,
                        why: "a quote that opens here is never closed".to_owned(),
                    }),
                };
            }
            self.line += 1;
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                // A byte order mark is no part of the first column's name.
                self.buffer.drain(..3);
            }
            if self.format == Format::Csv {
                // Between an odd number of quotes and the next, a line end belongs to the field.
                quotes += self.buffer[begin.min(self.buffer.len())..]
                    .iter()
                    .filter(|byte| **byte == b'"')
                    .count();
                if !quotes.is_multiple_of(2) {
                    continue;
                }
            }
            if self.buffer.last() == Some(&b'\n') {
                self.buffer.pop();
                if self.buffer.last() == Some(&b'\r') {
                    self.buffer.pop();
                }
            }
            return Ok(true);
        }
    }

    /// Appends one line with its end; how many bytes that were. Stops at the bound instead of holding a line without end.
    fn read_line(&mut self) -> Result<usize, InputError> {
        let mut total = 0;
        loop {
            let line = self.line + 1;
            let available = match self.from.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(InputError {
                        line,
                        why: format!("cannot read on: {error}"),
                    });
                }
            };
            let end = available
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| at + 1);
            let take = end.unwrap_or(available.len());
            self.buffer.extend_from_slice(&available[..take]);
            self.from.consume(take);
            self.bytes_read += take as u64;
            total += take;
            // One more line end than the bound is still the bound.
            if self.buffer.len() > RECORD_BYTES_MAX + 2 {
                return Err(InputError {
                    line,
                    why: format!("it is longer than {RECORD_BYTES_MAX} bytes, the largest record"),
                });
            }
            if end.is_some() || take == 0 {
                return Ok(total);
            }
        }
    }
}

/// One JSON value and its key.
fn json_line(raw: &[u8], key: Option<&str>) -> Result<Parsed, String> {
    let text = core::str::from_utf8(raw)
        .map_err(|error| format!("it is no UTF-8 at byte {}", error.valid_up_to()))?;
    let Some(field) = key else {
        let checked: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text);
        return match checked {
            Ok(_) => Ok(Parsed {
                key: None,
                value: raw.to_vec(),
            }),
            Err(error) => Err(json_error(&error)),
        };
    };
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| json_error(&error))?;
    let key = match value.get(field) {
        Some(serde_json::Value::String(text)) => text.clone().into_bytes(),
        Some(number @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
            number.to_string().into_bytes()
        }
        Some(_) => {
            return Err(format!(
                "its field {field:?} is no text, number or boolean, so it cannot be the key"
            ));
        }
        None if value.is_object() => {
            return Err(format!("it has no field {field:?} to be its key"));
        }
        None => {
            return Err(format!(
                "it is no JSON object, so it has no field {field:?} to be its key"
            ));
        }
    };
    Ok(Parsed {
        key: Some(key),
        value: raw.to_vec(),
    })
}

fn json_error(error: &serde_json::Error) -> String {
    // The position in the text that serde_json appends is that of the line alone: say the column only.
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("it is no JSON: {what} (column {})", error.column())
}

#[cfg(test)]
mod tests;
