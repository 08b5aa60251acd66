//! A producer: numbers its batches in each partition, keeps several on their way, and after anything that goes wrong
//! sends again what was not acknowledged, under the same number. Sometimes asks the node what it remembers, sometimes
//! names the epoch that it knows, and sometimes a twin of an older epoch of it sends what must be refused. Some have no id:
//! what they send again may be there twice, and is known by its content; it may be lost or overtake as little as the others'.

use std::collections::BTreeMap;

use tiderace_base::catalogue::{Durability, Stream};
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, ProducerId, StreamId};
use tiderace_base::limits::PRODUCER_WINDOW;
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Ack, Control, MetadataRequest, MetadataWhat, Produce, ProduceResume, ProduceResumed,
};
use tiderace_wire::link::Flags;

use super::batch::Content;
use super::session::{Arrived, Session};
use super::{StreamPlan, Zone, refusal};
use crate::history::{BatchName, Observation};
use crate::world::{Actor, ActorEvent, MachineId, Port};

/// A client gives up on a connection that says nothing for so long while it waits for something.
const PATIENCE_NS: u64 = 5_000_000_000;

#[derive(Debug)]
struct Made {
    content: Content,
    /// The digest of its content, where that is its name.
    digest: u64,
    /// The request that carries it now.
    sent: Option<u64>,
}

/// One partition.
#[derive(Debug)]
struct Lane {
    producer_epoch: u32,
    next_seq: u64,
    made: BTreeMap<u64, Made>,
    newest_acked: Option<u64>,
    quiet_until_ns: u64,
    slot_epoch: u32,
    /// Where the partition ended, in which slot epoch, when the producer epoch was begun.
    since: (u32, u64),
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Metadata,
    Batch(u32, u64),
    /// A batch that must be refused.
    Twin(BatchName),
    Resume(u32),
}

/// Makes batches until it has made enough.
#[derive(Debug)]
pub(crate) struct Producer {
    zone: Zone,
    plan: StreamPlan,
    id: u128,
    stream: Option<Stream>,
    shards: BTreeMap<u32, u16>,
    lanes: BTreeMap<u32, Lane>,
    session: Option<Session>,
    connecting: bool,
    machine: MachineId,
    asked: BTreeMap<u64, Asked>,
    to_make: u64,
    depth: usize,
    value_bytes_max: u64,
    names_epochs: bool,
    has_twin: bool,
    pace_ns: u64,
    idle_wakes: u32,
    settled: bool,
}

impl Producer {
    pub(crate) fn new(zone: Zone, prng: &mut Prng) -> Self {
        let plan = zone.streams[prng.below(zone.streams.len() as u64) as usize].clone();
        let count = prng.range(1, u64::from(plan.partitions) + 1);
        let lanes = (0..count)
            .map(|_| {
                let lane = Lane {
                    producer_epoch: 0,
                    next_seq: 0,
                    made: BTreeMap::new(),
                    newest_acked: None,
                    quiet_until_ns: 0,
                    slot_epoch: 0,
                    since: (0, 0),
                };
                (prng.below(u64::from(plan.partitions)) as u32, lane)
            })
            .collect();
        let zone_is_crowded = zone.crowded;
        let id = match prng.next_u128() | 1 {
            nobody if (nobody >> 64) % 6 == 0 => 0,
            somebody => somebody,
        };
        Self {
            machine: MachineId {
                node: zone.node,
                machine: 0,
            },
            zone,
            plan,
            id,
            stream: None,
            shards: BTreeMap::new(),
            lanes,
            session: None,
            connecting: false,
            asked: BTreeMap::new(),
            to_make: prng.range(10, 800),
            depth: match prng.below(4) {
                0 => 1,
                1 => PRODUCER_WINDOW,
                _ => prng.range(2, 24) as usize,
            },
            value_bytes_max: match prng.below(8) {
                0 => 0,
                1 | 2 => 5000,
                _ => prng.range(8, 600),
            },
            // Where anybody may be forgotten, an offset must be named, and it is one of an epoch.
            names_epochs: prng.chance(1, 2) || zone_is_crowded,
            has_twin: prng.chance(1, 3) && id != 0,
            pace_ns: prng.range(200_000, 20_000_000),
            idle_wakes: 0,
            settled: false,
        }
    }

