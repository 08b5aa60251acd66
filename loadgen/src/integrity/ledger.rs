//! What was acknowledged, what was delivered, and what does not agree. Acknowledgements and deliveries arrive in any
//! order between each other; within one lane deliveries must come in the order of sending, each once.
//!
//! - **lost**: acknowledged, and not delivered when everything has been read;
//! - **duplicated**: delivered again;
//! - **reordered**: delivered after a later one of its lane;
//! - **misplaced**: delivered at another offset than was acknowledged.
//!
//! A gap that is never filled is no violation where nothing was acknowledged: nothing was promised.

use super::record::{Lane, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

/// The first words of a ledger file.
const TITLE: &str = "tiderace ledger 1";

/// Records `first..first + count` of a lane stand at `offset` and behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Acked {
    pub(crate) lane: Lane,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) offset: u64,
}

/// What does not agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) misplaced: u64,
}

#[derive(Debug, Default)]
struct Account {
    /// Everything below was delivered, except what is missing.
    next: u64,
    missing: BTreeSet<u64>,
    /// By first number: count and offset.
    acked: BTreeMap<u64, (u64, u64)>,
    /// Delivered and not yet acknowledged: number and offset.
    early: BTreeMap<u64, u64>,
}

impl Account {
    fn has(&self, seq: u64) -> bool {
        seq < self.next && !self.missing.contains(&seq)
    }

    fn acked_offset(&self, seq: u64) -> Option<u64> {
        let (first, (count, offset)) = self.acked.range(..=seq).next_back()?;
        (seq - first < *count).then(|| offset + (seq - first))
    }
}

/// The books of all lanes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<Lane, Account>,
    acked: u64,
    delivered: u64,
    duplicated: u64,
    reordered: u64,
    misplaced: u64,
    /// Acknowledged and not delivered so far.
    owed: u64,
}

impl Ledger {
    /// A batch was acknowledged.
    pub(crate) fn acked(&mut self, range: Acked) {
        let account = self.accounts.entry(range.lane).or_default();
        self.acked += range.count;
        for index in 0..range.count {
            let seq = range.first + index;
            if !account.has(seq) {
                self.owed += 1;
            } else if let Some(offset) = account.early.remove(&seq)
                && offset != range.offset + index
            {
                self.misplaced += 1;
            }
        }
        account
            .acked
            .insert(range.first, (range.count, range.offset));
        // Neighbours in number and place become one, so that the books stay small.
        if let Some((before, (count, offset))) = account
            .acked
            .range(..range.first)
            .next_back()
            .map(|(first, entry)| (*first, *entry))
            && before + count == range.first
            && offset + count == range.offset
        {
            account.acked.remove(&range.first);
            account.acked.insert(before, (count + range.count, offset));
        }
    }

    /// A record was delivered.
    pub(crate) fn delivered(&mut self, name: Name, offset: u64) {
        let account = self.accounts.entry(name.lane).or_default();
        if account.has(name.seq) {
            self.duplicated += 1;
            return;
        }
        self.delivered += 1;
        if name.seq < account.next {
            account.missing.remove(&name.seq);
            self.reordered += 1;
        } else {
            account.missing.extend(account.next..name.seq);
            account.next = name.seq + 1;
        }
        match account.acked_offset(name.seq) {
            Some(acked) => {
                self.owed -= 1;
                if acked != offset {
                    self.misplaced += 1;
                }
            }
            None => {
                account.early.insert(name.seq, offset);
            }
        }
    }

    /// Acknowledged and not delivered so far.
    pub(crate) const fn owed(&self) -> u64 {
        self.owed
    }

    /// What does not agree, when everything has been read.
    pub(crate) const fn verdict(&self) -> Verdict {
        Verdict {
            acked: self.acked,
            delivered: self.delivered,
            lost: self.owed,
            duplicated: self.duplicated,
            reordered: self.reordered,
            misplaced: self.misplaced,
        }
    }
}

/// A ledger file, one line for each acknowledged batch: run, producer, partition, first number, count, offset, and a
/// full stop, without which the line was cut off by the end of its writer and counts for nothing.
#[derive(Debug)]
pub(crate) struct LedgerFile(BufWriter<File>);

impl LedgerFile {
    /// Opens it, to write behind what it holds.
    pub(crate) fn append(path: &Path) -> Result<Self, String> {
        let wrong = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(wrong)?;
        let is_new = file.metadata().map_err(wrong)?.len() == 0;
        let mut file = Self(BufWriter::new(file));
        // A line that was cut off is ended, so that the next is whole.
        let title = if is_new { TITLE } else { "" };
        writeln!(file.0, "{title}").map_err(wrong)?;
        Ok(file)
    }

    pub(crate) fn acked(&mut self, range: Acked) -> std::io::Result<()> {
        writeln!(
            self.0,
            "{:016x} {} {} {} {} {} .",
            range.lane.run,
            range.lane.producer,
            range.lane.partition,
            range.first,
            range.count,
            range.offset
        )
    }

