//! A history as operations for Porcupine: JSON lines with the fields of its Go type `Operation`. Three operations on a log:
//! `append`, `read` of the batch at an offset, and `tail`, the question where the log ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;
use tiderace_base::ids::PartitionKey;

use super::{Appends, Outcome, Place};
use crate::observation::{Observation, Reader};

/// An operation. Go's `encoding/json` finds its fields by these names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Operation {
    /// Who. Producers and readers have no number in common; a client has one operation at a time.
    pub client_id: u64,
    /// What was asked.
    pub input: Input,
    /// The place in the history where it began.
    pub call: Place,
    /// What was answered.
    pub output: Output,
    /// The place in the history where it ended; behind everything else when its outcome is not known.
    pub r#return: Place,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Input {
    /// Append an element that has so many records.
    Append {
        /// Which log.
        log: String,
        /// Which element: a number that no other append has.
        element: usize,
        /// Its records.
        records: u32,
    },
    /// Read what begins at an offset.
    Read {
        /// Which log.
        log: String,
        /// Where.
        offset: u64,
    },
    /// Where does the log end?
    Tail {
        /// Which log.
        log: String,
    },
}

impl Input {
    fn log(&self) -> &str {
        match self {
            Self::Append { log, .. } | Self::Read { log, .. } | Self::Tail { log } => log,
        }
    }
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Output {
    /// Of an append: the offset of its first record, when it was said.
    Offset {
        /// Where; `None` when it was not said, or nothing was.
        offset: Option<u64>,
    },
    /// Of a read.
    Element {
        /// Which element begins there.
        element: usize,
    },
    /// Of a tail.
    End {
        /// One past the last offset.
        end: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    client: u64,
    /// Behind its newest answer.
    idle: Place,
    asked: Option<Place>,
}

/// Collects a history's operations.
#[derive(Debug, Default)]
pub struct Export {
    appends: Appends,
    readers: BTreeMap<Reader, Reading>,
    operations: Vec<Operation>,
}

impl Export {
    /// Takes the next observation.
    pub fn observe(&mut self, at_ns: u64, observation: &Observation) {
        let place = self.appends.observe(at_ns, observation);
        match observation {
            Observation::Asked { reader, .. } => {
                self.reading(*reader).asked = Some(place + 1);
            }
            Observation::Positioned {
                reader,
                partition,
                end,
                ..
            } => {
                let reading = self.reading(*reader);
                let (client, asked) = (reading.client, reading.asked.take());
                reading.idle = place + 1;
                if let Some(call) = asked.filter(|_| self.appends.covers(*partition)) {
                    self.operations.push(Operation {
                        client_id: client,
                        input: Input::Tail {
                            log: log(*partition),
                        },
                        call,
                        output: Output::End { end: *end },
                        r#return: place,
                    });
                }
            }
            Observation::Delivered {
                reader,
                partition,
                batch,
                offset,
                records,
                ..
            } if self.appends.covers(*partition) => {
                let (batch, offset) = (batch.as_ref(), *offset);
                let element = self.appends.element(*partition, batch, offset, *records);
                let reading = self.reading(*reader);
                let (client_id, call) = (reading.client, reading.idle);
                reading.idle = place + 1;
                let log = log(*partition);
                self.operations.push(Operation {
                    client_id,
                    input: Input::Read { log, offset },
                    call,
                    output: Output::Element { element },
                    r#return: place,
                });
            }
            _ => {}
        }
    }

    fn reading(&mut self, reader: Reader) -> &mut Reading {
        // Odd numbers are readers', even ones appends'.
        let client = 2 * self.readers.len() as u64 + 1;
        self.readers.entry(reader).or_insert(Reading {
            client,
            idle: 1,
            asked: None,
        })
    }

    /// All operations, in no order.
    #[must_use]
    pub fn finish(self) -> Vec<Operation> {
        let repeating: BTreeSet<String> = self.appends.repeating().into_iter().map(log).collect();
        let (appends, never) = self.appends.finish();
        let mut operations = self.operations;
        operations.retain(|operation| !repeating.contains(operation.input.log()));
        for (element, append) in appends {
            let (offset, end) = match append.outcome {
                Outcome::Appended { end, offset } => (offset, end),
                Outcome::Unknown => (None, never),
                // It had no effect, so that there is nothing to explain.
                Outcome::Refused => continue,
            };
            operations.push(Operation {
                client_id: 2 * element as u64,
                input: Input::Append {
                    log: log(append.partition),
                    element,
                    records: append.records,
                },
                call: append.begin,
                output: Output::Offset { offset },
                r#return: end,
            });
        }
        operations
    }
}

fn log(partition: PartitionKey) -> String {
    partition.to_string()
}

/// Writes operations as JSON lines.
///
/// # Errors
/// What the place to write says.
pub fn write(operations: &[Operation], mut to: impl Write) -> io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut to, operation)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::planted::*;

