//! One producing connection: its session, the places in flight, and the sequence of each partition. A place owns a
//! prepared batch and remembers when the batch was meant to be sent and when it was. Invariant: a place is either free or
//! in flight, and sequence numbers are given only to batches that were handed to the session.

use crate::batches::{Prepared, Shape, Stamp};
use crate::schedule::Schedule;
use crate::setup::Place;
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::ids::{ConnectionId, PartitionKey, ProducerId, StreamId};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq};
use tiderace_base::prng::Prng;
use tiderace_client::core::connection::{Connection, Identity};
use tiderace_client::{ErrorCode, Refusal};

/// A session and what the ring is doing for it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) conn: Option<ConnectionId>,
    pub(crate) sending: bool,
    /// Stands in the list of those to look at.
    pub(crate) dirty: bool,
}

impl Session {
    pub(crate) fn new(identity: &Identity) -> Self {
        Self {
            connection: Connection::new(identity),
            conn: None,
            sending: false,
            dirty: false,
        }
    }

    /// What is to be sent now, if anything and if nothing is being sent.
    pub(crate) fn transmit(&mut self) -> Option<(ConnectionId, Vec<Bytes>)> {
        let conn = self.conn?;
        if self.sending || self.connection.pending_bytes() == 0 {
            return None;
        }
        let mut parts = Vec::new();
        self.connection.transmit(&mut parts);
        self.sending = true;
        Some((conn, parts))
    }
}

/// When a batch was meant to be sent, and when it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Times {
    pub(crate) intended_ns: u64,
    /// None: never sent.
    pub(crate) sent_ns: Option<u64>,
}

#[derive(Debug)]
struct Slot {
    batch: Prepared,
    times: Times,
    epoch: ProducerEpoch,
    /// Which lane it was sent in.
    lane: usize,
    in_flight: bool,
}

#[derive(Debug)]
struct Lane {
    key: PartitionKey,
    slot_epoch: Epoch,
    next_seq: ProducerSeq,
    /// An offset that the partition had reached before this epoch of the producer.
    since: Offset,
}

/// What came of sending a batch that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fill {
    /// It is on its way.
    Sent {
        /// How late the generator itself was; `None` when the batch had to wait for the server.
        lag_ns: Option<u64>,
        /// When the next is due.
        next_ns: u64,
    },
    /// No place or no credit: it stays due.
    Blocked,
}

/// One producing connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) schedule: Option<Schedule>,
    slots: Vec<Slot>,
    /// The one free for longest first, so that all batches take part.
    free: VecDeque<u32>,
    in_flight_max: usize,
    lanes: Vec<Lane>,
    next_lane: usize,
    producer: ProducerId,
    epoch: ProducerEpoch,
    blocked: bool,
    /// Batches due before this had to wait for the server.
    unblocked_ns: u64,
}

/// What a link is made from.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    pub(crate) stream: StreamId,
    pub(crate) places: Vec<Place>,
    pub(crate) shape: Shape,
    pub(crate) in_flight: usize,
    /// Zero: batches are not deduplicated.
    pub(crate) producer: ProducerId,
    pub(crate) seed: u64,
}

/// Prepared batches of a connection with few in flight, so that keys vary.
const BATCHES_MIN: usize = 8;
/// Bytes of prepared batches beyond which no more are made for variety.
const VARIETY_BYTES_MAX: usize = 1 << 20;

