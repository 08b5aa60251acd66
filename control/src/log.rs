//! What consensus records, in the control journal. An entry of the consensus log is an entry of the journal's slot: its term is the
//! epoch and its index the slot sequence, and one that comes again with an index takes the place of the one before and of all
//! behind it. A change of the catalogue is an entry of kind `Catalogue`, its events the body; all else is of kind `Consensus`:
//!
//! | tag u8, reserved [u8; 7] | slot sequence | what follows |
//! |---|---|---|
//! | 1 a term begins | its index | nothing |
//! | 2 members | its index | members |
//! | 3 a vote | 0 | term u64, node u64 (0: nobody) |
//! | 4 healed: nothing that was promised is missing any more | 0 | nothing |
//! | 5 a part of a leader's state, which takes the place of everything up to a position | 0 | position, part u32, parts u32, bytes |
//!
//! Records are written in the order in which they come. What the journal has no room for waits.

use crate::checkpoint::LogEnd;
use crate::control::SLOT;
use crate::encoding::{DecodeError, Reader, Write};
use crate::raft::codec::{put_members, put_position, take_members, take_position};
use crate::raft::{Entry, Payload, Position, Record, RecordSeq};
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::ids::NodeId;
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::{Epoch, Lsn, Offset, RaftIndex, SlotSeq, Term};
use tiderace_base::time::Now;
use tiderace_storage::{Class, EntryMeta, Journal, Refused};
use tiderace_wire::batch::{BatchHeader, Placement};
use tiderace_wire::entry::{EntryKind, NO_PARTITION, encode_entry};

/// What an entry of the journal says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Entry(Entry),
    Vote {
        term: Term,
        vote: Option<NodeId>,
    },
    Healed,
    State {
        base: Position,
        part: u32,
        parts: u32,
        bytes: Bytes,
    },
}

/// Where a position stands in the journal's slot.
pub(crate) fn end_of(position: Position) -> LogEnd {
    let term = u32::try_from(position.term.get()).expect("a term fits an epoch: codec.rs");
    LogEnd {
        sequence: SlotSeq::new(position.index.get()),
        epoch: Epoch::new(term),
    }
}

pub(crate) fn position_of(end: LogEnd) -> Position {
    Position {
        term: Term::new(u64::from(end.epoch.get())),
        index: RaftIndex::new(end.sequence.get()),
    }
}

/// Reads an entry of the control journal.
pub(crate) fn read(header: &BatchHeader, body: &[u8]) -> Result<Said, DecodeError> {
    let position = position_of(LogEnd {
        sequence: header.slot_seq(),
        epoch: header.epoch(),
    });
    let entry = |payload| Ok(Said::Entry(Entry { position, payload }));
    if header.entry_kind() == Ok(EntryKind::Catalogue) {
        return entry(Payload::Command(Bytes::copy_from_slice(body)));
    }
    let mut reader = Reader::new(body);
    let tag = reader.u8()?;
    reader.reserved(7)?;
    let is_entry = position.index > RaftIndex::ZERO;
    if is_entry != matches!(tag, 1 | 2) {
        return Err(DecodeError::BadField("slot sequence"));
    }
    let said = match tag {
        1 => entry(Payload::Term)?,
        2 => entry(Payload::Members(take_members(&mut reader)?))?,
        3 => {
            let term = Term::new(reader.u64()?);
            let vote = Some(NodeId::new(reader.u64()?)).filter(|node| node.get() != 0);
            if term > Term::new(u64::from(u32::MAX)) {
                return Err(DecodeError::BadField("term"));
            }
            Said::Vote { term, vote }
        }
        4 => Said::Healed,
        5 => Said::State {
            base: take_position(&mut reader)?,
            part: reader.u32()?,
            parts: reader.u32()?,
            bytes: Bytes::copy_from_slice(reader.rest()),
        },
        _ => return Err(DecodeError::UnknownKind(tag)),
    };
    reader.end()?;
    Ok(said)
}

fn tagged(tag: u8) -> Vec<u8> {
    vec![tag, 0, 0, 0, 0, 0, 0, 0]
}

/// An entry of the journal that is not written yet.
#[derive(Debug)]
struct Line {
    /// None: the record says nothing of its own, and is whole with all that was before it.
    entry: Option<(EntryKind, LogEnd, Bytes)>,
    /// The record, or the state, that it ends.
    ends: Option<Ends>,
}

/// What is whole with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    Record(RecordSeq),
    /// The state of a leader, with everything up to here.
    State(Position),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) journal: Journal,
    waiting: VecDeque<Line>,
    written: VecDeque<(Lsn, Ends)>,
    records: RecordSeq,
    term: Term,
}

impl Log {
    pub(crate) fn new(journal: Journal, term: Term) -> Self {
        Self {
            journal,
            waiting: VecDeque::new(),
            written: VecDeque::new(),
            records: 0,
            term,
        }
    }

