//! A crowd of producers that come once each, so that their partition, or its shard, forgets whoever came before them, and one
//! whose first batch comes again afterwards, as a dead connection may deliver it late. It is never stored twice. And somebody
//! who takes another's id and number for a batch of its own: that is never acknowledged. They have a stream to themselves.

use std::collections::BTreeMap;

use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, TenantId};
use tiderace_base::limits::PRODUCERS_PER_PARTITION_MAX;
use tiderace_base::position::{Epoch, Offset};
use tiderace_base::prng::Prng;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, Control, Produce, StreamCreate};
use tiderace_wire::link::Flags;

use super::batch::Content;
use super::session::{Arrived, Session};
use super::{StreamPlan, Zone, refusal};
use crate::history::{BatchName, Observation};
use crate::world::{Actor, ActorEvent, MachineId, Port};

const PATIENCE_NS: u64 = 5_000_000_000;
const IN_FLIGHT_MAX: usize = 48;
/// The partition of the one whose first batch comes again.
const RETRIED_IN: u32 = 0;

/// Where the partition was known to end, in which epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    epoch: u32,
    offset: u64,
}

/// The one whose first batch comes again.
#[derive(Clone, Debug)]
struct Retried {
    id: u128,
    content: Content,
    since: Reached,
    placed: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Create,
    First,
    Again,
    Impostor,
    Member(u128),
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    what: What,
    partition: u32,
    /// The epoch that its frame named.
    epoch: u32,
}

/// Comes in rounds: one batch, a crowd, the batch again.
#[derive(Debug)]
pub(crate) struct Crowd {
    zone: Zone,
    plan: StreamPlan,
    stream: Option<Stream>,
    session: Option<Session>,
    connecting: bool,
    machine: MachineId,
    asked: BTreeMap<u64, Asked>,
    /// For each partition.
    reached: Vec<Reached>,
    retried: Option<Retried>,
    /// How many of the crowd are still to come in this round.
    left: usize,
    rounds: u32,
    pace_ns: u64,
}

impl Crowd {
    pub(crate) fn new(zone: Zone, prng: &mut Prng) -> Self {
        let partitions = prng.range(1, 4) as u32;
        Self {
            machine: MachineId {
                node: zone.node,
                machine: 0,
            },
            zone,
            plan: StreamPlan {
                path: "crowd/square".into(),
                partitions,
                durability: Durability::Local,
                retention: Retention::default(),
            },
            stream: None,
            session: None,
            connecting: false,
            asked: BTreeMap::new(),
            reached: vec![Reached::default(); partitions as usize],
            retried: None,
            left: 0,
            rounds: prng.range(1, 4) as u32,
            pace_ns: prng.range(500_000, 10_000_000),
        }
    }

    fn name(&self, partition: u32, producer: u128) -> BatchName {
        let stream = self.stream.as_ref().expect("it was created");
        BatchName {
            partition: PartitionKey {
                stream: stream.id,
                partition: PartitionIndex::new(partition),
            },
            producer,
            producer_epoch: 1,
            seq: 0,
        }
    }

    fn drop_session(&mut self) {
        self.session = None;
        self.asked.clear();
    }

    fn waits_for_answer(&self) -> bool {
        let member = |asked: &Asked| matches!(asked.what, What::Member(_));
        self.asked.values().any(|asked| !member(asked))
    }

