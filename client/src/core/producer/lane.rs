//! One partition of one producer: the batches that wait or are under way, in the order of their sequence, and the state
//! that says what may be done with them. A refusal stops the lane until everything under way is answered, because what
//! follows a refused batch is refused too; then the lane does what the refusal asks for and begins again with the first
//! unacknowledged batch.

use super::epoch::{self, Reached};
use super::{Batches, Placed, Settings, resumes_max};
use crate::error::{Refusal, SendError};
use crate::record::Record;
use std::collections::VecDeque;
use tiderace_base::ids::PartitionIndex;
use tiderace_base::limits::{BATCH_HEADER_BYTES, BODY_BYTES_MAX};
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_base::time::Mono;
use tiderace_wire::body::BodyBuilder;
use tiderace_wire::error::{ErrorCode, Retry};

/// What a lane needs from its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Nothing: it waits for records, answers or its turn.
    Nothing,
    /// This batch is to be sent now.
    Send {
        /// Names it.
        batch: u32,
    },
    /// The node is to be asked what it has (`ProduceResume`).
    Resume,
    /// Wait a little, then say `proceed`.
    Later,
    /// The partition's place is out of date: learn the new one, then say `proceed`.
    Refresh,
}

/// What a lane does once everything under way is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// The node was busy: wait, then send again.
    Later,
    /// The partition lives elsewhere: learn where, then send again.
    Refresh,
    /// Sequences disagree: ask the node what it has.
    Resume,
    /// A batch was refused for good: give the rest new numbers in a new epoch.
    Restart,
}

/// What a lane may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Send.
    Ready,
    /// Wait for the answers of what is under way, then this.
    Draining(After),
    /// The owner was asked to wait or to refresh.
    Paused,
    /// The node is to be asked.
    WantsResume,
    /// The node was asked.
    Resuming,
}

/// What follows from the node's answer to a resumption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resumed {
    /// Send again from the first unacknowledged batch on.
    Resend,
    /// The numbers cannot be continued.
    Restart,
    /// Acknowledged batches are gone.
    Lost { from_seq: u64, to_seq: u64 },
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) partition: PartitionIndex,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) next_seq: ProducerSeq,
    /// The number of the first batch that is still here, or of the next one where none is.
    pub(crate) floor_seq: ProducerSeq,
    pub(crate) last_acked: Option<ProducerSeq>,
    /// Sealed, unacknowledged, by sequence.
    pub(crate) batches: VecDeque<u32>,
    pub(crate) gathering: Option<u32>,
    pub(crate) builder: BodyBuilder,
    /// Times of the oldest and the newest gathered record; `None` when nothing gathers.
    pub(crate) times: Option<(u64, u64)>,
    pub(crate) failed: Option<SendError>,
    pub(crate) marked: bool,
    /// How far the partition is known to reach.
    reached: Reached,
    /// How far it was known to reach when this epoch began: what has a number of this epoch stands at or past it, or
    /// nowhere.
    pub(crate) since: Reached,
    state: State,
    /// How many of `batches`, from the front, were handed out since the last resend.
    handed_out: usize,
    in_flight: usize,
    resumes: u32,
}

