//! The data set of the demo: real departures in the columns of data/README.md, embedded, or read from a file with the same
//! columns. An event's value is the row as a JSON object; its key is the aircraft, which is in one place at a time.

use crate::exit::{Exit, Failure};
use crate::input::{Format, Parsed, Reader};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A month of departures from New York; data/README.md has its source and licence.
const EMBEDDED: &[u8] = include_bytes!("../../data/flights.csv");
const KEY_COLUMN: &str = "tailnum";

/// One event of the data set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Number of its key, dense from 0 in order of first appearance.
    pub(crate) key_number: u32,
}

/// Every event, in the order in which it happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DataSet {
    pub(crate) name: String,
    pub(crate) events: Vec<Event>,
    pub(crate) key_count: u32,
}

impl DataSet {
    /// The embedded month.
    pub(crate) fn embedded() -> Result<Self, Failure> {
        Self::read("26,483 departures from New York, January 2013", EMBEDDED)
    }

    /// A file in the same columns.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| {
            Failure::new(
                Exit::Input,
                format!("cannot read {}: {error}", path.display()),
            )
        })?;
        Self::read(&path.display().to_string(), BufReader::new(file))
    }

    fn read(name: &str, from: impl BufRead) -> Result<Self, Failure> {
        let mut reader = Reader::new(from, Format::Csv, Some(KEY_COLUMN.to_owned()));
        let mut numbers: BTreeMap<Bytes, u32> = BTreeMap::new();
        let mut events = Vec::new();
        loop {
            let parsed = reader.next().map_err(|error| {
                Failure::new(Exit::Input, format!("{name}:{}: {}", error.line, error.why))
                    .hint("the demo reads the columns that node/bin/data/README.md lists")
            })?;
            let Some(Parsed { key, value }) = parsed else {
                break;
            };
            let key = Bytes::from(key.unwrap_or_default());
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let key_number = *numbers.entry(key.clone()).or_insert(next);
            events.push(Event {
                key,
                value: Bytes::from(value),
                key_number,
            });
        }
        if events.is_empty() {
            return Err(Failure::new(Exit::Input, format!("{name} holds no events")));
        }
        let key_count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        Ok(Self {
            name: name.to_owned(),
            events,
            key_count,
        })
    }

    /// The event that is sent as number `number`: the data set again from its beginning when it is spent.
    pub(crate) fn event(&self, number: u64) -> &Event {
        let index = number % self.events.len() as u64;
        &self.events[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_month_is_whole() {
        let data = DataSet::embedded().expect("embedded");
        assert_eq!(data.events.len(), 26_483);
        assert_eq!(data.key_count, 3_141);
        let first = &data.events[0];
        assert_eq!(first.key, "N14228");
        assert_eq!(
            first.value,
            r#"{"sched_dep":"2013-01-01T10:15:00Z","carrier":"UA","flight":"1545","tailnum":"N14228","origin":"EWR","dest":"IAH","dep_delay":"2","arr_delay":"11","distance":"1400"}"#
        );
        assert_eq!(data.event(26_483), first);
    }

    #[test]
    fn a_file_without_the_key_is_refused_by_name() {
        let failure = DataSet::read("f.csv", &b"tail,dest\nN1,IAH\n"[..]).expect_err("refused");
        assert_eq!(failure.exit, Exit::Input);
        assert!(
            failure
                .to_string()
                .starts_with("f.csv:1: no column is called \"tailnum\""),
            "{failure}"
        );
        let empty = DataSet::read("f.csv", &b"tailnum\n"[..]).expect_err("refused");
        assert!(empty.to_string().contains("holds no events"));
    }
}
