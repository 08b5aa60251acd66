//! How `tail` prints: columns for people, JSON for programs, values alone for pipes; at once, or the newest only once
//! everything that was there has come.

use super::Place;
use crate::exit::{Exit, Failure};
use crate::output::{Output, printable};
use crate::units;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::Offset;
use tiderace_client::Batch;

/// How records are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    Table,
    Json,
    Values,
}

/// A record as programs read it. Bytes that are no text are in hexadecimal, under another name.
#[derive(Serialize)]
struct Shown<'a> {
    partition: u32,
    offset: u64,
    time: String,
    append_time: String,
    #[serde(flatten)]
    key: Field<'a>,
    #[serde(flatten)]
    value: Field<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

/// One name and its bytes: `{"key": text}`, `{"key_hex": ..}` or `{"key": null}`.
struct Field<'a> {
    name: &'static str,
    bytes: Option<&'a [u8]>,
}

impl Serialize for Field<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1))?;
        match self.bytes.map(core::str::from_utf8) {
            None => map.serialize_entry(self.name, &None::<&str>)?,
            Some(Ok(text)) => map.serialize_entry(self.name, text)?,
            Some(Err(_)) => {
                let bytes = self.bytes.unwrap_or_default();
                map.serialize_entry(&format!("{}_hex", self.name), &printable_hex(bytes))?;
            }
        }
        map.end()
    }
}

fn printable_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lines by append time, partition and offset.
type Newest = BTreeMap<(u64, u32, u64), Vec<u8>>;

/// Prints records as they come, or keeps the newest until everything that was there has come.
pub(super) struct Printer {
    pub(super) output: Output,
    style: Style,
    /// Records that may still be printed.
    left: u64,
    /// The newest so far, and how many are wanted; `None` once they are printed.
    newest: Option<(Newest, u64)>,
}

impl Printer {
    pub(super) fn new(style: Style, place: Place, count: Option<u64>) -> Self {
        let (left, newest) = match place {
            Place::Last(count) => (u64::MAX, Some((BTreeMap::new(), count))),
            Place::Earliest | Place::Latest | Place::Offset(_) | Place::Time(_) => {
                (count.unwrap_or(u64::MAX), None)
            }
        };
        Self {
            output: Output::new(),
            style,
            left,
            newest,
        }
    }

    /// Whether as many records were printed as are wanted.
    pub(super) const fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        match self.style {
            Style::Table => self
                .output
                .line(row("PARTITION", "OFFSET", "TIME", "KEY", "VALUE")),
            Style::Json | Style::Values => Ok(()),
        }
    }

    /// Prints a batch's records before `until`. False: enough was printed.
    pub(super) fn batch(
        &mut self,
        path: &str,
        batch: &Batch,
        until: Offset,
    ) -> Result<bool, Failure> {
        let partition = batch.partition().get();
        let records = batch.records().map_err(|error| {
            let what = format!(
                "{path}: the batch at offset {} of partition {partition} is no archive: {error}",
                batch.first_offset()
            );
            Failure::new(Exit::History, what)
                .hint("its producer wrote it so; read on behind it with --from and --partition")
        })?;
        for record in records {
            if record.offset() >= until {
                break;
            }
            if self.left == 0 {
                return Ok(false);
            }
            let shown = Shown {
                partition,
                offset: record.offset().get(),
                time: units::show_time_us(record.time_us()),
                append_time: units::show_time_us(batch.append_time_us()),
                key: Field {
                    name: "key",
                    bytes: record.key(),
                },
                value: Field {
                    name: "value",
                    bytes: record.value(),
                },
                headers: record
                    .headers()
                    .map(|(name, value)| (printable(name), printable(value)))
                    .collect(),
            };
            let line = shown.line(self.style)?;
            match &mut self.newest {
                None => {
                    self.output.line(line)?;
                    self.left -= 1;
                }
                Some((newest, count)) => {
                    newest.insert((batch.append_time_us(), partition, shown.offset), line);
                    if newest.len() as u64 > *count {
                        newest.pop_first();
                    }
                }
            }
        }
        Ok(self.left > 0)
    }

    /// Everything that was there has come.
    pub(super) fn caught_up(&mut self) -> Result<(), Failure> {
        let newest = self
            .newest
            .take()
            .map(|(newest, _)| newest)
            .unwrap_or_default();
        newest.values().try_for_each(|line| self.output.line(line))
    }

    pub(super) fn gap(
        &mut self,
        partition: PartitionIndex,
        reason: u8,
        from: Offset,
        to: Offset,
    ) -> Result<(), Failure> {
        let partition = partition.get();
        let reason = match reason {
            1 => "their age",
            2 => "the bytes kept",
            _ => "somebody's wish",
        };
        let note = format!("partition {partition}: offsets {from} to {to} are gone, by {reason}");
        let value = serde_json::json!({ "partition": partition, "gap_from": from.get(), "gap_to": to.get(), "reason": reason });
        self.note(&note, &value)
    }

    pub(super) fn loss(&mut self, partition: PartitionIndex, from: Offset) -> Result<(), Failure> {
        let partition = partition.get();
        let note = format!(
            "partition {partition}: a fail-over lost what stood at offset {from} and after it"
        );
        self.note(
            &note,
            &serde_json::json!({ "partition": partition, "lost_from": from.get() }),
        )
    }

    /// Programs find it between the records, people beside them.
    fn note(&mut self, note: &str, value: &serde_json::Value) -> Result<(), Failure> {
        match self.style {
            Style::Json => self.output.json(value),
            Style::Table | Style::Values => {
                drop(writeln!(io::stderr(), "tiderace: {note}"));
                Ok(())
            }
        }
    }
}

