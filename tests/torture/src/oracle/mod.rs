//! What has to come of a start, told from the bytes of the directory and the rules of `docs/journal.md` before any node sees
//! them: which journal refuses and names which file, or where each log ends, which places of it are damaged and which entries
//! can be read. Written from the page and not from the product's recovery, so that both can only be wrong in the same way where
//! the page is. Everything is in memory and nothing is bounded: this is for small directories of tests.

pub mod format;

use crate::directory::Directory;
use format::{BLOCK, ChunkHeader, Copy, Entry, Part, Recent, Row, SegmentHeader, Superblock};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The files of one journal.
pub type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// Parts of a checkpoint, at most.
const PARTS_MAX: usize = 64;

/// What a start makes of one journal.
#[derive(Clone, Debug)]
pub enum Start {
    /// It is refused, and each of these stands in what it says.
    Refused(Vec<String>),
    /// It is refused: it was made with another setting, which is named.
    Differs(&'static str),
    /// It is refused: a newer version wrote it.
    Newer,
    /// Nothing was ever served from it.
    Fresh,
    /// It runs.
    Runs(Log),
}

/// What a start finds.
#[derive(Clone, Debug)]
pub struct Log {
    /// Starts that the believed superblock counts.
    pub boot_count: u64,
    /// The journal.
    pub journal: u64,
    /// Its disk.
    pub disk: u128,
    /// Where the log ends.
    pub end: u64,
    /// The file of the segment that was begun last.
    pub active: u32,
    /// Its segments that hold something, oldest first.
    pub segments: Vec<Segment>,
    /// A damaged copy of the superblock was passed over.
    pub copy_lost: bool,
    /// A superblock that is lost had begun the last segment.
    pub adopted: bool,
    /// The newest checkpoint was passed over.
    pub checkpoint_lost: bool,
    /// The checkpoint before the newest cannot be read.
    pub previous_lost: bool,
    /// Parts of the believed checkpoints: those of the newest, and those of the previous.
    pub parts: (Vec<u64>, Vec<u64>),
}

/// A segment that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Number of its file.
    pub file: u32,
    /// Number of its life.
    pub seq: u64,
    /// Salt of its life.
    pub salt: u64,
    /// LSN of its first byte.
    pub start: u64,
    /// Where it ended.
    pub end: u64,
    /// Whether the start reads it from its first chunk on.
    pub replayed: bool,
    /// Its chunks that hold: place in the file, bytes, and whether it is a closing one.
    pub chunks: Vec<(usize, usize, bool)>,
    /// Their data entries, with their places in the file.
    pub entries: Vec<Entry>,
    /// The greatest epoch of all entries; zero when there is none.
    pub epoch_max: u32,
    /// Bytes of its file that are damaged, as the search tells them.
    pub damaged: Vec<Range<usize>>,
}

impl Log {
    /// The greatest epoch of its entries; zero when it has none.
    #[must_use]
    pub fn epoch_max(&self) -> u32 {
        let segments = self.segments.iter();
        segments.map(|it| it.epoch_max).max().unwrap_or(0)
    }
}

impl Segment {
    /// The name of its file.
    #[must_use]
    pub fn name(&self) -> String {
        segment(self.file)
    }
}

/// The name of a segment's file.
#[must_use]
pub fn segment(file: u32) -> String {
    format!("segment-{file:08}")
}

/// The name of a checkpoint part's file.
#[must_use]
pub fn part(id: u64) -> String {
    format!("checkpoint-{id:012}")
}

/// What a node's start must come to.
#[derive(Clone, Debug)]
pub enum Expected {
    /// It is refused with one of these exit codes, and each of these words stands in what it says.
    Refused {
        /// The codes.
        exits: Vec<i32>,
        /// The words.
        words: Vec<String>,
    },
    /// It runs, on what each shard's journal and control's hold.
    Runs {
        /// The shards', by number.
        shards: Vec<Log>,
        /// Control's.
        control: Box<Log>,
    },
}

/// The folder of a shard's journal.
#[must_use]
pub fn shard_folder(shard: usize) -> String {
    format!("shard-{shard:04}")
}

/// The folder of control's journal.
pub const CONTROL: &str = "control";

/// What the catalogue of a directory has committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Starts.
    pub boots: u64,
    /// The greatest epoch that it gave in each shard.
    pub epochs: Vec<u32>,
}

