//! The toy's machine: an append-only file of blocks, each with a checksum and the checksum of the block before it. Two
//! writes may be in flight; what is durable is what every earlier write precedes. All state is rebuilt by reading.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::ConnectionId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine, OpId, OpIds};
use tiderace_base::prng::Prng;
use tiderace_base::region::aligned_zeroed;
use tiderace_base::time::Now;

use super::Bug;
use super::codec::{Assembler, Batch, Hear, Say};
use crate::world::BootError;
use crate::world::disk::SimDisk;

const FILE: JournalFile = JournalFile::Segment(0);
const FILE_BYTES: u64 = 2 * 1024 * 1024;
const WORDS_PER_ENTRY: usize = 7;
const HEADER_WORDS: usize = 5;
const ENTRIES_PER_BLOCK: usize = (BLOCK_BYTES / 8 - HEADER_WORDS) / WORDS_PER_ENTRY;
const WRITES_INFLIGHT_MAX: usize = 2;
/// Batches that a producer may have outstanding.
pub(super) const PRODUCE_WINDOW: u64 = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    epoch: u64,
    time_us: u64,
    batch: Batch,
}

#[derive(Debug)]
struct Inflight {
    op: OpId,
    sync: Option<OpId>,
    written: bool,
    done: bool,
    /// Entries up to this one are in it.
    until: usize,
}

#[derive(Debug, Default)]
struct Connection {
    input: Assembler,
    output: VecDeque<Bytes>,
    sending: bool,
    closing: bool,
    /// Appends answered, for the credit that comes back.
    answered: u64,
    granted: u64,
    /// Reading: the next entry, the credit, and what was spent of it.
    cursor: Option<(usize, u64, u64)>,
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    bug: Option<Bug>,
    prng: Prng,
    ops: OpIds,
    epoch: u64,
    entries: Vec<Entry>,
    end: u64,
    last_time_us: u64,
    /// The next number of each producer, and where its batches stand.
    producers: BTreeMap<u64, (u64, BTreeMap<u64, u64>)>,
    next_block: u64,
    last_crc: u32,
    submitted: usize,
    durable: usize,
    inflight: VecDeque<Inflight>,
    waiting: VecDeque<(ConnectionId, usize)>,
    connections: BTreeMap<ConnectionId, Connection>,
    serving: bool,
    stopping: bool,
}

fn refused(error: DiskError) -> BootError {
    match error {
        DiskError::PowerLost => BootError::PowerLost,
        other => BootError::Refused(other.to_string()),
    }
}

impl Log {
    pub(super) fn open(
        mut disk: SimDisk,
        bug: Option<Bug>,
        now: Now,
        seed: u64,
    ) -> Result<Self, BootError> {
        let mut log = Self {
            bug,
            prng: Prng::new(seed),
            ops: OpIds::default(),
            epoch: 0,
            entries: Vec::new(),
            end: 0,
            last_time_us: 0,
            producers: BTreeMap::new(),
            next_block: 0,
            last_crc: 0,
            submitted: 0,
            durable: 0,
            inflight: VecDeque::new(),
            waiting: VecDeque::new(),
            connections: BTreeMap::new(),
            serving: false,
            stopping: false,
        };
        let size = match disk.size(FILE) {
            Ok(size) => size,
            Err(DiskError::Absent) => 0,
            Err(error) => return Err(refused(error)),
        };
        if size < FILE_BYTES {
            disk.create(FILE, FILE_BYTES).map_err(refused)?;
        }
        let mut block = vec![0; BLOCK_BYTES];
        while log.next_block < FILE_BYTES / BLOCK_BYTES as u64 {
            let at = log.next_block * BLOCK_BYTES as u64;
            disk.read(FILE, at, &mut block).map_err(refused)?;
            if !log.replay(&block) {
                break;
            }
        }
        if bug != Some(Bug::RecoveryTrustsTheCache) {
            disk.sync(FILE).map_err(refused)?;
        }
        log.submitted = log.entries.len();
        log.durable = log.entries.len();
        if bug != Some(Bug::ResumesItsEpoch) || log.epoch == 0 {
            log.epoch += 1;
        }
        let _ = now;
        let block = log.block(&[]);
        let at = (log.next_block - 1) * BLOCK_BYTES as u64;
        disk.write(FILE, at, &block).map_err(refused)?;
        if bug != Some(Bug::RecoveryTrustsTheCache) {
            disk.sync(FILE).map_err(refused)?;
        }
        Ok(log)
    }