/// Says on standard error something that belongs to no record. Nothing is lost when nobody listens there.
pub(super) fn aside(style: Style, words: &str) {
    let line = match style {
        Style::Json => serde_json::json!({ "note": words }).to_string(),
        Style::Table | Style::Values => format!("tiderace: {words}"),
    };
    drop(writeln!(io::stderr(), "{line}"));
}

fn row(partition: &str, offset: &str, time: &str, key: &str, value: &str) -> String {
    format!("{partition:>9}  {offset:>10}  {time:<24}  {key:<16}  {value}")
        .trim_end()
        .to_owned()
}

impl Shown<'_> {
    fn line(&self, style: Style) -> Result<Vec<u8>, Failure> {
        let shown = |field: &Field<'_>| field.bytes.map_or_else(|| "-".to_owned(), printable);
        match style {
            Style::Values => Ok(self.value.bytes.unwrap_or_default().to_vec()),
            Style::Json => serde_json::to_vec(self).map_err(|error| {
                Failure::new(Exit::Failed, format!("a record is no JSON: {error}"))
            }),
            Style::Table => {
                let (partition, offset) = (self.partition.to_string(), self.offset.to_string());
                Ok(row(
                    &partition,
                    &offset,
                    &self.time,
                    &shown(&self.key),
                    &shown(&self.value),
                )
                .into_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Shown<'a> {
        Shown {
            partition: 3,
            offset: 17,
            time: units::show_time_us(0),
            append_time: units::show_time_us(1_000),
            key: Field {
                name: "key",
                bytes: key,
            },
            value: Field {
                name: "value",
                bytes: value,
            },
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn records_are_printed_for_people_programs_and_pipes() {
        let record = shown(Some(b"k"), Some(b"a\tb\n"));
        let text = |style| String::from_utf8(record.line(style).expect("a line")).expect("text");
        assert_eq!(
            text(Style::Table),
            "        3          17  1970-01-01T00:00:00.000Z  k                 a\\tb\\n"
        );
        assert_eq!(
            text(Style::Json),
            r#"{"partition":3,"offset":17,"time":"1970-01-01T00:00:00.000Z","append_time":"1970-01-01T00:00:00.001Z","key":"k","value":"a\tb\n"}"#
        );
        assert_eq!(text(Style::Values), "a\tb\n");
    }

    #[test]
    fn absent_and_binary_fields_are_told_apart_from_text() {
        let line = shown(None, Some(b"\xff\x00"))
            .line(Style::Json)
            .expect("a line");
        let line = String::from_utf8(line).expect("text");
        assert!(line.contains(r#""key":null,"value_hex":"ff00""#), "{line}");
        let tombstone = shown(Some(b""), None).line(Style::Table).expect("a line");
        assert!(tombstone.ends_with(b"  -"));
    }
}
