//! What a restart need not replay, and how it is read back. A checkpoint captures one state, by a clone that costs nothing,
//! and hands its cells to the journal in slices; later events change the catalogue, not the capture. Reading back takes
//! the cells, then every entry behind the sequence that the capture named: an entry that the cells already hold is skipped,
//! so that where the replay begins does not matter.
//!
//! Invariant: a cell is forgotten as changed only once a checkpoint with it is done. One that was given up, whatever the
//! reason, costs nothing but its bytes.

use crate::catalogue::{ApplyError, Catalogue};
use crate::cell::{Assembly, CellKey, FORMAT};
use crate::encoding::{DecodeError, Reader, Write};
use crate::event::{CatalogueEvent, Fact};
use crate::log::{self, Said, end_of, position_of};
use crate::raft::codec::{put_entry, put_members, take_entry, take_members};
use crate::raft::{Entry, Members, Payload, Position};
use bytes::Bytes;
use core::fmt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tiderace_base::ids::NodeId;
use tiderace_base::limits;
use tiderace_base::operation::Effects;
use tiderace_base::position::{Epoch, Lsn, RaftIndex, SlotSeq, Term};
use tiderace_storage::{Journal, Replay};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

/// The cell of the log: format u8 (2; 1 ends behind the sequence), reserved [u8; 3], epoch u32 of the last entry in the capture, its
/// sequence u64, entries behind it that are captured too u32, reserved u32, the journal's end at the capture u64: what lies below it
/// is in the capture, or was overwritten before.
pub(crate) const LOG_KIND: u8 = 16;
const LOG_FORMAT: u8 = 2;
/// The cell of the last vote: format u8, reserved [u8; 7], term u64, node u64 (0: nobody).
const VOTE_KIND: u8 = 22;
/// The cell of the members at the capture's last entry: format u8, reserved [u8; 7], members.
const MEMBERS_KIND: u8 = 23;
/// The cells of the entries behind the capture's last one, keyed by u32 from 0: format u8, reserved [u8; 7], the entry. Those whose
/// key is not below the count in the cell of the log are of an earlier part.
const TAIL_KIND: u8 = 24;
/// The journal buffers this much of a checkpoint before it asks its owner to wait.
const BACKLOG_BYTES_MAX: usize = limits::MIB;

/// Where the control log stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LogEnd {
    /// Sequence of the last entry; zero when there is none.
    pub(crate) sequence: SlotSeq,
    /// Its epoch.
    pub(crate) epoch: Epoch,
}

/// What consensus has at a capture.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// The last entry that the state holds.
    pub(crate) base: Position,
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    /// None: never said by any entry.
    pub(crate) members: Option<Members>,
    /// The entries behind it, committed or not.
    pub(crate) tail: Vec<Entry>,
    /// The journal's end then.
    pub(crate) lsn: Lsn,
}

fn formatted(format: u8) -> Vec<u8> {
    vec![format, 0, 0, 0, 0, 0, 0, 0]
}

fn take_format(reader: &mut Reader<'_>, kind: u8) -> Result<(), DecodeError> {
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(DecodeError::UnknownFormat { kind, format });
    }
    reader.reserved(7)
}

impl Captured {
    /// Cells that stand for it.
    pub(crate) fn cells(&self) -> VecDeque<(u8, Vec<u8>, Vec<u8>)> {
        let end = end_of(self.base);
        let mut log = vec![LOG_FORMAT, 0, 0, 0];
        log.put_u32(end.epoch.get());
        log.put_u64(end.sequence.get());
        log.put_u32(self.tail.len() as u32);
        log.put_u32(0);
        log.put_u64(self.lsn.get());
        let mut vote = formatted(FORMAT);
        vote.put_u64(self.term.get());
        vote.put_u64(self.vote.map_or(0, NodeId::get));
        let mut cells =
            VecDeque::from([(LOG_KIND, Vec::new(), log), (VOTE_KIND, Vec::new(), vote)]);
        if let Some(members) = &self.members {
            let mut value = formatted(FORMAT);
            put_members(&mut value, members);
            cells.push_back((MEMBERS_KIND, Vec::new(), value));
        }
        for (entry, key) in self.tail.iter().zip(0_u32..) {
            let mut value = formatted(FORMAT);
            put_entry(&mut value, entry);
            cells.push_back((TAIL_KIND, key.to_le_bytes().to_vec(), value));
        }
        cells
    }
}

/// Which cells changed, and the checkpoint that is being written.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    /// Changed since the last capture. At most one entry for each cell, and emptied by every capture.
    changed: BTreeSet<CellKey>,
    /// In a capture that is not known to be done.
    unproven: BTreeSet<CellKey>,
    capture: Option<Capture>,
}