    /// Takes a block that was found. False: the log ends before it.
    fn replay(&mut self, block: &[u8]) -> bool {
        let word = |at: usize| {
            u64::from_le_bytes(block[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
        };
        let crc = crc32c(&block[8..]);
        let follows =
            word(1) == u64::from(self.last_crc) || self.bug == Some(Bug::RecoveryIgnoresTheChain);
        if word(0) != u64::from(crc) || word(2) != self.next_block || !follows || word(3) == 0 {
            return false;
        }
        self.epoch = word(3);
        for index in 0..word(4) as usize {
            let at = HEADER_WORDS + index * WORDS_PER_ENTRY;
            let words: Vec<u64> = (at..at + WORDS_PER_ENTRY).map(word).collect();
            let entry = Entry {
                offset: words[0],
                epoch: words[1],
                time_us: words[2],
                batch: Batch::from_words(&words[3..]),
            };
            self.end = entry.offset + entry.batch.records;
            self.last_time_us = entry.time_us;
            if self.bug != Some(Bug::ForgetsProducers) {
                let producer = self.producers.entry(entry.batch.producer).or_default();
                producer.0 = entry.batch.seq + 1;
                producer.1.insert(entry.batch.seq, entry.offset);
            }
            self.entries.push(entry);
        }
        self.next_block += 1;
        self.last_crc = crc;
        true
    }

    /// The next block, with these entries.
    fn block(&mut self, entries: &[Entry]) -> Bytes {
        let mut words = vec![
            0,
            u64::from(self.last_crc),
            self.next_block,
            self.epoch,
            entries.len() as u64,
        ];
        for entry in entries {
            words.extend([entry.offset, entry.epoch, entry.time_us]);
            words.extend(entry.batch.words());
        }
        let mut block = aligned_zeroed(BLOCK_BYTES);
        for (at, word) in words.iter().enumerate() {
            block[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.last_crc = crc32c(&block[8..]);
        block[..8].copy_from_slice(&u64::from(self.last_crc).to_le_bytes());
        self.next_block += 1;
        block.freeze()
    }

    fn is_full(&self) -> bool {
        self.next_block + 64 > FILE_BYTES / BLOCK_BYTES as u64
    }

    fn append(&mut self, now: Now, conn: ConnectionId, batch: Batch) {
        let is_full = self.is_full();
        let producer = self.producers.entry(batch.producer).or_default();
        if let Some(offset) = producer.1.get(&batch.seq).copied() {
            // Answered when the first one is durable: offsets are dense, so its entry is found by them.
            let index = self.entries.partition_point(|entry| entry.offset < offset);
            self.waiting.push_back((conn, index));
            return;
        }
        if (batch.seq != producer.0 && self.bug != Some(Bug::ForgetsProducers)) || is_full {
            let expected = producer.0;
            self.reply(conn, Hear::Refused { expected });
            return;
        }
        let skip = u64::from(self.bug == Some(Bug::SkipsAnOffset) && self.prng.chance(1, 50));
        let offset = self.end + skip;
        producer.0 = batch.seq + 1;
        producer.1.insert(batch.seq, offset);
        let wall_us = now.wall.as_us();
        self.last_time_us = if self.bug == Some(Bug::TrustsTheWall) {
            wall_us
        } else {
            wall_us.max(self.last_time_us)
        };
        self.end = offset + batch.records;
        self.entries.push(Entry {
            offset,
            epoch: self.epoch,
            time_us: self.last_time_us,
            batch,
        });
        self.waiting.push_back((conn, self.entries.len() - 1));
    }

    fn reply(&mut self, conn: ConnectionId, hear: Hear) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.output.push_back(hear.encode());
        }
    }

    fn received(&mut self, now: Now, conn: ConnectionId, data: &[u8]) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        connection.input.push(data);
        while let Some(connection) = self.connections.get_mut(&conn)
            && let Some((kind, words)) = connection.input.next()
        {
            match Say::decode(kind, &words) {
                Say::Append(batch) => {
                    connection.answered += 1;
                    self.append(now, conn, batch);
                }
                Say::Read { from, credit } => {
                    let durable = &self.entries[..self.durable];
                    let index =
                        durable.partition_point(|entry| entry.offset + entry.batch.records <= from);
                    let end = durable
                        .last()
                        .map_or(0, |entry| entry.offset + entry.batch.records);
                    connection.cursor = Some((index, credit, 0));
                    let next = from.min(end);
                    self.reply(conn, Hear::Positioned { next, end });
                }
                Say::Grant { total } => {
                    if let Some((_, credit, _)) = &mut connection.cursor {
                        *credit = total;
                    }
                }
            }
        }
    }

    fn written(&mut self, op: OpId, result: Result<(), DiskError>, effects: &mut Effects) {
        if let Err(error) = result {
            effects.push(Effect::Fatal(Fatal::JournalWrite(error)));
            return;
        }
        for inflight in &mut self.inflight {
            if inflight.op == op {
                inflight.written = true;
                inflight.done |= inflight.sync.is_none();
            }
            if inflight.sync == Some(op) {
                inflight.done = true;
            }
        }
        if self.bug == Some(Bug::AcknowledgesOutOfOrder)
            && let Some(done) = self.inflight.iter().rposition(|inflight| inflight.done)
        {
            self.durable = self.durable.max(self.inflight[done].until);
        }
        while self
            .inflight
            .front()
            .is_some_and(|inflight| inflight.done && inflight.written)
        {
            if let Some(inflight) = self.inflight.pop_front() {
                self.durable = self.durable.max(inflight.until);
            }
        }
    }

    fn flush(&mut self, effects: &mut Effects) {
        while self.submitted < self.entries.len()
            && self.inflight.len() < WRITES_INFLIGHT_MAX
            && !self.is_over()
        {
            let until = self.entries.len().min(self.submitted + ENTRIES_PER_BLOCK);
            let entries = self.entries[self.submitted..until].to_vec();
            let at = self.next_block * BLOCK_BYTES as u64;
            let data = self.block(&entries);
            let op = self.ops.allocate();
            let durable = !matches!(self.bug, Some(Bug::NeverSyncs | Bug::SyncsTooEarly));
            effects.push(Effect::Write {
                op,
                file: FILE,
                at,
                data,
                durable,
            });
            let mut sync = None;
            if self.bug == Some(Bug::SyncsTooEarly) {
                let op = self.ops.allocate();
                effects.push(Effect::Sync { op, file: FILE });
                sync = Some(op);
            }
            self.inflight.push_back(Inflight {
                op,
                sync,
                written: false,
                done: false,
                until,
            });
            self.submitted = until;
        }
        if self.bug == Some(Bug::AcknowledgesBeforeDurable) {
            self.durable = self.submitted;
        }
    }

    fn is_over(&self) -> bool {
        self.next_block >= FILE_BYTES / BLOCK_BYTES as u64
    }

    fn acknowledge(&mut self) {
        let durable = self.durable;
        let mut rest = VecDeque::new();
        for (conn, index) in std::mem::take(&mut self.waiting) {
            if index >= durable {
                rest.push_back((conn, index));
                continue;
            }
            let entry = self.entries[index];
            self.reply(
                conn,
                Hear::Acked {
                    seq: entry.batch.seq,
                    offset: entry.offset,
                    epoch: entry.epoch,
                    duplicate: entry.epoch != self.epoch,
                },
            );
        }
        self.waiting = rest;
    }

    fn deliver(&mut self, conn: ConnectionId) {
        let visible = if self.bug == Some(Bug::DeliversBeforeDurable) {
            self.entries.len()
        } else {
            self.durable
        };
        let overspends = u64::from(self.bug == Some(Bug::Overspends));
        while let Some(connection) = self.connections.get_mut(&conn)
            && let Some((index, credit, spent)) = &mut connection.cursor
            && *index < visible
            && *spent < *credit + overspends
            && connection.output.len() < 64
        {
            let entry = self.entries[*index];
            *index += 1;
            *spent += 1;
            self.reply(
                conn,
                Hear::Record {
                    offset: entry.offset,
                    epoch: entry.epoch,
                    time_us: entry.time_us,
                    batch: entry.batch,
                },
            );
        }
    }

    /// Credit comes back with every answered append; sends go out.
    fn send(&mut self, conn: ConnectionId, effects: &mut Effects) {
        let leaks = self.bug == Some(Bug::LeaksCredit);
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        let outstanding = self
            .waiting
            .iter()
            .filter(|(other, _)| *other == conn)
            .count() as u64;
        let leaked = if leaks { connection.answered / 16 } else { 0 };
        let total = PRODUCE_WINDOW + connection.answered - outstanding - leaked;
        if total > connection.granted {
            connection.granted = total;
            connection.output.push_back(Hear::Grant { total }.encode());
        }
        if connection.sending || connection.closing || connection.output.is_empty() {
            return;
        }
        connection.sending = true;
        let parts = connection.output.drain(..).collect();
        let op = self.ops.allocate();
        effects.push(Effect::Send { op, conn, parts });
    }
}

impl Machine for Log {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Written { op, result } | Event::Synced { op, result } => {
                self.written(op, result, effects);
            }
            Event::Accepted { conn, .. } => {
                self.connections.insert(conn, Connection::default());
            }
            Event::Received { conn, data } => {
                self.received(now, conn, &data);
                if self.bug == Some(Bug::ForgetsToReceive) && self.waiting.len() > 4 {
                    effects.push(Effect::Receive {
                        conn,
                        wanted: false,
                    });
                }
            }
            Event::Hangup { conn } => {
                if let Some(connection) = self.connections.get_mut(&conn)
                    && !connection.closing
                {
                    connection.closing = true;
                    effects.push(Effect::Close { conn });
                }
            }
            Event::Sent { conn, alive, .. } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.sending = false;
                    if !alive && !connection.closing {
                        connection.closing = true;
                        effects.push(Effect::Close { conn });
                    }
                }
            }
            Event::Closed { conn } => {
                self.connections.remove(&conn);
                self.waiting.retain(|(other, _)| *other != conn);
            }
            Event::Stop => {
                self.stopping = true;
                effects.push(Effect::Refuse);
            }
            Event::Timer
            | Event::Connected { .. }
            | Event::ReadDone { .. }
            | Event::Prepared { .. }
            | Event::Removed { .. }
            | Event::Posted { .. }
            | Event::MeshFull(_)
            | Event::MeshOpen(_)
            | Event::Catalogue(_) => {}
        }
    }

    fn finish_turn(&mut self, _now: Now, effects: &mut Effects) {
        if !self.serving {
            self.serving = true;
            effects.push(Effect::Serve);
        }
        self.flush(effects);
        self.acknowledge();
        let conns: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for conn in conns {
            self.deliver(conn);
            self.send(conn, effects);
        }
        if self.stopping && self.inflight.is_empty() && self.submitted == self.entries.len() {
            self.stopping = false;
            effects.push(Effect::Stopped);
        }
    }
}
