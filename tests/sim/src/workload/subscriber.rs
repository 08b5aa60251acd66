//! A subscriber of one partition: reads with the credit that it likes to give, checks every batch, and after anything
//! that goes wrong goes on where it stood, by epoch and offset. Some give credit late, some stop reading for a while,
//! some leave and come back. An auditor is one that reads everything once and reports that it has.

use bytes::Bytes;
use tiderace_base::catalogue::Stream;
use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId, SubscriptionId};
use tiderace_base::position::Epoch;
use tiderace_base::prng::Prng;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Control, Credit as CreditFrame, CreditScope, MetadataRequest, MetadataWhat, OffsetByTime,
    Subscribe, SubscribeFrom, Unsubscribe,
};

use super::batch::{check, key};
use super::session::{Arrived, Session};
use super::{StreamPlan, Zone};
use crate::history::{Credit, Ledger, Observation, Reader, Scope};
use crate::world::{Actor, ActorEvent, MachineId, Port};

mod dozing;

use dozing::Dozing;

/// The largest batch that a producer of the run makes, with room.
const BATCH_BYTES_MAX: u64 = 32 * 1024;

/// A client gives up on a connection that says nothing for so long while it waits for an answer.
const PATIENCE_NS: u64 = 5_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is asked.
    Idle,
    /// Metadata or a subscription is asked for.
    Asked(u64),
    /// Batches may come.
    Open,
    /// The end of the subscription is asked for.
    Leaving,
}

/// What a subscriber has to reach, once nobody writes any more: the end that it asks for then, on the subscription that it
/// has. Whatever stands still by then stands still for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    /// Others still write.
    None,
    /// The end is to be asked for, once the subscription is there.
    Wanted,
    /// It is asked for, by this request, since then.
    Asked(u64, u64),
    /// It has to get there.
    End(u64),
    /// It is there.
    Reached,
}

/// How a subscriber reads that stays until a node's drain has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// Reads and grants.
    Reads,
    /// Grants nothing beyond its first credit.
    Starves,
    /// Takes nothing out of its socket once it is subscribed.
    Sleeps,
}

/// Reads one partition.
#[derive(Debug)]
pub(crate) struct Subscriber {
    zone: Zone,
    plan: StreamPlan,
    partition: u32,
    stream: Option<Stream>,
    shard: Option<u16>,
    session: Option<Session>,
    connecting: bool,
    machine: MachineId,
    phase: Phase,
    subscription: u32,
    reader: Reader,
    /// Where it goes on, and the epoch of the last batch it saw.
    next: Option<(u64, u32)>,
    window: Credit,
    granted: Credit,
    spent: Credit,
    /// Gives credit only long after the last was spent: whoever delivers on credit that is yet to come is found out.
    lazy: bool,
    stalls: bool,
    leaves: bool,
    /// Stays when the node says goodbye, until it ends the connection.
    stays: bool,
    habit: Habit,
    reads_again_ns: Option<u64>,
    asked_time: Option<(u64, u64)>,
    /// An auditor's end, once it knows it.
    audit: Option<Option<u64>>,
    done: bool,
    goal: Goal,
    quiet_until_ns: u64,
    dozing: Option<Dozing>,
}

impl Subscriber {
    pub(crate) fn new(zone: Zone, prng: &mut Prng) -> Self {
        let stream = prng.below(zone.streams.len() as u64) as usize;
        let partition = prng.below(u64::from(zone.streams[stream].partitions)) as u32;
        let mut subscriber = Self::auditor(zone, stream, partition, prng);
        subscriber.audit = None;
        subscriber.window = Credit {
            bytes: (prng.range(24, 200) * 1024).max(BATCH_BYTES_MAX),
            batches: prng.range(1, 64),
        };
        subscriber.lazy = prng.chance(1, 2);
        subscriber.stalls = prng.chance(1, 3);
        subscriber.leaves = prng.chance(1, 3);
        subscriber.stays = prng.chance(2, 3);
        if prng.chance(1, 4) {
            // Begins at the end.
            subscriber.next = None;
        } else {
            subscriber.next = Some((0, 0));
        }
        subscriber
    }

