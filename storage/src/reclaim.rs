//! Releases segments whose data nobody may ask for any more. A segment goes when every partition in it starts behind its
//! data there, both checkpoints cover it and more, and nothing reads it; its file is used again only when that is durable, so that
//! no crash brings a row back whose bytes are gone. J-14, J-15

use crate::footers::View;
use crate::index::Footer;
use crate::journal::{Journal, Starts};
use crate::operations::Op;
use crate::spares::Releasing;
use tiderace_base::disk::JournalFile;
use tiderace_base::operation::Effect;
use tiderace_base::position::Lsn;

/// Segments looked at in one call.
const SEGMENTS_AT_ONCE: usize = 16;

impl Journal {
    pub(crate) fn reclaim_some(&mut self, starts: &impl Starts) {
        // J-14
        let Some(covered) = self.checkpointing.chain.covered_by_both() else {
            return;
        };
        let covered: Lsn = covered.min(self.inflight.durable());
        let mut seqs: Vec<u64> = self
            .segments
            .range(self.reclaim_from..)
            .take(SEGMENTS_AT_ONCE)
            .map(|(seq, _)| *seq)
            .collect();
        self.reclaim_from = seqs.last().map_or(0, |seq| seq + 1);
        seqs.retain(|seq| self.is_candidate(*seq, covered, starts));
        for seq in seqs {
            let found = match self.footers.view(seq) {
                Some(View::Footer(footer)) => footer,
                Some(View::Open(_)) => continue,
                None => {
                    // One at a time: reads come first. This segment's turn comes again.
                    if !self.footers.is_loading() {
                        self.load_index(seq, None);
                        self.reclaim_from = seq;
                    }
                    return;
                }
            };
            let witness = found.partitions().find(|partition| {
                starts
                    .start_of(partition.key)
                    .is_some_and(|start| start < partition.next_offset)
            });
            match witness {
                Some(partition) => {
                    if let Some(sealed) = self.segments.get_mut(&seq) {
                        sealed.witness = Some((partition.key, partition.next_offset));
                    }
                }
                None => self.release(seq, &found),
            }
        }
    }

    fn is_candidate(&self, seq: u64, covered: Lsn, starts: &impl Starts) -> bool {
        let Some(sealed) = self.segments.get(&seq) else {
            return false;
        };
        let is_needed = sealed
            .witness
            .is_some_and(|(key, end)| starts.start_of(key).is_some_and(|start| start < end));
        sealed.row.end < covered
            && !self.reads.is_using(seq)
            && !is_needed
            && !self.footers.is_busy(seq)
    }

    fn release(&mut self, seq: u64, footer: &Footer) {
        let Some(sealed) = self.segments.remove(&seq) else {
            return;
        };
        self.checkpointing.segment_changed(seq);
        for partition in footer.partitions() {
            if self.newest.get(&partition.key) == Some(&seq) {
                self.newest.remove(&partition.key);
                self.checkpointing.partition_changed(partition.key);
            }
        }
        self.footers.cache.remove(seq);
        self.stats.segments_recycled += 1;
        self.spares.releasing.push(Releasing {
            file: sealed.row.file,
            lsn: self.end_lsn(),
            version: None,
            is_short: sealed.is_short,
        });
    }

    /// Moves released files on towards their next life. J-15
    pub(crate) fn push_released(&mut self) {
        let durable = self.inflight.durable();
        let mut index = 0;
        while index < self.spares.releasing.len() {
            let releasing = &mut self.spares.releasing[index];
            if releasing.lsn > durable {
                index += 1;
                continue;
            }
            if releasing.is_short {
                let file = releasing.file;
                self.spares.releasing.remove(index);
                for file in [JournalFile::Segment(file), JournalFile::Footer(file)] {
                    let op = self.operations.begin(Op::Remove);
                    self.outbox.push(Effect::Remove { op, file });
                }
                continue;
            }
            let version = *releasing
                .version
                .get_or_insert_with(|| self.superblocks.ask());
            if self.superblocks.is_durable(version) {
                let file = self.spares.releasing.remove(index).file;
                self.spares.ready.push_back(file);
            } else {
                index += 1;
            }
        }
    }
}