    fn partition(&self, partition: u32) -> PartitionKey {
        let stream = self
            .stream
            .as_ref()
            .map_or(StreamId::new(0), |stream| stream.id);
        PartitionKey {
            stream,
            partition: PartitionIndex::new(partition),
        }
    }

    fn name(&self, partition: u32, producer_epoch: u32, seq: u64) -> BatchName {
        BatchName {
            partition: self.partition(partition),
            producer: self.id,
            producer_epoch,
            seq,
        }
    }

    /// The name of a batch that waits for its answer, as the history knows it.
    fn name_of(&self, partition: u32, seq: u64) -> Option<BatchName> {
        let lane = self.lanes.get(&partition)?;
        if self.has_id() {
            return Some(self.name(partition, lane.producer_epoch, seq));
        }
        let made = lane.made.get(&seq)?;
        Some(self.name(partition, 0, made.digest))
    }

    fn has_id(&self) -> bool {
        self.id != 0
    }

    fn waiting_batches(&self) -> usize {
        self.lanes.values().map(|lane| lane.made.len()).sum()
    }

    fn drop_session(&mut self) {
        self.session = None;
        self.asked.clear();
        for lane in self.lanes.values_mut() {
            // What was asked is not answered any more: the next refusal asks again.
            if lane.quiet_until_ns == u64::MAX {
                lane.quiet_until_ns = 0;
            }
            for made in lane.made.values_mut() {
                made.sent = None;
            }
        }
    }

    fn ask_metadata(&mut self, port: &mut Port<'_>) {
        if self
            .asked
            .values()
            .any(|asked| matches!(asked, Asked::Metadata))
        {
            return;
        }
        let Some(session) = self.session.as_mut().filter(|session| session.is_open()) else {
            return;
        };
        let request = MetadataRequest {
            what: MetadataWhat::ByPath,
            first_partition: PartitionIndex::new(0),
            stream: StreamId::new(0),
            path: self.plan.path.clone(),
        };
        let id = session.send(port, |out, id| request.encode(out, id));
        self.asked.insert(id.get(), Asked::Metadata);
    }

    /// Makes and sends what may be made and sent.
    fn pump(&mut self, port: &mut Port<'_>) {
        if self.stream.is_none() {
            self.ask_metadata(port);
            return;
        }
        let partitions: Vec<u32> = self.lanes.keys().copied().collect();
        let mut fresh = port.prng.below(6);
        for partition in partitions {
            while self.send_next(partition, &mut fresh, port) {}
        }
    }

