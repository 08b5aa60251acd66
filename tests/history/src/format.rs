//! The history file, version 1: JSON lines. The first says what the file is; each other is one observation, with the time at
//! which it was made, in the order in which they were made. docs/consistency.md describes it for writers in other languages.
//!
//! A reader is strict: another version, an unknown kind or field, and a time that goes back end the reading, because a
//! property that does not see something cannot judge it. Only a last line without its end is passed over: its writer died.

use std::fmt;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::observation::Observation;

/// The version of this format.
pub const VERSION: u32 = 1;
/// The longest line: an observation has a few hundred bytes, and whatever is longer is no history.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The version.
    pub tiderace_history: u32,
    /// Who wrote it, for people.
    pub by: String,
}

/// Every other line, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    at_ns: u64,
    saw: &'a Observation,
}

/// Every other line.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When it was seen, in nanoseconds since whenever the writer likes; never goes back.
    pub at_ns: u64,
    /// What was seen.
    pub saw: Observation,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub enum FormatError {
    /// The file cannot be read at all: see what the system says.
    Io(io::Error),
    /// The first line is not that of a history: give another file.
    NoHistory,
    /// Another version: read it with the release that wrote it.
    Version(u32),
    /// A line is not what this version has: mend its writer.
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it cannot be read: {error}"),
            Self::NoHistory => f.write_str("it is no history: the first line does not say so"),
            Self::Version(version) => {
                write!(f, "it has version {version}, and this is {VERSION}")
            }
            Self::Line { line, what } => write!(f, "line {line}: {what}"),
        }
    }
}

impl std::error::Error for FormatError {}

/// Writes a history.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Writes the first line. `by` says who writes, for people.
    ///
    /// # Errors
    /// What the place to write says.
    pub fn begin(mut to: W, by: &str) -> io::Result<Self> {
        let head = Head {
            tiderace_history: VERSION,
            by: by.to_owned(),
        };
        serde_json::to_writer(&mut to, &head)?;
        to.write_all(b"\n")?;
        Ok(Self(to))
    }

    /// Writes an observation.
    ///
    /// # Errors
    /// What the place to write says.
    pub fn write(&mut self, at_ns: u64, saw: &Observation) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, &Written { at_ns, saw })?;
        self.0.write_all(b"\n")
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.0
    }
}

