//! The client that creates the run's streams, and afterwards creates others, writes a little into them and deletes them.
//! What it was told exists must exist from then on, on every shard and after every restart, under the same id; what it was
//! told is gone stays gone, and takes no batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use tiderace_base::catalogue::Stream;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, StreamId, TenantId};
use tiderace_base::position::{Epoch, Offset};
use tiderace_base::prng::Prng;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Control, MetadataRequest, MetadataWhat, Produce, StreamCreate, StreamDelete, StreamList,
};
use tiderace_wire::link::{Flags, Kind};

use super::batch::Content;
use super::session::{Arrived, Session};
use super::{StreamPlan, Zone};
use crate::history::BatchName;
use crate::world::{Actor, ActorEvent, Port};

const PATIENCE_NS: u64 = 4_000_000_000;

/// What a request was for.
#[derive(Clone, Debug)]
enum Asked {
    Create(usize),
    Look(usize),
    CreateBrief,
    WriteBrief(StreamId),
    DeleteBrief(StreamId),
    LookBrief,
    /// A batch for a stream that is gone.
    WriteGone(StreamId),
    List,
}

/// Where the stream that comes and goes stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Brief {
    None,
    Known(StreamId),
    /// Asked for, with no answer: it may be there or not.
    Unsure,
    Gone,
}

/// Creates streams.
#[derive(Debug)]
pub(crate) struct Creator {
    zone: Zone,
    session: Option<Session>,
    connecting: bool,
    machine: crate::world::MachineId,
    asked: BTreeMap<u64, Asked>,
    known: Vec<Option<Stream>>,
    brief: Brief,
    brief_number: u64,
    gone: Option<StreamId>,
    rounds: u64,
    pace_ns: u64,
}

impl Creator {
    pub(crate) fn new(zone: Zone, prng: &mut Prng) -> Self {
        let known = vec![None; zone.streams.len()];
        Self {
            machine: crate::world::MachineId {
                node: zone.node,
                machine: 0,
            },
            zone,
            session: None,
            connecting: false,
            asked: BTreeMap::new(),
            known,
            brief: Brief::None,
            brief_number: 0,
            gone: None,
            rounds: prng.range(2, 60),
            pace_ns: prng.range(1_000_000, 100_000_000),
        }
    }

    fn brief_path(&self) -> Arc<str> {
        format!("brief/{}/{}", self.zone.node, self.brief_number).into()
    }

    fn create(plan: &StreamPlan) -> StreamCreate {
        StreamCreate {
            partitions: plan.partitions,
            durability: Some(plan.durability),
            tenant: TenantId::new(1),
            retention: plan.retention,
            path: Arc::clone(&plan.path),
        }
    }

    fn look(path: Arc<str>) -> MetadataRequest {
        MetadataRequest {
            what: MetadataWhat::ByPath,
            first_partition: PartitionIndex::new(0),
            stream: StreamId::new(0),
            path,
        }
    }

    /// Sends a batch into some partition, as a producer that is not heard of again, or as none.
    fn write(
        stream: StreamId,
        partitions: u32,
        session: &mut Session,
        port: &mut Port<'_>,
    ) -> Option<MessageId> {
        let partition = port.prng.below(u64::from(partitions)) as u32;
        let content = Content::draw(partition, partitions, 2000, port.wall_us, port.prng);
        let name = BatchName {
            partition: PartitionKey {
                stream,
                partition: PartitionIndex::new(partition),
            },
            producer: match port.prng.next_u128() {
                nobody if nobody % 8 == 0 => 0,
                somebody => somebody,
            },
            producer_epoch: 1,
            seq: 0,
        };
        let (header, bytes, _) = content.encode(&name);
        if !session.try_spend(bytes.len(), port) {
            return None;
        }
        let produce = Produce {
            epoch: Epoch::ZERO,
            produce_slot: 0,
            since: Offset::ZERO,
        };
        Some(session.send(port, |out, id| {
            produce.encode(out, id, Flags::of(header.attributes()), bytes.len());
            out.extend_from_slice(&bytes);
        }))
    }

