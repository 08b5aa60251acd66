//! The whole client as one machine without IO: links, routes, requests, producers and consumers. A driver tells it what
//! happened (connected, bytes received, disconnected, time passed) and does what it asks (connect, send, disconnect); an
//! application's calls come in between. Reads no clock and no entropy: both are arguments, so the simulator runs it under
//! a seed.
//!
//! - **Links** are connected when something needs them and not before, at most [`Settings::links_max`] of them. A lost
//!   link waits for an exponential, randomised, bounded time before it is tried again, and what it carried is carried on.
//! - **Routes** say where a stream's partitions are led. They are learnt on first use and again when a node says that they
//!   are out of date.
//! - **Everything is bounded**: requests, producers' buffers, consumers' credit. What waits has a deadline.

mod consume;
mod produce;
mod requests;
mod routes;

use crate::core::backoff::Backoff;
use crate::core::connection::{Completion, Connection, Identity};
use crate::core::producer::Settled;
use crate::error::{Refusal, RequestError, Violation};
use bytes::Bytes;
use consume::ConsumerEntry;
pub use consume::ConsumerSettings;
use core::cmp::Reverse;
use produce::ProducerEntry;
use requests::Pending;
pub use requests::{Reply, Request};
pub use routes::Place;
use routes::Route;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use tiderace_base::ids::{NodeId, ShardId};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now};
use tiderace_wire::error::Retry;

/// Links of one client, unless set otherwise.
const LINKS_MAX_DEFAULT: usize = 64;
/// Requests of one client that may wait for an answer.
const REQUESTS_MAX: usize = 1024;

/// A link on which the protocol was broken waits as if it had failed this often.
const ATTEMPTS_AFTER_VIOLATION: u32 = 5;

/// How a client connects and how long it waits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who the client says it is.
    pub identity: Identity,
    /// Where to connect first; others are learnt. Not empty.
    pub addresses: Vec<SocketAddr>,
    /// Connections at once. At least 1.
    pub links_max: usize,
    /// Waits between attempts to connect, and between attempts of a request that may be repeated.
    pub backoff: Backoff,
    /// How long a connection may take until it is open, in nanoseconds.
    pub connect_deadline_ns: u64,
    /// How long a request may wait for its answer, in nanoseconds.
    pub request_deadline_ns: u64,
}

impl Settings {
    /// The defaults for a client of these addresses.
    #[must_use]
    pub fn new(identity: Identity, addresses: Vec<SocketAddr>) -> Self {
        Self {
            identity,
            addresses,
            links_max: LINKS_MAX_DEFAULT,
            backoff: Backoff::default(),
            connect_deadline_ns: 5_000_000_000,
            request_deadline_ns: 30_000_000_000,
        }
    }
}