    fn pump(&mut self, port: &mut Port<'_>) {
        let open = |session: &Session| session.is_open() && !session.draining;
        if self.rounds == 0 || !self.session.as_ref().is_some_and(open) {
            return;
        }
        if self.waits_for_answer() {
            return;
        }
        if self.stream.is_none() {
            return self.create(port);
        }
        let Some(retried) = self.retried.clone() else {
            let content = Content::draw(0, 1, 40, port.wall_us, port.prng);
            self.left = PRODUCERS_PER_PARTITION_MAX + 8 * self.reached.len();
            self.retried = Some(Retried {
                id: port.prng.next_u128() | 1,
                content,
                since: self.reached[RETRIED_IN as usize],
                placed: false,
            });
            return self.pump(port);
        };
        if !retried.placed {
            self.send(
                What::First,
                RETRIED_IN,
                retried.id,
                &retried.content,
                retried.since,
                port,
            );
            return;
        }
        if self.left > PRODUCERS_PER_PARTITION_MAX && port.prng.chance(1, 4) {
            let content = Content::draw(0, 1, 40, port.wall_us, port.prng);
            self.send(
                What::Impostor,
                RETRIED_IN,
                retried.id,
                &content,
                retried.since,
                port,
            );
            return;
        }
        while self.asked.len() < IN_FLIGHT_MAX.min(self.left) {
            let id = port.prng.next_u128() | 1;
            let content = Content::draw(0, 1, 8, port.wall_us, port.prng);
            let partition = port.prng.below(self.reached.len() as u64) as u32;
            let since = self.reached[partition as usize];
            if !self.send(What::Member(id), partition, id, &content, since, port) {
                return;
            }
        }
        if self.left == 0 && self.asked.is_empty() {
            self.send(
                What::Again,
                RETRIED_IN,
                retried.id,
                &retried.content,
                retried.since,
                port,
            );
        }
    }

    fn create(&mut self, port: &mut Port<'_>) {
        let create = StreamCreate {
            partitions: self.plan.partitions,
            durability: Some(self.plan.durability),
            tenant: TenantId::new(1),
            retention: self.plan.retention,
            path: self.plan.path.clone(),
        };
        let Some(session) = &mut self.session else {
            return;
        };
        let id = session.send(port, |out, id| create.encode(out, id));
        self.note(id, What::Create, RETRIED_IN, 0);
    }

    fn note(&mut self, id: MessageId, what: What, partition: u32, epoch: u32) {
        let asked = Asked {
            what,
            partition,
            epoch,
        };
        self.asked.insert(id.get(), asked);
    }

    fn send(
        &mut self,
        what: What,
        partition: u32,
        producer: u128,
        content: &Content,
        since: Reached,
        port: &mut Port<'_>,
    ) -> bool {
        let name = self.name(partition, producer);
        let (header, bytes, digest) = content.encode(&name);
        let epoch = self.reached[partition as usize].epoch;
        let Some(session) = &mut self.session else {
            return false;
        };
        if !session.try_spend(bytes.len(), port) {
            return false;
        }
        if !matches!(what, What::Impostor) {
            port.observe(Observation::Submitted {
                batch: name,
                epoch,
                records: content.records,
                digest,
            });
        }
        let produce = Produce {
            epoch: Epoch::new(epoch),
            produce_slot: 0,
            // What was reached in an earlier epoch says nothing.
            since: Offset::new(if since.epoch == epoch {
                since.offset
            } else {
                0
            }),
        };
        let flags = Flags::of(header.attributes());
        let id = session.send(port, |out, id| {
            produce.encode(out, id, flags, bytes.len());
            out.extend_from_slice(&bytes);
        });
        self.note(id, what, partition, epoch);
        true
    }

    fn acknowledged(&mut self, asked: Asked, ack: &Ack, port: &mut Port<'_>) {
        if let Some(code) = ack.code {
            if let Some(batch) = self.submitted(asked)
                && let Some(refused) = refusal(batch, code)
            {
                port.observe(refused);
            }
            return self.refused(asked, code, ack.base_offset.get());
        }
        let (epoch, next) = (ack.epoch.get(), ack.base_offset.get() + 1);
        let reached = &mut self.reached[asked.partition as usize];
        if epoch > reached.epoch {
            *reached = Reached {
                epoch,
                offset: next,
            };
        } else if epoch == reached.epoch {
            reached.offset = reached.offset.max(next);
        }
        let retried = self.retried.as_ref().map_or(0, |retried| retried.id);
        let producer = match asked.what {
            What::First => {
                if let Some(retried) = &mut self.retried {
                    retried.placed = true;
                }
                retried
            }
            What::Again => {
                self.rounds -= 1;
                self.retried = None;
                retried
            }
            What::Member(id) => {
                self.left = self.left.saturating_sub(1);
                id
            }
            What::Create | What::Impostor => {
                return self.complain(port, format!("{ack:?} acknowledges {asked:?}"));
            }
        };
        port.observe(Observation::Acknowledged {
            batch: self.name(asked.partition, producer),
            offset: ack.base_offset.get(),
            epoch,
            duplicate: ack.flags.is_duplicate(),
        });
    }

