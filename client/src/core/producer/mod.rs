//! Producer of one stream. Chooses partitions, gathers records into batches, keeps every batch until it is acknowledged,
//! and makes retries exact. Knows no connection: it hands out batches and is told what came of them.
//!
//! **Batching adds no delay when idle.** A record is sealed into a batch and handed out at once while fewer than
//! [`Settings::eager_inflight`] batches of its partition wait for an answer; otherwise it gathers until one of them is
//! answered or the batch is full. So batches grow exactly as far as the node is behind.
//!
//! **Retries are exact.** A batch keeps its bytes, and with them producer id, epoch and sequence, until it is
//! acknowledged. After a reconnect the lane hands out again, in order, from the first unacknowledged batch on; what the
//! node had already answers as a duplicate and counts once. A sequence number is given anew only to a batch of which it
//! is certain that no node holds it; a batch that may be stored and cannot be proven so ends as
//! [`SendError::OutcomeUnknown`], never twice in the stream. Each batch says how far its partition was known to reach
//! when its epoch began, so that a node that has forgotten producers since refuses it instead of storing it again.
//!
//! **No failure passes unnoticed.** A failed batch is owed to the listeners of its records until each was told
//! ([`Producer::told`]); what is still owed is told by [`Producer::take_failure`], which is what a flush asks.
//!
//! Invariants: at most `inflight_max` sealed batches of a partition are unacknowledged (never above
//! [`limits::PRODUCER_WINDOW`]); records held never exceed `buffer_bytes_max` by more than one record; every accepted
//! record's batch settles exactly once.

mod epoch;
mod failures;
mod lane;

use crate::core::batch::{self, Stamp};
use crate::error::{AckedLost, Refusal, SendError};
use crate::record::Record;
use bytes::{Bytes, BytesMut};
pub use epoch::{Reached, SessionEpoch};
pub use failures::FailureId;
use failures::Failures;
use lane::Lane;
pub use lane::{After, Want};
use std::collections::VecDeque;
use tiderace_base::hash::partition_of_key;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, StreamId};
use tiderace_base::limits;
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq};
use tiderace_base::time::{Mono, Now};

/// An unkeyed producer moves on to its next partition after this many sealed batches, so that load spreads.
const STICKY_BATCHES: u32 = 64;
/// Fruitless resumptions of one lane before its batches are given up.
const RESUMES_MAX: u32 = 4;

/// How a producer batches and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The producer's id: random, unique. Zero: batches are not deduplicated and retries are not exact.
    pub id: ProducerId,
    /// A session that takes over from an older one with the same id has a higher number.
    pub session: SessionEpoch,
    /// Bytes of records in one batch. At most [`limits::BODY_BYTES_MAX`].
    pub batch_bytes_max: usize,
    /// Records of one batch. At most [`limits::BATCH_RECORDS_MAX`].
    pub batch_records_max: u32,
    /// Unacknowledged batches of one partition below which a record is sent at once. At least 1.
    pub eager_inflight: usize,
    /// Unacknowledged batches of one partition. At most [`limits::PRODUCER_WINDOW`].
    pub inflight_max: usize,
    /// Bytes of records held until acknowledged, over all partitions. Beyond it there is no credit.
    pub buffer_bytes_max: usize,
    /// How long a record may wait for its acknowledgement, in nanoseconds.
    pub deadline_ns: u64,
}

impl Settings {
    /// The defaults, for a producer with this id.
    #[must_use]
    pub const fn new(id: ProducerId) -> Self {
        Self {
            id,
            session: SessionEpoch::new(1),
            batch_bytes_max: 256 * limits::KIB,
            batch_records_max: 8 * 1024,
            eager_inflight: 1,
            inflight_max: 16,
            buffer_bytes_max: 8 * limits::MIB,
            deadline_ns: 30_000_000_000,
        }
    }