    /// One that makes no trouble but its habit, and stays.
    pub(crate) fn staying(zone: Zone, habit: Habit, prng: &mut Prng) -> Self {
        let mut subscriber = Self::new(zone, prng);
        subscriber.habit = habit;
        if habit == Habit::Reads {
            // It grants again when half is used: the largest batch fits the other half.
            subscriber.window.bytes = prng.range(128, 256) * 1024;
        }
        subscriber.lazy = prng.chance(1, 4);
        subscriber.stalls = false;
        subscriber.leaves = false;
        subscriber.stays = true;
        subscriber
    }

    /// One that stalls all the time, with much credit.
    pub(crate) fn dozing(zone: Zone, prng: &mut Prng) -> Self {
        let mut subscriber = Self::staying(zone, Habit::Reads, prng);
        subscriber.window = Credit {
            bytes: prng.range(64, 1024) * 1024,
            batches: prng.range(64, 4096),
        };
        subscriber.lazy = false;
        subscriber.stalls = true;
        subscriber.next = Some((0, 0));
        subscriber.dozing = Some(Dozing {
            // Sometimes it is this that runs out.
            link_window: Credit {
                bytes: prng.range(64, 1024) * 1024,
                batches: 4096,
            },
            others_wanted: prng.below(4),
            ..Dozing::default()
        });
        subscriber
    }

    /// Reads everything once.
    pub(crate) fn auditor(zone: Zone, stream: usize, partition: u32, prng: &mut Prng) -> Self {
        Self {
            plan: zone.streams[stream].clone(),
            partition,
            stream: None,
            shard: None,
            session: None,
            connecting: false,
            machine: MachineId {
                node: zone.node,
                machine: 0,
            },
            zone,
            phase: Phase::Idle,
            subscription: 0,
            reader: Reader(prng.next_u64()),
            next: None,
            window: Credit {
                bytes: 128 * 1024,
                batches: 64,
            },
            granted: Credit::default(),
            spent: Credit::default(),
            lazy: false,
            stalls: false,
            leaves: false,
            stays: false,
            habit: Habit::Reads,
            reads_again_ns: None,
            asked_time: None,
            audit: Some(None),
            done: false,
            goal: Goal::None,
            quiet_until_ns: 0,
            dozing: None,
        }
    }

    /// With credit for batches of up to this many bytes.
    pub(crate) fn for_batches_of(mut self, bytes: u64) -> Self {
        self.window.bytes = self.window.bytes.max(2 * bytes);
        self
    }

    fn key(&self) -> PartitionKey {
        let stream = self
            .stream
            .as_ref()
            .map_or(StreamId::new(0), |stream| stream.id);
        PartitionKey {
            stream,
            partition: PartitionIndex::new(self.partition),
        }
    }

    fn ledger(&self) -> Option<Ledger> {
        let session = self.session.as_ref()?;
        Some(Ledger {
            link: session.link.0,
            scope: Scope::Deliver(self.subscription),
        })
    }

    fn drop_session(&mut self) {
        self.session = None;
        self.phase = Phase::Idle;
        self.asked_time = None;
        self.reads_again_ns = None;
        // Another end may be the right one behind a restart: what a `memory` stream lost is gone.
        if matches!(self.goal, Goal::Asked(..) | Goal::End(_)) {
            self.goal = Goal::Wanted;
        }
        if let Some(dozing) = &mut self.dozing {
            dozing.link_granted = Credit::default();
            dozing.link_spent = Credit::default();
            dozing.others.clear();
        }
    }