macro_rules! handle {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(u32);

        impl $name {
            /// Its number, from zero, for tables beside the engine's.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

handle!(
    /// A connection to one address, over all its lives.
    LinkId
);
handle!(
    /// A producer of an engine. Never used again.
    ProducerKey
);
handle!(
    /// A consumer of an engine. Never used again.
    ConsumerKey
);

/// What an engine asks of its driver, or tells it.
#[derive(Debug)]
pub enum Event {
    /// Connect; say `connected` or `disconnected`.
    Connect {
        /// Which link.
        link: LinkId,
        /// Where to.
        address: SocketAddr,
    },
    /// Close the link's socket, or give up connecting it. Not answered.
    Disconnect {
        /// Which link.
        link: LinkId,
    },
    /// The outcome of a batch.
    Settled {
        /// Whose.
        producer: ProducerKey,
        /// What came of it.
        settled: Settled,
    },
    /// A producer that had no credit, or was not ready, may be tried again. Said before the outcome that made room.
    Room {
        /// Which.
        producer: ProducerKey,
    },
    /// The outcome of a request.
    Answered {
        /// Which.
        request: u64,
        /// What came of it.
        result: Result<Reply, RequestError>,
    },
    /// A consumer has something to take.
    Ready {
        /// Which.
        consumer: ConsumerKey,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LinkState {
    /// Nothing needs it.
    Idle,
    /// The driver connects, or the hello is on its way.
    Connecting { until: Mono },
    /// In use.
    Open,
    /// Lost; to be tried again.
    Waiting { until: Mono },
}

/// Something that waits for a link to open or to have credit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Waiter {
    Lane { producer: u32, partition: u32 },
    Part { consumer: u32, part: u32 },
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    state: LinkState,
    connection: Option<Connection>,
    /// Node and shard, as the last welcome said.
    place: Option<(NodeId, ShardId)>,
    attempt: u32,
    /// One of the addresses that the application gave: any node there will do.
    seed: bool,
    waiters: BTreeSet<Waiter>,
    /// Output was queued since the driver last took it.
    dirty: bool,
    /// Broke the protocol, or refused for good, since it was last welcomed.
    bad: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Link(u32),
    Waiter(Waiter),
    Route(u32),
    Request(u64),
    Retry(u64),
    Expire,
}

/// The machine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    prng: Prng,
    links: Vec<Link>,
    next_seed: usize,
    routes: Vec<Route>,
    producers: Vec<Option<Box<ProducerEntry>>>,
    /// Producers to which something happened in this call.
    touched: Vec<u32>,
    consumers: Vec<Option<Box<ConsumerEntry>>>,
    requests: BTreeMap<u64, Pending>,
    /// Requests that wait for any open link.
    queued: VecDeque<u64>,
    next_request: u64,
    timers: BinaryHeap<Reverse<(Mono, Timer)>>,
    expire_armed: bool,
    events: VecDeque<Event>,
    dirty_links: Vec<u32>,
    completions: Vec<Completion>,
    /// Lanes and parts that are to be served before the call returns.
    due: VecDeque<Waiter>,
    closed: bool,
}

impl Engine {
    /// A client that has done nothing yet. `seed` decides every random choice.
    ///
    /// # Panics
    /// When there is no address.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        assert!(
            !settings.addresses.is_empty(),
            "a client has an address to begin with"
        );
        let mut engine = Self {
            prng: Prng::new(seed),
            links: Vec::new(),
            next_seed: 0,
            routes: Vec::new(),
            producers: Vec::new(),
            touched: Vec::new(),
            consumers: Vec::new(),
            requests: BTreeMap::new(),
            queued: VecDeque::new(),
            next_request: 1,
            timers: BinaryHeap::new(),
            expire_armed: false,
            events: VecDeque::new(),
            dirty_links: Vec::new(),
            completions: Vec::new(),
            due: VecDeque::new(),
            closed: false,
            settings,
        };
        engine.settings.links_max = engine.settings.links_max.max(1);
        let seeds = engine.settings.addresses.clone();
        for address in seeds.into_iter().take(engine.settings.links_max) {
            if engine.links.iter().all(|link| link.address != address) {
                engine.add_link(address, true);
            }
        }
        engine
    }

    fn add_link(&mut self, address: SocketAddr, seed: bool) -> u32 {
        self.links.push(Link {
            address,
            state: LinkState::Idle,
            connection: None,
            place: None,
            attempt: 0,
            seed,
            waiters: BTreeSet::new(),
            dirty: false,
            bad: false,
        });
        (self.links.len() - 1) as u32
    }

    /// The next thing that the driver is to do or to tell.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A link with bytes to send, each once until it has more. Take them by [`Engine::transmit`].
    pub fn next_transmit(&mut self) -> Option<LinkId> {
        let link = self.dirty_links.pop()?;
        self.links[link as usize].dirty = false;
        Some(LinkId(link))
    }

    /// Moves what is to be sent on a link behind `out`, in order.
    pub fn transmit(&mut self, link: LinkId, out: &mut Vec<Bytes>) {
        if let Some(connection) = &mut self.links[link.index()].connection {
            connection.transmit(out);
        }
    }

    /// When [`Engine::tick`] is due next, if ever.
    #[must_use]
    pub fn wake_at(&self) -> Option<Mono> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn arm(&mut self, at: Mono, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now.mono {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Link(link) => self.link_due(now, link),
                Timer::Waiter(waiter) => self.waiter_due(waiter),
                Timer::Route(route) => self.route_due(now, route),
                Timer::Request(request) => self.request_due(now, request),
                Timer::Retry(request) => self.request_again(now, request),
                Timer::Expire => self.expire(now),
            }
        }
        self.run(now);
    }

    fn link_due(&mut self, now: Now, index: u32) {
        match self.links[index as usize].state {
            LinkState::Waiting { until } if until <= now.mono => {
                let link = &mut self.links[index as usize];
                link.state = LinkState::Idle;
                if !link.waiters.is_empty() {
                    self.connect(now, index);
                }
            }
            LinkState::Connecting { until } if until <= now.mono => {
                self.events.push_back(Event::Disconnect {
                    link: LinkId(index),
                });
                self.lost(now, index);
            }
            LinkState::Idle
            | LinkState::Open
            | LinkState::Waiting { .. }
            | LinkState::Connecting { .. } => {}
        }
    }

    /// A lane or part whose wait is over.
    fn waiter_due(&mut self, waiter: Waiter) {
        if let Waiter::Lane {
            producer,
            partition,
        } = waiter
        {
            self.lane_proceeds(producer, partition);
        }
        self.due.push_back(waiter);
    }

    /// Begins to connect a link that is idle. One that waits after a loss is left waiting.
    fn connect(&mut self, now: Now, index: u32) {
        if self.closed {
            return;
        }
        let until = now.mono.after_ns(self.settings.connect_deadline_ns);
        let link = &mut self.links[index as usize];
        if link.state != LinkState::Idle {
            return;
        }
        link.state = LinkState::Connecting { until };
        self.events.push_back(Event::Connect {
            link: LinkId(index),
            address: link.address,
        });
        self.arm(until, Timer::Link(index));
    }

    /// The driver connected a link.
    pub fn connected(&mut self, now: Now, link: LinkId) {
        let identity = &self.settings.identity;
        let entry = &mut self.links[link.index()];
        if matches!(entry.state, LinkState::Connecting { .. }) && entry.connection.is_none() {
            entry.connection = Some(Connection::new(identity));
            self.mark_dirty(link.0);
        }
        self.run(now);
    }

    fn mark_dirty(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        if !link.dirty {
            link.dirty = true;
            self.dirty_links.push(index);
        }
    }

    /// Bytes arrived on a link, in order.
    pub fn received(&mut self, now: Now, link: LinkId, bytes: Bytes) {
        let Some(connection) = &mut self.links[link.index()].connection else {
            return;
        };
        let mut completions = core::mem::take(&mut self.completions);
        let result = connection.receive(bytes, &mut completions);
        for completion in completions.drain(..) {
            self.complete(now, link.0, completion);
        }
        self.completions = completions;
        if let Err(violation) = result {
            self.violated(now, link.0, violation);
        } else {
            self.mark_dirty_if_pending(link.0);
        }
        self.run(now);
    }

    fn mark_dirty_if_pending(&mut self, index: u32) {
        let pending = self.links[index as usize]
            .connection
            .as_ref()
            .is_some_and(|connection| connection.pending_bytes() > 0);
        if pending {
            self.mark_dirty(index);
        }
    }

    fn violated(&mut self, now: Now, index: u32, violation: Violation) {
        self.events.push_back(Event::Disconnect {
            link: LinkId(index),
        });
        self.link_bad(index, RequestError::Violation(violation));
        self.lost(now, index);
    }

    /// A link is gone, or could not be connected.
    pub fn disconnected(&mut self, now: Now, link: LinkId) {
        if !matches!(
            self.links[link.index()].state,
            LinkState::Idle | LinkState::Waiting { .. }
        ) {
            self.lost(now, link.0);
        }
        self.run(now);
    }

    /// Everything that a lost link carried is to be carried on.
    fn lost(&mut self, now: Now, index: u32) {
        let wait = {
            let link = &mut self.links[index as usize];
            let wait = self.settings.backoff.wait_ns(link.attempt, &mut self.prng);
            link.attempt = link.attempt.saturating_add(1);
            link.connection = None;
            link.state = LinkState::Waiting {
                until: now.mono.after_ns(wait),
            };
            wait
        };
        self.arm(now.mono.after_ns(wait), Timer::Link(index));
        self.lanes_lost(now, index);
        self.parts_lost(now, index);
        self.requests_lost(index);
        // Where its partitions are led may have changed with it: whoever waits for it asks again.
        let waiters = core::mem::take(&mut self.links[index as usize].waiters);
        for waiter in waiters {
            self.place_lost(now, waiter);
        }
        self.reach_any(now);
    }

    /// Makes sure that some link is open or on its way when requests wait for any.
    fn reach_any(&mut self, now: Now) {
        if self.queued.is_empty() || self.open_link().is_some() {
            return;
        }
        let connecting = self
            .links
            .iter()
            .any(|link| matches!(link.state, LinkState::Connecting { .. }));
        if connecting {
            return;
        }
        for step in 0..self.links.len() {
            let index = (self.next_seed + step) % self.links.len();
            if self.links[index].state == LinkState::Idle {
                self.next_seed = (index + 1) % self.links.len();
                self.connect(now, index as u32);
                return;
            }
        }
    }

    fn open_link(&self) -> Option<u32> {
        self.links
            .iter()
            .position(|link| link.state == LinkState::Open)
            .map(|index| index as u32)
    }

    fn complete(&mut self, now: Now, index: u32, completion: Completion) {
        match completion {
            Completion::Open(welcome) => {
                let link = &mut self.links[index as usize];
                link.state = LinkState::Open;
                link.attempt = 0;
                link.bad = false;
                link.place = Some((welcome.node, welcome.shard));
                self.wake_link(index);
                self.send_queued(now);
            }
            Completion::Room => self.wake_link(index),
            Completion::Goodbye => {
                // The node goes away: begin elsewhere, and learn where.
                self.events.push_back(Event::Disconnect {
                    link: LinkId(index),
                });
                self.lost(now, index);
            }
            Completion::Acked {
                owner,
                token,
                placed,
            } => self.produce_acked(owner, token, placed),
            Completion::ProduceRefused {
                owner,
                token,
                refusal,
            } => self.produce_refused(owner, token, refusal),
            Completion::AckedLost {
                partition,
                producer,
                from_seq,
                to_seq,
            } => self.acked_lost(partition, producer, from_seq, to_seq),
            Completion::Redirect {
                partition,
                epoch,
                node,
                shard,
                address,
            } => self.redirected(index, partition, epoch, node, shard, &address),
            Completion::Answered { token, answer } => self.answered(now, index, token, answer),
            Completion::Refused { token, refusal } => self.request_refused(now, token, refusal),
            Completion::Subscription {
                owner,
                subscription,
                notice,
            } => self.subscription(now, index, owner, subscription, notice),
            Completion::Ended(refusal) => self.link_refused(now, index, refusal),
        }
    }

    /// The node ends the connection and said why. A reason that no other attempt mends is told.
    fn link_refused(&mut self, now: Now, index: u32, refusal: Refusal) {
        self.events.push_back(Event::Disconnect {
            link: LinkId(index),
        });
        if refusal.retry() == Retry::Never {
            self.link_bad(index, RequestError::Refused(refusal));
        }
        self.lost(now, index);
    }

    /// What is at this address is of no use. When that holds for every address, those who wait are told.
    fn link_bad(&mut self, index: u32, error: RequestError) {
        let link = &mut self.links[index as usize];
        // The same will happen at once again: the next attempt is not the first.
        link.attempt = link.attempt.max(ATTEMPTS_AFTER_VIOLATION);
        link.bad = true;
        if self.links.iter().all(|link| link.bad) {
            self.fail_queued(error);
        }
    }

    /// Serves everything that waits for this link.
    fn wake_link(&mut self, index: u32) {
        let waiters = core::mem::take(&mut self.links[index as usize].waiters);
        self.due.extend(waiters);
    }

    /// Serves whatever became due, until nothing is.
    fn run(&mut self, now: Now) {
        loop {
            self.mark_dirty_lanes();
            let Some(waiter) = self.due.pop_front() else {
                break;
            };
            match waiter {
                Waiter::Lane {
                    producer,
                    partition,
                } => self.serve_lane(now, producer, partition),
                Waiter::Part { consumer, part } => self.serve_part(now, consumer, part),
            }
        }
        self.reach_any(now);
        self.tell_settled();
    }

    /// The link with this number.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn link(&self, index: usize) -> LinkId {
        assert!(
            index < self.links.len(),
            "a link is named after it was made"
        );
        LinkId(index as u32)
    }

    /// Whether anything waits for a node: a request, or a record's acknowledgement. May say so for a little too long.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.expire_armed || !self.requests.is_empty()
    }

    /// Whether any link is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.open_link().is_some()
    }

    /// Ends everything: what waits is told, links are closed.
    pub fn close(&mut self) {
        if core::mem::replace(&mut self.closed, true) {
            return;
        }
        self.fail_all_requests();
        self.close_producers();
        self.close_consumers();
        for index in 0..self.links.len() {
            if self.links[index].state != LinkState::Idle {
                self.events.push_back(Event::Disconnect {
                    link: LinkId(index as u32),
                });
            }
            let link = &mut self.links[index];
            link.state = LinkState::Idle;
            link.connection = None;
            link.waiters.clear();
        }
        self.timers.clear();
        self.due.clear();
        self.tell_settled();
    }
}