/// Reads a history, line by line.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    head: Head,
    line: u64,
    at_ns: u64,
    is_cut: bool,
    text: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// When the file is no history of this version.
    pub fn begin(from: R) -> Result<Self, FormatError> {
        let head = Head {
            tiderace_history: VERSION,
            by: String::new(),
        };
        let mut reader = Self {
            from,
            head,
            line: 0,
            at_ns: 0,
            is_cut: false,
            text: Vec::new(),
        };
        if !reader.next_text()? {
            return Err(FormatError::NoHistory);
        }
        #[derive(Deserialize)]
        struct Any {
            tiderace_history: u32,
        }
        let any: Any = serde_json::from_slice(&reader.text).map_err(|_| FormatError::NoHistory)?;
        if any.tiderace_history != VERSION {
            return Err(FormatError::Version(any.tiderace_history));
        }
        reader.head = reader.parse()?;
        Ok(reader)
    }

    /// The first line.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The number of the line that was read last, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Whether a last line without its end was passed over.
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read or is not what this version has.
    pub fn next_line(&mut self) -> Result<Option<Line>, FormatError> {
        if !self.next_text()? {
            return Ok(None);
        }
        let line: Line = self.parse()?;
        if line.at_ns < self.at_ns {
            return Err(FormatError::Line {
                line: self.line,
                what: format!("its time {} is before {}", line.at_ns, self.at_ns),
            });
        }
        self.at_ns = line.at_ns;
        Ok(Some(line))
    }

    /// Whether there is another whole line.
    fn next_text(&mut self) -> Result<bool, FormatError> {
        self.text.clear();
        let mut limited = io::Read::take(&mut self.from, LINE_BYTES_MAX as u64);
        limited
            .read_until(b'\n', &mut self.text)
            .map_err(FormatError::Io)?;
        if self.text.is_empty() {
            return Ok(false);
        }
        self.line += 1;
        if self.text.last() == Some(&b'\n') {
            return Ok(true);
        }
        if self.text.len() >= LINE_BYTES_MAX {
            return Err(FormatError::Line {
                line: self.line,
                what: format!("has more than {LINE_BYTES_MAX} bytes"),
            });
        }
        self.is_cut = true;
        self.line -= 1;
        Ok(false)
    }

    fn parse<'de, T: Deserialize<'de>>(&'de self) -> Result<T, FormatError> {
        serde_json::from_slice(&self.text).map_err(|error| FormatError::Line {
            line: self.line,
            what: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Credit, Kind, Ledger, Reader as Who, Scope};
    use crate::properties::planted::*;
    use std::collections::BTreeSet;
    use tiderace_base::catalogue::Durability;

    /// One of each kind, with numbers that a float could not hold.
    fn samples() -> Vec<Observation> {
        let (reader, partition, group) = (Who(u64::MAX), PARTITION, u128::MAX);
        let ledger = |scope| Ledger { link: 3, scope };
        let credit = Credit {
            bytes: 1,
            batches: 2,
        };
        vec![
            Observation::NodeStarted { node: 0 },
            died(),
            Observation::LinkLost { node: 0 },
            Observation::StopAsked { node: 0, at_ns: 5 },
            Observation::DrainedTo {
                reader,
                partition,
                next: 4,
                at_ns: 6,
                in_order: true,
            },
            Observation::Healed,
            Observation::Strangers {
                node: 0,
                partitions: 1,
            },
            Observation::MemoryHeld {
                node: 0,
                shard: 1,
                part: "producers".into(),
                held: 2,
                budget: 3,
            },
            known(Durability::Memory, true),
            known(Durability::Local, false),
            known(Durability::Quorum, false),
            Observation::StalenessDeclared {
                stream: 7,
                staleness_ns_max: 8,
            },
            Observation::RetentionDeclared {
                stream: 7,
                bytes: 8,
                age_ms: 9,
            },
            Observation::ClockSet { node: 0 },
            Observation::StreamOwned {
                stream: 7,
                tenant: 1,
            },
            Observation::ReaderOwned { reader, tenant: 1 },
            submitted(u64::MAX),
            Observation::BatchWeighed {
                batch: batch(1),
                bytes: 2,
            },
            acknowledged(1, 2, 3),
            refused(1),
            Observation::Indeterminate { batch: batch(1) },
            asked(1),
            positioned(1, 2),
            delivered(1, 2, 3, 4),
            Observation::Delivered {
                reader,
                partition,
                batch: None,
                offset: 1,
                records: 2,
                digest: u64::MAX,
                epoch: 3,
                append_time_us: 4,
            },
            gap(1, 2, 3),
            read_through(1, 2),
            Observation::LedgerOpened {
                ledger: ledger(Scope::Produce),
                window: credit,
            },
            Observation::Granted {
                ledger: ledger(Scope::Deliver(4)),
                total: credit,
            },
            Observation::Spent {
                ledger: ledger(Scope::Produce),
                total: credit,
            },
            Observation::Settled {
                ledger: ledger(Scope::Produce),
                least: credit,
            },
            Observation::ProtocolBroken {
                what: "a \"quote\"\nand a line".to_owned(),
            },
            Observation::Stored { batch: batch(1) },
            Observation::Forgotten { batch: batch(1) },
            past_changed(1, 2),
            Observation::GroupMoveAsked {
                group,
                partition,
                wish: 1,
                offset: 2,
            },
            Observation::GroupMoved {
                group,
                partition,
                wish: 1,
            },
            Observation::GroupStands {
                group,
                partition,
                offset: 2,
            },
            Observation::Finished {
                waiting: vec!["somebody".to_owned()],
            },
        ]
    }

    fn written(observations: &[Observation]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), "a test").expect("memory takes everything");
        for (at_ns, observation) in (0..).zip(observations) {
            writer
                .write(at_ns, observation)
                .expect("memory takes everything");
        }
        writer.into_inner()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Observation>, FormatError> {
        let mut reader = Reader::begin(bytes)?;
        let mut observations = Vec::new();
        while let Some(line) = reader.next_line()? {
            assert_eq!(line.at_ns, observations.len() as u64);
            observations.push(line.saw);
        }
        Ok(observations)
    }

    #[test]
    fn every_kind_comes_back_as_it_was_written_in_one_line() {
        let samples = samples();
        let kinds: BTreeSet<Kind> = samples.iter().map(Observation::kind).collect();
        assert!(kinds.iter().eq(Kind::ALL), "a kind has no sample");
        let bytes = written(&samples);
        assert_eq!(
            bytes.iter().filter(|byte| **byte == b'\n').count(),
            samples.len() + 1
        );
        assert_eq!(read(&bytes).expect("it was just written"), samples);
    }

    #[test]
    fn the_published_lines_are_these() {
        let bytes = written(&[submitted(9), acknowledged(9, 4, 2), Observation::Healed]);
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        let batch = r#""batch":{"partition":"7/0","producer":"1","producer_epoch":1,"seq":9}"#;
        let expected = format!(
            "{{\"tiderace_history\":1,\"by\":\"a test\"}}\n\
             {{\"at_ns\":0,\"saw\":{{\"submitted\":{{{batch},\"epoch\":0,\"records\":2,\"digest\":\"9\"}}}}}}\n\
             {{\"at_ns\":1,\"saw\":{{\"acknowledged\":{{{batch},\"offset\":4,\"epoch\":2,\"duplicate\":false}}}}}}\n\
             {{\"at_ns\":2,\"saw\":\"healed\"}}\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_without_its_end_is_passed_over_and_said() {
        let bytes = written(&[submitted(0), submitted(1)]);
        let mut reader = Reader::begin(&bytes[..bytes.len() - 3]).expect("a history");
        assert!(reader.next_line().expect("a whole line").is_some());
        assert_eq!(reader.next_line().expect("it is passed over"), None);
        assert!(reader.is_cut());
        assert_eq!(reader.line(), 2);
    }

    #[test]
    fn what_this_version_does_not_have_is_refused_with_its_line() {
        let head = "{\"tiderace_history\":1,\"by\":\"\"}\n";
        let wrong = [
            "{\"at_ns\":0,\"saw\":{\"healed\":{}},\"more\":1}\n",
            "{\"at_ns\":0,\"saw\":{\"node_started\":{\"node\":0,\"more\":1}}}\n",
            "{\"at_ns\":0,\"saw\":\"unheard_of\"}\n",
            "{\"at_ns\":0,\"saw\":{\"asked\":{\"reader\":\"1\",\"partition\":\"7-0\"}}}\n",
            "{\"at_ns\":0,\"saw\":{\"asked\":{\"reader\":\"x\",\"partition\":\"7/0\"}}}\n",
            "\n",
        ];
        for line in wrong {
            let text = format!("{head}{line}");
            let error = read(text.as_bytes()).expect_err(line);
            assert!(
                matches!(error, FormatError::Line { line: 2, .. }),
                "{line}: {error}"
            );
        }
        let back = "{\"at_ns\":1,\"saw\":\"healed\"}\n{\"at_ns\":0,\"saw\":\"healed\"}\n";
        let text = format!("{head}{back}");
        let mut reader = Reader::begin(text.as_bytes()).expect("a history");
        reader.next_line().expect("the first is fine");
        assert!(reader.next_line().is_err(), "time went back");
    }

    #[test]
    fn other_files_and_versions_are_told_apart() {
        for text in ["", "tiderace ledger 1\n", "{}\n"] {
            assert!(matches!(read(text.as_bytes()), Err(FormatError::NoHistory)));
        }
        let newer = "{\"tiderace_history\":2,\"something\":true}\n";
        assert!(matches!(
            read(newer.as_bytes()),
            Err(FormatError::Version(2))
        ));
    }
}
