//! The one file: batches are copied into an open region, and what was copied in a turn is written as one chunk, round
//! and round over a pre-written file. Several writes may be in flight; a batch counts as durable when its write and all
//! before it are. Invariant: a region's bytes are not touched while one of its chunks is being written.

use std::collections::VecDeque;
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::{ConnectionId, MessageId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, CHUNK_BYTES_MAX};
use tiderace_base::operation::{Effect, Effects, OpId, OpIds};
use tiderace_base::position::Offset;
use tiderace_base::region::Region;
use tiderace_wire::assembly::Pieces;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::error::ErrorCode;

/// The file.
pub(crate) const FILE: JournalFile = JournalFile::Segment(0);

/// A batch in the log, and who waits to hear that it is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) conn: ConnectionId,
    pub(crate) request: MessageId,
    pub(crate) base_offset: Offset,
}

/// Why a batch was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Every region is being written: try again after the next completion.
    Full,
    /// It is damaged, or not of this stream.
    Batch(ErrorCode),
}

#[derive(Debug)]
struct Write {
    op: OpId,
    done: bool,
    waiting: Vec<Waiting>,
}

/// The file and what is on its way there.
#[derive(Debug)]
pub(crate) struct Log {
    file_bytes: u64,
    at: u64,
    regions: Vec<Region>,
    current: usize,
    writes_max: usize,
    writes: VecDeque<Write>,
    open: Vec<Waiting>,
    spare: Vec<Vec<Waiting>>,
}

