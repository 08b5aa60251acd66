//! The load engine: a machine on our own ring that drives the client core's sessions. It sends batches when they are due
//! (open loop) or as soon as one of those in flight is acknowledged (saturation), and records when they came back.
//! Latency counts from the intended time of sending: by the schedule in an open loop, and in saturation the moment at which
//! the answer to an earlier batch made room. It runs on one thread, pinned if asked, and allocates nothing per
//! batch.
//!
//! | phase | what happens | what ends it |
//! |---|---|---|
//! | opening | hellos and subscriptions | every session is open |
//! | running | batches are sent; those meant to be sent after the warm-up are measured | the duration |
//! | draining | what was due is sent and acknowledged | nothing is left, or the patience ends |

pub(crate) mod intervals;
mod link;
pub(crate) mod memory;
mod order;
pub(crate) mod readers;
mod run;
mod subscriber;
mod tally;

pub(crate) use link::Times;
pub(crate) use run::{Measured, Plan, Wait, execute, measure};
pub(crate) use tally::{Phase, Tally};

use crate::keys::{Choice, Draws};
use crate::progress::Progress;
use crate::schedule::{Arrivals, Schedule};
use crate::setup::{Place, Target};
use bytes::Bytes;
use link::{Fill, Lanes, Link};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use subscriber::Subscriber;
use tiderace_base::collections::Map;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Effect, Effects, Event, Machine, OpIds};
use tiderace_base::time::{Mono, Now};
use tiderace_client::core::connection::Completion;
use tiderace_io::Clock;

/// Refusals without one acknowledgement, after which going on is pointless.
const REFUSED_ALL_MAX: u64 = 1000;
/// The first batch is due this long after the last session opened.
const LEAD_NS: u64 = 5_000_000;
/// An open loop that sleeps wakes this early, because a timer is late by about as much.
const SLEEP_MARGIN_NS: u64 = 80_000;

/// Whether batches are sent at their times or as fast as they are acknowledged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Mode {
    /// So many batches a second, whatever the server does.
    Open {
        /// Batches a second, over all connections.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
    /// As many in flight as allowed, all the time.
    Saturation,
}

/// How the thread waits for what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    Spin,
    Sleep,
}

/// How long each phase lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lengths {
    pub(crate) warmup_ns: u64,
    pub(crate) duration_ns: u64,
    pub(crate) patience_ns: u64,
}

/// How a run goes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Course {
    pub(crate) mode: Mode,
    pub(crate) waiting: Waiting,
    pub(crate) lengths: Lengths,
    /// Decides the arrivals.
    pub(crate) seed: u64,
}

#[derive(Debug)]
enum Peer {
    Producer(Box<Link>),
    Subscriber(Box<Subscriber>),
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Load {
    mode: Mode,
    waiting: Waiting,
    lengths: Lengths,
    phase: Phase,
    peers: Vec<Peer>,
    by_conn: Map<ConnectionId, u32>,
    /// Sockets were handed over in this order.
    expected: VecDeque<u32>,
    opened: usize,
    /// Connections by the time of their next batch; those that cannot send now are not in it.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Connections that may have room or something to send.
    dirty: Vec<u32>,
    ops: OpIds,
    completions: Vec<Completion>,
    tally: Tally,
    progress: Arc<Progress>,
    seed: u64,
    /// When every session must be open.
    open_by_ns: u64,
    last_turn_ns: u64,
    productive: bool,
}

impl Load {
    pub(crate) fn new(
        course: Course,
        links: Vec<Link>,
        subscribers: Vec<Subscriber>,
        tally: Tally,
        progress: Arc<Progress>,
    ) -> Self {
        let Course {
            mode,
            waiting,
            lengths,
            seed,
        } = course;
        let producers = links.into_iter().map(|link| Peer::Producer(Box::new(link)));
        let subscribers = subscribers
            .into_iter()
            .map(|subscriber| Peer::Subscriber(Box::new(subscriber)));
        let peers: Vec<Peer> = producers.chain(subscribers).collect();
        Self {
            mode,
            waiting,
            lengths,
            phase: Phase::Opening,
            by_conn: Map::default(),
            expected: (0..peers.len() as u32).collect(),
            peers,
            opened: 0,
            due: BinaryHeap::new(),
            dirty: Vec::new(),
            ops: OpIds::default(),
            completions: Vec::new(),
            tally,
            progress,
            seed,
            open_by_ns: 0,
            last_turn_ns: 0,
            productive: false,
        }
    }

    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }

    fn fail(&mut self, why: String) {
        self.tally.failed.get_or_insert(why);
    }

    fn mark(&mut self, index: u32) {
        let dirty = match &mut self.peers[index as usize] {
            Peer::Producer(link) => &mut link.session.dirty,
            Peer::Subscriber(subscriber) => &mut subscriber.session.dirty,
        };
        if !std::mem::replace(dirty, true) {
            self.dirty.push(index);
        }
    }

    fn session(&mut self, index: u32) -> &mut link::Session {
        match &mut self.peers[index as usize] {
            Peer::Producer(link) => &mut link.session,
            Peer::Subscriber(subscriber) => &mut subscriber.session,
        }
    }

    fn received(&mut self, conn: ConnectionId, data: Bytes) {
        let Some(index) = self.by_conn.get(&conn).copied() else {
            return;
        };
        let mut completions = std::mem::take(&mut self.completions);
        let result = self
            .session(index)
            .connection
            .receive(data, &mut completions);
        // What arrived is here now, not when the turn began.
        let now_ns = Clock::mono().as_ns();
        for completion in completions.drain(..) {
            self.complete(index, completion, now_ns);
        }
        self.completions = completions;
        if let Err(violation) = result {
            self.fail(format!("the server broke the protocol: {violation}"));
        }
        self.mark(index);
    }

    fn complete(&mut self, index: u32, completion: Completion, now_ns: u64) {
        match (&mut self.peers[index as usize], completion) {
            (Peer::Producer(_), Completion::Open(_)) => self.opened += 1,
            (Peer::Subscriber(subscriber), Completion::Open(_)) => {
                if let Err(why) = subscriber.subscribe() {
                    self.fail(why);
                }
            }
            (Peer::Producer(link), Completion::Acked { token, .. }) => {
                let slot = link.acked(token as u32, now_ns);
                self.tally.acked(slot, now_ns, self.phase);
            }
            (Peer::Producer(link), Completion::ProduceRefused { token, refusal, .. }) => {
                link.refused(token as u32, refusal, now_ns);
                self.tally.refused(refusal.code);
            }
            (Peer::Subscriber(subscriber), Completion::Subscription { owner, notice, .. }) => {
                match subscriber.notice(owner, notice, now_ns, self.phase, &mut self.tally) {
                    Ok(true) => self.opened += 1,
                    Ok(false) => {}
                    Err(why) => self.fail(why),
                }
            }
            (_, Completion::Ended(refusal)) => {
                self.fail(format!("the server ended a connection: {refusal}"));
            }
            (_, Completion::Goodbye) => self.fail("the server goes away".to_owned()),
            (_, Completion::Redirect { .. }) => {
                self.fail("a partition is led elsewhere now".to_owned());
            }
            // Credit: the connection is marked dirty anyway.
            _ => {}
        }
    }

    /// Every session is open: the clock starts.
    fn begin(&mut self, now: Now) {
        let start_ns = Clock::mono().as_ns() + LEAD_NS;
        let measured_ns = start_ns + self.lengths.warmup_ns;
        self.phase = Phase::Running {
            start_ns,
            measured_ns,
            end_ns: measured_ns + self.lengths.duration_ns,
            wall_offset_us: now.wall.as_us() as i64 - (now.mono.as_ns() / 1000) as i64,
        };
        self.progress.begin(measured_ns);
        let count = self.producers();
        for index in 0..count {
            let Peer::Producer(link) = &mut self.peers[index] else {
                continue;
            };
            if let Mode::Open { rate, arrivals } = self.mode {
                let rate = rate * link.weight;
                let schedule = Schedule::new(arrivals, rate, start_ns, index, count, self.seed);
                self.due.push(Reverse((schedule.next_ns(), index as u32)));
                link.schedule = Some(schedule);
            } else {
                self.mark(index as u32);
            }
        }
    }

    fn producers(&self) -> usize {
        self.peers
            .iter()
            .filter(|peer| matches!(peer, Peer::Producer(_)))
            .count()
    }