    /// Asks the next question, one at a time.
    fn pump(&mut self, port: &mut Port<'_>) {
        if !self.asked.is_empty()
            || !self
                .session
                .as_ref()
                .is_some_and(|session| session.is_open() && !session.draining)
        {
            return;
        }
        let missing = self.known.iter().position(Option::is_none);
        let asked = match (missing, self.brief) {
            (Some(stream), _) => Asked::Create(stream),
            (None, _) if self.rounds == 0 => return,
            (None, _) if port.prng.chance(1, 3) => {
                Asked::Look(port.prng.below(self.known.len() as u64) as usize)
            }
            (None, _) if port.prng.chance(1, 8) => Asked::List,
            (None, Brief::None) => match self.gone {
                Some(gone) if port.prng.chance(1, 4) => Asked::WriteGone(gone),
                Some(_) | None => Asked::CreateBrief,
            },
            (None, Brief::Known(stream)) if port.prng.chance(1, 2) => Asked::WriteBrief(stream),
            (None, Brief::Known(stream)) if port.prng.chance(1, 2) => Asked::DeleteBrief(stream),
            (None, Brief::Known(_) | Brief::Gone) => Asked::LookBrief,
            (None, Brief::Unsure) => {
                // Nobody can say whether it is there: another one is begun.
                self.brief_number += 1;
                self.brief = Brief::None;
                Asked::CreateBrief
            }
        };
        let path = self.brief_path();
        let partitions = self.zone.streams[0].partitions;
        let Some(session) = &mut self.session else {
            return;
        };
        let id = match &asked {
            Asked::WriteBrief(stream) | Asked::WriteGone(stream) => {
                match Self::write(*stream, partitions, session, port) {
                    Some(id) => id,
                    // The credit comes back.
                    None => return,
                }
            }
            Asked::Create(stream) => {
                let create = Self::create(&self.zone.streams[*stream]);
                session.send(port, |out, id| create.encode(out, id))
            }
            Asked::Look(stream) => {
                let look = Self::look(Arc::clone(&self.zone.streams[*stream].path));
                session.send(port, |out, id| look.encode(out, id))
            }
            Asked::List => {
                let list = StreamList {
                    limit: 100,
                    after: "".into(),
                };
                session.send(port, |out, id| list.encode(out, id))
            }
            Asked::CreateBrief => {
                self.brief = Brief::Unsure;
                let create = StreamCreate {
                    path,
                    ..Self::create(&self.zone.streams[0])
                };
                session.send(port, |out, id| create.encode(out, id))
            }
            Asked::DeleteBrief(stream) => {
                self.brief = Brief::Unsure;
                let delete = StreamDelete { stream: *stream };
                session.send(port, |out, id| delete.encode(out, id))
            }
            Asked::LookBrief => {
                let look = Self::look(path);
                session.send(port, |out, id| look.encode(out, id))
            }
        };
        self.rounds = self.rounds.saturating_sub(u64::from(missing.is_none()));
        self.asked.insert(id.get(), asked);
    }