impl Log {
    pub(crate) fn new(file_bytes: u64, writes_max: usize) -> Self {
        Self {
            file_bytes,
            at: 0,
            // Each write in flight may hold the whole of one region, and one is open.
            regions: (0..=writes_max)
                .map(|_| Region::new(2 * CHUNK_BYTES_MAX))
                .collect(),
            current: 0,
            writes_max,
            writes: VecDeque::new(),
            open: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Copies a batch and checksums the copy. `place` gives the offset of its first record.
    pub(crate) fn append(
        &mut self,
        batch: &Pieces,
        conn: ConnectionId,
        request: MessageId,
        ops: &mut OpIds,
        effects: &mut Effects,
        place: impl FnOnce(&BatchHeader) -> Result<Offset, ErrorCode>,
    ) -> Result<(), Refused> {
        let len = batch.len();
        if !self.make_room(len, ops, effects) {
            return Err(Refused::Full);
        }
        let open = self.regions[self.current].open();
        let start = open.len();
        for piece in batch.as_slice() {
            open.extend_from_slice(piece);
        }
        let result = check(&open[start..]).and_then(place);
        match result {
            Ok(base_offset) => {
                self.open.push(Waiting {
                    conn,
                    request,
                    base_offset,
                });
                Ok(())
            }
            Err(code) => {
                open.truncate(start);
                Err(Refused::Batch(code))
            }
        }
    }

    fn make_room(&mut self, len: usize, ops: &mut OpIds, effects: &mut Effects) -> bool {
        let fits = |region: &Region| {
            let filled = region.filled().len();
            filled + len <= CHUNK_BYTES_MAX && len + BLOCK_BYTES <= region.room_bytes()
        };
        if fits(&self.regions[self.current]) {
            return true;
        }
        self.flush(ops, effects);
        if !self.regions[self.current].filled().is_empty() {
            return false;
        }
        if fits(&self.regions[self.current]) {
            return true;
        }
        let free = (0..self.regions.len()).find(|index| self.regions[*index].try_reset());
        match free {
            Some(index) => {
                self.current = index;
                true
            }
            None => false,
        }
    }

    /// Writes what is open, unless as many writes are in flight as may be.
    pub(crate) fn flush(&mut self, ops: &mut OpIds, effects: &mut Effects) {
        if self.open.is_empty() || self.writes.len() >= self.writes_max {
            return;
        }
        let region = &mut self.regions[self.current];
        let whole = region.filled().len().next_multiple_of(BLOCK_BYTES);
        region.open().resize(whole, 0);
        let data = region.freeze();
        if self.at + data.len() as u64 > self.file_bytes {
            self.at = 0;
        }
        let op = ops.allocate();
        let at = self.at;
        self.at += data.len() as u64;
        let empty = self.spare.pop().unwrap_or_default();
        self.writes.push_back(Write {
            op,
            done: false,
            waiting: std::mem::replace(&mut self.open, empty),
        });
        effects.push(Effect::Write {
            op,
            file: FILE,
            at,
            data,
            durable: true,
        });
    }

    /// A write completed: says which batches are durable now, in order.
    pub(crate) fn written(&mut self, op: OpId, mut durable: impl FnMut(Waiting)) {
        for write in &mut self.writes {
            write.done |= write.op == op;
        }
        while self.writes.front().is_some_and(|write| write.done) {
            let Some(mut write) = self.writes.pop_front() else {
                break;
            };
            for waiting in write.waiting.drain(..) {
                durable(waiting);
            }
            self.spare.push(write.waiting);
        }
    }
}

/// The checks that no server may leave out.
fn check(batch: &[u8]) -> Result<&BatchHeader, ErrorCode> {
    let header = BatchHeader::parse(batch).map_err(|error| error.code())?;
    let body = &batch[BATCH_HEADER_BYTES..];
    if header.body_len() != body.len() {
        return Err(ErrorCode::BatchHeader);
    }
    if crc32c(body) != header.body_crc() {
        return Err(ErrorCode::BatchChecksum);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, StreamId};
    use tiderace_base::position::{ProducerEpoch, ProducerSeq};
    use tiderace_wire::batch::{Attributes, ProducerPart};

    fn batch(bytes: usize) -> Pieces {
        let body = vec![7; bytes];
        let header = BatchHeader::producer(ProducerPart {
            attributes: Attributes::NONE,
            key: PartitionKey {
                stream: StreamId::new(1),
                partition: PartitionIndex::new(0),
            },
            record_count: 1,
            body_bytes: bytes as u32,
            body_crc: crc32c(&body),
            producer_id: ProducerId::new(0),
            producer_seq: ProducerSeq::ZERO,
            producer_epoch: ProducerEpoch::ZERO,
            schema_id: 0,
            first_time_us: 0,
            time_span_us: 0,
        });
        let mut whole = header.bytes().to_vec();
        whole.extend_from_slice(&body);
        Pieces::One(Bytes::from(whole))
    }

    fn append(
        log: &mut Log,
        batch: &Pieces,
        request: u64,
        effects: &mut Effects,
        ops: &mut OpIds,
    ) -> Result<(), Refused> {
        log.append(
            batch,
            ConnectionId::new(1),
            MessageId::new(request),
            ops,
            effects,
            |_| Ok(Offset::new(request)),
        )
    }

    fn writes(effects: &mut Effects) -> Vec<(OpId, u64, usize)> {
        effects
            .drain(..)
            .map(|effect| match effect {
                Effect::Write { op, at, data, .. } => (op, at, data.len()),
                other => panic!("only writes are wanted, not {other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_turn_is_one_write_and_acks_keep_order() {
        let (mut log, mut ops, mut effects) = (Log::new(1 << 23, 4), OpIds::default(), Vec::new());
        for request in 1..=3 {
            append(&mut log, &batch(300), request, &mut effects, &mut ops).expect("room");
        }
        log.flush(&mut ops, &mut effects);
        append(&mut log, &batch(300), 4, &mut effects, &mut ops).expect("room");
        log.flush(&mut ops, &mut effects);
        let writes = writes(&mut effects);
        assert_eq!(writes.len(), 2);
        assert_eq!((writes[0].1, writes[0].2), (0, BLOCK_BYTES));
        assert_eq!(writes[1].1, BLOCK_BYTES as u64);
        let mut durable = Vec::new();
        log.written(writes[1].0, |waiting| durable.push(waiting.request.get()));
        assert!(durable.is_empty(), "the write before it is not done");
        log.written(writes[0].0, |waiting| durable.push(waiting.request.get()));
        assert_eq!(durable, [1, 2, 3, 4]);
    }

    #[test]
    fn a_full_log_refuses_until_a_write_completes_and_wraps_at_the_end() {
        let (mut log, mut ops, mut effects) = (Log::new(1 << 23, 2), OpIds::default(), Vec::new());
        let large = batch(1 << 20);
        let (mut taken, mut end) = (0, 0);
        let mut pending = Vec::new();
        for request in 0..64 {
            while append(&mut log, &large, request, &mut effects, &mut ops) == Err(Refused::Full) {
                pending.extend(writes(&mut effects));
                let (op, at, len) = pending.remove(0);
                assert!(at + len as u64 <= 1 << 23);
                end = end.max(at + len as u64);
                log.written(op, |_| taken += 1);
            }
            log.flush(&mut ops, &mut effects);
            pending.extend(writes(&mut effects));
        }
        assert!(taken > 50);
        assert!(end > 4 << 20);
    }

    #[test]
    fn a_damaged_batch_is_refused_and_leaves_nothing() {
        let (mut log, mut ops, mut effects) = (Log::new(1 << 23, 4), OpIds::default(), Vec::new());
        let mut bytes = batch(300).into_contiguous().to_vec();
        bytes[200] ^= 1;
        let damaged = Pieces::One(Bytes::from(bytes));
        assert_eq!(
            append(&mut log, &damaged, 1, &mut effects, &mut ops),
            Err(Refused::Batch(ErrorCode::BatchChecksum))
        );
        log.flush(&mut ops, &mut effects);
        assert!(effects.is_empty());
    }
}