    /// The model that docs/consistency.md states.
    #[derive(Clone, Default)]
    struct Model {
        end: u64,
        elements: BTreeMap<u64, usize>,
    }

    impl Model {
        /// The state behind an operation, if it may happen in this one.
        fn step(&self, operation: &Operation) -> Option<Self> {
            let mut next = self.clone();
            let holds = match (&operation.input, &operation.output) {
                (
                    Input::Append {
                        element, records, ..
                    },
                    Output::Offset { offset },
                ) => {
                    next.elements.insert(self.end, *element);
                    next.end += u64::from(*records);
                    offset.is_none_or(|offset| offset == self.end)
                }
                (Input::Read { offset, .. }, Output::Element { element }) => {
                    self.elements.get(offset) == Some(element)
                }
                (Input::Tail { .. }, Output::End { end }) => *end == self.end,
                _ => false,
            };
            holds.then_some(next)
        }
    }

    /// Whether there is an order that the model allows and that agrees with the places. For a handful of operations.
    fn is_linearizable(model: &Model, left: &[Operation]) -> bool {
        let first_end = left.iter().map(|operation| operation.r#return).min();
        let Some(first_end) = first_end else {
            return true;
        };
        (0..left.len()).any(|index| {
            left[index].call < first_end
                && model.step(&left[index]).is_some_and(|next| {
                    let mut rest = left.to_vec();
                    rest.remove(index);
                    is_linearizable(&next, &rest)
                })
        })
    }

    fn explained(history: &[Observation]) -> bool {
        let mut export = Export::default();
        for (at_ns, observation) in (0..).zip(history) {
            export.observe(at_ns, observation);
        }
        is_linearizable(&Model::default(), &export.finish())
    }

    #[test]
    fn what_a_log_may_do_has_an_order() {
        let history = [
            submitted(0),
            submitted(1),
            asked(1),
            acknowledged(0, 0, 1),
            told_end(1, 0, 2),
            delivered(1, 0, 0, 1),
            delivered(1, 1, 2, 1),
            submitted(2),
            died(),
            asked(2),
            told_end(2, 0, 4),
        ];
        assert!(explained(&history));
    }

    #[test]
    fn what_a_log_may_not_do_has_none() {
        let begun = [submitted(0), acknowledged(0, 0, 1), submitted(1)];
        let wrong = [
            vec![acknowledged(1, 4, 1)],
            vec![acknowledged(1, 0, 1)],
            vec![delivered(1, 1, 0, 1)],
            vec![refused(1), positioned(1, 0), delivered(1, 1, 2, 1)],
            vec![asked(1), told_end(1, 0, 0)],
            vec![asked(1), acknowledged(1, 2, 1), told_end(1, 0, 6)],
        ];
        for end in wrong {
            assert!(!explained(&[&begun[..], &end].concat()), "{end:?}");
        }
        for end in [0, 2, 4] {
            let stale = [asked(1), acknowledged(1, 2, 1), told_end(1, 0, end)];
            assert_eq!(
                explained(&[&begun[..], &stale].concat()),
                end > 0,
                "end {end}"
            );
        }
    }

    #[test]
    fn a_strangers_batch_was_appended_at_some_time() {
        let strange = Observation::Delivered {
            reader: Reader(1),
            partition: PARTITION,
            batch: None,
            offset: 0,
            records: 2,
            digest: 0,
            epoch: 1,
            append_time_us: 0,
        };
        let history = [
            submitted(0),
            acknowledged(0, 2, 1),
            positioned(1, 0),
            strange,
            delivered(1, 0, 2, 1),
        ];
        assert!(explained(&history));
    }

    #[test]
    fn the_lines_are_what_go_reads() {
        let mut export = Export::default();
        let history = [
            submitted(0),
            acknowledged(0, 0, 1),
            asked(1),
            told_end(1, 0, 2),
            delivered(1, 0, 0, 1),
        ];
        for observation in &history {
            export.observe(0, observation);
        }
        let mut text = Vec::new();
        write(&export.finish(), &mut text).expect("memory takes everything");
        let expected = r#"{"ClientId":1,"Input":{"op":"tail","log":"7/0"},"Call":7,"Output":{"end":2},"Return":8}
{"ClientId":1,"Input":{"op":"read","log":"7/0","offset":0},"Call":9,"Output":{"element":0},"Return":10}
{"ClientId":0,"Input":{"op":"append","log":"7/0","element":0,"records":2},"Call":3,"Output":{"offset":0},"Return":4}
"#;
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
