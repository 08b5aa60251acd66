//! Producers in the engine: which link a lane's batches go over, and what becomes of their answers. A lane changes its
//! link only when nothing of it is under way, so that two links never carry batches of one partition out of order.

use super::requests::{Owner, Request};
use super::{Engine, Event, LinkState, ProducerKey, Timer, Waiter};
use crate::core::connection::{Answer, SendRefused};
use crate::core::producer::{self, FailureId, Placed, Producer, PushError, Ticket, Want};
use crate::error::{Refusal, RequestError, SendError};
use crate::record::Record;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId};
use tiderace_base::time::Now;

#[derive(Debug)]
pub(super) struct ProducerEntry {
    pub(super) route: u32,
    settings: producer::Settings,
    /// Made when the stream is known.
    producer: Option<Producer>,
    failed: Option<SendError>,
    /// By partition: the link that carries it, and how often in a row it had to wait.
    lanes: Vec<LaneLink>,
    /// Somebody was told that there is no credit.
    wanting: bool,
    /// Stands in the engine's list of those to which something happened.
    touched: bool,
    /// The application has left it; it goes when nothing waits.
    retired: bool,
}

#[derive(Clone, Copy, Default, Debug)]
struct LaneLink {
    link: Option<u32>,
    attempt: u32,
}

impl Engine {
    /// A producer for the stream at `path`. Records are accepted once the stream's metadata is here, which
    /// [`Event::Room`] says.
    pub fn producer(&mut self, now: Now, path: &str, settings: producer::Settings) -> ProducerKey {
        let route = self.route_of(now, path);
        self.producers.push(Some(Box::new(ProducerEntry {
            route,
            settings,
            producer: None,
            failed: self.closed.then_some(SendError::Closed),
            lanes: Vec::new(),
            wanting: true,
            touched: false,
            retired: false,
        })));
        let key = ProducerKey((self.producers.len() - 1) as u32);
        self.producers_begin(route);
        self.run(now);
        key
    }

    /// Whether the producer accepts records, or why it never will.
    ///
    /// # Errors
    /// What made it fail.
    pub fn producer_ready(&self, key: ProducerKey) -> Result<bool, SendError> {
        match &self.producers[key.index()] {
            None => Err(SendError::Closed),
            Some(entry) => match entry.failed {
                Some(error) => Err(error),
                None => Ok(entry.producer.is_some()),
            },
        }
    }

    /// Partitions of the producer's stream; `None` until its metadata is here.
    #[must_use]
    pub fn producer_partitions(&self, key: ProducerKey) -> Option<u32> {
        let entry = self.producers[key.index()].as_ref()?;
        entry.producer.as_ref().map(Producer::partitions)
    }

    /// Accepts a record and sends what may be sent.
    ///
    /// # Errors
    /// [`PushError::Full`]: no credit; [`Event::Room`] says when to try again.
    pub fn push(
        &mut self,
        now: Now,
        key: ProducerKey,
        record: &Record,
        partition: Option<PartitionIndex>,
    ) -> Result<Ticket, PushError> {
        let Some(entry) = &mut self.producers[key.index()] else {
            return Err(PushError::Invalid(SendError::Closed));
        };
        if let Some(error) = entry.failed {
            return Err(PushError::Invalid(error));
        }
        let Some(producer) = &mut entry.producer else {
            entry.wanting = true;
            return Err(PushError::Full);
        };
        let result = producer.push(now, record, partition);
        self.touch(key.0);
        let entry = self.producers[key.index()].as_mut();
        if matches!(result, Err(PushError::Full))
            && let Some(entry) = entry
        {
            entry.wanting = true;
        }
        if !core::mem::replace(&mut self.expire_armed, true) {
            let step = self.producers[key.index()]
                .as_ref()
                .map_or(1, |entry| entry.settings.deadline_ns / 8);
            self.arm(now.mono.after_ns(step.max(1_000_000)), Timer::Expire);
        }
        self.run(now);
        result
    }

    /// Accepted batches of a producer whose outcome is not known.
    #[must_use]
    pub fn unsettled(&self, key: ProducerKey) -> usize {
        self.producers[key.index()]
            .as_ref()
            .and_then(|entry| entry.producer.as_ref())
            .map_or(0, Producer::unsettled)
    }