/// What a start from this directory must come to. `shards` is what its first start was told.
#[must_use]
pub fn expect(directory: &Directory, shards: usize, committed: &Committed) -> Expected {
    let mut logs = Vec::new();
    for shard in 0..shards {
        match start(&directory.journal(&shard_folder(shard)), shard, shards) {
            Start::Runs(log) => logs.push(log),
            other => return refused(other, format!("shard {shard}")),
        }
    }
    let control = match start(&directory.journal(CONTROL), 0, 1) {
        Start::Runs(log) => log,
        other => return refused(other, "control journal".to_owned()),
    };
    // A start counts itself before it is held against what was committed.
    if let Some(old) = logs.iter().position(|log| log.boot_count < committed.boots) {
        return Expected::Refused {
            exits: vec![65],
            words: vec![format!("journal {old} is an old image")],
        };
    }
    let mut epochs = logs.iter().zip(&committed.epochs);
    if let Some(new) = epochs.position(|(log, known)| log.epoch_max() > *known) {
        return Expected::Refused {
            exits: vec![65],
            words: vec![
                format!("journal {new} holds epoch"),
                "the control journal knows none above".to_owned(),
            ],
        };
    }
    Expected::Runs {
        shards: logs,
        control: Box::new(control),
    }
}

fn refused(start: Start, whose: String) -> Expected {
    let (exit, mut words) = match start {
        Start::Refused(words) => (64, words),
        Start::Differs(what) => (65, vec![what.to_owned()]),
        Start::Newer => (63, vec!["format version".to_owned()]),
        // A journal that begins anew has another disk, and has run less often than the catalogue knows.
        Start::Fresh | Start::Runs(_) => (65, vec![]),
    };
    words.push(whose);
    Expected::Refused {
        exits: vec![exit],
        words,
    }
}

/// A checkpoint that holds.
#[derive(Default)]
struct Checkpoint {
    parts: Vec<u64>,
    covers: u64,
    rows: BTreeMap<u64, Row>,
}

/// A life whose header was read.
#[derive(Clone, Copy)]
struct Link {
    file: u32,
    header: SegmentHeader,
}

/// Where the chunks of a life stop.
struct Stop {
    lsn: u64,
    complete: bool,
}

/// What a start makes of these files of a journal that is this one of so many.
#[must_use]
pub fn start(files: &Files, index: usize, count: usize) -> Start {
    let copies = [0, 1].map(|number| {
        let file = files.get("superblock");
        file.map_or(Copy::Invalid, |file| Copy::of(file, number))
    });
    if copies.contains(&Copy::Newer) {
        return Start::Newer;
    }
    let copy_lost = copies.contains(&Copy::Invalid);
    let valid = copies.into_iter().filter_map(|copy| match copy {
        Copy::Valid(superblock) => Some(superblock),
        Copy::Newer | Copy::Invalid => None,
    });
    // J-1
    match valid.max_by_key(|superblock| superblock.generation) {
        Some(superblock) if usize::from(superblock.journal_index) != index => {
            Start::Differs("the journal's index")
        }
        Some(superblock) if usize::from(superblock.journal_count) != count => {
            Start::Differs("the number of journals")
        }
        Some(superblock) => Recovery { files, superblock }.run(copy_lost),
        None => without_superblock(files),
    }
}

/// J-2
fn without_superblock(files: &Files) -> Start {
    let holds_data = |(name, bytes): (&String, &Arc<Vec<u8>>)| match name.as_str() {
        "superblock" => false,
        "segment-00000000" => bytes.iter().skip(BLOCK).any(|byte| *byte != 0),
        _ => true,
    };
    if files.iter().any(holds_data) {
        Start::Refused(vec!["superblock".to_owned()])
    } else {
        Start::Fresh
    }
}

struct Recovery<'a> {
    files: &'a Files,
    superblock: Superblock,
}