    fn bounded(mut self) -> Self {
        self.batch_bytes_max = self
            .batch_bytes_max
            .clamp(1, limits::BODY_BYTES_MAX - batch::BODY_SLACK_BYTES);
        self.batch_records_max = self.batch_records_max.clamp(1, limits::BATCH_RECORDS_MAX);
        self.inflight_max = self.inflight_max.clamp(1, limits::PRODUCER_WINDOW);
        self.eager_inflight = self.eager_inflight.clamp(1, self.inflight_max);
        self
    }
}

/// Names an accepted record until its batch settles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Where the record goes.
    pub partition: PartitionIndex,
    /// The batch, until it settles; the number is used again afterwards, so take outcomes before the next push.
    pub batch: u32,
    /// The record's place in the batch.
    pub record: u32,
}

/// Why a record was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushError {
    /// No credit: the buffer or the partition's window is full. Try again when a batch has settled.
    Full,
    /// It can never be accepted as it is.
    Invalid(SendError),
}

/// Where a batch was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Epoch in which it was stored.
    pub epoch: Epoch,
    /// When the leader appended it, in microseconds since 1970.
    pub append_time_us: u64,
    /// It had been stored by an earlier attempt.
    pub duplicate: bool,
}

/// What came of a batch. Each accepted batch has exactly one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The batch, as in [`Ticket::batch`].
    pub batch: u32,
    /// Its partition.
    pub partition: PartitionIndex,
    /// Its records.
    pub records: u32,
    /// Where it stands now, or why it does not.
    pub result: Result<Placed, SendError>,
    /// Names the failure, if it is one, in [`Producer::told`].
    pub failure: Option<FailureId>,
}

/// A batch to be sent.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Names this batch, and no other that has the same number later, in its answer.
    pub token: u64,
    /// The whole batch.
    pub bytes: Bytes,
    /// If it is stored, then at or past this place: [`Reached::within`] the epoch that its frame names.
    pub since: Reached,
}

/// A sealed batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) lane: u32,
    /// Empty while the batch still gathers.
    pub(crate) bytes: Bytes,
    pub(crate) seq: ProducerSeq,
    pub(crate) records: u32,
    pub(crate) weight_bytes: usize,
    pub(crate) deadline: Mono,
    /// An attempt is under way.
    pub(crate) in_flight: bool,
    /// An attempt was made whose answer never came: a node may hold it.
    pub(crate) maybe_stored: bool,
    /// Its outcome has been told. It stays only to keep its place in the sequence.
    pub(crate) settled: bool,
    pub(crate) acked: bool,
    pub(crate) live: bool,
    pub(crate) generation: u32,
}

/// All batches of a producer, by number; free numbers are used again.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    cells: Vec<Batch>,
    free: Vec<u32>,
    settled: VecDeque<Settled>,
    failures: Failures,
    arena: BytesMut,
    buffered_bytes: usize,
    unsettled: usize,
}

impl Batches {
    fn open(&mut self, lane: u32, deadline: Mono) -> u32 {
        let batch = Batch {
            lane,
            bytes: Bytes::new(),
            seq: ProducerSeq::ZERO,
            records: 0,
            weight_bytes: 0,
            deadline,
            in_flight: false,
            maybe_stored: false,
            settled: false,
            acked: false,
            live: true,
            generation: 0,
        };
        self.unsettled += 1;
        if let Some(index) = self.free.pop() {
            let generation = self.cells[index as usize].generation.wrapping_add(1);
            self.cells[index as usize] = Batch {
                generation,
                ..batch
            };
            index
        } else {
            self.cells.push(batch);
            (self.cells.len() - 1) as u32
        }
    }