    /// Whoever waits for one record of a failed batch ([`producer::Settled::failure`]) was told of it.
    pub fn told(&mut self, key: ProducerKey, failure: FailureId) {
        if let Some(producer) = self.producer_mut(key) {
            producer.told(failure);
        }
    }

    /// What a flush has to say: [`Producer::take_failure`].
    pub fn take_failure(&mut self, key: ProducerKey) -> Option<SendError> {
        self.producer_mut(key)?.take_failure()
    }

    /// Ends a producer. What it still held fails with [`SendError::Closed`]; it may be stored nevertheless.
    ///
    /// # Errors
    /// What a flush would have to say now: nobody can ask later.
    pub fn close_producer(&mut self, now: Now, key: ProducerKey) -> Result<(), SendError> {
        self.fail_producer(key.0, SendError::Closed);
        self.run(now);
        let untold = self.take_failure(key);
        self.producers[key.index()] = None;
        untold.map_or(Ok(()), Err)
    }

    fn producer_mut(&mut self, key: ProducerKey) -> Option<&mut Producer> {
        self.producers[key.index()].as_mut()?.producer.as_mut()
    }

    /// The application has left a producer. What it accepted is still sent; then it is forgotten.
    pub fn retire_producer(&mut self, key: ProducerKey) {
        if let Some(entry) = &mut self.producers[key.index()] {
            entry.retired = true;
        }
        self.touch(key.0);
        self.tell_settled();
    }

    /// The producer, to which something is about to happen.
    fn touch(&mut self, index: u32) -> Option<&mut Producer> {
        let entry = self.producers.get_mut(index as usize)?.as_mut()?;
        if !core::mem::replace(&mut entry.touched, true) {
            self.touched.push(index);
        }
        entry.producer.as_mut()
    }

    fn fail_producer(&mut self, index: u32, error: SendError) {
        self.touch(index);
        if let Some(entry) = &mut self.producers[index as usize] {
            entry.failed.get_or_insert(error);
            if let Some(producer) = &mut entry.producer {
                producer.fail(error);
            }
            entry.wanting = false;
            self.events.push_back(Event::Room {
                producer: ProducerKey(index),
            });
        }
    }

    pub(super) fn close_producers(&mut self) {
        for index in 0..self.producers.len() {
            self.fail_producer(index as u32, SendError::Closed);
        }
    }

    pub(super) fn producers_fail(&mut self, route: u32, error: RequestError) {
        for index in 0..self.producers.len() {
            if self.producers[index]
                .as_ref()
                .is_some_and(|entry| entry.route == route)
            {
                self.fail_producer(index as u32, SendError::Stream(error));
            }
        }
    }

    /// The stream's metadata is here.
    pub(super) fn producers_begin(&mut self, route: u32) {
        let Some(row) = self.routes[route as usize].stream.clone() else {
            return;
        };
        let reached = self.reached_partitions(route);
        for index in 0..self.producers.len() {
            let Some(entry) = &mut self.producers[index] else {
                continue;
            };
            if entry.route != route || entry.producer.is_some() || entry.failed.is_some() {
                continue;
            }
            let mut producer = Producer::new(row.id, row.partitions, entry.settings);
            producer.prefer(reached.iter().copied());
            entry.producer = Some(producer);
            entry.lanes = vec![LaneLink::default(); row.partitions as usize];
            entry.wanting = false;
            self.events.push_back(Event::Room {
                producer: ProducerKey(index as u32),
            });
        }
    }

    /// Queues every lane that wants something.
    pub(super) fn mark_dirty_lanes(&mut self) {
        for index in &self.touched {
            let Some(producer) = self.producers[*index as usize]
                .as_mut()
                .and_then(|entry| entry.producer.as_mut())
            else {
                continue;
            };
            while let Some(partition) = producer.next_dirty() {
                self.due.push_back(Waiter::Lane {
                    producer: *index,
                    partition: partition.get(),
                });
            }
        }
    }

    pub(super) fn lane_proceeds(&mut self, index: u32, partition: u32) {
        if let Some(producer) = self.touch(index) {
            producer.proceed(PartitionIndex::new(partition));
        }
    }

