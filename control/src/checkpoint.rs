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
use core::fmt;
use std::collections::BTreeSet;
use tiderace_base::limits;
use tiderace_base::operation::Effects;
use tiderace_base::position::{Epoch, Lsn, SlotSeq};
use tiderace_storage::{Journal, Replay};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

/// The cell of the log: format u8, reserved [u8; 3], epoch u32 of the last entry in the capture, its sequence u64.
pub(crate) const LOG_KIND: u8 = 16;
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

impl LogEnd {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![FORMAT, 0, 0, 0];
        out.put_u32(self.epoch.get());
        out.put_u64(self.sequence.get());
        out
    }

    fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(DecodeError::UnknownFormat {
                kind: LOG_KIND,
                format,
            });
        }
        reader.reserved(3)?;
        let epoch = Epoch::new(reader.u32()?);
        let sequence = SlotSeq::new(reader.u64()?);
        reader.end()?;
        Ok(Self { sequence, epoch })
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
    log: Option<LogEnd>,
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
    /// Notes what a fact changed in `state`, which has it applied.
    pub(crate) fn note(&mut self, state: &Catalogue, fact: &Fact) {
        state.touch(fact, &mut self.changed);
    }

    /// Begins a checkpoint of `state`: all of it, or what changed since the last one that was done.
    pub(crate) fn begin(&mut self, state: &Catalogue, log: LogEnd, is_base: bool) {
        self.unproven.append(&mut self.changed);
        let cells = if is_base {
            Cells::All(None)
        } else {
            Cells::Changed(self.unproven.clone())
        };
        self.capture = Some(Capture {
            state: state.clone(),
            log: Some(log),
            cells,
        });
    }

    /// Hands over cells for as long as the journal takes them.
    pub(crate) fn feed(&mut self, journal: &mut Journal, effects: &mut Effects) {
        let Some(capture) = &mut self.capture else {
            return;
        };
        while journal.checkpoint_backlog_bytes() < BACKLOG_BYTES_MAX {
            if let Some(log) = capture.log.take() {
                journal.checkpoint_cell(LOG_KIND, &[], Some(&log.encode()), effects);
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
    /// An entry cannot be read.
    Entry(Lsn, DecodeError),
    /// An entry is none of the control log's: this is another thread's journal.
    Foreign(Lsn),
    /// An entry is missing before this one.
    Sequence {
        /// Where.
        at: Lsn,
        /// The sequence that would be next.
        expected: SlotSeq,
        /// The entry's.
        found: SlotSeq,
    },
    /// An event does not fit the state before it.
    Apply(Lsn, ApplyError),
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cell(error) => write!(f, "a cell of its checkpoint: {error}"),
            Self::Entry(at, error) => write!(f, "the entry at {at}: {error}"),
            Self::Foreign(at) => write!(
                f,
                "the entry at {at} is none of the control log's: this is another journal"
            ),
            Self::Sequence {
                at,
                expected,
                found,
            } => write!(f, "the entry at {at} is number {found}, not {expected}"),
            Self::Apply(at, error) => write!(f, "the entry at {at}: {error}"),
        }
    }
}

/// Rebuilds the catalogue while the control journal is opened. Stops at the first fault and keeps it.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    source: Source,
    log: LogEnd,
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
            log: LogEnd::default(),
            fault: None,
        }
    }

    /// The state at the end of the journal.
    pub(crate) fn finish(mut self) -> Result<(Catalogue, LogEnd), LogFault> {
        let state = self.state();
        match (self.fault, state) {
            (Some(fault), _) | (None, Err(fault)) => Err(fault),
            (None, Ok(())) => match self.source {
                Source::Entries(catalogue) => Ok((catalogue, self.log)),
                Source::Cells(_) => unreachable!("cells were put together above"),
            },
        }
    }

    /// Ends the cells, if that has not happened.
    fn state(&mut self) -> Result<(), LogFault> {
        if let Source::Cells(assembly) = &mut self.source {
            let catalogue = core::mem::take(assembly).finish().map_err(LogFault::Cell)?;
            self.source = Source::Entries(catalogue);
        }
        Ok(())
    }

    fn take_cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) -> Result<(), DecodeError> {
        match &mut self.source {
            Source::Cells(_) if kind == LOG_KIND => {
                if !key.is_empty() {
                    return Err(DecodeError::Trailing);
                }
                self.log = LogEnd::decode(value.ok_or(DecodeError::BadField("a removal"))?)?;
                Ok(())
            }
            Source::Cells(assembly) => assembly.put(CellKey::decode(kind, key)?, value),
            Source::Entries(_) => Err(DecodeError::BadField("a cell behind entries")),
        }
    }

    fn take_entry(&mut self, lsn: Lsn, header: &BatchHeader, body: &[u8]) -> Result<(), LogFault> {
        self.state()?;
        let Source::Entries(catalogue) = &mut self.source else {
            unreachable!("cells were put together above");
        };
        if header.entry_kind() != Ok(EntryKind::Catalogue) || header.slot() != crate::control::SLOT
        {
            return Err(LogFault::Foreign(lsn));
        }
        let found = header.slot_seq();
        if found <= self.log.sequence {
            return Ok(());
        }
        let expected = self.log.sequence.advance(1);
        if found != expected {
            return Err(LogFault::Sequence {
                at: lsn,
                expected,
                found,
            });
        }
        let events =
            CatalogueEvent::decode_all(body).map_err(|error| LogFault::Entry(lsn, error))?;
        for event in &events {
            catalogue
                .apply(event)
                .map_err(|error| LogFault::Apply(lsn, error))?;
        }
        self.log = LogEnd {
            sequence: found,
            epoch: header.epoch(),
        };
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