    /// Does what is next: metadata, the right shard, the subscription.
    fn pump(&mut self, port: &mut Port<'_>) {
        let Some(session) = self.session.as_mut().filter(|session| session.is_open()) else {
            return;
        };
        if self.phase != Phase::Idle || self.done || self.quiet_until_ns > port.now_ns {
            return;
        }
        let Some(stream) = &self.stream else {
            let request = MetadataRequest {
                what: MetadataWhat::ByPath,
                first_partition: PartitionIndex::new(self.partition),
                stream: StreamId::new(0),
                path: self.plan.path.clone(),
            };
            let id = session.send(port, |out, id| request.encode(out, id));
            self.phase = Phase::Asked(id.get());
            return;
        };
        if self
            .shard
            .is_some_and(|shard| shard != session.machine.machine)
        {
            port.close(session.link);
            self.drop_session();
            return;
        }
        if session.draining {
            return;
        }
        let stream = stream.id;
        self.grant_link(port);
        let Some(session) = self.session.as_mut() else {
            return;
        };
        self.subscription += 1;
        let (from, position, epoch) = match (self.audit, self.next) {
            (Some(_), _) => (SubscribeFrom::Earliest, 0, 0),
            (None, Some((0, 0))) => (SubscribeFrom::Earliest, 0, 0),
            (None, Some((next, epoch))) => (SubscribeFrom::Offset, next, epoch),
            (None, None) => (SubscribeFrom::Latest, 0, 0),
        };
        let subscribe = Subscribe {
            subscription: SubscriptionId::new(self.subscription),
            partition: PartitionIndex::new(self.partition),
            stream,
            from,
            epoch: Epoch::new(epoch),
            position,
            credit_bytes: self.window.bytes,
            credit_batches: self.window.batches,
        };
        let id = session.send(port, |out, id| subscribe.encode(out, id));
        self.phase = Phase::Asked(id.get());
        port.observe(Observation::Asked {
            reader: self.reader,
            partition: self.key(),
        });
        self.granted = self.window;
        self.spent = Credit::default();
        if let Some(ledger) = self.ledger() {
            port.observe(Observation::LedgerOpened {
                ledger,
                window: self.window,
            });
            port.observe(Observation::Granted {
                ledger,
                total: self.granted,
            });
        }
    }

    fn grant(&mut self, port: &mut Port<'_>) {
        if self.habit == Habit::Starves {
            return;
        }
        self.granted = Credit {
            bytes: self.spent.bytes + self.window.bytes,
            batches: self.spent.batches + self.window.batches,
        };
        let (Some(ledger), Some(session)) = (self.ledger(), self.session.as_mut()) else {
            return;
        };
        port.observe(Observation::Granted {
            ledger,
            total: self.granted,
        });
        let credit = CreditFrame {
            scope: CreditScope::Subscription,
            id: self.subscription,
            bytes_total: self.granted.bytes,
            batches_total: self.granted.batches,
        };
        session.send(port, |out, id| credit.encode(out, id));
    }

