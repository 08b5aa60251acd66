//! Requests that no credit covers: metadata, streams, offsets, resumptions. Each goes over any open link, or over the one
//! that leads to a partition; a lost link asks again elsewhere, a refusal that may pass is repeated after a wait, and the
//! deadline ends it. As many are under way on a link as its node allows; the others wait in order.

use super::routes::Place;
use super::{Engine, Event, LinkState, Timer};
use crate::core::connection::{Answer, AskRefused};
use crate::error::{Refusal, RequestError};
use std::collections::VecDeque;
use std::sync::Arc;
use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, StreamId, TenantId};
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_base::time::{Mono, Now};
use tiderace_wire::error::Retry;

/// What may be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Are you there.
    Ping {
        /// Comes back.
        nonce: u64,
    },
    /// Where the partitions of the stream at a path are led; one page.
    Metadata {
        /// The path.
        path: Arc<str>,
        /// The page's first partition.
        first_partition: PartitionIndex,
    },
    /// The nodes of the zone.
    Nodes,
    /// Create a stream. The same stream again is no error.
    Create {
        /// Its path.
        path: Arc<str>,
        /// How many partitions.
        partitions: u32,
        /// `None` takes the zone's default.
        durability: Option<Durability>,
        /// Who pays.
        tenant: TenantId,
        /// How much is kept.
        retention: Retention,
    },
    /// A stream, and the ends of the partitions that the asked shard knows; one page.
    Describe {
        /// The path.
        path: Arc<str>,
        /// The page's first partition.
        first_partition: PartitionIndex,
    },
    /// Streams in the order of their paths, those after a path; one page.
    List {
        /// The page begins after this path; empty: at the first.
        after: Arc<str>,
        /// Streams of the page, at most.
        limit: u32,
    },
    /// Delete a stream.
    Delete {
        /// Its id.
        stream: StreamId,
    },
    /// What a node has of a producer.
    Resume {
        /// Where.
        key: PartitionKey,
        /// Who.
        producer: ProducerId,
        /// In which of its epochs.
        epoch: ProducerEpoch,
        /// The last batch that was acknowledged.
        last_acked: Option<ProducerSeq>,
    },
    /// The first offset appended at or after a time.
    OffsetByTime {
        /// Where.
        key: PartitionKey,
        /// In microseconds since 1970.
        time_us: u64,
    },
}

/// An answer, and the link over which it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The link's number.
    pub link: u32,
    /// What the node said.
    pub answer: Answer,
}

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Application,
    Route(u32),
    Lane { producer: u32, partition: u32 },
}

#[derive(Debug)]
pub(super) struct Pending {
    request: Request,
    owner: Owner,
    /// Must go over this link; `None`: over any.
    only: Option<u32>,
    /// Is under way on this link.
    sent: Option<u32>,
    deadline: Mono,
    attempt: u32,
}

impl Engine {
    /// Asks, over any link. The outcome is an [`Event::Answered`] with the returned number.
    ///
    /// # Errors
    /// [`RequestError::Closed`], or [`RequestError::TooMany`] when as many wait as may.
    pub fn request(&mut self, now: Now, request: Request) -> Result<u64, RequestError> {
        self.admit()?;
        let id = self.ask(now, Owner::Application, request);
        self.run(now);
        Ok(id)
    }

    fn admit(&self) -> Result<(), RequestError> {
        if self.closed {
            return Err(RequestError::Closed);
        }
        if self.requests.len() >= super::REQUESTS_MAX {
            return Err(RequestError::TooMany);
        }
        Ok(())
    }

    /// Asks a certain shard, as metadata named it.
    ///
    /// # Errors
    /// As [`Engine::request`].
    pub fn request_at(
        &mut self,
        now: Now,
        place: Place,
        request: Request,
    ) -> Result<u64, RequestError> {
        self.admit()?;
        let link = self.link_to(place);
        let id = self.ask_on(now, link, Owner::Application, request);
        self.run(now);
        Ok(id)
    }

    /// Nobody waits for the answer any more.
    pub fn forget_request(&mut self, id: u64) {
        self.requests.remove(&id);
        self.queued.retain(|queued| *queued != id);
    }

    pub(super) fn ask(&mut self, now: Now, owner: Owner, request: Request) -> u64 {
        self.enqueue(now, None, owner, request)
    }

    pub(super) fn ask_on(&mut self, now: Now, link: u32, owner: Owner, request: Request) -> u64 {
        self.enqueue(now, Some(link), owner, request)
    }