    /// Sends what is due and possible.
    fn fill(&mut self, now_ns: u64) {
        let Phase::Running {
            end_ns,
            wall_offset_us,
            ..
        } = self.phase
        else {
            return;
        };
        match self.mode {
            Mode::Saturation => {
                if now_ns >= end_ns {
                    return;
                }
                for at in 0..self.dirty.len() {
                    if let Peer::Producer(link) = &mut self.peers[self.dirty[at] as usize] {
                        link.saturate(now_ns, wall_offset_us, |intended_ns, lag_ns| {
                            self.tally.sent += 1;
                            if let Some(lag_ns) = lag_ns {
                                self.tally.lag(intended_ns, lag_ns, self.phase);
                            }
                        });
                    }
                }
            }
            Mode::Open { .. } => {
                // Those that got room take their place in the order of times again.
                for at in 0..self.dirty.len() {
                    let index = self.dirty[at];
                    if let Peer::Producer(link) = &mut self.peers[index as usize]
                        && let Some(next_ns) = link.unblocked(now_ns)
                    {
                        self.due.push(Reverse((next_ns, index)));
                    }
                }
                while let Some(Reverse((due_ns, index))) = self.due.peek().copied() {
                    if due_ns > now_ns || due_ns >= end_ns {
                        break;
                    }
                    self.due.pop();
                    let Peer::Producer(link) = &mut self.peers[index as usize] else {
                        continue;
                    };
                    match link.send_due(now_ns, wall_offset_us) {
                        Fill::Sent { lag_ns, next_ns } => {
                            self.tally.sent += 1;
                            if let Some(lag_ns) = lag_ns {
                                self.tally.lag(due_ns, lag_ns, self.phase);
                            }
                            self.due.push(Reverse((next_ns, index)));
                            self.mark(index);
                        }
                        Fill::Blocked => {}
                    }
                }
            }
        }
    }

    /// Hands what the sessions have written to the network.
    fn transmit(&mut self, effects: &mut Effects) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let op = self.ops.allocate();
            let session = self.session(index);
            session.dirty = false;
            if let Some((conn, parts)) = session.transmit() {
                effects.push(Effect::Send { op, conn, parts });
                self.productive = true;
            }
        }
        self.dirty = dirty;
    }

    /// Whether everything that was due has been sent and answered.
    fn settled(&self) -> bool {
        let Phase::Running { end_ns, .. } = self.phase else {
            return false;
        };
        let produced = self.peers.iter().all(|peer| match peer {
            Peer::Producer(link) => link.settled(end_ns),
            Peer::Subscriber(_) => true,
        });
        produced && self.tally.delivered_all()
    }

    fn finish(&mut self, now_ns: u64) {
        if let Phase::Running { end_ns, .. } = self.phase {
            for peer in &mut self.peers {
                if let Peer::Producer(link) = peer {
                    link.abandon(end_ns.min(now_ns), |slot| {
                        self.tally.unfinished(slot, now_ns, self.phase);
                    });
                }
            }
        }
    }

    fn wake(&self, now_ns: u64, effects: &mut Effects) {
        let Phase::Running {
            start_ns, end_ns, ..
        } = self.phase
        else {
            effects.push(Effect::WakeAt(Mono::from_ns(self.open_by_ns)));
            return;
        };
        if self.waiting == Waiting::Spin {
            effects.push(Effect::WakeAt(Mono::from_ns(0)));
            return;
        }
        let mut at = if now_ns < start_ns {
            start_ns
        } else if now_ns < end_ns {
            end_ns
        } else {
            end_ns + self.lengths.patience_ns
        };
        if let Some(Reverse((due_ns, _))) = self.due.peek() {
            at = at.min(due_ns.saturating_sub(SLEEP_MARGIN_NS));
        }
        effects.push(Effect::WakeAt(Mono::from_ns(at)));
    }
}