impl Recovery<'_> {
    fn segment_file(&self, file: u32) -> Option<&[u8]> {
        self.files.get(&segment(file)).map(|bytes| bytes.as_slice())
    }

    fn header(&self, file: u32) -> Option<SegmentHeader> {
        let Superblock {
            journal,
            segment_bytes,
            ..
        } = self.superblock;
        SegmentHeader::of(self.segment_file(file)?, journal, segment_bytes)
    }

    fn run(&self, copy_lost: bool) -> Start {
        let superblock = &self.superblock;
        // J-9
        let newest = self.checkpoint(superblock.newest);
        let previous = self.checkpoint(superblock.previous);
        let parts_of = |it: &Option<Checkpoint>| it.as_ref().map(|it| it.parts.clone());
        let parts = (
            parts_of(&newest).unwrap_or_default(),
            parts_of(&previous).unwrap_or_default(),
        );
        let checkpoint_lost = superblock.newest.is_some() && newest.is_none();
        let previous_lost = superblock.previous.is_some() && previous.is_none();
        let none_is_good = checkpoint_lost && previous.is_none();
        let checkpoint = newest.or(previous).unwrap_or_default();
        let found = self.links(copy_lost, &checkpoint);
        let (links, adopted) = match found {
            Ok(found) => found,
            Err(_) if none_is_good => {
                let newest = superblock.newest.map_or(0, |(id, _)| id);
                let previous = superblock.previous.map_or(0, |(id, _)| id);
                let said = format!("checkpoints {newest} and {previous} are damaged");
                return Start::Refused(vec![said]);
            }
            Err(file) => return Start::Refused(vec![file]),
        };
        match self.replay(&links, &checkpoint) {
            Ok((segments, end)) => Start::Runs(Log {
                boot_count: superblock.boot_count,
                journal: superblock.journal,
                disk: superblock.disk,
                end,
                active: links[links.len() - 1].file,
                segments,
                copy_lost,
                adopted,
                checkpoint_lost,
                previous_lost,
                parts,
            }),
            Err(file) => Start::Refused(vec![file]),
        }
    }

    /// J-52 to J-54
    fn checkpoint(&self, reference: Option<(u64, u64)>) -> Option<Checkpoint> {
        let (newest, covers) = reference?;
        let mut chain: Vec<(u64, Part)> = Vec::new();
        let mut id = newest;
        while id != 0 {
            let file = self.files.get(&part(id))?;
            let read = Part::of(file, self.superblock.journal, id)?;
            let covers_more = chain
                .last()
                .is_some_and(|(_, child)| child.covers < read.covers);
            if covers_more || chain.len() == PARTS_MAX {
                return None;
            }
            let parent = read.parent;
            chain.push((id, read));
            id = parent;
        }
        if chain
            .first()
            .is_none_or(|(_, newest)| newest.covers != covers)
        {
            return None;
        }
        let mut checkpoint = Checkpoint {
            covers,
            ..Checkpoint::default()
        };
        for (id, part) in chain.into_iter().rev() {
            checkpoint.parts.push(id);
            for (seq, row) in part.rows {
                match row {
                    Some(row) => checkpoint.rows.insert(seq, row),
                    None => checkpoint.rows.remove(&seq),
                };
            }
        }
        Some(checkpoint)
    }

    /// J-7, J-8: the segments that replay goes through, oldest first, and whether a lost superblock began the last of them.
    /// Otherwise the file that is damaged.
    fn links(&self, copy_lost: bool, checkpoint: &Checkpoint) -> Result<(Vec<Link>, bool), String> {
        let covers = checkpoint.covers;
        let mut known: BTreeSet<u32> = match copy_lost {
            true => BTreeSet::new(),
            false => checkpoint.rows.values().map(|row| row.file).collect(),
        };
        for free in &self.superblock.free {
            known.remove(free);
        }
        let head = self.begun_last(covers)?;
        let later = self.later_than(head.header.seq, &known)?;
        let adopted = later.is_some();
        let head = later.unwrap_or(head);
        let mut links = vec![head];
        loop {
            let oldest = links[links.len() - 1];
            let Some(before) = oldest
                .header
                .before
                .filter(|_| oldest.header.start >= covers)
            else {
                break;
            };
            let header = self.header(before.file).filter(|header| {
                (header.seq, header.salt) == (before.seq, before.salt) && header.start <= before.end
            });
            let Some(header) = header else {
                return Err(segment(before.file));
            };
            links.push(Link {
                file: before.file,
                header,
            });
        }
        let oldest = links[links.len() - 1];
        if oldest.header.start > covers {
            return Err(segment(oldest.file));
        }
        links.reverse();
        Ok((links, adopted))
    }

    fn floor(&self, covers: u64) -> u64 {
        let Superblock {
            durable,
            recovered_end,
            ..
        } = self.superblock;
        durable.max(recovered_end).max(covers)
    }

    fn begun_last(&self, covers: u64) -> Result<Link, String> {
        let mut skipped = false;
        for recent in self.superblock.recent.iter().rev() {
            let Recent {
                file,
                seq,
                salt,
                start,
            } = *recent;
            if self.segment_file(file).is_none() {
                return Err(segment(file));
            }
            let header = self.header(file);
            if let Some(header) = header.filter(|it| (it.seq, it.salt) == (seq, salt)) {
                return Ok(Link { file, header });
            }
            if skipped || self.floor(covers) > start || self.holds_chunk(file, salt, start) {
                return Err(segment(file));
            }
            skipped = true;
        }
        Err("superblock".to_owned())
    }

    /// The life that was begun last, if the superblock does not know it. One that it knows in another file was exchanged. J-7, J-8
    fn later_than(&self, seq: u64, known: &BTreeSet<u32>) -> Result<Option<Link>, String> {
        let numbers = self.files.keys();
        let numbers = numbers.filter_map(|name| name.strip_prefix("segment-")?.parse().ok());
        let mut numbers: Vec<u32> = numbers.filter(|file| !known.contains(file)).collect();
        numbers.sort_unstable();
        let mut later: Option<Link> = None;
        for file in numbers {
            let Some(header) = self.header(file) else {
                continue;
            };
            let newest = later.map_or(seq, |link| link.header.seq);
            if header.seq <= newest || !self.holds_chunk(file, header.salt, header.start) {
                continue;
            }
            let mut recent = self.superblock.recent.iter();
            if let Some(known) = recent.find(|it| it.seq == header.seq) {
                return Err(segment(known.file));
            }
            later = Some(Link { file, header });
        }
        Ok(later)
    }

    fn holds_chunk(&self, file: u32, salt: u64, start: u64) -> bool {
        let Some(bytes) = self.segment_file(file) else {
            return false;
        };
        blocks(bytes).any(|at| self.chunk(bytes, at, salt, start).is_some())
    }

    /// The chunk that lies where it says that it does.
    fn chunk(&self, file: &[u8], at: usize, salt: u64, start: u64) -> Option<ChunkHeader> {
        ChunkHeader::of(file, at, self.superblock.journal, salt)
            .filter(|header| header.lsn == start + (at - BLOCK) as u64)
    }

    /// The segments that are kept and where the log ends; otherwise the file that is damaged.
    fn replay(
        &self,
        links: &[Link],
        checkpoint: &Checkpoint,
    ) -> Result<(Vec<Segment>, u64), String> {
        let mut segments = self.older(links, checkpoint)?;
        for (index, link) in links.iter().enumerate() {
            let SegmentHeader {
                seq, salt, start, ..
            } = link.header;
            let whole = start + self.superblock.segment_bytes - BLOCK as u64;
            let next = links.get(index + 1).and_then(|next| next.header.before);
            let until = next.map_or(whole, |before| before.end.min(whole));
            let mut kept = Segment {
                file: link.file,
                seq,
                salt,
                start,
                end: start,
                replayed: true,
                chunks: Vec::new(),
                entries: Vec::new(),
                epoch_max: 0,
                damaged: Vec::new(),
            };
            let prev_crc = link.header.before.map_or(0, |before| before.last_crc);
            let stop = self.follow(&mut kept, until, prev_crc);
            if !stop.complete {
                self.judge(&links[index..], stop.lsn, checkpoint.covers)?;
            }
            kept.end = stop.lsn;
            if stop.lsn > start {
                segments.push(kept);
            }
            if !stop.complete || index + 1 == links.len() {
                return Ok((segments, stop.lsn));
            }
        }
        Err("superblock".to_owned())
    }

    /// J-4
    fn follow(&self, kept: &mut Segment, until: u64, mut prev_crc: u32) -> Stop {
        let file = self.segment_file(kept.file).unwrap_or_default();
        let file = &file[..file.len() - file.len() % BLOCK];
        let mut at = BLOCK;
        let end_at = BLOCK + usize::try_from(until - kept.start).expect("small");
        let mut complete = true;
        while at + BLOCK <= end_at {
            let header = self.chunk(file, at, kept.salt, kept.start);
            let header = header.filter(|header| {
                at + header.bytes <= end_at
                    && header.durable <= header.lsn
                    && header.prev_crc == prev_crc
            });
            let entries = header.and_then(|header| header.entries(file, at));
            let Some((header, entries)) = header.zip(entries) else {
                complete = false;
                break;
            };
            kept.take(at, &header, entries);
            prev_crc = header.first_crc;
            at += header.bytes;
        }
        Stop {
            lsn: kept.start + (at - BLOCK) as u64,
            complete,
        }
    }

    /// J-6: damage, or a torn tail.
    fn judge(&self, links: &[Link], stop: u64, covers: u64) -> Result<(), String> {
        let proves = |link: &Link| {
            let SegmentHeader { salt, start, .. } = link.header;
            let file = self.segment_file(link.file).unwrap_or_default();
            blocks(file)
                .filter(|at| start + (at - BLOCK) as u64 >= stop)
                .filter_map(|at| self.chunk(file, at, salt, start))
                .any(|header| header.durable > stop)
        };
        if stop < self.floor(covers) || links.iter().any(proves) {
            return Err(segment(links[0].file));
        }
        Ok(())
    }

    /// The segments below the replayed ones, whose places are judged as the search does. J-7, J-19
    fn older(&self, links: &[Link], checkpoint: &Checkpoint) -> Result<Vec<Segment>, String> {
        let mut taken: BTreeSet<u32> = self.superblock.free.iter().copied().collect();
        taken.extend(links.iter().map(|link| link.file));
        let known = self.superblock.recent.last().map_or(0, |it| it.seq);
        let unknown = links.iter().filter(|link| link.header.seq > known);
        let unknown: BTreeSet<u32> = unknown.map(|link| link.file).collect();
        let first = links[0].header.seq;
        let mut kept = Vec::new();
        for (seq, row) in checkpoint.rows.iter().rev() {
            let is_older = *seq < first && row.end <= checkpoint.covers;
            let mut recent = self.superblock.recent.iter();
            let is_overtaken = recent.any(|it| it.file == row.file && it.seq > *seq);
            let is_released = *seq < self.superblock.oldest_seq;
            if !is_older || is_released || is_overtaken {
                continue;
            }
            if !taken.insert(row.file) {
                if unknown.contains(&row.file) && !self.superblock.free.contains(&row.file) {
                    return Err(segment(row.file));
                }
                continue;
            }
            if self.segment_file(row.file).is_none() {
                return Err(segment(row.file));
            }
            kept.push(self.searched(*seq, row));
        }
        kept.reverse();
        Ok(kept)
    }

    fn searched(&self, seq: u64, row: &Row) -> Segment {
        let file = self.segment_file(row.file).unwrap_or_default();
        let end_at = BLOCK + usize::try_from(row.end - row.start).expect("small");
        let mut kept = Segment {
            file: row.file,
            seq,
            salt: row.salt,
            start: row.start,
            end: row.end,
            replayed: false,
            chunks: Vec::new(),
            entries: Vec::new(),
            epoch_max: 0,
            damaged: Vec::new(),
        };
        let header = self.header(row.file);
        let is_its =
            header.is_some_and(|it| (it.seq, it.salt, it.start) == (seq, row.salt, row.start));
        if !is_its {
            kept.damaged.push(0..BLOCK);
        }
        let mut prev_crc = None;
        let mut lost: Option<usize> = None;
        let mut at = BLOCK;
        while at < end_at {
            let header = self.chunk(file, at, row.salt, row.start).filter(|header| {
                header.durable <= header.lsn
                    && at + header.bytes <= end_at
                    && prev_crc.is_none_or(|crc| crc == header.prev_crc)
            });
            let Some(header) = header else {
                lost.get_or_insert(at);
                prev_crc = None;
                at += BLOCK;
                continue;
            };
            kept.damaged.extend(lost.take().map(|from| from..at));
            match header.entries(file, at) {
                Some(entries) => kept.take(at, &header, entries),
                None => kept.damaged.push(at..at + header.bytes),
            }
            prev_crc = Some(header.first_crc);
            at += header.bytes;
        }
        kept.damaged.extend(lost.map(|from| from..end_at));
        kept
    }
}

impl Segment {
    fn take(&mut self, at: usize, header: &ChunkHeader, (entries, epoch_max): (Vec<Entry>, u32)) {
        self.epoch_max = self.epoch_max.max(epoch_max);
        self.chunks.push((at, header.bytes, header.closing));
        self.entries.extend(entries.into_iter().map(|mut entry| {
            entry.at += at;
            entry
        }));
    }
}

fn blocks(file: &[u8]) -> impl Iterator<Item = usize> {
    let whole = file.len() - file.len() % BLOCK;
    (BLOCK..whole).step_by(BLOCK)
}