#[derive(Debug)]
struct Capture {
    state: Catalogue,
    log: VecDeque<(u8, Vec<u8>, Vec<u8>)>,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    /// Every one; the last that was handed over.
    All(Option<CellKey>),
    /// Those that changed.
    Changed(BTreeSet<CellKey>),
}

impl Checkpoint {
    /// Everything has changed: the state is another one's.
    pub(crate) fn note_all(&mut self, before: &Catalogue, state: &Catalogue) {
        for of in [before, state] {
            let mut cursor = None;
            while let Some(key) = of.next_cell(cursor) {
                self.changed.insert(key);
                cursor = Some(key);
            }
        }
    }

    /// Notes what a fact changed in `state`, which has it applied.
    pub(crate) fn note(&mut self, state: &Catalogue, fact: &Fact) {
        state.touch(fact, &mut self.changed);
    }

    /// Begins a checkpoint of `state`: all of it, or what changed since the last one that was done.
    pub(crate) fn begin(&mut self, state: &Catalogue, log: &Captured, is_base: bool) {
        self.unproven.append(&mut self.changed);
        let cells = if is_base {
            Cells::All(None)
        } else {
            Cells::Changed(self.unproven.clone())
        };
        self.capture = Some(Capture {
            state: state.clone(),
            log: log.cells(),
            cells,
        });
    }

    /// Hands over cells for as long as the journal takes them.
    pub(crate) fn feed(&mut self, journal: &mut Journal, effects: &mut Effects) {
        let Some(capture) = &mut self.capture else {
            return;
        };
        while journal.checkpoint_backlog_bytes() < BACKLOG_BYTES_MAX {
            if let Some((kind, key, value)) = capture.log.pop_front() {
                journal.checkpoint_cell(kind, &key, Some(&value), effects);
                continue;
            }
            let Some(key) = capture.next() else {
                self.capture = None;
                journal.checkpoint_finish(effects);
                return;
            };
            let value = capture.state.cell(key);
            journal.checkpoint_cell(key.kind(), &key.encode(), value.as_deref(), effects);
        }
    }

    /// The journal says that the checkpoint counts.
    pub(crate) fn done(&mut self) {
        self.unproven.clear();
    }

    /// Gives up the one being written.
    pub(crate) fn give_up(&mut self) {
        self.capture = None;
    }
}

impl Capture {
    fn next(&mut self) -> Option<CellKey> {
        match &mut self.cells {
            Cells::All(cursor) => {
                *cursor = Some(self.state.next_cell(*cursor)?);
                *cursor
            }
            Cells::Changed(cells) => cells.pop_first(),
        }
    }
}

/// Why the control journal, whose checksums are good, does not add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFault {
    /// A checkpoint's cell cannot be read.
    Cell(DecodeError),
    /// An entry of the journal cannot be read.
    Unreadable(Lsn, DecodeError),
    /// An entry is none of the control log's: this is another thread's journal.
    Foreign(Lsn),
    /// An entry is missing before this one.
    Sequence {
        /// Where.
        at: Lsn,
        /// The index that would be next.
        expected: RaftIndex,
        /// The entry's.
        found: RaftIndex,
    },
    /// The events of an entry of the log cannot be read.
    Entry(RaftIndex, DecodeError),
    /// An event does not fit the state before it.
    Apply(RaftIndex, ApplyError),
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cell(error) => write!(f, "a cell of its checkpoint: {error}"),
            Self::Unreadable(at, error) => write!(f, "the entry at {at}: {error}"),
            Self::Foreign(at) => write!(
                f,
                "the entry at {at} is none of the control log's: this is another journal"
            ),
            Self::Sequence {
                at,
                expected,
                found,
            } => write!(f, "the entry at {at} is number {found}, not {expected}"),
            Self::Entry(index, error) => write!(f, "entry {index}: {error}"),
            Self::Apply(index, error) => write!(f, "entry {index}: {error}"),
        }
    }
}

/// What a start found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The state at `log.base`.
    pub(crate) catalogue: Catalogue,
    pub(crate) log: Captured,
    /// Whether anything of consensus was ever recorded: an older version recorded entries alone.
    pub(crate) is_voted: bool,
}

impl Found {
    /// The state with every entry of the tail applied, committed or not.
    pub(crate) fn newest(&self) -> Result<Catalogue, LogFault> {
        let mut newest = self.catalogue.clone();
        for entry in &self.log.tail {
            apply(&mut newest, entry, |_, _| {})?;
        }
        Ok(newest)
    }
}

/// Applies an entry of the log; `note` is told of each fact, with the state that has it applied.
pub(crate) fn apply(
    catalogue: &mut Catalogue,
    entry: &Entry,
    mut note: impl FnMut(&Catalogue, &Fact),
) -> Result<(), LogFault> {
    let Payload::Command(body) = &entry.payload else {
        return Ok(());
    };
    let at = entry.position.index;
    let events = CatalogueEvent::decode_all(body).map_err(|error| LogFault::Entry(at, error))?;
    for event in &events {
        catalogue
            .apply(event)
            .map_err(|error| LogFault::Apply(at, error))?;
        note(catalogue, &event.fact);
    }
    Ok(())
}