impl Link {
    pub(crate) fn new(identity: &Identity, plan: LinkPlan) -> Self {
        let mut prng = Prng::new(plan.seed);
        let variety = (VARIETY_BYTES_MAX / plan.shape.batch_bytes()).clamp(1, BATCHES_MIN);
        let count = plan.in_flight.max(variety);
        let slots: Vec<Slot> = (0..count)
            .map(|_| Slot {
                batch: Prepared::new(plan.shape, &mut prng),
                times: Times::default(),
                epoch: ProducerEpoch::ZERO,
                lane: 0,
                in_flight: false,
            })
            .collect();
        Self {
            session: Session::new(identity),
            schedule: None,
            free: (0..slots.len() as u32).collect(),
            slots,
            in_flight_max: plan.in_flight,
            lanes: plan
                .places
                .iter()
                .map(|place| Lane {
                    key: PartitionKey {
                        stream: plan.stream,
                        partition: place.partition,
                    },
                    slot_epoch: place.epoch,
                    next_seq: ProducerSeq::ZERO,
                    since: Offset::ZERO,
                })
                .collect(),
            next_lane: 0,
            producer: plan.producer,
            epoch: ProducerEpoch::new(1),
            blocked: false,
            unblocked_ns: 0,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Hands one batch to the session. False: there is no place or no credit.
    fn send(&mut self, times: Times, wall_offset_us: i64) -> bool {
        if self.in_flight() >= self.in_flight_max {
            return false;
        }
        let Some(index) = self.free.front().copied() else {
            return false;
        };
        let lane = &mut self.lanes[self.next_lane];
        let slot = &mut self.slots[index as usize];
        let bytes = slot.batch.stamp(Stamp {
            key: lane.key,
            producer: self.producer,
            epoch: self.epoch,
            seq: lane.next_seq,
            time_us: (times.intended_ns / 1000).saturating_add_signed(wall_offset_us),
        });
        let sent = self.session.connection.produce(
            0,
            u64::from(index),
            bytes,
            lane.slot_epoch,
            lane.since,
        );
        if sent.is_err() {
            return false;
        }
        self.free.pop_front();
        slot.times = times;
        slot.epoch = self.epoch;
        slot.lane = self.next_lane;
        slot.in_flight = true;
        lane.next_seq = lane.next_seq.advance(1);
        self.next_lane = (self.next_lane + 1) % self.lanes.len();
        true
    }

    /// Sends until no place or no credit is left. Says how many were sent.
    pub(crate) fn saturate(&mut self, now_ns: u64, wall_offset_us: i64) -> u64 {
        let times = Times {
            intended_ns: now_ns,
            sent_ns: Some(now_ns),
        };
        let mut count = 0;
        while self.send(times, wall_offset_us) {
            count += 1;
        }
        count
    }

    /// Sends the batch that is due.
    pub(crate) fn send_due(&mut self, now_ns: u64, wall_offset_us: i64) -> Fill {
        let Some(schedule) = &self.schedule else {
            return Fill::Blocked;
        };
        let intended_ns = schedule.next_ns();
        let times = Times {
            intended_ns,
            sent_ns: Some(now_ns),
        };
        if !self.send(times, wall_offset_us) {
            self.blocked = true;
            return Fill::Blocked;
        }
        let next_ns = self.schedule.as_mut().map_or(u64::MAX, |schedule| {
            schedule.advance();
            schedule.next_ns()
        });
        Fill::Sent {
            lag_ns: (intended_ns >= self.unblocked_ns).then(|| now_ns.saturating_sub(intended_ns)),
            next_ns,
        }
    }

    /// When the next batch is due, if this connection was blocked and may try again.
    pub(crate) fn unblocked(&mut self, now_ns: u64) -> Option<u64> {
        if !self.blocked || self.in_flight() >= self.in_flight_max {
            return None;
        }
        self.blocked = false;
        self.unblocked_ns = now_ns;
        self.schedule.as_ref().map(Schedule::next_ns)
    }

    fn release(&mut self, index: u32) -> Times {
        let slot = &mut self.slots[index as usize];
        assert!(slot.in_flight, "a batch is answered once");
        slot.in_flight = false;
        self.free.push_back(index);
        slot.times
    }

    /// A batch was acknowledged.
    pub(crate) fn acked(&mut self, index: u32) -> Times {
        self.release(index)
    }

    /// A batch was refused. What follows it in its epoch would be refused for the gap: a new epoch begins from zero, and
    /// says that it is new to a partition that has forgotten producers.
    pub(crate) fn refused(&mut self, index: u32, refusal: Refusal) {
        let slot = &self.slots[index as usize];
        let epoch = slot.epoch;
        if refusal.code == ErrorCode::ProducerUnknown {
            self.lanes[slot.lane].since = Offset::new(refusal.detail_a);
        }
        self.release(index);
        if self.producer.get() != 0 && epoch == self.epoch {
            self.epoch = self.epoch.advance(1);
            for lane in &mut self.lanes {
                lane.next_seq = ProducerSeq::ZERO;
            }
        }
    }

    /// Whether everything due before `end_ns` was sent and answered.
    pub(crate) fn settled(&self, end_ns: u64) -> bool {
        self.in_flight() == 0
            && self
                .schedule
                .as_ref()
                .is_none_or(|schedule| schedule.next_ns() >= end_ns)
    }

    /// Tells everything due before `end_ns` that was never answered, or never even sent.
    pub(crate) fn abandon(&mut self, end_ns: u64, mut tell: impl FnMut(Times)) {
        for index in 0..self.slots.len() as u32 {
            if self.slots[index as usize].in_flight {
                let times = self.release(index);
                tell(times);
            }
        }
        while let Some(schedule) = &mut self.schedule {
            let intended_ns = schedule.next_ns();
            if intended_ns >= end_ns {
                break;
            }
            schedule.advance();
            tell(Times {
                intended_ns,
                sent_ns: None,
            });
        }
    }
}