    fn take(&mut self, arrived: &Arrived, port: &mut Port<'_>) {
        let Ok(control) = Control::decode(arrived.kind, &arrived.control) else {
            return;
        };
        if self.take_of_others(&control, &arrived.batches, port) {
            return;
        }
        match control {
            Control::Metadata(metadata) => {
                let info = metadata
                    .partitions
                    .iter()
                    .find(|info| info.partition.get() == self.partition);
                let (true, Some(stream), Some(info)) = (
                    self.asked(metadata.request.get()),
                    metadata.stream.clone(),
                    info,
                ) else {
                    self.complain(port, format!("{metadata:?} was not asked for"));
                    return;
                };
                self.plan.tell(stream.id.get(), port);
                self.shard = Some(info.shard.get());
                self.stream = Some(stream);
                self.phase = Phase::Idle;
            }
            Control::Subscribed(subscribed) => {
                let known = self.asked(subscribed.request.get())
                    && subscribed.subscription.get() == self.subscription;
                if !known {
                    self.complain(port, format!("{subscribed:?} was not asked for"));
                    return;
                }
                self.phase = Phase::Open;
                self.subscribe_others(port);
                if let (Habit::Sleeps, Some(session)) = (self.habit, &self.session) {
                    port.reads(session.link, false);
                }
                let (start, end, next) = (
                    subscribed.start.get(),
                    subscribed.end.get(),
                    subscribed.next.get(),
                );
                let wanted = match (self.audit, self.next) {
                    (Some(_), _) | (None, Some((0, 0))) => start,
                    (None, Some((next, _))) => next.max(start),
                    (None, None) => end,
                };
                if next != wanted {
                    self.complain(
                        port,
                        format!("{subscribed:?}, and {wanted} is where it had to begin"),
                    );
                    return;
                }
                port.observe(Observation::Positioned {
                    reader: self.reader,
                    partition: self.key(),
                    next,
                    start,
                    end,
                });
                let epoch = self.next.map_or(0, |(_, epoch)| epoch);
                self.next = Some((next, epoch));
                if let Some(goal) = &mut self.audit {
                    *goal = Some(end);
                }
                self.check_end(port);
            }
            Control::Deliver(deliver) => {
                if deliver.subscription.get() == self.subscription
                    && matches!(self.phase, Phase::Open | Phase::Leaving)
                {
                    self.deliver(deliver.end_offset.get(), &arrived.batches, port);
                } else if deliver.subscription.get() >= self.subscription {
                    self.complain(
                        port,
                        format!(
                            "{deliver:?} comes in {:?} of {}",
                            self.phase, self.subscription
                        ),
                    );
                }
            }
            Control::Gap(gap) => {
                if gap.subscription.get() != self.subscription {
                    return;
                }
                if !self.plan.trims() {
                    self.complain(port, format!("{gap:?} in a stream that keeps everything"));
                    return;
                }
                port.observe(Observation::GapTold {
                    reader: self.reader,
                    from: gap.from.get(),
                    to: gap.to.get(),
                });
                // The record before it was never seen, and neither was its epoch.
                self.next = Some((gap.to.get(), 0));
                self.check_end(port);
            }
            Control::Diverged(diverged) => {
                port.observe(Observation::PastChanged {
                    reader: self.reader,
                    partition: self.key(),
                    from: diverged.end.get(),
                });
                self.next = Some((diverged.end.get(), diverged.epoch.get()));
                self.phase = Phase::Idle;
            }
            Control::Loss(loss) => port.observe(Observation::PastChanged {
                reader: self.reader,
                partition: self.key(),
                from: loss.from.get(),
            }),
            Control::StreamDescription(described) => {
                let own = described
                    .partitions
                    .iter()
                    .find(|it| it.partition.get() == self.partition);
                let asked = matches!(self.goal, Goal::Asked(request, _) if request == described.request.get());
                let (Some(own), true) = (own, asked) else {
                    self.complain(port, format!("{described:?} was not asked for"));
                    return;
                };
                self.goal = Goal::End(own.end.get());
                self.check_end(port);
            }
            Control::Unsubscribed(unsubscribed) => {
                if unsubscribed.subscription.get() == self.subscription {
                    self.phase = Phase::Idle;
                }
            }
            Control::OffsetOfTime(answer) => {
                if let Some((_, time_us)) = self
                    .asked_time
                    .take_if(|(id, _)| *id == answer.request.get())
                    && answer.found
                    && answer.append_time_us < time_us
                {
                    self.complain(port, format!("{answer:?} is earlier than {time_us}"));
                }
            }
            Control::Redirect(redirect) => {
                self.shard = Some(redirect.shard.get());
                self.phase = Phase::Idle;
            }
            Control::Error(error) => {
                self.failed(error.request.get(), error.code, error.detail_a, port);
            }
            Control::Welcome(_) | Control::Goodbye(_) => {}
            other => self.complain(
                port,
                format!("{:?} answers nothing that was asked", other.kind()),
            ),
        }
        self.pump(port);
    }

    fn asked(&self, request: u64) -> bool {
        self.phase == Phase::Asked(request)
    }

    fn failed(&mut self, request: u64, code: ErrorCode, detail: u64, port: &mut Port<'_>) {
        if self.asked_time.take_if(|(id, _)| *id == request).is_some() {
            return;
        }
        if matches!(self.goal, Goal::Asked(asked, _) if asked == request) {
            self.goal = Goal::Wanted;
            return;
        }
        match code {
            ErrorCode::OffsetBelowStart if self.plan.trims() => {
                // What was to come next is not kept any more.
                self.next = Some((detail, 0));
            }
            ErrorCode::OffsetBelowStart => {
                self.complain(
                    port,
                    format!(
                        "{:?} is below the start {detail} of a stream that keeps everything",
                        self.next
                    ),
                );
            }
            ErrorCode::OffsetBeyondEnd => {
                port.observe(Observation::PastChanged {
                    reader: self.reader,
                    partition: self.key(),
                    from: detail,
                });
                self.next = Some((0, 0));
            }
            ErrorCode::Damaged => {
                self.complain(port, format!("records at {detail} are said to be damaged"));
            }
            ErrorCode::UnknownStream if self.stream.is_some() => {
                self.complain(port, format!("{} was known and is not", self.plan.path));
            }
            _ => {}
        }
        self.quiet_until_ns = port.now_ns + port.prng.range(200_000, 20_000_000);
        self.phase = Phase::Idle;
    }