    /// The batch that a question carried, if the history knows of it.
    fn submitted(&self, asked: Asked) -> Option<BatchName> {
        let producer = match asked.what {
            What::First | What::Again => self.retried.as_ref()?.id,
            What::Member(id) => id,
            What::Create | What::Impostor => return None,
        };
        Some(self.name(asked.partition, producer))
    }

    fn refused(&mut self, asked: Asked, code: ErrorCode, detail: u64) {
        let reached = &mut self.reached[asked.partition as usize];
        match code {
            ErrorCode::FencedEpoch => {
                let epoch = u32::try_from(detail).unwrap_or(0);
                if epoch > reached.epoch {
                    *reached = Reached { epoch, offset: 0 };
                }
            }
            ErrorCode::ProducerUnknown => {
                if asked.epoch == reached.epoch {
                    reached.offset = reached.offset.max(detail);
                }
                match asked.what {
                    // Whether it is stored is not known: somebody else is the next to be forgotten.
                    What::First => self.retried = None,
                    What::Again => {
                        self.rounds -= 1;
                        self.retried = None;
                    }
                    What::Create | What::Impostor | What::Member(_) => {}
                }
            }
            ErrorCode::SequenceReused => {
                if matches!(asked.what, What::Impostor) {
                    // Once is enough.
                    self.left = self.left.min(PRODUCERS_PER_PARTITION_MAX);
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, arrived: &Arrived, port: &mut Port<'_>) {
        let Ok(control) = Control::decode(arrived.kind, &arrived.control) else {
            return;
        };
        match control {
            Control::StreamCreated(created) => {
                self.asked.remove(&created.request.get());
                self.plan.tell(created.stream.id.get(), port);
                self.stream = Some(created.stream);
            }
            Control::Produced(produced) => {
                for ack in produced.acks() {
                    match self.asked.remove(&ack.request.get()) {
                        Some(asked) => self.acknowledged(asked, &ack, port),
                        None => self.complain(port, format!("{ack:?} answers nothing")),
                    }
                }
            }
            Control::Error(error) => {
                self.asked.remove(&error.request.get());
            }
            Control::Welcome(_) | Control::Goodbye(_) | Control::Redirect(_) => {}
            other => self.complain(
                port,
                format!("{:?} answers nothing that was asked", other.kind()),
            ),
        }
    }

    fn complain(&mut self, port: &mut Port<'_>, what: String) {
        if let Some(session) = &mut self.session {
            session.complain(port, what);
        }
    }
}

impl Actor for Crowd {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                if let Some(session) = &self.session
                    && (session.draining || session.heard_ns + PATIENCE_NS < port.now_ns)
                {
                    port.close(session.link);
                    self.drop_session();
                }
                if self.session.is_none() && !self.connecting && self.waits() {
                    self.connecting = true;
                    self.machine = self.zone.any_shard(port);
                    port.connect(self.machine);
                }
                self.pump(port);
                let wait_ns = self.pace_ns + port.prng.below(self.pace_ns);
                port.wake_in(wait_ns);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                self.session = Some(Session::open(link, self.machine, "crowd", port));
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
        self.rounds > 0
    }

    fn waits_for(&self) -> String {
        format!(
            "crowd: {} rounds, {} to come, asked {:?}, {:?}, session {:?}",
            self.rounds, self.left, self.asked, self.reached, self.session
        )
    }

    fn heal(&mut self, _port: &mut Port<'_>) {
        self.pace_ns = self.pace_ns.min(5_000_000);
        self.rounds = self.rounds.min(1);
    }
}