impl Lane {
    pub(crate) fn new(partition: PartitionIndex, epoch: ProducerEpoch) -> Self {
        Self {
            partition,
            epoch,
            next_seq: ProducerSeq::ZERO,
            floor_seq: ProducerSeq::ZERO,
            last_acked: None,
            batches: VecDeque::new(),
            gathering: None,
            builder: BodyBuilder::new(BATCH_HEADER_BYTES, BODY_BYTES_MAX),
            times: None,
            failed: None,
            marked: false,
            reached: Reached::default(),
            since: Reached::default(),
            state: State::Ready,
            handed_out: 0,
            in_flight: 0,
            resumes: 0,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Batches that wait for an answer.
    pub(crate) const fn under_way(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn has_room(
        &self,
        record: &Record,
        weight: usize,
        now_us: u64,
        settings: &Settings,
    ) -> bool {
        let Some((oldest, newest)) = self.times else {
            return true;
        };
        let time = record.time_us.unwrap_or(now_us);
        // A batch says its records' times as 32 bits of microseconds after the oldest.
        newest.max(time) - oldest.min(time) <= u64::from(u32::MAX)
            && self.builder.body_bytes() + weight <= settings.batch_bytes_max
            && self.builder.record_count() < settings.batch_records_max
    }

    /// Adds a record, for which there is room, to what gathers; its place in the batch.
    pub(crate) fn gather(&mut self, record: &Record, now_us: u64) -> u32 {
        let place = self.builder.record_count();
        let time = record.time_us.unwrap_or(now_us);
        self.times = Some(match self.times {
            None => (time, time),
            Some((oldest, newest)) => (oldest.min(time), newest.max(time)),
        });
        let headers: Vec<(&[u8], &[u8])> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
            .collect();
        self.builder
            .push(
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
                time,
            )
            .expect("size, key and room were checked");
        place
    }

    pub(crate) fn wants(&mut self, batches: &Batches, settings: &Settings) -> Want {
        match self.state {
            State::Ready => {
                // After a refusal what stands behind the refused batch may have been acknowledged as a duplicate: it keeps
                // its place, and is not sent again.
                while let Some(index) = self.batches.get(self.handed_out)
                    && batches.get(*index).acked
                {
                    self.handed_out += 1;
                }
                match self.batches.get(self.handed_out) {
                    Some(index) if self.in_flight < settings.inflight_max => {
                        Want::Send { batch: *index }
                    }
                    Some(_) | None => Want::Nothing,
                }
            }
            State::Draining(_) if self.in_flight > 0 => Want::Nothing,
            State::Draining(after) => match after {
                After::Later => {
                    self.state = State::Paused;
                    Want::Later
                }
                After::Refresh => {
                    self.state = State::Paused;
                    Want::Refresh
                }
                After::Resume => {
                    self.state = State::WantsResume;
                    Want::Resume
                }
                // The producer restarts a lane as soon as its last answer is in.
                After::Restart => Want::Nothing,
            },
            State::WantsResume => Want::Resume,
            State::Paused | State::Resuming => Want::Nothing,
        }
    }

    pub(crate) fn sent(&mut self, batches: &mut Batches) {
        let index = self.batches[self.handed_out];
        let batch = batches.get_mut(index);
        assert!(!batch.in_flight, "a batch is under way once at a time");
        batch.in_flight = true;
        self.handed_out += 1;
        self.in_flight += 1;
    }

    fn answered(&mut self, batches: &mut Batches, index: u32) {
        let batch = batches.get_mut(index);
        if core::mem::take(&mut batch.in_flight) {
            self.in_flight -= 1;
        }
    }

    pub(crate) fn acked(&mut self, batches: &mut Batches, index: u32, placed: Placed) {
        self.answered(batches, index);
        self.resumes = 0;
        self.reached.raise(Reached {
            epoch: placed.epoch,
            // A node that names an impossible offset breaks nothing here.
            offset: placed.base_offset.checked_add(1).unwrap_or_default(),
        });
        batches.get_mut(index).acked = true;
        batches.settle(index, self.partition, Ok(placed));
        self.pop_acked(batches);
    }

    /// Forgets the batches at the front that are stored and told of.
    fn pop_acked(&mut self, batches: &mut Batches) {
        while let Some(front) = self.batches.front().copied() {
            let batch = batches.get(front);
            if !batch.acked {
                break;
            }
            let seq = batch.seq;
            self.last_acked = Some(seq);
            self.pop_front(seq);
            batches.close(front);
        }
    }

    fn pop_front(&mut self, seq: ProducerSeq) {
        self.batches.pop_front();
        self.handed_out = self.handed_out.saturating_sub(1);
        self.floor_seq = seq.advance(1);
    }

    pub(crate) fn refused(&mut self, batches: &mut Batches, index: u32, refusal: Refusal) {
        self.answered(batches, index);
        let after = match refusal.code {
            ErrorCode::SequenceGap | ErrorCode::ProducerUnknown => After::Resume,
            ErrorCode::ProducerFenced => {
                self.fail_all(batches, SendError::Fenced);
                self.failed = Some(SendError::Fenced);
                return;
            }
            ErrorCode::SequenceReused => {
                // P-18: somebody else numbers in this epoch too. Whatever followed would be mixed with what they send.
                let error = SendError::Refused(refusal);
                batches.settle(index, self.partition, Err(error));
                return self.end(batches, error);
            }
            ErrorCode::DuplicateForgotten => {
                // It is stored; only where is forgotten. It has its place in the sequence.
                batches.get_mut(index).acked = true;
                batches.settle(index, self.partition, Err(SendError::Refused(refusal)));
                self.pop_acked(batches);
                After::Resume
            }
            code => match code.retry() {
                Retry::Later => After::Later,
                Retry::Refresh => After::Refresh,
                Retry::Reconnect => After::Refresh,
                Retry::Never => {
                    let maybe_stored = batches.get(index).maybe_stored;
                    let error = if maybe_stored {
                        SendError::OutcomeUnknown
                    } else {
                        SendError::Refused(refusal)
                    };
                    batches.settle(index, self.partition, Err(error));
                    After::Restart
                }
            },
        };
        self.state = match (self.state, after) {
            // A batch that is gone for good leaves a hole that only new numbers close.
            (_, After::Restart) => State::Draining(After::Restart),
            // The first refusal says why; those behind it follow from it.
            (State::Draining(first), _) => State::Draining(first),
            (State::Ready | State::Paused | State::WantsResume | State::Resuming, after) => {
                State::Draining(after)
            }
        };
    }

    pub(crate) fn disconnected(&mut self, batches: &mut Batches) {
        for index in &self.batches {
            let batch = batches.get_mut(*index);
            if core::mem::take(&mut batch.in_flight) {
                batch.maybe_stored = true;
            }
        }
        self.in_flight = 0;
        self.handed_out = 0;
        if self.state == State::Resuming {
            self.state = State::WantsResume;
        }
    }

    pub(crate) fn wants_restart(&self) -> bool {
        self.in_flight == 0 && self.state == State::Draining(After::Restart)
    }

    pub(crate) fn proceed(&mut self) {
        if self.state == State::Paused {
            self.state = State::Ready;
            self.handed_out = 0;
        }
    }

    pub(crate) fn resuming(&mut self) {
        assert_eq!(
            self.state,
            State::WantsResume,
            "a lane is resumed once at a time"
        );
        self.state = State::Resuming;
    }

    pub(crate) fn resume_lost(&mut self) {
        if self.state == State::Resuming {
            self.state = State::Draining(After::Refresh);
        }
    }

    pub(crate) fn resumed(&mut self, last_seq: Option<ProducerSeq>, reached: Reached) -> Resumed {
        self.reached.raise(reached);
        if self.state != State::Resuming {
            return Resumed::Resend;
        }
        self.state = State::Ready;
        self.handed_out = 0;
        self.resumes += 1;
        let Some(last_seq) = last_seq else {
            return Resumed::Restart;
        };
        if let Some(acked) = self.last_acked
            && last_seq < acked
        {
            return Resumed::Lost {
                from_seq: last_seq.get() + 1,
                to_seq: acked.get(),
            };
        }
        if last_seq
            .checked_add(1)
            .is_none_or(|due| due < self.floor_seq)
            || self.resumes > resumes_max()
        {
            return Resumed::Restart;
        }
        Resumed::Resend
    }

    /// Begins the next epoch with nothing sent. The caller has settled or will renumber what waits. False: the session
    /// has none left, and the lane ends.
    #[must_use]
    pub(crate) fn begin_epoch(&mut self) -> bool {
        let Some(epoch) = epoch::next(self.epoch) else {
            return false;
        };
        self.epoch = epoch;
        self.since = self.reached;
        self.next_seq = ProducerSeq::ZERO;
        self.floor_seq = ProducerSeq::ZERO;
        self.last_acked = None;
        self.state = State::Ready;
        self.handed_out = 0;
        self.in_flight = 0;
        self.resumes = 0;
        true
    }

    /// What was known of the partition's end may no longer be so: acknowledged batches are gone.
    pub(crate) fn forget_reached(&mut self) {
        self.reached = Reached::default();
    }

    /// Ends the lane for ever. What a node may hold is not said to be refused.
    pub(crate) fn end(&mut self, batches: &mut Batches, error: SendError) {
        for index in &self.batches {
            let batch = batches.get(*index);
            if batch.in_flight || batch.maybe_stored {
                batches.settle(*index, self.partition, Err(SendError::OutcomeUnknown));
            }
        }
        self.fail_all(batches, error);
        self.failed = Some(error);
    }

    /// Settles everything that waits; how many outcomes were told.
    pub(crate) fn fail_all(&mut self, batches: &mut Batches, error: SendError) -> usize {
        let mut told = 0;
        for index in core::mem::take(&mut self.batches) {
            let batch = batches.get_mut(index);
            batch.in_flight = false;
            told += usize::from(!batch.settled);
            batches.settle(index, self.partition, Err(error));
            batches.close(index);
        }
        self.handed_out = 0;
        self.in_flight = 0;
        told
    }

    /// Settles what is past its deadline; whether batches were taken out, so that the rest needs new numbers.
    pub(crate) fn expire(&mut self, batches: &mut Batches, now: Mono) -> bool {
        let attempted = self
            .batches
            .iter()
            .rposition(|index| {
                let batch = batches.get(*index);
                batch.in_flight || batch.maybe_stored || batch.acked
            })
            .map_or(0, |at| at + 1);
        let mut removed = false;
        let mut kept = VecDeque::with_capacity(self.batches.len());
        for (at, index) in self.batches.iter().enumerate() {
            let batch = batches.get(*index);
            let due = batch.deadline <= now;
            if due {
                let maybe_stored = at < attempted;
                batches.settle(
                    *index,
                    self.partition,
                    Err(SendError::Deadline { maybe_stored }),
                );
            }
            if due && at >= attempted {
                batches.close(*index);
                removed = true;
            } else {
                kept.push_back(*index);
            }
        }
        self.batches = kept;
        self.handed_out = self.handed_out.min(self.batches.len());
        if let Some(index) = self.gathering
            && batches.get(index).deadline <= now
        {
            self.gathering = None;
            drop(self.builder.finish());
            self.times = None;
            batches.settle(
                index,
                self.partition,
                Err(SendError::Deadline {
                    maybe_stored: false,
                }),
            );
            batches.close(index);
        }
        removed
    }
}