    /// Whether everything that was recorded is on the disk.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.written.is_empty() && self.journal.drained()
    }

    /// Takes a record. Consensus counts them, from 1.
    pub(crate) fn record(&mut self, record: Record) {
        self.records += 1;
        let ends = Ends::Record(self.records);
        match record {
            Record::Vote { term, vote } => {
                self.term = term;
                let mut body = tagged(3);
                body.put_u64(term.get());
                body.put_u64(vote.map_or(0, NodeId::get));
                self.local(body, Some(ends));
            }
            Record::Healed => self.local(tagged(4), Some(ends)),
            Record::Append { entries, .. } => {
                if entries.is_empty() {
                    self.waiting.push_back(Line {
                        entry: None,
                        ends: Some(ends),
                    });
                }
                let last = entries.len().saturating_sub(1);
                for (nth, entry) in entries.into_iter().enumerate() {
                    let (kind, body) = match entry.payload {
                        Payload::Command(bytes) => (EntryKind::Catalogue, bytes),
                        Payload::Term => (EntryKind::Consensus, tagged(1).into()),
                        Payload::Members(members) => {
                            let mut body = tagged(2);
                            put_members(&mut body, &members);
                            (EntryKind::Consensus, body.into())
                        }
                    };
                    self.waiting.push_back(Line {
                        entry: Some((kind, end_of(entry.position), body)),
                        ends: (nth == last).then_some(ends),
                    });
                }
            }
        }
    }

    /// Takes a leader's state, in parts of at most so many bytes.
    pub(crate) fn state(&mut self, base: Position, bytes: &Bytes, part_bytes_max: usize) {
        let parts = bytes.len().div_ceil(part_bytes_max).max(1);
        for part in 0..parts {
            let from = part * part_bytes_max;
            let to = (from + part_bytes_max).min(bytes.len());
            let mut body = tagged(5);
            put_position(&mut body, base);
            body.put_u32(part as u32);
            body.put_u32(parts as u32);
            body.put(&bytes[from..to]);
            let is_last = part + 1 == parts;
            self.local(body, is_last.then_some(Ends::State(base)));
        }
    }

    fn local(&mut self, body: Vec<u8>, ends: Option<Ends>) {
        let place = LogEnd {
            sequence: SlotSeq::ZERO,
            epoch: end_of(Position {
                term: self.term,
                index: RaftIndex::ZERO,
            })
            .epoch,
        };
        self.waiting.push_back(Line {
            entry: Some((EntryKind::Consensus, place, body.into())),
            ends,
        });
    }

    /// Writes what waits, for as long as the journal takes it. Consensus may use what is reserved for control: to refuse a change
    /// that would take too much is its proposer's business.
    pub(crate) fn write(&mut self, now: Now) {
        while let Some(line) = self.waiting.front() {
            let mut end = self.journal.end_lsn();
            if let Some((kind, place, body)) = &line.entry {
                let append_time_us = now.wall.as_us();
                let bytes = BATCH_HEADER_BYTES + body.len();
                let Ok(mut draft) = self.journal.draft(Class::Control, bytes) else {
                    return;
                };
                let header = entry_header(*kind, *place, body, append_time_us);
                draft.copy(header.bytes());
                draft.copy(body);
                let placed = draft.commit(EntryMeta {
                    key: None,
                    slot: SLOT,
                    epoch: place.epoch,
                    // This log goes back where leaders change: the journal does not follow it.
                    slot_seq: SlotSeq::ZERO,
                    base_offset: Offset::ZERO,
                    next_offset: Offset::ZERO,
                    append_time_us,
                });
                end = placed.end;
            }
            if let Some(ends) = line.ends {
                self.written.push_back((end, ends));
            }
            self.waiting.pop_front();
        }
    }

    /// Whether the journal would take an entry with so long a body, of this class, behind all that waits.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn would_take(&mut self, class: Class, body_bytes: usize) -> Result<(), Refused> {
        if !self.waiting.is_empty() {
            return Err(Refused::Busy);
        }
        // A draft that is let go leaves nothing behind.
        self.journal
            .draft(class, BATCH_HEADER_BYTES + body_bytes)
            .map(drop)
    }

    /// What is on the disk as a whole now that everything below this is.
    pub(crate) fn take_durable(&mut self, durable: Lsn) -> Vec<Ends> {
        let mut ends = Vec::new();
        while let Some((end, what)) = self.written.front().copied()
            && end <= durable
        {
            self.written.pop_front();
            ends.push(what);
        }
        ends
    }
}

/// The header of the control log's entry at this place.
pub(crate) fn entry_header(
    kind: EntryKind,
    place: LogEnd,
    body: &[u8],
    append_time_us: u64,
) -> BatchHeader {
    let mut header = encode_entry(kind, NO_PARTITION, body);
    header.place(Placement {
        base_offset: Offset::ZERO,
        slot_seq: place.sequence,
        epoch: place.epoch,
        slot: SLOT,
        entry_kind: kind,
        append_time_us,
    });
    header
}
