//! Replays the log from the checkpoint on, and gives the verdict on the place where it stops: the end of what was written,
//! a torn tail, or damage to what was durable. J-4, J-6, J-10

use super::Directory;
use super::begin::Beginning;
use super::cells::Cells;
use super::chain::{self, Chain, Link};
use super::scan::{Chunk, Remains, Span, Stop, follow, note_entry, seal_of, truncate_of};
use super::window::Window;
use crate::OpenError;
use crate::checkpoint::SegmentRow;
use crate::cuts::{Cut, Cuts, oldest_dead};
use crate::format::chunk::Life as ChunkLife;
use crate::format::segment::Predecessor;
use crate::format::superblock::Superblock;
use crate::index::{Footer, Life, SegmentIndex};
use crate::journal::Replay;
use crate::marks::{Mark, MarkKind, put_mark};
use crate::seals::Seals;
use crate::segments::Sealed;
use std::collections::BTreeMap;
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Lsn, SlotSeq};
use tiderace_wire::entry::Truncate;

/// What is known before the log is read.
pub(crate) struct Found {
    pub(crate) superblock: Superblock,
    pub(crate) cells: Cells,
    pub(crate) chain: Chain,
}

fn footers_bytes(footers: &[Footer]) -> usize {
    footers.iter().map(|footer| footer.bytes().len()).sum()
}

/// Replays and judges. Changes nothing.
pub(crate) fn run<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    directory: &Directory,
    found: Found,
    footers_bytes_max: usize,
    replay: &mut impl Replay,
) -> Result<Beginning, OpenError> {
    let Found {
        mut superblock,
        cells,
        chain,
    } = found;
    let covers = cells.covers;
    let older = chain::older_segments(&cells.rows, &chain.links, directory, &superblock, covers)?;
    let mut newest = cells.newest;
    newest.retain(|_, seq| {
        older.contains_key(seq) || chain.links.iter().any(|link| link.header.seq == *seq)
    });
    let mut sealed: BTreeMap<u64, Sealed> = older
        .into_iter()
        .map(|(seq, row)| {
            let bytes = directory.bytes(JournalFile::Segment(row.file));
            (seq, Sealed::new(row, bytes < superblock.segment_bytes))
        })
        .collect();
    let spans: Vec<Span> = (0..chain.links.len())
        .map(|index| span_of(&chain.links, index, directory, &superblock))
        .collect();
    let mut footers: Vec<Footer> = Vec::new();
    let mut cuts = Cuts::default();
    let mut known = Cuts::default();
    for ((slot, _), cut) in &cells.cuts {
        cuts.take(*slot, *cut);
        known.take(*slot, *cut);
    }
    let mut seals = Seals::new(superblock.seals.iter().copied());
    let mut end = None;
    for (index, span) in spans.iter().enumerate() {
        let link = &chain.links[index];
        let mut segment = SegmentIndex::new();
        let mut strange = false;
        let prev_crc = link.header.before.map_or(0, |before| before.last_crc);
        let stop = follow(disk, window, span, Some(prev_crc), |chunk| {
            let mut taking = Taking {
                life: link.header.seq,
                covers,
                segment: &mut segment,
                cuts: &mut cuts,
                known: &known,
                seals: &mut seals,
                earlier: Earlier {
                    sealed: &sealed,
                    footers: &footers,
                },
            };
            strange |= !taking.chunk(chunk, replay);
        })?;
        if strange {
            // Its checksums hold, yet no writer writes this.
            return Err(damaged(span, BLOCK_BYTES as u64, &stop, Vec::new()));
        }
        let is_last = index + 1 == spans.len();
        let mut remains = Remains::default();
        // A last segment that is full to its end is judged too: what the superblock knows of may lie behind it.
        if !stop.complete || is_last {
            judge(
                disk,
                window,
                &superblock,
                covers,
                &spans[index..],
                &stop,
                &mut remains,
            )?;
        }
        let kept = stop.lsn > span.start;
        if kept {
            let row = SegmentRow {
                seq: link.header.seq,
                file: link.file,
                last_crc: stop.last_crc.unwrap_or(0),
                salt: link.header.salt,
                start: span.start,
                end: stop.lsn,
            };
            let earlier = sealed.last_key_value().map(|(seq, _)| *seq);
            footers.push(seal(&superblock, segment, &row, &mut newest, earlier));
            // More than the cache holds would only be dropped again; what has no footer is indexed when it is read.
            while footers_bytes(&footers) > footers_bytes_max && footers.len() > 1 {
                footers.remove(0);
            }
            let is_short = span.file_bytes < superblock.segment_bytes;
            sealed.insert(row.seq, Sealed::new(row, is_short));
        }
        if !stop.complete || is_last {
            end = Some((index, stop, remains, kept));
            break;
        }
    }
    let Some((index, stop, remains, kept)) = end else {
        // There is at least one link, and the last one ends the loop.
        return Err(OpenError::SuperblockDamaged);
    };
    let span = spans[index];
    let link = &chain.links[index];
    let before = if kept {
        Some(Predecessor {
            seq: link.header.seq,
            file: link.file,
            salt: link.header.salt,
            end_lsn: stop.lsn,
            last_crc: stop.last_crc.unwrap_or(0),
        })
    } else {
        link.header.before
    };
    let cut_to = (kept && !span.end_is_known && span.file_bytes > span.place(stop.lsn))
        .then(|| (link.header.seq, span.place(stop.lsn)));
    // J-62: a truncation whose entry did not come back did not happen, and nothing that was written behind it came back.
    superblock.truncations.retain(|it| it.at < stop.lsn);
    for truncation in &superblock.truncations {
        let mut lives = chain.links.iter().rev().map(|link| &link.header);
        let life = lives.find(|it| it.start_lsn <= truncation.at);
        cuts.take(
            truncation.slot,
            Cut {
                epoch: truncation.epoch,
                from: truncation.from,
                at: truncation.at,
                oldest: 0,
                life: life.map_or(0, |it| it.seq),
            },
        );
    }
    superblock.seals = seals.rows().collect();
    let mut marks = superblock.marks.clone();
    if is_planted(Bug::ForgetMarks) {
        marks.clear();
    }
    if chain.adopted {
        put_mark(
            &mut marks,
            Mark {
                slot: None,
                kind: MarkKind::Suspect,
                greatest: None,
                since_lsn: stop.lsn,
            },
        );
    }
    mark_cut(&mut marks, &superblock, &stop, &remains);
    let last_seq = chain
        .links
        .iter()
        .map(|link| link.header.seq)
        .chain(superblock.recent.iter().map(|recent| recent.seq))
        .chain([chain.last_seq])
        .max()
        .unwrap_or(0);
    let dropped: Vec<u32> = chain.links[index + usize::from(kept)..]
        .iter()
        .map(|link| link.file)
        .collect();
    Ok(Beginning {
        superblock,
        marks,
        end: stop.lsn,
        before,
        last_seq,
        replayed: spans[..=index].iter().map(|span| span.file).collect(),
        sealed,
        newest,
        cuts,
        footers,
        cut_to,
        dropped,
        checkpoints: cells.checkpoints,
        covers,
    })
}