    /// Does what a lane wants, as far as its link allows.
    pub(super) fn serve_lane(&mut self, now: Now, index: u32, partition: u32) {
        let waiter = Waiter::Lane {
            producer: index,
            partition,
        };
        self.touch(index);
        loop {
            let Some(entry) = &mut self.producers[index as usize] else {
                return;
            };
            let route = entry.route;
            let Some(producer) = &mut entry.producer else {
                return;
            };
            let lane = entry.lanes[partition as usize];
            match producer.wants(PartitionIndex::new(partition)) {
                Want::Nothing => return,
                Want::Later => {
                    let wait = self.settings.backoff.wait_ns(lane.attempt, &mut self.prng);
                    self.set_lane(index, partition, |lane| {
                        lane.attempt = lane.attempt.saturating_add(1);
                    });
                    self.arm(now.mono.after_ns(wait), Timer::Waiter(waiter));
                    return;
                }
                Want::Refresh => {
                    self.set_lane(index, partition, |lane| lane.link = None);
                    self.refresh(now, route, waiter);
                    return;
                }
                Want::Send { batch } => {
                    let Some(link) = self.lane_link(now, index, partition, waiter) else {
                        return;
                    };
                    let entry = self.producers[index as usize].as_mut();
                    let Some(producer) = entry.and_then(|entry| entry.producer.as_mut()) else {
                        return;
                    };
                    let epoch = self.routes[route as usize].places[partition as usize]
                        .map_or_else(Default::default, |place| place.epoch);
                    let dispatch = producer.dispatch(batch);
                    let target = &mut self.links[link as usize];
                    let Some(connection) = &mut target.connection else {
                        return;
                    };
                    let since = dispatch.since.within(epoch);
                    match connection.produce(index, dispatch.token, &dispatch.bytes, epoch, since) {
                        Ok(()) => {
                            producer.sent(PartitionIndex::new(partition));
                            self.mark_dirty(link);
                        }
                        Err(SendRefused::NoCredit) => {
                            target.waiters.insert(waiter);
                            return;
                        }
                        Err(SendRefused::NotOpen) => {
                            self.place_lost(now, waiter);
                            return;
                        }
                    }
                }
                Want::Resume => {
                    let Some(link) = self.lane_link(now, index, partition, waiter) else {
                        return;
                    };
                    let Some(producer) = self.producers[index as usize]
                        .as_mut()
                        .and_then(|entry| entry.producer.as_mut())
                    else {
                        return;
                    };
                    let (epoch, last_acked) = producer.resume_point(PartitionIndex::new(partition));
                    let request = Request::Resume {
                        key: PartitionKey {
                            stream: producer.stream(),
                            partition: PartitionIndex::new(partition),
                        },
                        producer: producer.id(),
                        epoch,
                        last_acked,
                    };
                    producer.resuming(PartitionIndex::new(partition));
                    self.ask_on(
                        now,
                        link,
                        Owner::Lane {
                            producer: index,
                            partition,
                        },
                        request,
                    );
                    return;
                }
            }
        }
    }

    fn set_lane(&mut self, index: u32, partition: u32, change: impl FnOnce(&mut LaneLink)) {
        if let Some(entry) = &mut self.producers[index as usize]
            && let Some(lane) = entry.lanes.get_mut(partition as usize)
        {
            change(lane);
        }
    }

    /// The open link for a lane. When there is none the lane waits, for the link or for the route.
    fn lane_link(&mut self, now: Now, index: u32, partition: u32, waiter: Waiter) -> Option<u32> {
        let entry = self.producers[index as usize].as_ref()?;
        let route = entry.route;
        let lane = entry.lanes[partition as usize];
        let producer = entry.producer.as_ref()?;
        if let Some(link) = lane.link
            && producer.under_way(PartitionIndex::new(partition)) > 0
        {
            return Some(link);
        }
        let Some(place) = self.place(route, partition) else {
            self.refresh(now, route, waiter);
            return None;
        };
        let link = self.link_to(place);
        self.set_lane(index, partition, |lane| lane.link = Some(link));
        if self.links[link as usize].state == LinkState::Open {
            return Some(link);
        }
        self.links[link as usize].waiters.insert(waiter);
        self.connect(now, link);
        None
    }