    fn send_next(&mut self, partition: u32, fresh: &mut u64, port: &mut Port<'_>) -> bool {
        let ready = |session: &&mut Session| session.is_open() && !session.draining;
        if self.session.as_mut().filter(ready).is_none() {
            return false;
        }
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return false;
        };
        if lane.quiet_until_ns > port.now_ns {
            return false;
        }
        let unsent = lane
            .made
            .iter()
            .find(|(_, made)| made.sent.is_none())
            .map(|(seq, _)| *seq);
        let seq = match unsent {
            Some(seq) => seq,
            None if *fresh > 0 && self.to_make > 0 && lane.made.len() < self.depth => {
                *fresh -= 1;
                self.to_make -= 1;
                let has_id = self.id != 0;
                let draw = if has_id {
                    Content::draw
                } else {
                    Content::draw_unlike_others
                };
                let content = draw(
                    partition,
                    self.plan.partitions,
                    self.value_bytes_max,
                    port.wall_us,
                    port.prng,
                );
                let seq = lane.next_seq;
                lane.next_seq += 1;
                let digest = if has_id {
                    0
                } else {
                    content.encode(&self.name(partition, 0, 0)).2
                };
                let made = Made {
                    content,
                    digest,
                    sent: None,
                };
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.made.insert(seq, made);
                }
                seq
            }
            None => return false,
        };
        let lane = &self.lanes[&partition];
        let epoch = if self.names_epochs {
            lane.slot_epoch
        } else {
            0
        };
        let (since_epoch, since) = lane.since;
        let since = if since_epoch == epoch { since } else { 0 };
        let content = lane.made[&seq].content.clone();
        let Some(name) = self.name_of(partition, seq) else {
            return false;
        };
        let Some(id) = self.send_batch(&name, &content, epoch, since, port) else {
            return false;
        };
        self.asked.insert(id.get(), Asked::Batch(partition, seq));
        if let Some(made) = self
            .lanes
            .get_mut(&partition)
            .and_then(|lane| lane.made.get_mut(&seq))
        {
            made.sent = Some(id.get());
        }
        true
    }

    fn send_batch(
        &mut self,
        name: &BatchName,
        content: &Content,
        epoch: u32,
        since: u64,
        port: &mut Port<'_>,
    ) -> Option<MessageId> {
        let (header, bytes, digest): (BatchHeader, _, _) = content.encode(name);
        let session = self.session.as_mut()?;
        if !session.try_spend(bytes.len(), port) {
            return None;
        }
        if self.plan.trims() {
            port.observe(Observation::BatchWeighed {
                batch: *name,
                bytes: bytes.len() as u64,
            });
        }
        port.observe(Observation::Submitted {
            batch: *name,
            epoch,
            records: content.records,
            digest,
        });
        let produce = Produce {
            epoch: Epoch::new(epoch),
            produce_slot: 0,
            since: Offset::new(since),
        };
        let flags = Flags::of(header.attributes());
        Some(session.send(port, |out, id| {
            produce.encode(out, id, flags, bytes.len());
            out.extend_from_slice(&bytes);
        }))
    }

    /// A process that believes to be this producer, and was replaced by a newer epoch of it, sends a batch.
    fn send_as_twin(&mut self, port: &mut Port<'_>) {
        let old = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.producer_epoch > 0 && lane.newest_acked.is_some());
        let Some((partition, producer_epoch)) =
            old.map(|(partition, lane)| (*partition, lane.producer_epoch - 1))
        else {
            return;
        };
        let open = self
            .session
            .as_ref()
            .is_some_and(|session| session.is_open() && !session.draining);
        if !open || self.stream.is_none() {
            return;
        }
        let content = Content::draw(partition, self.plan.partitions, 20, port.wall_us, port.prng);
        // Far beyond whatever that epoch had sent: no retry of anything.
        let name = self.name(partition, producer_epoch, 1_000_000 + port.prng.below(1000));
        if let Some(id) = self.send_batch(&name, &content, 0, 0, port) {
            self.asked.insert(id.get(), Asked::Twin(name));
        }
    }

    /// The producer's process starts again and takes a new epoch of its own, having finished what it had begun.
    fn take_new_epoch(&mut self) {
        for lane in self.lanes.values_mut() {
            if lane.made.is_empty() && lane.newest_acked.is_some() {
                lane.producer_epoch += 1;
                lane.next_seq = 0;
                lane.newest_acked = None;
            }
        }
    }

    fn take(&mut self, arrived: &Arrived, port: &mut Port<'_>) {
        let Ok(control) = Control::decode(arrived.kind, &arrived.control) else {
            return;
        };
        match control {
            Control::Produced(produced) => {
                for ack in produced.acks() {
                    match self.asked.remove(&ack.request.get()) {
                        Some(Asked::Batch(partition, seq)) => {
                            self.acknowledged(partition, seq, &ack, port);
                        }
                        Some(Asked::Twin(name)) => {
                            let heard = match ack.code {
                                None => Some(acknowledgement(&name, &ack)),
                                Some(code) => refusal(name, code),
                            };
                            heard.into_iter().for_each(|heard| port.observe(heard));
                        }
                        asked => self.complain(port, format!("{ack:?} acknowledges {asked:?}")),
                    }
                }
            }
            Control::Metadata(metadata) => {
                let asked = self.asked.remove(&metadata.request.get());
                let (Some(Asked::Metadata), Some(stream)) = (asked, metadata.stream) else {
                    self.complain(port, "metadata that was not asked for".to_owned());
                    return;
                };
                self.plan.tell(stream.id.get(), port);
                for info in &metadata.partitions {
                    self.shards.insert(info.partition.get(), info.shard.get());
                    if let Some(lane) = self.lanes.get_mut(&info.partition.get()) {
                        lane.slot_epoch = info.epoch.get();
                    }
                }
                if self
                    .stream
                    .as_ref()
                    .is_some_and(|known| known.id != stream.id)
                {
                    self.complain(port, format!("{} has another id now", stream.path));
                    return;
                }
                self.stream = Some(stream);
                self.ask_what_is_remembered(port);
                self.pump(port);
            }
            Control::ProduceResumed(resumed) => {
                if let Some(Asked::Resume(partition)) = self.asked.remove(&resumed.request.get()) {
                    self.resumed(partition, &resumed, port);
                }
            }
            Control::Error(error) => match self.asked.remove(&error.request.get()) {
                Some(Asked::Batch(partition, seq)) => {
                    let ack =
                        Ack::refused(error.request, error.code, error.detail_a, error.detail_b);
                    self.refused(partition, seq, &ack, error.code, port);
                }
                Some(Asked::Twin(name)) => {
                    if let Some(refused) = refusal(name, error.code) {
                        port.observe(refused);
                    }
                }
                Some(Asked::Metadata | Asked::Resume(_)) | None => {}
            },
            Control::AckedLost(lost) => {
                let name = self.name(lost.partition.get(), 0, lost.from_seq.get());
                port.observe(Observation::Forgotten { batch: name });
            }
            Control::Redirect(redirect) => {
                self.asked.remove(&redirect.request.get());
                self.shards
                    .insert(redirect.partition.get(), redirect.shard.get());
            }
            Control::Welcome(_) => {
                self.ask_metadata(port);
            }
            Control::Goodbye(_) => {}
            other => self.complain(
                port,
                format!("{:?} answers nothing that was asked", other.kind()),
            ),
        }
    }

    fn acknowledged(&mut self, partition: u32, seq: u64, ack: &Ack, port: &mut Port<'_>) {
        if let Some(code) = ack.code {
            self.refused(partition, seq, ack, code, port);
            return;
        }
        let Some(name) = self.name_of(partition, seq) else {
            return self.complain(port, format!("{ack:?} answers what was answered"));
        };
        if !self.has_id() && ack.flags.is_duplicate() {
            self.complain(port, format!("{ack:?} of a batch that has no number"));
        }
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.newest_acked = lane.newest_acked.max(Some(seq));
        lane.slot_epoch = lane.slot_epoch.max(ack.epoch.get());
        // A retry may be acknowledged twice: the second time it is not waited for any more.
        lane.made.remove(&seq);
        port.observe(acknowledgement(&name, ack));
    }

    fn refused(
        &mut self,
        partition: u32,
        seq: u64,
        ack: &Ack,
        code: ErrorCode,
        port: &mut Port<'_>,
    ) {
        let is_volatile = self.plan.durability == Durability::Memory;
        let has_id = self.has_id();
        let newest = self
            .lanes
            .get(&partition)
            .map(|lane| (lane.producer_epoch, lane.newest_acked));
        let name = self.name_of(partition, seq);
        if let Some(refused) = name.and_then(|name| refusal(name, code)) {
            port.observe(refused);
        }
        let is_about_numbers = matches!(
            code,
            ErrorCode::ProducerUnknown
                | ErrorCode::SequenceGap
                | ErrorCode::SequenceReused
                | ErrorCode::DuplicateForgotten
        );
        if !has_id && is_about_numbers {
            return self.complain(port, format!("a batch without a number is {code:?}"));
        }
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        let current = lane
            .made
            .get(&seq)
            .is_some_and(|made| made.sent == Some(ack.request.get()));
        if !current {
            return;
        }
        let due = ack.base_offset.get();
        if code == ErrorCode::ProducerUnknown && self.zone.crowded {
            return self.begin_at(partition, due, port);
        }
        let oldest = lane.made.keys().next().copied().unwrap_or(seq);
        let forgotten = match code {
            ErrorCode::ProducerUnknown => oldest > 0,
            ErrorCode::SequenceGap => due < oldest,
            _ => false,
        };
        if forgotten {
            if !is_volatile && let Some((producer_epoch, Some(newest))) = newest {
                let batch = self.name(partition, producer_epoch, newest);
                port.observe(Observation::Forgotten { batch });
                return;
            }
            self.renew(partition);
            return;
        }
        match code {
            ErrorCode::DuplicateForgotten => {
                lane.made.remove(&seq);
                let producer_epoch = lane.producer_epoch;
                let batch = self.name(partition, producer_epoch, seq);
                port.observe(Observation::Stored { batch });
            }
            ErrorCode::ProducerFenced
            | ErrorCode::BatchHeader
            | ErrorCode::BatchChecksum
            | ErrorCode::BatchBody
            | ErrorCode::BatchTooLarge
            | ErrorCode::CodecRefused
            | ErrorCode::UnknownPartition => {
                self.complain(port, format!("a sound batch is refused: {code:?}"));
            }
            ErrorCode::FencedEpoch => {
                lane.slot_epoch = u32::try_from(due).unwrap_or(0);
                lane.send_again(seq, has_id);
            }
            _ => {
                lane.send_again(seq, has_id);
                lane.quiet_until_ns = port.now_ns + port.prng.range(200_000, 30_000_000);
            }
        }
        if code == ErrorCode::NotLeader {
            let machine = self.shards.get(&partition).copied().unwrap_or(0);
            if let Some(session) = &self.session {
                port.close(session.link);
            }
            self.drop_session();
            self.machine.machine = machine;
        }
    }

    /// Somebody was forgotten, perhaps this producer: it goes on where the partition ends, once it knows where that is.
    fn begin_at(&mut self, partition: u32, end: u64, port: &mut Port<'_>) {
        self.renew(partition);
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        if lane.slot_epoch == 0 {
            lane.quiet_until_ns = u64::MAX;
            self.ask_for(partition, port);
        } else {
            lane.since = (lane.slot_epoch, end);
        }
    }

    /// Everything that waits in this partition goes on under a new epoch, from number zero.
    fn renew(&mut self, partition: u32) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.producer_epoch += 1;
        lane.newest_acked = None;
        let made = std::mem::take(&mut lane.made);
        lane.made = (0..)
            .zip(made.into_values().map(|made| Made { sent: None, ..made }))
            .collect();
        lane.next_seq = lane.made.len() as u64;
        // Answers that are still on their way speak of the old numbers.
        self.asked
            .retain(|_, asked| !matches!(asked, Asked::Batch(other, _) if *other == partition));
        if let Some(session) = &mut self.session {
            session.ignores_strangers = true;
        }
    }

    fn ask_what_is_remembered(&mut self, port: &mut Port<'_>) {
        if self.session.is_none() || !self.has_id() || !port.prng.chance(1, 4) {
            return;
        }
        let partitions: Vec<u32> = self.lanes.keys().take(4).copied().collect();
        for partition in partitions {
            self.ask_for(partition, port);
        }
    }

    fn ask_for(&mut self, partition: u32, port: &mut Port<'_>) {
        let stream = self.stream.as_ref().map(|stream| stream.id);
        let (Some(stream), Some(session)) = (stream, &mut self.session) else {
            return;
        };
        let lane = &self.lanes[&partition];
        let resume = ProduceResume {
            stream,
            partition: PartitionIndex::new(partition),
            producer_epoch: ProducerEpoch::new(lane.producer_epoch),
            producer_id: ProducerId::new(self.id),
            last_acked_seq: ProducerSeq::new(lane.newest_acked.unwrap_or(0)),
            has_acked: lane.newest_acked.is_some(),
        };
        let id = session.send(port, |out, id| resume.encode(out, id));
        self.asked.insert(id.get(), Asked::Resume(partition));
    }

    fn resumed(&mut self, partition: u32, resumed: &ProduceResumed, port: &mut Port<'_>) {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return;
        };
        lane.slot_epoch = lane.slot_epoch.max(resumed.epoch.get());
        if lane.quiet_until_ns == u64::MAX {
            lane.quiet_until_ns = 0;
            lane.since = (resumed.epoch.get(), resumed.end.get());
        }
        let remembered = resumed.known.then_some(resumed.last_seq.get());
        if self.plan.durability != Durability::Memory
            && let Some(newest) = lane.newest_acked
            && remembered.map_or(!self.zone.crowded, |remembered| remembered < newest)
        {
            let batch = self.name(partition, self.lanes[&partition].producer_epoch, newest);
            port.observe(Observation::Forgotten { batch });
        }
    }

    fn complain(&mut self, port: &mut Port<'_>, what: String) {
        if let Some(session) = &mut self.session
            && !session.ignores_strangers
        {
            session.complain(port, what);
        }
    }
}

