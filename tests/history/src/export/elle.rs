//! A history as transactions over lists for Elle's `list-append`: EDN, one operation a line. Every batch is an append of a
//! number of its own to the list of its partition; a reader that began at offset 0 reads the whole list that it has.
//!
//! A read is told of only where it is one: from the end on that the reader was told when it began, its list was all there was
//! at some point since it asked. And only each time that the list has doubled, and the last: so the export stays linear.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tiderace_base::ids::PartitionKey;

use super::{Appends, Outcome, Place};
use crate::observation::{Observation, Reader};

/// What a reader has, from the first record on.
#[derive(Clone, Debug)]
struct Reading {
    partition: PartitionKey,
    asked: (Place, u64),
    /// The end when it began.
    least: u64,
    next: u64,
    elements: Vec<usize>,
    /// The list's length when it is told of next.
    tells_at: usize,
    /// When the newest element came, and whether the list was told of then.
    newest: Option<(Place, u64, bool)>,
}

/// A read that is told of.
#[derive(Clone, Debug)]
struct Read {
    partition: PartitionKey,
    begin: (Place, u64),
    end: (Place, u64),
    elements: Vec<usize>,
}

/// Collects a history's transactions.
#[derive(Debug, Default)]
pub struct Export {
    appends: Appends,
    asked: BTreeMap<Reader, (Place, u64)>,
    readers: BTreeMap<Reader, Reading>,
    reads: Vec<Read>,
}

impl Reading {
    /// The list as it is, as a read.
    fn read(&self, end: (Place, u64)) -> Read {
        Read {
            partition: self.partition,
            begin: self.asked,
            end,
            elements: self.elements.clone(),
        }
    }
}