/// A leader's state that came in parts: members, then the catalogue's cells.
pub(crate) fn read_state(bytes: &[u8]) -> Result<(Members, Catalogue), DecodeError> {
    let mut reader = Reader::new(bytes);
    let members = take_members(&mut reader)?;
    let mut assembly = Assembly::default();
    while !reader.is_empty() {
        let kind = reader.u8()?;
        let key_bytes = usize::from(reader.u8()?);
        let value_bytes = reader.u32()? as usize;
        let key = CellKey::decode(kind, reader.bytes(key_bytes)?)?;
        assembly.put(key, Some(reader.bytes(value_bytes)?))?;
    }
    Ok((members, assembly.finish()?))
}

/// The bytes that [`read_state`] reads.
pub(crate) fn put_state(members: &Members, state: &Catalogue) -> Bytes {
    let mut bytes = Vec::new();
    put_members(&mut bytes, members);
    bytes.extend(state.encode());
    bytes.into()
}

/// A state that is longer is none: streams up to their limit, with the longest paths.
const STATE_BYTES_MAX: usize = 2 << 30;

/// A state that comes in parts, in order.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    base: Position,
    next: u32,
    parts: u32,
    bytes: Vec<u8>,
}

impl Parts {
    /// Takes the next part; all bytes when that was the last. A first part begins anew, and one that is not the next is ignored.
    pub(crate) fn take(
        &mut self,
        base: Position,
        part: u32,
        parts: u32,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        if part == 0 {
            *self = Self {
                base,
                next: 0,
                parts,
                bytes: Vec::new(),
            };
        }
        let is_next = (base, part, parts) == (self.base, self.next, self.parts);
        let is_long = self.bytes.len() + bytes.len() > STATE_BYTES_MAX;
        if !is_next || part >= parts || is_long {
            return None;
        }
        self.next += 1;
        self.bytes.extend_from_slice(bytes);
        (self.next == parts).then(|| core::mem::take(&mut self.bytes))
    }
}

/// Rebuilds the catalogue while the control journal is opened. Stops at the first fault and keeps it.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    source: Source,
    base: Position,
    term: Term,
    vote: Option<NodeId>,
    is_voted: bool,
    members: Option<Members>,
    /// As the cells have it; then as the entries do.
    tail: BTreeMap<u32, Entry>,
    tail_count: u32,
    captured: Lsn,
    entries: Vec<Entry>,
    parts: Parts,
    fault: Option<LogFault>,
}

#[derive(Debug)]
enum Source {
    Cells(Assembly),
    Entries(Catalogue),
}

impl Rebuilt {
    pub(crate) fn new() -> Self {
        Self {
            source: Source::Cells(Assembly::default()),
            base: Position::ZERO,
            term: Term::ZERO,
            vote: None,
            is_voted: false,
            members: None,
            tail: BTreeMap::new(),
            tail_count: 0,
            captured: Lsn::ZERO,
            entries: Vec::new(),
            parts: Parts::default(),
            fault: None,
        }
    }

    /// The state at the last checkpoint, and the log behind it.
    pub(crate) fn finish(mut self) -> Result<Found, LogFault> {
        let state = self.state();
        match (self.fault, state) {
            (Some(fault), _) | (None, Err(fault)) => Err(fault),
            (None, Ok(())) => match self.source {
                Source::Entries(catalogue) => Ok(Found {
                    catalogue,
                    log: Captured {
                        base: self.base,
                        term: self.term,
                        vote: self.vote,
                        members: self.members,
                        tail: self.entries,
                        lsn: self.captured,
                    },
                    is_voted: self.is_voted,
                }),
                Source::Cells(_) => unreachable!("cells were put together above"),
            },
        }
    }

    /// Ends the cells, if that has not happened.
    fn state(&mut self) -> Result<(), LogFault> {
        if let Source::Cells(assembly) = &mut self.source {
            let catalogue = core::mem::take(assembly).finish().map_err(LogFault::Cell)?;
            self.source = Source::Entries(catalogue);
            let tail = core::mem::take(&mut self.tail);
            let count = self.tail_count as usize;
            self.entries = tail.into_values().take(count).collect();
            let mut last = self.base;
            for entry in &self.entries {
                if entry.position.index != last.index.advance(1) || entry.position.term < last.term
                {
                    return Err(LogFault::Cell(DecodeError::BadField("tail")));
                }
                last = entry.position;
            }
            if self.entries.len() != count {
                return Err(LogFault::Cell(DecodeError::BadField("tail")));
            }
            self.term = self.term.max(last.term);
        }
        Ok(())
    }