    pub(crate) fn get(&self, index: u32) -> &Batch {
        &self.cells[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Batch {
        &mut self.cells[index as usize]
    }

    /// The batch under way that a token names; `None` when it is no longer here.
    fn named(&self, token: u64) -> Option<u32> {
        let index = token as u32;
        let batch = self.cells.get(index as usize)?;
        (batch.live && batch.in_flight && u64::from(batch.generation) == token >> 32)
            .then_some(index)
    }

    /// Tells the outcome, once.
    pub(crate) fn settle(
        &mut self,
        index: u32,
        partition: PartitionIndex,
        result: Result<Placed, SendError>,
    ) {
        let batch = &mut self.cells[index as usize];
        if batch.settled {
            return;
        }
        batch.settled = true;
        self.unsettled -= 1;
        let records = batch.records;
        let failure = result.err().map(|error| self.failures.add(error, records));
        self.settled.push_back(Settled {
            batch: index,
            partition,
            records,
            result,
            failure,
        });
    }

    /// Frees a settled batch's bytes and number.
    pub(crate) fn close(&mut self, index: u32) {
        let batch = &mut self.cells[index as usize];
        assert!(
            batch.settled && batch.live && !batch.in_flight,
            "a batch is forgotten once, after its outcome was told and its last answer came"
        );
        batch.live = false;
        batch.bytes = Bytes::new();
        self.buffered_bytes -= batch.weight_bytes;
        self.free.push(index);
    }
}

/// The producer of one stream.
#[derive(Debug)]
pub struct Producer {
    stream: StreamId,
    settings: Settings,
    lanes: Vec<Option<Box<Lane>>>,
    batches: Batches,
    /// Lanes that may have something to hand out or to ask for.
    dirty: VecDeque<u32>,
    preferred: Vec<u32>,
    sticky: Option<u32>,
    sticky_left: u32,
    next_preferred: usize,
    losses: VecDeque<AckedLost>,
    failed: Option<SendError>,
}

impl Producer {
    /// A producer for a stream of `partitions` partitions.
    ///
    /// # Panics
    /// When `partitions` is zero: no stream has none.
    #[must_use]
    pub fn new(stream: StreamId, partitions: u32, settings: Settings) -> Self {
        assert!(partitions > 0, "a stream has at least one partition");
        Self {
            stream,
            settings: settings.bounded(),
            lanes: (0..partitions).map(|_| None).collect(),
            batches: Batches::default(),
            dirty: VecDeque::new(),
            preferred: Vec::new(),
            sticky: None,
            sticky_left: 0,
            next_preferred: settings.id.get() as usize,
            losses: VecDeque::new(),
            failed: None,
        }
    }

    /// The stream that it writes to.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> ProducerId {
        self.settings.id
    }

    /// Partitions of its stream.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Accepted batches whose outcome is not known.
    #[must_use]
    pub const fn unsettled(&self) -> usize {
        self.batches.unsettled
    }

    /// Bytes of records that are held.
    #[must_use]
    pub const fn buffered_bytes(&self) -> usize {
        self.batches.buffered_bytes
    }

    /// Partitions that records without a key should go to: those that the reached shards lead. Empty: all.
    pub fn prefer(&mut self, partitions: impl IntoIterator<Item = PartitionIndex>) {
        let bound = self.partitions();
        self.preferred.clear();
        self.preferred.extend(
            partitions
                .into_iter()
                .map(PartitionIndex::get)
                .filter(|partition| *partition < bound),
        );
        let keeps = self
            .sticky
            .is_some_and(|sticky| self.preferred.is_empty() || self.preferred.contains(&sticky));
        if !keeps {
            self.sticky = None;
        }
    }

    fn turn_sticky(&mut self) -> u32 {
        let count = if self.preferred.is_empty() {
            self.lanes.len()
        } else {
            self.preferred.len()
        };
        self.next_preferred = (self.next_preferred + 1) % count;
        let chosen = if self.preferred.is_empty() {
            self.next_preferred as u32
        } else {
            self.preferred[self.next_preferred]
        };
        self.sticky = Some(chosen);
        self.sticky_left = STICKY_BATCHES;
        chosen
    }

    /// Accepts a record. `partition`: `None` chooses by key, or sticks to one partition where there is no key.
    ///
    /// # Errors
    /// [`PushError::Full`] without credit; the record was not touched.
    pub fn push(
        &mut self,
        now: Now,
        record: &Record,
        partition: Option<PartitionIndex>,
    ) -> Result<Ticket, PushError> {
        if let Some(error) = self.failed {
            return Err(PushError::Invalid(error));
        }
        let weight = record.weight_bytes();
        if weight > limits::BODY_BYTES_MAX - batch::BODY_SLACK_BYTES
            || record
                .key
                .as_ref()
                .is_some_and(|key| key.len() > limits::KEY_BYTES_MAX)
        {
            return Err(PushError::Invalid(SendError::TooLarge));
        }
        if let Some(lost) = self.losses.pop_front() {
            return Err(PushError::Invalid(SendError::AckedLost(lost)));
        }
        if self.batches.buffered_bytes > 0
            && self.batches.buffered_bytes + weight > self.settings.buffer_bytes_max
        {
            return Err(PushError::Full);
        }
        match (partition, &record.key) {
            (Some(partition), _) if partition.get() >= self.partitions() => {
                Err(PushError::Invalid(SendError::NoSuchPartition))
            }
            (Some(partition), _) => self.push_to(now, partition.get(), record, weight),
            (None, Some(key)) => {
                let partition = partition_of_key(key, self.partitions());
                self.push_to(now, partition.get(), record, weight)
            }
            (None, None) => {
                let tries = if self.preferred.is_empty() {
                    self.lanes.len()
                } else {
                    self.preferred.len()
                };
                let mut chosen = match self.sticky {
                    Some(chosen) if self.sticky_left > 0 => chosen,
                    _ => self.turn_sticky(),
                };
                // A lane that is full or held up is passed over, so that one slow partition does not stop the rest.
                for _ in 0..tries.min(64) {
                    match self.push_to(now, chosen, record, weight) {
                        Err(PushError::Full) => chosen = self.turn_sticky(),
                        result => return result,
                    }
                }
                Err(PushError::Full)
            }
        }
    }

    fn push_to(
        &mut self,
        now: Now,
        partition: u32,
        record: &Record,
        weight: usize,
    ) -> Result<Ticket, PushError> {
        let lane = self.lanes[partition as usize].get_or_insert_with(|| {
            Box::new(Lane::new(
                PartitionIndex::new(partition),
                self.settings.session.first(),
            ))
        });
        if let Some(error) = lane.failed {
            return Err(PushError::Invalid(error));
        }
        if !lane.has_room(record, weight, now.wall.as_us(), &self.settings) {
            if lane.batches.len() >= self.settings.inflight_max {
                return Err(PushError::Full);
            }
            Self::seal(lane, &mut self.batches, self.stream, &self.settings);
            if self.sticky == Some(partition) {
                self.sticky_left = self.sticky_left.saturating_sub(1);
            }
        }
        let index = match lane.gathering {
            Some(index) => index,
            None => {
                let index = self
                    .batches
                    .open(partition, now.mono.after_ns(self.settings.deadline_ns));
                lane.gathering = Some(index);
                index
            }
        };
        let place = lane.gather(record, now.wall.as_us());
        let batch = self.batches.get_mut(index);
        batch.records += 1;
        batch.weight_bytes += weight;
        self.batches.buffered_bytes += weight;
        if lane.batches.len() < self.settings.eager_inflight && lane.is_ready() {
            Self::seal(lane, &mut self.batches, self.stream, &self.settings);
            if self.sticky == Some(partition) {
                self.sticky_left = self.sticky_left.saturating_sub(1);
            }
        }
        self.mark(partition);
        Ok(Ticket {
            partition: PartitionIndex::new(partition),
            batch: index,
            record: place,
        })
    }

    fn seal(lane: &mut Lane, batches: &mut Batches, stream: StreamId, settings: &Settings) {
        let Some(index) = lane.gathering.take() else {
            return;
        };
        let batch = batches.get_mut(index);
        batch.seq = lane.next_seq;
        lane.next_seq = lane.next_seq.advance(1);
        let stamp = Stamp {
            key: PartitionKey {
                stream,
                partition: lane.partition,
            },
            producer: settings.id,
            epoch: lane.epoch,
            seq: batch.seq,
        };
        let bytes = batch::encode(&mut batches.arena, stamp, lane.builder.finish());
        batches.get_mut(index).bytes = bytes;
        lane.times = None;
        lane.batches.push_back(index);
    }

    fn mark(&mut self, partition: u32) {
        if let Some(lane) = &mut self.lanes[partition as usize]
            && !lane.marked
        {
            lane.marked = true;
            self.dirty.push_back(partition);
        }
    }

    /// A lane that may want something, each once until it wants something again. Ask [`Producer::wants`] what.
    pub fn next_dirty(&mut self) -> Option<PartitionIndex> {
        let partition = self.dirty.pop_front()?;
        if let Some(lane) = &mut self.lanes[partition as usize] {
            lane.marked = false;
        }
        Some(PartitionIndex::new(partition))
    }

    /// What a partition's lane needs from its owner now. After [`Want::Send`] the owner sends the batch and says
    /// [`Producer::sent`], or keeps the lane in mind and asks again later.
    pub fn wants(&mut self, partition: PartitionIndex) -> Want {
        let Some(lane) = &mut self.lanes[partition.get() as usize] else {
            return Want::Nothing;
        };
        if lane.failed.is_none()
            && lane.is_ready()
            && lane.batches.len() < self.settings.eager_inflight
        {
            Self::seal(lane, &mut self.batches, self.stream, &self.settings);
        }
        lane.wants(&self.batches, &self.settings)
    }

    /// The batch that [`Want::Send`] spoke of.
    #[must_use]
    pub fn dispatch(&self, batch: u32) -> Dispatch {
        let cell = self.batches.get(batch);
        let lane = self.lanes[cell.lane as usize].as_ref();
        Dispatch {
            token: u64::from(cell.generation) << 32 | u64::from(batch),
            bytes: cell.bytes.clone(),
            since: lane.map_or_else(Reached::default, |lane| lane.since),
        }
    }

    /// The batch that [`Want::Send`] named is under way.
    pub fn sent(&mut self, partition: PartitionIndex) {
        if let Some(lane) = &mut self.lanes[partition.get() as usize] {
            lane.sent(&mut self.batches);
        }
        self.mark(partition.get());
    }

    /// A node stored the batch of this [`Dispatch::token`].
    pub fn acked(&mut self, token: u64, placed: Placed) {
        let Some(batch) = self.batches.named(token) else {
            return;
        };
        let partition = self.batches.get(batch).lane;
        if let Some(lane) = &mut self.lanes[partition as usize] {
            lane.acked(&mut self.batches, batch, placed);
            self.after_answer(partition);
        }
    }

    /// A node refused a batch. It is not stored unless an earlier attempt stored it.
    pub fn refused(&mut self, token: u64, refusal: Refusal) {
        let Some(batch) = self.batches.named(token) else {
            return;
        };
        let partition = self.batches.get(batch).lane;
        if let Some(lane) = &mut self.lanes[partition as usize] {
            lane.refused(&mut self.batches, batch, refusal);
            self.after_answer(partition);
        }
    }

    /// The connection over which this partition's batches went is gone: what was under way will not be answered.
    pub fn disconnected(&mut self, partition: PartitionIndex) {
        if let Some(lane) = &mut self.lanes[partition.get() as usize] {
            lane.disconnected(&mut self.batches);
            self.after_answer(partition.get());
        }
    }

    fn after_answer(&mut self, partition: u32) {
        if let Some(lane) = &mut self.lanes[partition as usize] {
            if let Some(error) = lane.failed {
                // What still gathered ends with the lane.
                Self::seal(lane, &mut self.batches, self.stream, &self.settings);
                lane.fail_all(&mut self.batches, error);
            } else if lane.wants_restart() {
                Self::restart(lane, &mut self.batches, self.stream, &self.settings);
            }
        }
        self.mark(partition);
    }

    /// The owner did what [`Want::Later`] or [`Want::Refresh`] asked for.
    pub fn proceed(&mut self, partition: PartitionIndex) {
        if let Some(lane) = &mut self.lanes[partition.get() as usize] {
            lane.proceed();
        }
        self.mark(partition.get());
    }

    /// The question of [`Want::Resume`] is under way.
    pub fn resuming(&mut self, partition: PartitionIndex) {
        if let Some(lane) = &mut self.lanes[partition.get() as usize] {
            lane.resuming();
        }
    }

    /// Batches of a partition that wait for an answer: as long as there are some, no other connection may carry it.
    #[must_use]
    pub fn under_way(&self, partition: PartitionIndex) -> usize {
        self.lanes[partition.get() as usize]
            .as_ref()
            .map_or(0, |lane| lane.under_way())
    }

    /// The node answered [`Want::Resume`]. `last_seq`: the last batch that it holds of this producer and epoch; `None`:
    /// it does not know them. `reached`: where the partition ends.
    pub fn resumed(
        &mut self,
        partition: PartitionIndex,
        last_seq: Option<ProducerSeq>,
        reached: Reached,
    ) {
        let Some(lane) = &mut self.lanes[partition.get() as usize] else {
            return;
        };
        match lane.resumed(last_seq, reached) {
            lane::Resumed::Resend => {}
            lane::Resumed::Restart => {
                Self::restart(lane, &mut self.batches, self.stream, &self.settings);
            }
            lane::Resumed::Lost { from_seq, to_seq } => {
                self.lost(partition, from_seq, to_seq);
            }
        }
        self.mark(partition.get());
    }

    /// The question of [`Want::Resume`] was not answered: the lane learns its place again and goes on from there.
    pub fn resume_lost(&mut self, partition: PartitionIndex) {
        if let Some(lane) = &mut self.lanes[partition.get() as usize] {
            lane.resume_lost();
        }
        self.mark(partition.get());
    }

    /// The partition of the batch under way that a [`Dispatch::token`] names.
    #[must_use]
    pub fn lane_of(&self, token: u64) -> Option<PartitionIndex> {
        let batch = self.batches.named(token)?;
        Some(PartitionIndex::new(self.batches.get(batch).lane))
    }

    /// The node no longer holds batches that it had acknowledged. What waits behind them fails with the same error, so
    /// that the application decides what follows what; the lane begins again in its next epoch.
    pub fn lost(&mut self, partition: PartitionIndex, from_seq: u64, to_seq: u64) {
        let lost = AckedLost {
            partition,
            from_seq,
            to_seq,
        };
        let Some(lane) = self
            .lanes
            .get_mut(partition.get() as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        Self::seal(lane, &mut self.batches, self.stream, &self.settings);
        if lane.fail_all(&mut self.batches, SendError::AckedLost(lost)) == 0 {
            // Nobody waits whom it could be told: the next to send or to flush hears it.
            if self.losses.len() < limits::PRODUCER_WINDOW {
                self.losses.push_back(lost);
            }
        }
        lane.forget_reached();
        if !lane.begin_epoch() {
            lane.end(&mut self.batches, SendError::RestartsSpent);
        }
        self.mark(partition.get());
    }

    /// Whoever waits for one record of a failed batch was told of it: no flush needs to say it any more. To be said once
    /// for each record.
    pub fn told(&mut self, failure: FailureId) {
        self.batches.failures.told(failure);
    }

    /// The first failure of a record that nobody was told of; it stands for all of them. With none, the next loss of
    /// acknowledged batches that no waiting record could be told of.
    pub fn take_failure(&mut self) -> Option<SendError> {
        self.batches
            .failures
            .take()
            .or_else(|| self.losses.pop_front().map(SendError::AckedLost))
    }

    fn restart(lane: &mut Lane, batches: &mut Batches, stream: StreamId, settings: &Settings) {
        let partition = lane.partition;
        if !lane.begin_epoch() {
            Self::seal(lane, batches, stream, settings);
            return lane.end(batches, SendError::RestartsSpent);
        }
        let waiting = core::mem::take(&mut lane.batches);
        for index in waiting {
            let batch = batches.get(index);
            if batch.settled || batch.maybe_stored {
                batches.settle(index, partition, Err(SendError::OutcomeUnknown));
                batches.close(index);
            } else {
                let batch = batches.get_mut(index);
                batch.seq = lane.next_seq;
                lane.next_seq = lane.next_seq.advance(1);
                batch.bytes = batch::restamp(
                    &batch.bytes,
                    Stamp {
                        key: PartitionKey { stream, partition },
                        producer: settings.id,
                        epoch: lane.epoch,
                        seq: batch.seq,
                    },
                );
                lane.batches.push_back(index);
            }
        }
    }

    /// Settles every batch whose deadline has passed. One that may be stored is still sent again, because the sequence
    /// behind it needs its place; one that never left is taken out.
    pub fn expire(&mut self, now: Mono) {
        for partition in 0..self.lanes.len() {
            let Some(lane) = &mut self.lanes[partition] else {
                continue;
            };
            let oldest = lane.batches.front().or(lane.gathering.as_ref());
            if oldest.is_none_or(|index| self.batches.get(*index).deadline > now) {
                continue;
            }
            if lane.expire(&mut self.batches, now) {
                Self::restart_unsent(lane, &mut self.batches, self.stream, &self.settings);
            }
            self.mark(partition as u32);
        }
    }

    /// Closes the gaps that expired batches left among those that never left.
    fn restart_unsent(
        lane: &mut Lane,
        batches: &mut Batches,
        stream: StreamId,
        settings: &Settings,
    ) {
        let mut seq = None;
        for index in &lane.batches {
            let batch = batches.get_mut(*index);
            let wanted = seq.unwrap_or(lane.floor_seq);
            if batch.seq != wanted {
                batch.seq = wanted;
                batch.bytes = batch::restamp(
                    &batch.bytes,
                    Stamp {
                        key: PartitionKey {
                            stream,
                            partition: lane.partition,
                        },
                        producer: settings.id,
                        epoch: lane.epoch,
                        seq: wanted,
                    },
                );
            }
            seq = Some(wanted.advance(1));
        }
        lane.next_seq = seq.unwrap_or(lane.floor_seq);
    }

    /// Fails all that waits and refuses all that comes, for ever.
    pub fn fail(&mut self, error: SendError) {
        self.failed = Some(error);
        for lane in self.lanes.iter_mut().flatten() {
            Self::seal(lane, &mut self.batches, self.stream, &self.settings);
            lane.fail_all(&mut self.batches, error);
        }
    }

    /// The next outcome that was not taken yet.
    pub fn next_settled(&mut self) -> Option<Settled> {
        self.batches.settled.pop_front()
    }

    /// What the node is asked on [`Want::Resume`]: the lane's epoch and the last acknowledged batch in it.
    #[must_use]
    pub fn resume_point(&self, partition: PartitionIndex) -> (ProducerEpoch, Option<ProducerSeq>) {
        match &self.lanes[partition.get() as usize] {
            Some(lane) => (lane.epoch, lane.last_acked),
            None => (self.settings.session.first(), None),
        }
    }
}

pub(crate) const fn resumes_max() -> u32 {
    RESUMES_MAX
}