    /// Hands what was written to the kernel: it survives this process.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Reads a ledger file.
pub(crate) fn read(path: &Path) -> Result<Vec<Acked>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(&text).map_err(|what| format!("{}: {what}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Acked>, String> {
    let Some(rest) = text.strip_prefix(TITLE) else {
        return Err(format!("is no ledger: it does not begin with {TITLE:?}"));
    };
    rest.lines()
        .filter_map(|line| line.strip_suffix(" ."))
        .map(|line| range(line).ok_or_else(|| format!("{line:?} is no line of a ledger")))
        .collect()
}

fn range(line: &str) -> Option<Acked> {
    let (run, rest) = line.split_once(' ')?;
    let numbers: Option<Vec<u64>> = rest.split(' ').map(|word| word.parse().ok()).collect();
    let &[producer, partition, first, count, offset] = numbers?.as_slice() else {
        return None;
    };
    Some(Acked {
        lane: Lane {
            run: u64::from_str_radix(run, 16).ok()?,
            producer: u32::try_from(producer).ok()?,
            partition: u32::try_from(partition).ok()?,
        },
        first,
        count,
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane {
        run: 1,
        producer: 0,
        partition: 0,
    };

    fn acked(first: u64, count: u64) -> Acked {
        Acked {
            lane: LANE,
            first,
            count,
            offset: 100 + first,
        }
    }

    fn deliver(ledger: &mut Ledger, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            ledger.delivered(Name { lane: LANE, seq }, 100 + seq);
        }
    }

    fn clean(acked: u64) -> Verdict {
        Verdict {
            acked,
            delivered: acked,
            ..Verdict::default()
        }
    }

    #[test]
    fn what_agrees_is_clean_in_whatever_order_it_is_heard() {
        let mut ledger = Ledger::default();
        ledger.acked(acked(0, 5));
        deliver(&mut ledger, 0..12);
        ledger.acked(acked(5, 5));
        ledger.acked(acked(10, 2));
        assert_eq!(ledger.verdict(), clean(12));
        assert_eq!(ledger.accounts[&LANE].acked.len(), 1);
    }

    #[test]
    fn a_planted_loss_is_found() {
        let mut ledger = Ledger::default();
        ledger.acked(acked(0, 10));
        deliver(&mut ledger, (0..10).filter(|seq| *seq != 3));
        assert_eq!(ledger.verdict().lost, 1);
        let mut tail = Ledger::default();
        tail.acked(acked(0, 10));
        deliver(&mut tail, 0..8);
        assert_eq!(tail.verdict().lost, 2);
    }

    #[test]
    fn a_gap_where_nothing_was_acknowledged_is_no_loss() {
        let mut ledger = Ledger::default();
        ledger.acked(acked(0, 3));
        ledger.acked(acked(5, 2));
        deliver(&mut ledger, [0, 1, 2, 5, 6]);
        assert_eq!(ledger.verdict(), clean(5));
    }

    #[test]
    fn a_planted_duplicate_is_found() {
        let mut ledger = Ledger::default();
        ledger.acked(acked(0, 4));
        deliver(&mut ledger, [0, 1, 2, 3, 1]);
        assert_eq!(
            ledger.verdict(),
            Verdict {
                duplicated: 1,
                ..clean(4)
            }
        );
    }

    #[test]
    fn a_planted_reordering_is_found() {
        let mut ledger = Ledger::default();
        ledger.acked(acked(0, 4));
        deliver(&mut ledger, [0, 2, 1, 3]);
        assert_eq!(
            ledger.verdict(),
            Verdict {
                reordered: 1,
                ..clean(4)
            }
        );
    }

    #[test]
    fn a_planted_wrong_place_is_found_before_and_after_the_acknowledgement() {
        let mut ledger = Ledger::default();
        ledger.delivered(Name { lane: LANE, seq: 0 }, 7);
        ledger.acked(acked(0, 2));
        ledger.delivered(Name { lane: LANE, seq: 1 }, 8);
        assert_eq!(ledger.verdict().misplaced, 2);
    }

    #[test]
    fn lanes_do_not_disturb_each_other() {
        let mut ledger = Ledger::default();
        let other = Lane {
            producer: 1,
            ..LANE
        };
        ledger.acked(acked(0, 1));
        deliver(&mut ledger, [0]);
        ledger.delivered(
            Name {
                lane: other,
                seq: 0,
            },
            3,
        );
        assert_eq!(ledger.verdict().duplicated, 0);
        assert_eq!(ledger.verdict().lost, 0);
    }

    #[test]
    fn a_file_comes_back_as_it_was_written_even_when_its_end_is_cut_off() {
        let path = std::env::temp_dir().join(format!("ledger-test-{}", std::process::id()));
        for part in [acked(0, 3), acked(3, 1)] {
            let mut file = LedgerFile::append(&path).expect("a temporary file");
            file.acked(part).expect("room");
            file.flush().expect("room");
        }
        let all = [acked(0, 3), acked(3, 1)];
        assert_eq!(read(&path).expect("a ledger"), all);
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(parse(&text[..text.len() - 3]).expect("a ledger"), all[..1]);
        assert!(parse("something else\n").is_err());
        assert!(parse(&format!("{TITLE}\n1 2 x .\n")).is_err());
        let cut = format!("{}\n{}", &text[..text.len() - 3], &text[TITLE.len() + 1..]);
        assert_eq!(parse(&cut).expect("a ledger").len(), 3);
    }
}
