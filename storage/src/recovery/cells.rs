//! The checkpoint that a start builds on: the newest if every part of it is good, else the previous, else none, which is
//! enough only while no segment was ever released. J-9

use super::chain::{self, Chain};
use super::window::Window;
use super::{Directory, StandIn, disk_error};
use crate::OpenError;
use crate::checkpoint::{
    self, ChainError, Part, PartError, PartReader, SegmentRow, kind, verify_chain,
};
use crate::checkpointing::{partition_row, truncation_row};
use crate::cuts::Cut;
use crate::format::superblock::{CheckpointRef, Superblock};
use crate::journal::Replay;
use crate::planted::{Bug, is_planted};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::position::Lsn;

/// What the checkpoint says of the journal itself.
pub(crate) struct Cells {
    pub(crate) covers: Lsn,
    pub(crate) rows: BTreeMap<u64, SegmentRow>,
    pub(crate) newest: BTreeMap<PartitionKey, u64>,
    pub(crate) cuts: BTreeMap<(SlotId, Lsn), Cut>,
    pub(crate) checkpoints: checkpoint::Chain,
    /// The checkpoints that the superblock names are damaged: the whole log has to stand in for them.
    damaged: Option<(u64, u64)>,
    /// What stands in for the newest checkpoint.
    pub(crate) stand_in: Option<StandIn>,
}

/// Verifies the checkpoints and hands the owner's cells of the better one to `replay`.
pub(crate) fn load<D: Disk>(
    disk: &mut D,
    directory: &Directory,
    superblock: &Superblock,
    replay: &mut impl Replay,
) -> Result<Cells, OpenError> {
    let newest = verify(disk, superblock, superblock.newest)?;
    let previous = verify(disk, superblock, superblock.previous)?;
    let parts = |readers: &Vec<PartReader>| readers.iter().map(|it| *it.part()).collect();
    let names: Vec<u64> = directory
        .files
        .keys()
        .filter_map(|file| match file {
            JournalFile::Checkpoint(id) => Some(*id),
            JournalFile::Superblock | JournalFile::Segment(_) | JournalFile::Footer(_) => None,
        })
        .chain(superblock.newest.map(|it| it.id))
        .chain(superblock.previous.map(|it| it.id))
        .collect();
    let lost = superblock.newest.filter(|_| newest.is_none());
    let alone = superblock.previous.filter(|_| previous.is_none());
    let stand_in = match (lost, &previous) {
        (Some(lost), Some(_)) => Some(StandIn::PreviousCheckpoint(lost.id)),
        (Some(lost), None) => Some(StandIn::WholeLog(lost.id)),
        (None, _) => alone.map(|it| StandIn::NewestAlone(it.id)),
    };
    let (chosen, before): (Vec<PartReader>, Vec<Part>) = match (newest, previous) {
        (Some(newest), previous) => (newest, previous.as_ref().map(parts).unwrap_or_default()),
        (None, Some(previous)) => (previous, Vec::new()),
        (None, None) => (Vec::new(), Vec::new()),
    };
    let damaged = superblock
        .newest
        .filter(|_| chosen.is_empty())
        .map(|newest| (newest.id, superblock.previous.map_or(0, |it| it.id)));
    let mut cells = Cells {
        covers: chosen.last().map_or(Lsn::ZERO, |last| last.part().covers),
        rows: BTreeMap::new(),
        newest: BTreeMap::new(),
        cuts: BTreeMap::new(),
        checkpoints: checkpoint::Chain::recovered(parts(&chosen), before, names),
        damaged,
        stand_in,
    };
    for part in &chosen {
        part.replay(disk, &mut |cell| match cell.kind {
            kind::SEGMENT => {
                let (Ok(seq), value) = (SegmentRow::decode_seq(cell.key), cell.value) else {
                    return;
                };
                match value.and_then(|value| SegmentRow::decode(cell.key, value).ok()) {
                    Some(row) => cells.rows.insert(seq, row),
                    None => cells.rows.remove(&seq),
                };
            }
            partition_row::KIND => {
                let Some(key) = partition_row::decode_key(cell.key) else {
                    return;
                };
                match cell.value.and_then(partition_row::decode_value) {
                    Some(seq) => cells.newest.insert(key, seq),
                    None => cells.newest.remove(&key),
                };
            }
            kind::TRUNCATION if is_planted(Bug::ForgetCutAtStart) => {}
            kind::TRUNCATION => {
                let Some(name) = truncation_row::decode_key(cell.key) else {
                    return;
                };
                match cell
                    .value
                    .and_then(|value| truncation_row::decode_value(name.1, value))
                {
                    Some(cut) => cells.cuts.insert(name, cut),
                    None => cells.cuts.remove(&name),
                };
            }
            owner if owner >= kind::OWNER_MIN => replay.cell(owner, cell.key, cell.value),
            // Kinds between are the journal's own of a later version; this one writes none.
            _ => {}
        })
        .map_err(|error| match error {
            PartError::Disk(error) => {
                disk_error(JournalFile::Checkpoint(part.part().id), "reading", error)
            }
            _ => OpenError::CheckpointDamaged {
                newest: part.part().id,
                previous: superblock.previous.map_or(0, |it| it.id),
            },
        })?;
    }
    Ok(cells)
}

/// None: there is no such checkpoint, or some of it is damaged.
fn verify<D: Disk>(
    disk: &mut D,
    superblock: &Superblock,
    reference: Option<CheckpointRef>,
) -> Result<Option<Vec<PartReader>>, OpenError> {
    let Some(reference) = reference else {
        return Ok(None);
    };
    match verify_chain(disk, superblock.journal, reference.id) {
        Ok(readers) => Ok(readers
            .last()
            .is_some_and(|last| last.part().covers == reference.covers)
            .then_some(readers)),
        Err(ChainError {
            error: PartError::Disk(DiskError::Absent | DiskError::Short),
            ..
        }) => Ok(None),
        Err(ChainError {
            part,
            error: PartError::Disk(error),
        }) => Err(disk_error(JournalFile::Checkpoint(part), "reading", error)),
        Err(_) => Ok(None),
    }
}

impl Cells {
    /// The segments to replay.
    pub(crate) fn find_chain<D: Disk>(
        &self,
        disk: &mut D,
        window: &mut Window,
        directory: &Directory,
        superblock: &Superblock,
        copy_lost: bool,
    ) -> Result<Chain, OpenError> {
        // A row's file holds the life that the row tells of, unless superblocks were lost since it was written. One that is
        // free may have been taken by the next superblock, which may be the one that is lost.
        let mut known: BTreeSet<u32> = if copy_lost {
            BTreeSet::new()
        } else {
            self.rows.values().map(|row| row.file).collect()
        };
        for free in &superblock.free {
            known.remove(free);
        }
        let found = chain::find(disk, window, directory, superblock, &known, self.covers);
        match (found, self.damaged) {
            (Err(OpenError::Damaged { .. }), Some((newest, previous))) => {
                Err(OpenError::CheckpointDamaged { newest, previous })
            }
            (found, _) => found,
        }
    }
}