    fn deliver(&mut self, end: u64, batches: &Bytes, port: &mut Port<'_>) {
        let Some(stream) = self.stream.clone() else {
            return;
        };
        let partition = key(&stream, self.partition);
        let mut rest = batches.clone();
        while !rest.is_empty() {
            let (batch, behind) = match check(&rest, &stream, partition) {
                Ok(checked) => checked,
                Err(what) => {
                    self.complain(port, what);
                    return;
                }
            };
            rest = behind;
            if batch.next > end {
                self.complain(
                    port,
                    format!("{batch:?} reaches beyond the visible end {end}"),
                );
                return;
            }
            self.spent.bytes += batch.bytes as u64;
            self.spent.batches += 1;
            self.spend_link(batch.bytes, port);
            if let Some(ledger) = self.ledger() {
                port.observe(Observation::Spent {
                    ledger,
                    total: self.spent,
                });
            }
            port.observe(Observation::Delivered {
                reader: self.reader,
                partition,
                batch: Some(batch.name),
                offset: batch.offset,
                records: batch.records,
                digest: batch.digest,
                epoch: batch.epoch,
                append_time_us: batch.append_time_us,
            });
            self.next = Some((batch.next, batch.epoch));
        }
        if !self.lazy && self.phase == Phase::Open && self.spends_a_lot() {
            self.grant(port);
        }
        self.check_end(port);
    }

    fn spends_a_lot(&self) -> bool {
        2 * self.granted.bytes.saturating_sub(self.spent.bytes) <= self.window.bytes
            || 2 * self.granted.batches.saturating_sub(self.spent.batches) <= self.window.batches
    }

    /// Whether what is granted may be too little for the next batch, and more may be granted.
    fn may_starve(&self) -> bool {
        let left = self.granted.bytes.saturating_sub(self.spent.bytes);
        left < self.window.bytes.min(BATCH_BYTES_MAX) || self.granted.batches <= self.spent.batches
    }

    fn check_end(&mut self, port: &mut Port<'_>) {
        if let (Goal::End(end), Some((next, _))) = (self.goal, self.next) {
            let mut others = self.dozing.iter().flat_map(|dozing| &dozing.others);
            if next >= end && others.all(|other| other.next.is_none_or(|next| next >= end)) {
                self.goal = Goal::Reached;
            }
        }
        if let Some(Some(end)) = self.audit
            && let Some((next, _)) = self.next
            && next >= end
            && !self.done
        {
            self.done = true;
            port.observe(Observation::ReadThrough {
                reader: self.reader,
                partition: self.key(),
                end: next,
            });
        }
    }

    fn complain(&mut self, port: &mut Port<'_>, what: String) {
        if let Some(session) = &mut self.session {
            session.complain(port, what);
        }
    }

    /// Small troubles that a subscriber makes of its own.
    fn misbehave(&mut self, port: &mut Port<'_>) {
        let Some(session) = self.session.as_mut().filter(|session| session.is_open()) else {
            return;
        };
        let often = if self.dozing.is_some() { 4 } else { 20 };
        if self.stalls && self.reads_again_ns.is_none() && port.prng.chance(1, often) {
            self.reads_again_ns = Some(port.now_ns + port.prng.range(10_000_000, 2_000_000_000));
            port.reads(session.link, false);
        } else if self.leaves && self.phase == Phase::Open && port.prng.chance(1, 20) {
            let unsubscribe = Unsubscribe {
                subscription: SubscriptionId::new(self.subscription),
            };
            session.send(port, |out, id| unsubscribe.encode(out, id));
            self.phase = Phase::Leaving;
        } else if self.leaves
            && self.asked_time.is_none()
            && port.prng.chance(1, 20)
            && let Some(stream) = &self.stream
        {
            let time_us = port.wall_us - port.prng.below(2_000_000);
            let ask = OffsetByTime {
                stream: stream.id,
                partition: PartitionIndex::new(self.partition),
                time_us,
            };
            let id = session.send(port, |out, id| ask.encode(out, id));
            self.asked_time = Some((id.get(), time_us));
        }
    }
}