fn span_of(links: &[Link], index: usize, directory: &Directory, superblock: &Superblock) -> Span {
    let link = &links[index];
    let start = link.header.start_lsn;
    let whole = Lsn::new(
        start
            .get()
            .saturating_add(superblock.segment_bytes - BLOCK_BYTES as u64),
    );
    let end = links
        .get(index + 1)
        .and_then(|next| next.header.before)
        .map(|before| before.end_lsn);
    Span {
        file: link.file,
        file_bytes: directory.bytes(JournalFile::Segment(link.file)),
        life: ChunkLife {
            journal: superblock.journal,
            salt: link.header.salt,
        },
        start,
        end: end.unwrap_or(whole).min(whole),
        end_is_known: end.is_some(),
    }
}

/// The full segments before the one that is being replayed, as far as they are known.
struct Earlier<'a> {
    sealed: &'a BTreeMap<u64, Sealed>,
    footers: &'a [Footer],
}

/// What takes the entries of one segment.
struct Taking<'a> {
    life: u64,
    covers: Lsn,
    segment: &'a mut SegmentIndex,
    cuts: &'a mut Cuts,
    /// Those of the checkpoint.
    known: &'a Cuts,
    seals: &'a mut Seals,
    earlier: Earlier<'a>,
}

impl Taking<'_> {
    /// Indexes a chunk's entries and hands them to the owner. False: an entry does not follow the one before it.
    fn chunk(&mut self, chunk: &Chunk<'_>, replay: &mut impl Replay) -> bool {
        let mut good = true;
        chunk.entries(|at, header, bytes| {
            let lsn = chunk.header.lsn.advance(at - chunk.at);
            if let Some(truncate) = truncate_of(header, bytes) {
                self.truncate(&truncate, lsn);
            }
            if let Some(seal) = seal_of(header, bytes) {
                self.seals.replay(seal);
            }
            good &= note_entry(self.segment, chunk.header.lsn, at, header, bytes);
            // J-66: the owner's cells were captured behind a truncation that the checkpoint has. They know nothing of what it
            // took, and may hold what was written in its place.
            let is_known = match truncate_of(header, bytes) {
                Some(it) => self.known.dead_from(it.slot, lsn) <= it.from_seq,
                None => self.known.is_dead(header.slot(), header.slot_seq(), lsn),
            };
            if lsn >= self.covers && !is_known {
                let end = lsn.advance(bytes.len() as u64);
                replay.entry(lsn, end, header, &bytes[bytes.len() - header.body_len()..]);
            }
        });
        good
    }

    /// Before the index of the segment takes it.
    fn truncate(&mut self, truncate: &Truncate, at: Lsn) {
        let (slot, from) = (truncate.slot, truncate.from_seq);
        let own = (self.life, Some(self.segment.slot_span(slot, SlotSeq::MAX)));
        let earlier = self.earlier.sealed.iter().rev().map(|(seq, sealed)| {
            let mut footers = self.earlier.footers.iter();
            let footer = footers.find(|footer| footer.life().seq == *seq);
            let dead_from = self.cuts.dead_from(slot, sealed.row.end);
            (*seq, footer.map(|footer| footer.slot_span(slot, dead_from)))
        });
        let oldest = oldest_dead(from, core::iter::once(own).chain(earlier));
        let cut = Cut {
            epoch: truncate.epoch,
            from,
            at,
            oldest,
            life: self.life,
        };
        self.cuts.take(slot, cut);
    }
}

