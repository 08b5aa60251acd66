//! The toy's frames: a length, a kind and numbers, each 64 bits wide. Nothing is checked beyond its length: the toy's
//! clients are the simulator's own.

use bytes::{Bytes, BytesMut};

/// What producers and readers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Say {
    /// One batch.
    Append(Batch),
    /// Read from an offset, with credit for so many batches.
    Read { from: u64, credit: u64 },
    /// Credit as a total.
    Grant { total: u64 },
}

/// What the log answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hear {
    /// Credit for appends, as a total.
    Grant { total: u64 },
    /// A batch is safe.
    Acked {
        seq: u64,
        offset: u64,
        epoch: u64,
        duplicate: bool,
    },
    /// A batch was refused; the log expects this number.
    Refused { expected: u64 },
    /// Reading begins.
    Positioned { next: u64, end: u64 },
    /// One batch.
    Record {
        offset: u64,
        epoch: u64,
        time_us: u64,
        batch: Batch,
    },
}

/// What stands for a batch: who made it, its number, and a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) producer: u64,
    pub(super) seq: u64,
    pub(super) records: u64,
    pub(super) digest: u64,
}

impl Batch {
    pub(super) fn words(&self) -> [u64; 4] {
        [self.producer, self.seq, self.records, self.digest]
    }

    pub(super) fn from_words(words: &[u64]) -> Self {
        Self {
            producer: words[0],
            seq: words[1],
            records: words[2],
            digest: words[3],
        }
    }
}

fn frame(kind: u64, words: &[u64]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16 + words.len() * 8);
    bytes.extend_from_slice(&(words.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.freeze()
}

impl Say {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Append(batch) => frame(1, &batch.words()),
            Self::Read { from, credit } => frame(2, &[*from, *credit]),
            Self::Grant { total } => frame(3, &[*total]),
        }
    }

    pub(super) fn decode(kind: u64, words: &[u64]) -> Self {
        match kind {
            1 => Self::Append(Batch::from_words(words)),
            2 => Self::Read {
                from: words[0],
                credit: words[1],
            },
            _ => Self::Grant { total: words[0] },
        }
    }
}

impl Hear {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::Grant { total } => frame(1, &[*total]),
            Self::Acked {
                seq,
                offset,
                epoch,
                duplicate,
            } => frame(2, &[*seq, *offset, *epoch, u64::from(*duplicate)]),
            Self::Refused { expected } => frame(3, &[*expected]),
            Self::Positioned { next, end } => frame(4, &[*next, *end]),
            Self::Record {
                offset,
                epoch,
                time_us,
                batch,
            } => {
                let [a, b, c, d] = batch.words();
                frame(5, &[*offset, *epoch, *time_us, a, b, c, d])
            }
        }
    }

    pub(super) fn decode(kind: u64, words: &[u64]) -> Self {
        match kind {
            1 => Self::Grant { total: words[0] },
            2 => Self::Acked {
                seq: words[0],
                offset: words[1],
                epoch: words[2],
                duplicate: words[3] != 0,
            },
            3 => Self::Refused { expected: words[0] },
            4 => Self::Positioned {
                next: words[0],
                end: words[1],
            },
            _ => Self::Record {
                offset: words[0],
                epoch: words[1],
                time_us: words[2],
                batch: Batch::from_words(&words[3..]),
            },
        }
    }
}

/// Puts pieces together to frames.
#[derive(Debug, Default)]
pub(super) struct Assembler(BytesMut);

impl Assembler {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// The next whole frame: its kind and its numbers.
    pub(super) fn next(&mut self) -> Option<(u64, Vec<u64>)> {
        let word = |at: usize| {
            let bytes = self.0.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let count = usize::try_from(word(0)?).ok()?;
        let kind = word(1)?;
        let words = (2..2 + count).map(word).collect::<Option<Vec<_>>>()?;
        drop(self.0.split_to(16 + count * 8));
        Some((kind, words))
    }
}