    fn enqueue(&mut self, now: Now, only: Option<u32>, owner: Owner, request: Request) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        let deadline = now.mono.after_ns(self.settings.request_deadline_ns);
        self.requests.insert(
            id,
            Pending {
                request,
                owner,
                only,
                sent: None,
                deadline,
                attempt: 0,
            },
        );
        self.arm(deadline, Timer::Request(id));
        self.queued.push_back(id);
        if let Some(link) = only {
            self.connect(now, link);
        }
        self.send_queued(now);
        id
    }

    /// Sends what waits, as far as links are open and allow more.
    pub(super) fn send_queued(&mut self, now: Now) {
        let mut left = VecDeque::new();
        let any = self.open_link();
        while let Some(id) = self.queued.pop_front() {
            let Some(pending) = self.requests.get_mut(&id) else {
                continue;
            };
            let Some(link) = pending.only.or(any) else {
                left.push_back(id);
                continue;
            };
            let target = &mut self.links[link as usize];
            let sent = match (&mut target.connection, target.state) {
                (Some(connection), LinkState::Open) => connection.ask(id, &pending.request),
                _ => Err(AskRefused::NotOpen),
            };
            match sent {
                Ok(()) => {
                    pending.sent = Some(link);
                    self.mark_dirty(link);
                }
                Err(AskRefused::Full | AskRefused::NotOpen) => left.push_back(id),
                Err(AskRefused::Invalid(refusal)) => {
                    self.queued.append(&mut left);
                    self.finish(now, id, Err(RequestError::Refused(refusal)));
                    left = VecDeque::new();
                }
            }
        }
        self.queued = left;
    }

    fn finish(&mut self, now: Now, id: u64, result: Result<Reply, RequestError>) {
        let Some(pending) = self.requests.remove(&id) else {
            return;
        };
        match pending.owner {
            Owner::Application => self.events.push_back(Event::Answered {
                request: id,
                result,
            }),
            Owner::Route(route) => {
                let from = result.as_ref().ok().map(|reply| reply.link);
                self.route_answered(now, route, from, result.map(|reply| reply.answer));
            }
            Owner::Lane {
                producer,
                partition,
            } => self.lane_resumed(producer, partition, result.map(|reply| reply.answer)),
        }
    }

    pub(super) fn answered(&mut self, now: Now, link: u32, id: u64, answer: Answer) {
        self.finish(now, id, Ok(Reply { link, answer }));
        self.send_queued(now);
    }

    pub(super) fn request_refused(&mut self, now: Now, id: u64, refusal: Refusal) {
        if let Some(pending) = self.requests.get_mut(&id) {
            pending.sent = None;
            let repeats = match refusal.retry() {
                Retry::Later | Retry::Reconnect => true,
                // The application or the lane knows where else to ask.
                Retry::Refresh | Retry::Never => false,
            };
            if repeats && !matches!(pending.owner, Owner::Lane { .. }) {
                let wait = self
                    .settings
                    .backoff
                    .wait_ns(pending.attempt, &mut self.prng);
                pending.attempt = pending.attempt.saturating_add(1);
                self.arm(now.mono.after_ns(wait), Timer::Retry(id));
            } else {
                self.finish(now, id, Err(RequestError::Refused(refusal)));
            }
        }
        self.send_queued(now);
    }

    pub(super) fn request_again(&mut self, now: Now, id: u64) {
        if self
            .requests
            .get(&id)
            .is_some_and(|pending| pending.sent.is_none())
            && !self.queued.contains(&id)
        {
            self.queued.push_back(id);
            self.send_queued(now);
        }
    }

    pub(super) fn request_due(&mut self, now: Now, id: u64) {
        if self
            .requests
            .get(&id)
            .is_some_and(|pending| pending.deadline <= now.mono)
        {
            self.queued.retain(|queued| *queued != id);
            self.finish(now, id, Err(RequestError::Deadline));
        }
    }

    /// What was under way on a lost link is asked again. A resumption is left to its lane, which may go elsewhere.
    pub(super) fn requests_lost(&mut self, link: u32) {
        let mut lanes = Vec::new();
        for (id, pending) in &mut self.requests {
            if pending.sent == Some(link) || pending.only == Some(link) {
                let was_sent = pending.sent.take().is_some();
                if let Owner::Lane {
                    producer,
                    partition,
                } = pending.owner
                {
                    lanes.push((*id, producer, partition));
                } else if was_sent {
                    self.queued.push_back(*id);
                }
                // Over whichever link is open first: a node sends on what it does not lead.
                pending.only = None;
            }
        }
        for (id, producer, partition) in lanes {
            self.requests.remove(&id);
            self.queued.retain(|queued| *queued != id);
            self.lane_resumed(producer, partition, Err(RequestError::Unreachable));
        }
    }

    /// The application's requests that wait for a link fail: no link will carry them.
    pub(super) fn fail_queued(&mut self, error: RequestError) {
        let waiting: Vec<u64> = self.queued.drain(..).collect();
        for id in waiting {
            let application = self
                .requests
                .get(&id)
                .is_some_and(|pending| pending.owner == Owner::Application);
            if application {
                self.requests.remove(&id);
                self.events.push_back(Event::Answered {
                    request: id,
                    result: Err(error),
                });
            } else if self.requests.contains_key(&id) {
                self.queued.push_back(id);
            }
        }
    }

    pub(super) fn fail_all_requests(&mut self) {
        self.queued.clear();
        for (id, pending) in core::mem::take(&mut self.requests) {
            if pending.owner == Owner::Application {
                self.events.push_back(Event::Answered {
                    request: id,
                    result: Err(RequestError::Closed),
                });
            }
        }
    }
}