/// J-6: damage is corruption if and only if something proves that the place was durable.
fn judge<D: Disk>(
    disk: &mut D,
    window: &mut Window,
    superblock: &Superblock,
    covers: Lsn,
    spans: &[Span],
    stop: &Stop,
    remains: &mut Remains,
) -> Result<(), OpenError> {
    let span = &spans[0];
    for later in spans {
        remains.look(disk, window, later, stop.lsn)?;
    }
    let floor = superblock.durable.max(superblock.recovered_end).max(covers);
    if remains.proof.is_none() && stop.lsn >= floor {
        return Ok(());
    }
    let at = span.place(stop.lsn);
    let until = match remains.proof {
        Some((file, proof_at)) if file == span.file => proof_at,
        Some(_) | None => span.place(span.end),
    };
    let bytes = stop.bad_bytes.unwrap_or(until.saturating_sub(at));
    let slots = Remains::slots_at(disk, window, span, stop.lsn)?;
    Err(damaged(span, bytes, stop, slots))
}

fn damaged(
    span: &Span,
    bytes: u64,
    stop: &Stop,
    slots: Vec<tiderace_base::ids::SlotId>,
) -> OpenError {
    OpenError::Damaged {
        file: JournalFile::Segment(span.file),
        at: span.place(stop.lsn),
        bytes,
        lsn: stop.lsn,
        slots,
    }
}

fn seal(
    superblock: &Superblock,
    segment: SegmentIndex,
    row: &SegmentRow,
    newest: &mut BTreeMap<PartitionKey, u64>,
    earlier: Option<u64>,
) -> Footer {
    let footer = segment
        .seal(
            Life {
                journal: superblock.journal,
                seq: row.seq,
                salt: row.salt,
                start: row.start,
                end: row.end,
            },
            |key| match newest.get(&key) {
                // The checkpoint already knew of this life: which one came before it is not said.
                Some(seq) if *seq >= row.seq => earlier,
                link => link.copied(),
            },
        )
        .finish();
    for partition in footer.partitions() {
        let seq = newest.entry(partition.key).or_insert(row.seq);
        *seq = (*seq).max(row.seq);
    }
    footer
}

/// J-10: unless the journal was closed, or nothing was written since it opened, a tail may have been cut.
fn mark_cut(marks: &mut Vec<Mark>, superblock: &Superblock, stop: &Stop, remains: &Remains) {
    let untouched = stop.lsn == superblock.recovered_end && remains.chunks == 0;
    if untouched || (stop.closed && remains.chunks == 0 && stop.bad_bytes.is_none()) {
        return;
    }
    if !remains.is_named {
        put_mark(
            marks,
            Mark {
                slot: None,
                kind: MarkKind::Cut,
                greatest: None,
                since_lsn: stop.lsn,
            },
        );
        return;
    }
    for (slot, greatest) in &remains.greatest {
        put_mark(
            marks,
            Mark {
                slot: Some(*slot),
                kind: MarkKind::Cut,
                greatest: Some(*greatest),
                since_lsn: stop.lsn,
            },
        );
    }
}