    fn take(&mut self, arrived: &Arrived, port: &mut Port<'_>) {
        let Ok(control) = Control::decode(arrived.kind, &arrived.control) else {
            return;
        };
        match control {
            Control::StreamCreated(created) => match self.asked.remove(&created.request.get()) {
                Some(Asked::Create(stream)) => self.learn(stream, created.stream, port),
                Some(Asked::CreateBrief) => self.brief = Brief::Known(created.stream.id),
                asked => self.complain(
                    port,
                    format!("a stream is created that was not asked for: {asked:?}"),
                ),
            },
            Control::StreamDeleted(deleted) => match self.asked.remove(&deleted.request.get()) {
                Some(Asked::DeleteBrief(stream)) => {
                    self.brief = Brief::Gone;
                    self.gone = Some(stream);
                }
                asked => self.complain(
                    port,
                    format!("a stream is deleted that was not asked for: {asked:?}"),
                ),
            },
            Control::Produced(produced) => {
                for ack in produced.acks() {
                    match self.asked.remove(&ack.request.get()) {
                        Some(Asked::WriteGone(stream)) if ack.code.is_none() => {
                            self.complain(port, format!("{stream:?} is gone and takes a batch"));
                        }
                        Some(Asked::WriteBrief(_) | Asked::WriteGone(_)) => {}
                        asked => self.complain(port, format!("{ack:?} acknowledges {asked:?}")),
                    }
                }
            }
            Control::Metadata(metadata) => {
                let asked = self.asked.remove(&metadata.request.get());
                match (asked, metadata.stream) {
                    (Some(Asked::Look(stream)), Some(found)) => self.learn(stream, found, port),
                    (Some(Asked::LookBrief), Some(found)) => {
                        let gone = self.brief == Brief::Gone;
                        let other = matches!(self.brief, Brief::Known(id) if id != found.id);
                        if gone || other {
                            self.complain(
                                port,
                                format!("{found:?} is there, and should be {:?}", self.brief),
                            );
                        }
                    }
                    (asked, stream) => {
                        self.complain(port, format!("metadata of {stream:?} answers {asked:?}"));
                    }
                }
            }
            Control::StreamListing(listing) => {
                self.asked.remove(&listing.request.get());
                for known in self.known.iter().flatten() {
                    if !listing.more && !listing.streams.contains(known) {
                        self.complain(port, format!("{known:?} is not in the listing {listing:?}"));
                        return;
                    }
                }
            }
            Control::Error(error) => {
                let asked = self.asked.remove(&error.request.get());
                let unknown = error.code == ErrorCode::UnknownStream;
                match asked {
                    Some(Asked::Look(stream)) if unknown => {
                        let known = self.known[stream].clone();
                        self.complain(port, format!("{known:?} was created, and is unknown"));
                    }
                    Some(Asked::LookBrief) if unknown => {
                        if matches!(self.brief, Brief::Known(_)) {
                            self.complain(
                                port,
                                format!("{} was created, and is unknown", self.brief_path()),
                            );
                        }
                        if self.brief == Brief::Gone {
                            self.brief_number += 1;
                            self.brief = Brief::None;
                        }
                    }
                    Some(asked) if error.code == ErrorCode::StreamExists => {
                        self.complain(
                            port,
                            format!("{asked:?} says that the stream exists with other properties"),
                        );
                    }
                    _ => {}
                }
            }
            Control::Welcome(_) | Control::Goodbye(_) => {}
            other => self.complain(
                port,
                format!("{:?} answers nothing that was asked", other.kind()),
            ),
        }
    }

    fn learn(&mut self, number: usize, stream: Stream, port: &mut Port<'_>) {
        let plan = &self.zone.streams[number];
        let as_planned = stream.path == plan.path
            && stream.partitions == plan.partitions
            && stream.durability == plan.durability
            && stream.retention == plan.retention;
        let same = self.known[number]
            .as_ref()
            .is_none_or(|known| *known == stream);
        plan.tell(stream.id.get(), port);
        if !as_planned || !same {
            let what = format!(
                "{stream:?} was asked for as {plan:?} and known as {:?}",
                self.known[number]
            );
            self.complain(port, what);
            return;
        }
        self.known[number] = Some(stream);
    }

    fn complain(&mut self, port: &mut Port<'_>, what: String) {
        if let Some(session) = &mut self.session {
            session.complain(port, what);
        }
    }
}

impl Actor for Creator {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                if let Some(session) = &self.session
                    && (session.draining || session.heard_ns + PATIENCE_NS < port.now_ns)
                {
                    port.close(session.link);
                    self.session = None;
                    self.asked.clear();
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
                self.session = Some(Session::open(link, self.machine, "creator", port));
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
                    let is_welcome = arrived.kind == Kind::Welcome;
                    self.take(&arrived, port);
                    if is_welcome {
                        self.pump(port);
                    }
                }
            }
            ActorEvent::Ended(link) | ActorEvent::Closed(link) => {
                if self
                    .session
                    .as_ref()
                    .is_none_or(|session| session.link == link)
                {
                    self.session = None;
                    self.connecting = false;
                    self.asked.clear();
                }
            }
        }
    }

    fn waits(&self) -> bool {
        self.rounds > 0 || self.known.contains(&None)
    }

    fn waits_for(&self) -> String {
        let missing = self.known.iter().filter(|known| known.is_none()).count();
        format!(
            "creator: {missing} streams to create, {} rounds to go, asked {:?}, session {:?}",
            self.rounds, self.asked, self.session
        )
    }

    fn heal(&mut self, _port: &mut Port<'_>) {
        self.pace_ns = self.pace_ns.min(5_000_000);
    }
}