impl Lane {
    /// One that was refused is sent again; where numbers have to follow one another, so is whatever follows it.
    fn send_again(&mut self, seq: u64, has_id: bool) {
        let last = if has_id { u64::MAX } else { seq };
        for (_, made) in self.made.range_mut(seq..=last) {
            made.sent = None;
        }
    }
}

fn acknowledgement(name: &BatchName, ack: &Ack) -> Observation {
    Observation::Acknowledged {
        batch: *name,
        offset: ack.base_offset.get(),
        epoch: ack.epoch.get(),
        duplicate: ack.flags.is_duplicate(),
    }
}

impl Actor for Producer {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                let waits = !self.asked.is_empty();
                if let Some(session) = &self.session
                    && ((waits && session.heard_ns + PATIENCE_NS < port.now_ns)
                        || (session.draining && !waits))
                {
                    port.abort(session.link);
                    self.drop_session();
                }
                if self.session.is_none() && !self.connecting && self.waits() {
                    self.connecting = true;
                    if port.prng.chance(1, 2) {
                        self.machine = self.zone.any_shard(port);
                    }
                    port.connect(self.machine);
                }
                self.pump(port);
                if self.has_twin && !port.healed && port.prng.chance(1, 16) {
                    self.take_new_epoch();
                }
                if self.has_twin && port.prng.chance(1, 16) {
                    self.send_as_twin(port);
                }
                let idle =
                    self.to_make == 0 && self.waiting_batches() == 0 && self.asked.is_empty();
                self.idle_wakes = if idle { self.idle_wakes + 1 } else { 0 };
                if idle && self.idle_wakes > 40 && !self.settled {
                    // Whatever the node grants for the last answers is here by now.
                    self.settled = true;
                    if let Some(session) = self.session.as_ref().filter(|session| session.is_open())
                    {
                        session.settle(port);
                    }
                }
                let wait_ns = self.pace_ns + port.prng.below(self.pace_ns);
                port.wake_in(wait_ns);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                self.session = Some(Session::open(link, self.machine, "producer", port));
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
        self.to_make > 0 || self.waiting_batches() > 0
    }

    fn waits_for(&self) -> String {
        format!(
            "producer of {}: {} to make, {} not acknowledged, asked {:?}, session {:?}",
            self.plan.path,
            self.to_make,
            self.waiting_batches(),
            self.asked,
            self.session
        )
    }

    fn heal(&mut self, _port: &mut Port<'_>) {
        self.pace_ns = self.pace_ns.min(5_000_000);
        self.to_make = self.to_make.min(100);
    }
}
