//! What is told of a damaged place: once, with what of which partitions lies there.

use crate::footers::{Alive, View};
use crate::index::Footer;
use crate::journal::Journal;
use crate::outcome::{Damage, DamagedRange, Output};
use core::ops::Range;
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;

/// Partitions named for one damaged place.
const NAMED_MAX: usize = 64;
/// Damaged places that are known one by one. Beyond so many the file of the next one is told as a whole, so that what is known
/// takes no more than this and a place for each file.
const KNOWN_MAX: usize = 4096;

impl Journal {
    /// Tells the owner of damage that it was not told of.
    pub(super) fn name_damage(
        &mut self,
        seq: u64,
        damaged: &[Range<u64>],
        footer: Option<&Footer>,
    ) {
        for place in damaged {
            self.tell_damage(seq, place, footer);
        }
    }

    /// Tells the owner of a damaged place in a life that is kept, once.
    pub(crate) fn tell_damage(&mut self, seq: u64, place: &Range<u64>, footer: Option<&Footer>) {
        let (file, start) = match self.segments.get(&seq) {
            Some(sealed) => (sealed.row.file, sealed.row.start),
            None => (self.active.file, self.active.start),
        };
        let known = &mut self.scrub.known;
        let before = known.range((seq, 0)..(seq, place.end));
        let met: Vec<(u64, u64)> = before
            .filter(|(_, end)| **end > place.start)
            .map(|((_, start), end)| (*start, *end))
            .collect();
        let is_told = met
            .iter()
            .any(|(start, end)| *start <= place.start && place.end <= *end);
        if is_told {
            return;
        }
        let file_bytes = self.settings.segment_bytes;
        let whole_file = 0..file_bytes;
        let place = if known.len() < KNOWN_MAX {
            place
        } else {
            known.retain(|(life, _), _| *life != seq);
            &whole_file
        };
        // A reader sees its own partition's part of what the search finds whole: one place, told as far as it is known.
        let mut whole = place.clone();
        for (start, end) in met {
            known.remove(&(seq, start));
            whole = whole.start.min(start)..whole.end.max(end);
        }
        known.insert((seq, whole.start), whole.end);
        let mut partitions = self.partitions_in(seq, place, footer);
        let unnamed = partitions.len().saturating_sub(NAMED_MAX);
        partitions.truncate(NAMED_MAX);
        self.outputs.push(Output::Damaged(Damage {
            file: JournalFile::Segment(file),
            at: place.start,
            bytes: place.end - place.start,
            lsn: start.advance(place.start.saturating_sub(BLOCK_BYTES as u64)),
            partitions,
            unnamed,
        }));
    }

    /// Which offsets of which partitions lie in a place, as far as an index in memory tells.
    fn partitions_in(
        &mut self,
        seq: u64,
        place: &Range<u64>,
        footer: Option<&Footer>,
    ) -> Vec<DamagedRange> {
        let end = self
            .segments
            .get(&seq)
            .map_or(Lsn::MAX, |sealed| sealed.row.end);
        let view = match footer {
            _ if seq == self.active.seq => Some(View::Open(&self.active.index)),
            Some(footer) => Some(View::Footer(footer.clone())),
            None => self.footers.view(seq),
        };
        let Some(view) = view else {
            return Vec::new();
        };
        // Damage to what a truncation took is nobody's loss. J-61
        let view = Alive::new(&view, &self.cuts, end);
        let mut found = Vec::new();
        for partition in view.partitions() {
            let key = partition.key;
            let mut range: Option<DamagedRange> = None;
            let mut from = partition.first_offset;
            while let Some(located) = view.locate(key, from) {
                let start = u64::from(located.position.at);
                let end = start + u64::from(located.position.span);
                if start < place.end && place.start < end {
                    range
                        .get_or_insert(DamagedRange {
                            key,
                            from: located.position.base_offset,
                            to: located.until,
                        })
                        .to = located.until;
                }
                if start >= place.end || located.until <= from {
                    break;
                }
                from = located.until;
            }
            found.extend(range);
        }
        found
    }
}