    fn answer_of(&mut self, owner: u32, token: u64) -> Option<(u32, u32)> {
        let entry = self.producers.get(owner as usize)?.as_ref()?;
        let partition = entry.producer.as_ref()?.lane_of(token)?;
        Some((entry.route, partition.get()))
    }

    pub(super) fn produce_acked(&mut self, owner: u32, token: u64, placed: Placed) {
        let Some((route, partition)) = self.answer_of(owner, token) else {
            return;
        };
        self.set_lane(owner, partition, |lane| lane.attempt = 0);
        self.route_works(route);
        if let Some(producer) = self.touch(owner) {
            producer.acked(token, placed);
        }
    }

    pub(super) fn produce_refused(&mut self, owner: u32, token: u64, refusal: Refusal) {
        if let Some(producer) = self.touch(owner) {
            producer.refused(token, refusal);
        }
    }

    pub(super) fn lane_resumed(
        &mut self,
        index: u32,
        partition: u32,
        result: Result<Answer, RequestError>,
    ) {
        let Some(producer) = self.touch(index) else {
            return;
        };
        let partition = PartitionIndex::new(partition);
        match result {
            Ok(Answer::Resumed { last_seq, reached }) => {
                producer.resumed(partition, last_seq, reached);
            }
            // It is asked again, over whichever link leads there then.
            Ok(_) | Err(_) => producer.resume_lost(partition),
        }
    }

    pub(super) fn acked_lost(
        &mut self,
        key: PartitionKey,
        id: ProducerId,
        from_seq: u64,
        to_seq: u64,
    ) {
        for index in 0..self.producers.len() {
            if let Some(producer) = self.touch(index as u32)
                && producer.stream() == key.stream
                && producer.id() == id
            {
                producer.lost(key.partition, from_seq, to_seq);
            }
        }
    }

    /// A link is gone: lanes whose batches were under way on it send them again elsewhere.
    pub(super) fn lanes_lost(&mut self, now: Now, link: u32) {
        for index in 0..self.producers.len() {
            self.touch(index as u32);
            let Some(entry) = &mut self.producers[index] else {
                continue;
            };
            let Some(producer) = &mut entry.producer else {
                continue;
            };
            let mut lost = false;
            for (partition, lane) in entry.lanes.iter_mut().enumerate() {
                if lane.link == Some(link) {
                    let partition = PartitionIndex::new(partition as u32);
                    lost |= producer.under_way(partition) > 0;
                    lane.link = None;
                    producer.disconnected(partition);
                }
            }
            if lost {
                let route = entry.route;
                self.route_stale(now, route);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Now) {
        let mut step = None;
        for index in 0..self.producers.len() {
            self.touch(index as u32);
            let Some(entry) = &mut self.producers[index] else {
                continue;
            };
            if let Some(producer) = &mut entry.producer {
                producer.expire(now.mono);
                if producer.unsettled() > 0 {
                    let own = entry.settings.deadline_ns / 8;
                    step = Some(step.map_or(own, |step: u64| step.min(own)));
                }
            }
        }
        self.expire_armed = step.is_some();
        if let Some(step) = step {
            self.arm(now.mono.after_ns(step.max(1_000_000)), Timer::Expire);
        }
    }

    /// Moves the producers' outcomes to the events.
    pub(super) fn tell_settled(&mut self) {
        while let Some(index) = self.touched.pop() {
            let cell = &mut self.producers[index as usize];
            let Some(entry) = cell else {
                continue;
            };
            entry.touched = false;
            let key = ProducerKey(index);
            if let Some(producer) = &mut entry.producer {
                while let Some(settled) = producer.next_settled() {
                    self.events.push_back(Event::Settled {
                        producer: key,
                        settled,
                    });
                    if core::mem::take(&mut entry.wanting) {
                        self.events.push_back(Event::Room { producer: key });
                    }
                }
            }
            if entry.retired
                && entry
                    .producer
                    .as_ref()
                    .is_none_or(|producer| producer.unsettled() == 0)
            {
                *cell = None;
            }
        }
    }
}