impl Machine for Load {
    fn step(&mut self, _now: Now, event: Event, _effects: &mut Effects) {
        self.productive |= !matches!(event, Event::Timer);
        match event {
            Event::Accepted { conn, .. } => {
                if let Some(index) = self.expected.pop_front() {
                    self.by_conn.insert(conn, index);
                    self.session(index).conn = Some(conn);
                    self.mark(index);
                }
            }
            Event::Received { conn, data } => self.received(conn, data),
            Event::Sent { conn, alive, .. } => {
                if let Some(index) = self.by_conn.get(&conn).copied() {
                    self.session(index).sending = false;
                    self.mark(index);
                }
                if !alive {
                    self.fail("the server closed a connection".to_owned());
                }
            }
            Event::Hangup { .. } | Event::Closed { .. } => {
                self.fail("the server closed a connection".to_owned());
            }
            Event::Stop => self.fail("stopped".to_owned()),
            Event::Timer
            | Event::Written { .. }
            | Event::ReadDone { .. }
            | Event::Synced { .. }
            | Event::Prepared { .. }
            | Event::Removed { .. }
            | Event::Posted { .. }
            | Event::Connected { .. }
            | Event::MeshFull(_)
            | Event::MeshOpen(_)
            | Event::Catalogue(_) => {}
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        let turn_ns = now.mono.as_ns();
        if std::mem::take(&mut self.productive) {
            self.tally.busy(self.last_turn_ns, turn_ns, self.phase);
        }
        self.last_turn_ns = turn_ns;
        if self.phase == Phase::Opening && self.opened == self.peers.len() {
            self.begin(now);
        }
        let now_ns = Clock::mono().as_ns();
        self.tally.clock(now_ns, self.phase);
        self.fill(now_ns);
        self.transmit(effects);
        self.progress
            .update(self.tally.acked, self.tally.sent, self.tally.acked_measured);
        if self.tally.refused_count >= REFUSED_ALL_MAX && self.tally.acked == 0 {
            self.fail("the server refuses everything".to_owned());
        }
        let over = match self.phase {
            Phase::Opening => {
                if self.open_by_ns == 0 {
                    self.open_by_ns = now_ns + self.lengths.patience_ns;
                } else if now_ns >= self.open_by_ns {
                    self.fail("the server did not open every session in time".to_owned());
                }
                false
            }
            Phase::Running { end_ns, .. } => {
                now_ns >= end_ns && (self.settled() || now_ns >= end_ns + self.lengths.patience_ns)
            }
        };
        if over || self.tally.failed.is_some() {
            self.finish(now_ns);
            effects.push(Effect::Stopped);
            return;
        }
        self.wake(now_ns, effects);
    }
}

/// Where each of `count` connections sends, and how much of an open loop's rate falls on it: 1 is as much as on average.
///
/// # Errors
/// What to change.
pub(crate) fn lanes(
    choice: Choice,
    target: &Target,
    count: usize,
    seed: u64,
) -> Result<Vec<(Lanes, f64)>, String> {
    if choice.takes_turns() {
        return Ok((0..count)
            .map(|index| (Lanes::Turns(share(target, index, count)), 1.0))
            .collect());
    }
    // The connections take the shards in turn; those of one shard share its load.
    let shards: Vec<Arc<Draws>> = Draws::all(choice, target, seed)
        .into_iter()
        .map(Arc::new)
        .collect();
    if count < shards.len() {
        return Err(format!(
            "what is drawn falls on {} shards: take at least as many connections",
            shards.len()
        ));
    }
    Ok((0..count)
        .map(|index| {
            let draws = &shards[index % shards.len()];
            let sharers = (0..count)
                .filter(|other| other % shards.len() == index % shards.len())
                .count();
            let weight = draws.share() * count as f64 / sharers as f64;
            let lanes = Lanes::Drawn {
                draws: Arc::clone(draws),
                first: draws.len() / sharers * (index / shards.len()),
            };
            (lanes, weight)
        })
        .collect())
}

/// The partitions that connection `index` of `count` sends to, all of one shard: connections take the shards in turn, and
/// those of one shard divide its partitions among them. With fewer connections than shards some shards get nothing.
pub(crate) fn share(target: &Target, index: usize, count: usize) -> Vec<Place> {
    let places = &target.places;
    let address = |index: usize| places[index % places.len()].address;
    let mine = address(index);
    let led: Vec<Place> = places
        .iter()
        .filter(|place| place.address == mine)
        .copied()
        .collect();
    let among = |end: usize| (0..end).filter(|other| address(*other) == mine).count();
    let (rank, sharers) = (among(index), among(count));
    if led.len() <= sharers {
        return vec![led[rank % led.len()]];
    }
    led.into_iter().skip(rank).step_by(sharers).collect()
}

#[cfg(test)]
mod tests;