    fn take_cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        let Source::Cells(assembly) = &mut self.source else {
            return Err(DecodeError::BadField("a cell behind entries"));
        };
        if !matches!(kind, LOG_KIND | VOTE_KIND | MEMBERS_KIND | TAIL_KIND) {
            return assembly.put(CellKey::decode(kind, key)?, value);
        }
        if kind != TAIL_KIND && !key.is_empty() {
            return Err(DecodeError::Trailing);
        }
        let mut reader = Reader::new(value.ok_or(DecodeError::BadField("a removal"))?);
        match kind {
            LOG_KIND => {
                let format = reader.u8()?;
                if !matches!(format, FORMAT | LOG_FORMAT) {
                    return Err(DecodeError::UnknownFormat { kind, format });
                }
                reader.reserved(3)?;
                let epoch = Epoch::new(reader.u32()?);
                let sequence = SlotSeq::new(reader.u64()?);
                self.base = position_of(LogEnd { sequence, epoch });
                self.tail_count = 0;
                self.captured = Lsn::ZERO;
                if format == LOG_FORMAT {
                    self.tail_count = reader.u32()?;
                    reader.reserved(4)?;
                    self.captured = Lsn::new(reader.u64()?);
                }
            }
            VOTE_KIND => {
                take_format(&mut reader, kind)?;
                self.term = Term::new(reader.u64()?);
                if self.term > Term::new(u64::from(u32::MAX)) {
                    return Err(DecodeError::BadField("term"));
                }
                self.vote = Some(NodeId::new(reader.u64()?)).filter(|node| node.get() != 0);
                self.is_voted = true;
            }
            MEMBERS_KIND => {
                take_format(&mut reader, kind)?;
                self.members = Some(take_members(&mut reader)?);
            }
            _ => {
                let key: [u8; 4] = key.try_into().map_err(|_| DecodeError::Short)?;
                take_format(&mut reader, kind)?;
                let entry = take_entry(&mut reader)?;
                self.tail.insert(u32::from_le_bytes(key), entry);
            }
        }
        reader.end()
    }

    fn take_entry(&mut self, lsn: Lsn, header: &BatchHeader, body: &[u8]) -> Result<(), LogFault> {
        self.state()?;
        let kind = header.entry_kind();
        let is_ours = matches!(kind, Ok(EntryKind::Catalogue | EntryKind::Consensus));
        if !is_ours || header.slot() != crate::control::SLOT {
            return Err(LogFault::Foreign(lsn));
        }
        if lsn < self.captured {
            return Ok(());
        }
        let said = log::read(header, body).map_err(|error| LogFault::Unreadable(lsn, error))?;
        match said {
            Said::Entry(entry) => self.put(lsn, entry),
            Said::Vote { term, vote } => {
                self.is_voted = true;
                self.term = term;
                self.vote = vote;
                Ok(())
            }
            Said::Healed => Ok(()),
            Said::State {
                base,
                part,
                parts,
                bytes,
            } => {
                let Some(whole) = self.parts.take(base, part, parts, &bytes) else {
                    return Ok(());
                };
                // Older than what the checkpoint has.
                if base.index <= self.base.index {
                    return Ok(());
                }
                let state = read_state(&whole);
                let (members, catalogue) =
                    state.map_err(|error| LogFault::Unreadable(lsn, error))?;
                self.members = Some(members);
                self.source = Source::Entries(catalogue);
                let continues = self.entries.iter().any(|entry| entry.position == base);
                self.entries
                    .retain(|entry| continues && entry.position.index > base.index);
                self.base = base;
                self.term = self.term.max(base.term);
                Ok(())
            }
        }
    }

    fn put(&mut self, lsn: Lsn, entry: Entry) -> Result<(), LogFault> {
        let found = entry.position.index;
        if found <= self.base.index {
            return Ok(());
        }
        let at = found.get() - self.base.index.get() - 1;
        if at > self.entries.len() as u64 {
            let last = self.base.index.advance(self.entries.len() as u64);
            return Err(LogFault::Sequence {
                at: lsn,
                expected: last.advance(1),
                found,
            });
        }
        self.entries.truncate(at as usize);
        let before = self.entries.last().map_or(self.base, |it| it.position);
        if entry.position.term < before.term {
            return Err(LogFault::Unreadable(lsn, DecodeError::BadField("term")));
        }
        // An older version recorded no votes.
        self.term = self.term.max(entry.position.term);
        self.entries.push(entry);
        Ok(())
    }
}

impl Replay for Rebuilt {
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        if self.fault.is_none() {
            self.fault = self.take_cell(kind, key, value).err().map(LogFault::Cell);
        }
    }

    fn entry(&mut self, lsn: Lsn, _end: Lsn, header: &BatchHeader, body: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.take_entry(lsn, header, body).err();
        }
    }
}