impl Actor for Subscriber {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        let is_end = matches!(event, ActorEvent::Ended(_));
        match event {
            ActorEvent::Wake => {
                if let Some(at_ns) = self.reads_again_ns
                    && (at_ns <= port.now_ns || port.healed)
                    && let Some(session) = &self.session
                {
                    self.reads_again_ns = None;
                    port.reads(session.link, true);
                }
                let waits = (matches!(self.phase, Phase::Asked(_) | Phase::Leaving)
                    || self.audit.is_some())
                    && self.dozing.is_none();
                let asked_ns = match self.goal {
                    Goal::Asked(_, at_ns) => Some(at_ns),
                    Goal::None | Goal::Wanted | Goal::End(_) | Goal::Reached => None,
                };
                let stays = self.stays && self.phase == Phase::Open;
                if let Some(session) = &self.session
                    && self.reads_again_ns.is_none()
                    && ((waits && session.heard_ns + PATIENCE_NS < port.now_ns)
                        || asked_ns.is_some_and(|at_ns| {
                            session.heard_ns.max(at_ns) + PATIENCE_NS < port.now_ns
                        })
                        || (session.draining && !stays))
                {
                    port.abort(session.link);
                    self.drop_session();
                }
                if self.session.is_none() && !self.connecting && !self.done {
                    self.connecting = true;
                    self.machine = match self.shard {
                        Some(machine) if port.prng.chance(7, 8) => MachineId {
                            node: self.zone.node,
                            machine,
                        },
                        _ => self.zone.any_shard(port),
                    };
                    port.connect(self.machine);
                }
                if self.phase == Phase::Open
                    && (self.spends_a_lot() || (port.healed && self.may_starve()))
                {
                    self.grant(port);
                }
                if !port.healed {
                    self.misbehave(port);
                }
                self.pump(port);
                self.ask_end(port);
                let wait_ns = port.prng.range(5_000_000, 40_000_000);
                port.wake_in(wait_ns);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                self.phase = Phase::Idle;
                self.session = Some(Session::open(link, self.machine, "subscriber", port));
            }
            ActorEvent::Received(link, data) => {
                if let Some(session) = self.session.as_mut().filter(|session| session.link == link)
                {
                    session.push(&data, port.now_ns);
                }
                while let Some(session) =
                    self.session.as_mut().filter(|session| session.link == link)
                    && let Some(arrived) = session.next(port)
                {
                    self.take(&arrived, port);
                }
            }
            ActorEvent::Ended(link) | ActorEvent::Closed(link) => {
                if self.phase == Phase::Open
                    && let (Some(session), Some((next, _))) = (&self.session, self.next)
                    && session.link == link
                    && session.draining
                {
                    port.observe(Observation::DrainedTo {
                        reader: self.reader,
                        partition: self.key(),
                        next,
                        at_ns: port.now_ns,
                        in_order: is_end,
                    });
                }
                if self
                    .session
                    .as_ref()
                    .is_none_or(|session| session.link == link)
                {
                    self.drop_session();
                    self.connecting = false;
                }
            }
        }
    }

    fn waits(&self) -> bool {
        matches!(self.goal, Goal::Wanted | Goal::Asked(..) | Goal::End(_))
            || (self.audit.is_some() && !self.done)
    }

    fn waits_for(&self) -> String {
        format!(
            "reader of {}/{}: {:?} of {:?} {:?} {:?}, granted {:?}, spent {:?}, {:?}, shard {:?}, \
             session {:?}",
            self.plan.path,
            self.partition,
            self.next,
            self.audit,
            self.goal,
            self.dozing,
            self.granted,
            self.spent,
            self.phase,
            self.shard,
            self.session
        )
    }

    fn heal(&mut self, port: &mut Port<'_>) {
        // A habit is a trouble, too.
        self.habit = Habit::Reads;
        if let Some(session) = &self.session {
            self.reads_again_ns = None;
            port.reads(session.link, true);
        }
    }

    fn conclude(&mut self, _port: &mut Port<'_>) {
        if self.audit.is_none() {
            self.goal = Goal::Wanted;
        }
    }
}