impl Export {
    /// Takes the next observation.
    pub fn observe(&mut self, at_ns: u64, observation: &Observation) {
        let place = self.appends.observe(at_ns, observation);
        match observation {
            Observation::Asked { reader, .. } => {
                self.asked.insert(*reader, (place + 1, at_ns));
            }
            Observation::Positioned {
                reader,
                partition,
                next,
                end,
                ..
            } => {
                let asked = self.asked.remove(reader);
                // Whoever goes on where it stood has the same list.
                let goes_on = self
                    .readers
                    .get(reader)
                    .is_some_and(|reading| reading.next == *next && reading.next > 0);
                if goes_on {
                    return;
                }
                self.end(*reader);
                if let Some(asked) = asked
                    && *next == 0
                    && self.appends.covers(*partition)
                {
                    let reading = Reading {
                        partition: *partition,
                        asked,
                        least: *end,
                        next: 0,
                        elements: Vec::new(),
                        tells_at: 1,
                        newest: None,
                    };
                    self.readers.insert(*reader, reading);
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
                // Also for readers that have no list: others read the same.
                let (batch, offset) = (batch.as_ref(), *offset);
                let element = self.appends.element(*partition, batch, offset, *records);
                let Some(reading) = self.readers.get_mut(reader) else {
                    return;
                };
                if offset != reading.next {
                    // What it has is a list with something wrong in it: Elle has to see that, and no more.
                    reading.elements.push(element);
                    let read = reading.read((place, at_ns));
                    self.reads.push(read);
                    self.readers.remove(reader);
                    return;
                }
                reading.next = offset + u64::from(*records);
                reading.elements.push(element);
                let whole = reading.next >= reading.least;
                let tells = whole && reading.elements.len() >= reading.tells_at;
                reading.newest = whole.then_some((place, at_ns, tells));
                if tells {
                    reading.tells_at = 2 * reading.elements.len();
                    let read = reading.read((place, at_ns));
                    self.reads.push(read);
                }
            }
            Observation::GapTold { reader, .. } => self.end(*reader),
            _ => {}
        }
    }

    /// A reader's list grows no more.
    fn end(&mut self, reader: Reader) {
        if let Some(reading) = self.readers.remove(&reader)
            && let Some((place, at_ns, false)) = reading.newest
        {
            self.reads.push(reading.read((place, at_ns)));
        }
    }

    /// Writes the history.
    ///
    /// # Errors
    /// What the place to write says.
    pub fn write(mut self, mut to: impl Write) -> io::Result<()> {
        let readers: Vec<Reader> = self.readers.keys().copied().collect();
        for reader in readers {
            self.end(reader);
        }
        let repeating = self.appends.repeating();
        self.reads
            .retain(|read| !repeating.contains(&read.partition));
        let (appends, never) = self.appends.finish();
        // By place: a completion, which is even, comes before what begins by the same observation.
        let mut lines: Vec<(Place, usize, String)> = Vec::new();
        let mut tell = |place: (Place, u64), process: usize, kind: &str, value: &str| {
            let line = format!(
                ":process {process}, :time {}, :type :{kind}, :f :txn, :value [{value}]",
                place.1
            );
            lines.push((place.0, process, line));
        };
        let reads_from = appends.last().map_or(0, |(element, _)| element + 1);
        let mut last_ns = 0;
        for (element, append) in appends.iter().map(|(element, append)| (*element, append)) {
            let value = format!("[:append \"{}\" {element}]", append.partition);
            tell((append.begin, append.begin_ns), element, "invoke", &value);
            last_ns = last_ns.max(append.begin_ns).max(append.end_ns);
        }
        for (index, read) in self.reads.iter().enumerate() {
            let process = reads_from + index;
            let asks = format!("[:r \"{}\" nil]", read.partition);
            tell(read.begin, process, "invoke", &asks);
            let list: Vec<String> = read.elements.iter().map(ToString::to_string).collect();
            let value = format!("[:r \"{}\" [{}]]", read.partition, list.join(" "));
            tell(read.end, process, "ok", &value);
            last_ns = last_ns.max(read.end.1);
        }
        for (element, append) in appends.iter().map(|(element, append)| (*element, append)) {
            let value = format!("[:append \"{}\" {element}]", append.partition);
            let (place, kind) = match append.outcome {
                Outcome::Appended { end, .. } => ((end, append.end_ns), "ok"),
                Outcome::Refused => ((never, last_ns), "fail"),
                Outcome::Unknown => ((never, last_ns), "info"),
            };
            tell(place, element, kind, &value);
        }
        lines.sort();
        for (index, (_, _, line)) in lines.iter().enumerate() {
            writeln!(to, "{{:index {index}, {line}}}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::planted::*;
    use tiderace_base::catalogue::Durability;

    fn exported(history: &[Observation]) -> String {
        let mut export = Export::default();
        for (at_ns, observation) in (0..).zip(history) {
            export.observe(at_ns, observation);
        }
        let mut text = Vec::new();
        export.write(&mut text).expect("memory takes everything");
        String::from_utf8(text).expect("EDN is UTF-8")
    }

    #[test]
    fn a_history_is_told_in_elles_words() {
        let history = [
            submitted(0),
            submitted(1),
            submitted(2),
            acknowledged(0, 0, 1),
            asked(1),
            told_end(1, 0, 2),
            delivered(1, 0, 0, 1),
            delivered(1, 1, 2, 1),
            refused(2),
        ];
        let expected = r#"{:index 0, :process 0, :time 0, :type :invoke, :f :txn, :value [[:append "7/0" 0]]}
{:index 1, :process 1, :time 1, :type :invoke, :f :txn, :value [[:append "7/0" 1]]}
{:index 2, :process 2, :time 2, :type :invoke, :f :txn, :value [[:append "7/0" 2]]}
{:index 3, :process 0, :time 3, :type :ok, :f :txn, :value [[:append "7/0" 0]]}
{:index 4, :process 3, :time 4, :type :invoke, :f :txn, :value [[:r "7/0" nil]]}
{:index 5, :process 4, :time 4, :type :invoke, :f :txn, :value [[:r "7/0" nil]]}
{:index 6, :process 3, :time 6, :type :ok, :f :txn, :value [[:r "7/0" [0]]]}
{:index 7, :process 4, :time 7, :type :ok, :f :txn, :value [[:r "7/0" [0 1]]]}
{:index 8, :process 1, :time 7, :type :info, :f :txn, :value [[:append "7/0" 1]]}
{:index 9, :process 2, :time 7, :type :fail, :f :txn, :value [[:append "7/0" 2]]}
"#;
        assert_eq!(exported(&history), expected);
    }

    #[test]
    fn a_list_shorter_than_what_there_was_is_no_read() {
        let history = |end| {
            [
                submitted(0),
                acknowledged(0, 0, 1),
                asked(1),
                told_end(1, 0, end),
                delivered(1, 0, 0, 1),
            ]
        };
        assert!(!exported(&history(4)).contains(":r "));
        assert!(exported(&history(2)).contains("[:r \"7/0\" [0]]"));
    }

    #[test]
    fn a_list_with_something_wrong_in_it_is_shown() {
        let begun = [asked(1), told_end(1, 0, 0), delivered(1, 0, 0, 1)];
        for (seq, offset, list) in [(0, 0, "[0 0]"), (1, 4, "[0 1]")] {
            let history = [&begun[..], &[delivered(1, seq, offset, 1)]].concat();
            let history = [&[submitted(0), submitted(1)], &history[..]].concat();
            assert!(exported(&history).contains(list), "{history:?}");
        }
    }

    #[test]
    fn reads_are_told_of_when_the_list_has_doubled_and_at_the_end() {
        let mut history = vec![asked(1), told_end(1, 0, 0)];
        history.extend((0..1000).map(|seq| delivered(1, seq, 2 * seq, 1)));
        let text = exported(&history);
        let reads = text
            .lines()
            .filter(|line| line.contains(":r ") && line.contains(":ok"));
        // 1, 2, 4 .. 512, and 1000.
        assert_eq!(reads.count(), 11);
    }

    #[test]
    fn memory_and_what_trims_are_left_out() {
        for known in [
            known(Durability::Memory, false),
            known(Durability::Local, true),
        ] {
            let history = [known, submitted(0), acknowledged(0, 0, 1)];
            assert_eq!(exported(&history), "");
        }
    }
}
