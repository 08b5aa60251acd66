//! A batch on its way into the journal: checked at the door, judged against what its producer sent before, copied once
//! into the open chunk, validated where it lies, placed, and queued until it is durable. What is refused leaves nothing
//! behind.

use crate::partition::{Appended, Partition, Recent};
use crate::partitions::Index;
use crate::producer::{Claim, Producer, Remembered, Verdict};
use crate::shard::{Forwarded, Phase, Shard};
use crate::undurable::{Pending, Waiter, Waiting};
use bytes::Bytes;
use tiderace_base::catalogue::{Durability, Retention, SlotPlace};
use tiderace_base::ids::{MessageId, PartitionKey};
use tiderace_base::limits::{BATCH_HEADER_BYTES, LINK_WINDOW_BYTES};
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, Lsn, Offset};
use tiderace_base::time::Now;
use tiderace_replica::SlotState;
use tiderace_storage::{Class, EntryMeta, Refused};
use tiderace_wire::assembly::View;
use tiderace_wire::batch::{BatchHeader, Codec, Placement};
use tiderace_wire::body;
use tiderace_wire::entry::{EntryKind, ExpireReason, ProducerExpire};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, AckFlags, Produce};

/// Bytes of forwarded batches that may wait for room in the journal.
const FORWARDED_BYTES_MAX: usize = 4 * LINK_WINDOW_BYTES as usize;

/// Why a batch was not appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rejected {
    /// For good: the producer is told.
    Error {
        /// With which code.
        code: ErrorCode,
        /// The detail that the code names: a sequence, or zero.
        detail: u64,
    },
    /// The journal has no room now: the same batch is tried again.
    Busy,
    /// Another shard of this node owns the partition.
    Elsewhere(SlotPlace),
}

impl Rejected {
    fn code(code: ErrorCode) -> Self {
        Self::Error { code, detail: 0 }
    }
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::Busy,
            Refused::ReadOnly => Self::code(ErrorCode::ReadOnly),
            Refused::Poisoned => Self::code(ErrorCode::Draining),
        }
    }
}

/// Where a batch went, now or before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    partition: Index,
    key: PartitionKey,
    place: Remembered,
    epoch: Epoch,
    next: Offset,
    known_as: KnownAs,
    durability: Durability,
}

/// What a batch that is in the journal is to its producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum KnownAs {
    /// It was just appended.
    New,
    /// It was appended before, at this place.
    Duplicate,
    /// It was appended before, nobody knows where: below this place.
    Forgotten,
}

/// The header of a batch: where it lies, or, where it lies in several pieces, copied into `gathered`.
fn gather_header<'a>(
    batch: View<'a>,
    gathered: &'a mut [u8; BATCH_HEADER_BYTES],
) -> Option<&'a [u8; BATCH_HEADER_BYTES]> {
    if let Some(whole) = batch.slices().next()?.first_chunk() {
        return Some(whole);
    }
    let mut filled = 0;
    for slice in batch.slices() {
        let take = slice.len().min(BATCH_HEADER_BYTES - filled);
        gathered[filled..filled + take].copy_from_slice(&slice[..take]);
        filled += take;
        if filled == BATCH_HEADER_BYTES {
            return Some(gathered);
        }
    }
    None
}

impl Shard {
    /// Appends a batch, or says why not.
    pub(crate) fn append(
        &mut self,
        now: Now,
        produce: Produce,
        batch: View<'_>,
    ) -> Result<Accepted, Rejected> {
        let mut gathered = [0; BATCH_HEADER_BYTES];
        let first =
            gather_header(batch, &mut gathered).ok_or(Rejected::code(ErrorCode::BatchHeader))?;
        let header = BatchHeader::parse(first).map_err(|error| Rejected::code(error.code()))?;
        let batch_bytes = batch.len();
        header
            .check_door(batch_bytes - BATCH_HEADER_BYTES)
            .map_err(|error| Rejected::code(error.code()))?;
        let (index, place) = self.find_partition(header.key(), produce.epoch)?;
        if !self.serving() {
            return Err(Rejected::Busy);
        }
        if matches!(self.phase, Phase::Draining { .. }) {
            return Err(Rejected::code(ErrorCode::Draining));
        }
        let idempotent = header.attributes().is_idempotent();
        if idempotent {
            if let Some(earlier) = self.judge(index, header, produce)? {
                return Ok(earlier);
            }
            self.make_way(now, index, header, batch)?;
        }
        self.start_epoch(now, place.slot)?;
        let slot = &mut self.slots[usize::from(place.slot.get())];
        let (epoch, slot_seq) = slot
            .slot
            .next_place()
            .ok_or(Rejected::code(ErrorCode::NotLeader))?;
        let partition = self.partitions.at(index);
        let base_offset = match partition.durable.end {
            end if is_planted(Bug::ReuseOffset) && slot_seq.get() % 16 == 0 => {
                Offset::new(end.get().saturating_sub(1))
            }
            end => end,
        };
        let next = base_offset
            .checked_add(u64::from(header.record_count()))
            .ok_or(Rejected::code(ErrorCode::BatchHeader))?;
        let append_time_us = partition.append_time_us(now.wall.as_us());

        // The one copy. Dropping the draft takes it back.
        let mut draft = self.journal.draft(Class::Data, batch_bytes)?;
        for slice in batch.slices() {
            draft.copy(slice);
        }
        let end = draft.end();
        let (head, payload) = draft.bytes_mut().split_at_mut(BATCH_HEADER_BYTES);
        check_payload(header, payload)?;
        let placed_header = BatchHeader::parse_mut(head).expect("a copy of what was parsed");
        placed_header.place(Placement {
            base_offset,
            slot_seq,
            epoch,
            slot: place.slot,
            entry_kind: EntryKind::Data,
            append_time_us,
        });
        let appended = Appended::from_header(placed_header, end);
        draft.checked(header.body_len(), header.body_crc());
        if is_planted(Bug::DeliverUndurable) {
            partition.visible = next;
        }
        let placed = draft.commit(EntryMeta {
            key: Some(partition.key),
            slot: place.slot,
            epoch,
            slot_seq,
            base_offset,
            next_offset: next,
            append_time_us,
        });
        assert_eq!(placed.end, end, "the draft holds the batch and no more");

        slot.slot.placed(slot_seq);
        slot.applied = placed.end;
        slot.dirty = true;
        let stream = partition.stream.as_deref();
        let durability = match stream.map_or(Durability::Local, |stream| stream.durability) {
            _ if is_planted(Bug::AcknowledgeNamelessEarly) && !idempotent => Durability::Memory,
            durability => durability,
        };
        let mut room = self.producer_room.of(index);
        let marked = partition.durable.append(&appended, stream, &mut room);
        if marked && !partition.grown {
            partition.grown = true;
            self.grown.partitions.push(index);
        }
        self.grown.bytes += batch_bytes as u64;
        let bytes = u32::try_from(batch_bytes).expect("a batch is below 4 GiB");
        partition.remember(Recent {
            base: base_offset,
            next,
            lsn: placed.lsn,
            bytes,
        });
        // What has left the journal's memory is not worth remembering.
        let frozen = self.journal.frozen_lsn();
        while let Some(oldest) = partition.recent.front()
            && oldest.lsn < frozen
            && self
                .journal
                .slice(oldest.lsn, oldest.bytes as usize)
                .is_none()
        {
            partition.recent.pop_front();
        }
        self.touch(index);
        self.metrics.batches_appended_total.add(1);
        self.metrics
            .records_appended_total
            .add(u64::from(header.record_count()));
        self.metrics.bytes_appended_total.add(batch_bytes as u64);
        if self.retention_due.is_none() && !self.retained.is_empty() {
            self.want_retention(now);
        }
        let remembered = Remembered {
            base_offset,
            append_time_us,
            end: placed.end,
            producer_crc: header.producer_crc(),
        };
        Ok(Accepted {
            partition: index,
            key: header.key(),
            place: remembered,
            epoch,
            next,
            known_as: KnownAs::New,
            durability,
        })
    }

    /// Makes room for what will be remembered of a batch. Where a new producer has none, another one is expired: only for a
    /// batch that will be appended. A copy of it is checked first, and taken back, for its place comes behind the entry that
    /// says who was expired.
    fn make_way(
        &mut self,
        now: Now,
        index: Index,
        header: &BatchHeader,
        batch: View<'_>,
    ) -> Result<(), Rejected> {
        let id = header.producer_id();
        let producers = &self.partitions.at(index).durable.producers;
        if let Some(known) = producers.get(id) {
            if known.asks_for_places()
                && self
                    .producer_room
                    .make_places(&mut self.partitions, index, id)
            {
                self.metrics.producer_windows_cut_total.add(1);
            }
            return Ok(());
        }
        let of_partition = producers.must_expire(id).map(expiry);
        let for_memory = match of_partition {
            Some(_) => 0,
            None => self.producer_room.too_many(),
        };
        if of_partition.is_none() && for_memory == 0 {
            return Ok(());
        }
        let mut draft = self.journal.draft(Class::Data, header.batch_len())?;
        for slice in batch.slices() {
            draft.copy(slice);
        }
        check_payload(header, &draft.bytes()[BATCH_HEADER_BYTES..])?;
        drop(draft);
        if let Some(body) = of_partition {
            self.expire_producer(now, index, body)?;
        }
        for _ in 0..for_memory {
            let slots = &self.slots;
            // Only its leader places entries in a slot.
            let leads = |partition: &Partition| {
                let slot = &slots[usize::from(partition.durable.slot.get())].slot;
                !matches!(slot.state(), SlotState::Idle)
            };
            let oldest = self.producer_room.silent_longest(&self.partitions, leads);
            let Some((whose, body)) = oldest.map(|(whose, oldest)| (whose, expiry(oldest))) else {
                break;
            };
            self.expire_producer(now, whose, body)?;
            self.metrics.producers_expired_for_memory_total.add(1);
        }
        Ok(())
    }

    /// Finds the partition of a batch, making it on first use, with its slot; or says who has it.
    fn find_partition(
        &mut self,
        key: PartitionKey,
        epoch: Epoch,
    ) -> Result<(Index, Placed), Rejected> {
        let Some(catalogue) = &self.catalogue else {
            return Err(Rejected::Busy);
        };
        let held = self.partitions.find(key);
        let known = held.and_then(|index| {
            let partition = self.partitions.get(index)?;
            let (version, place) = partition.place?;
            (version == catalogue.version).then_some((partition.durable.slot, place))
        });
        let (slot, place) = match known {
            Some(known) => known,
            None if !catalogue.streams.contains_key(&key.stream) => {
                return Err(Rejected::code(ErrorCode::UnknownStream));
            }
            None => catalogue
                .place(key)
                .ok_or(Rejected::code(ErrorCode::UnknownPartition))?,
        };
        if place.leader != catalogue.node || place.shard != self.config.id {
            return Err(Rejected::Elsewhere(place));
        }
        // An epoch that has ended is refused; zero says that the producer does not know any.
        let is_known = epoch == place.epoch || is_planted(Bug::AcceptOldEpoch);
        if epoch != Epoch::ZERO && !is_known {
            return Err(Rejected::Error {
                code: ErrorCode::FencedEpoch,
                detail: u64::from(place.epoch.get()),
            });
        }
        let index = match held {
            Some(index) => index,
            None => {
                let mut partition = Partition::new(key);
                partition.durable.slot = slot;
                partition.stream = catalogue.streams.get(&key.stream).cloned();
                let retention = partition.stream.as_ref().map(|stream| stream.retention);
                if retention != Some(Retention::default()) {
                    self.retained.insert(key);
                }
                self.partitions.insert(partition)
            }
        };
        if known.is_none() {
            let version = catalogue.version;
            self.partitions.at(index).place = Some((version, place));
            self.metrics.partitions.set(self.partitions.len() as u64);
        }
        Ok((index, Placed { slot }))
    }

    /// Judges an idempotent batch: `None` when it is the next, its earlier place when it was appended before.
    fn judge(
        &mut self,
        index: Index,
        header: &BatchHeader,
        produce: Produce,
    ) -> Result<Option<Accepted>, Rejected> {
        // An offset says nothing without the epoch in which it was reached: what came after it may have been lost since.
        let since = if produce.epoch == Epoch::ZERO {
            Offset::ZERO
        } else {
            produce.since
        };
        let claim = Claim {
            id: header.producer_id(),
            epoch: header.producer_epoch(),
            seq: header.producer_seq(),
            producer_crc: header.producer_crc(),
            since,
        };
        let partition = self.partitions.at(index);
        let producers = &partition.durable.producers;
        let durability = partition
            .stream
            .as_ref()
            .map_or(Durability::Local, |stream| stream.durability);
        let earlier = |known_as, place: Remembered| {
            let starts = partition.durable.epochs.starts().iter().rev();
            let mut starts = starts.filter(|(_, start)| *start <= place.base_offset);
            Accepted {
                partition: index,
                key: header.key(),
                place,
                epoch: starts.next().map_or(Epoch::ZERO, |(epoch, _)| *epoch),
                next: partition.durable.end,
                known_as,
                durability,
            }
        };
        match producers.judge(&claim) {
            Verdict::Append => Ok(None),
            Verdict::Duplicate(place) => Ok(Some(earlier(KnownAs::Duplicate, place))),
            Verdict::Forgotten { later } => Ok(Some(earlier(KnownAs::Forgotten, later))),
            Verdict::Gap { due } => Err(Rejected::Error {
                code: ErrorCode::SequenceGap,
                detail: due.get(),
            }),
            Verdict::Reused => Err(Rejected::code(ErrorCode::SequenceReused)),
            Verdict::Unknown => Err(Rejected::Error {
                code: ErrorCode::ProducerUnknown,
                detail: partition.durable.end.get(),
            }),
            Verdict::Fenced { newest } => Err(Rejected::Error {
                code: ErrorCode::ProducerFenced,
                detail: u64::from(newest.get()),
            }),
        }
    }

    /// Queues the acknowledgement of a batch until its place is durable at the stream's level.
    pub(crate) fn promise(
        &mut self,
        now: Now,
        accepted: Accepted,
        waiter: Waiter,
        request: MessageId,
        credit_bytes: u64,
    ) -> Option<Waiting> {
        let Accepted {
            partition,
            key,
            place,
            epoch,
            next,
            known_as,
            durability,
        } = accepted;
        let ack = match known_as {
            KnownAs::New | KnownAs::Duplicate => Ack {
                request: match request {
                    another if is_planted(Bug::AnswerAnother) && place.end.get() % 64 == 0 => {
                        MessageId::new(another.get() + 1)
                    }
                    request => request,
                },
                base_offset: match place.base_offset {
                    other if is_planted(Bug::AnswerOtherPlace) && place.end.get() % 64 == 0 => {
                        other.advance(1)
                    }
                    base_offset => base_offset,
                },
                append_time_us: place.append_time_us,
                epoch,
                code: (is_planted(Bug::RefuseAppended) && place.end.get() % 64 == 0)
                    .then_some(ErrorCode::Busy),
                flags: if known_as == KnownAs::New {
                    AckFlags::NONE
                } else {
                    AckFlags::DUPLICATE
                },
            },
            KnownAs::Forgotten => refusal(request, ErrorCode::DuplicateForgotten, 0),
        };
        let waiting = Waiting {
            waiter,
            ack,
            credit_bytes,
        };
        // `memory` promises no disk: it is acknowledged as soon as it is journaled.
        let now_due = durability == Durability::Memory || place.end <= self.journal.durable_lsn();
        if known_as != KnownAs::New {
            match known_as {
                KnownAs::Forgotten => self.metrics.duplicates_forgotten_total.add(1),
                KnownAs::New | KnownAs::Duplicate => self.metrics.duplicates_total.add(1),
            }
            if now_due || is_planted(Bug::AnswerDuplicateEarly) {
                return Some(waiting);
            }
            self.undurable.push_duplicate(place.end, waiting);
            return None;
        }
        let told = Waiting {
            waiter: Waiter::Nobody,
            ..waiting
        };
        let queued = if now_due { told } else { waiting };
        self.undurable.push(Pending {
            end: place.end,
            partition,
            key,
            next,
            appended_at: now.mono,
            waiting: queued,
        });
        now_due.then_some(waiting)
    }

    /// The journal is durable up to `durable`: makes batches visible and tells who waits.
    pub(crate) fn became_durable(&mut self, now: Now, durable: Lsn, effects: &mut Effects) {
        while let Some(pending) = self.undurable.pop(durable) {
            self.metrics
                .durable_ns_total
                .add(now.mono.since(pending.appended_at));
            // A partition that was dropped meanwhile shows nothing to anybody.
            if self
                .partitions
                .get(pending.partition)
                .is_some_and(|partition| partition.key == pending.key)
            {
                let partition = self.partitions.at(pending.partition);
                partition.visible = pending.next;
                if !partition.caught_up.is_empty() && !partition.woken {
                    partition.woken = true;
                    self.woken.push(pending.partition);
                }
            }
            // A retry waits for an earlier place than what was appended behind it: it is answered first.
            while let Some(waiting) = self.undurable.pop_duplicate(pending.end) {
                self.tell(waiting, effects);
            }
            self.tell(pending.waiting, effects);
        }
        while let Some(waiting) = self.undurable.pop_duplicate(durable) {
            self.tell(waiting, effects);
        }
        self.wake_subscribers();
        self.reclaim_when_durable(effects);
        self.say_dropped(effects);
        self.serve_when_started(now, effects);
    }

    /// Hands an acknowledgement to whoever waits for it.
    pub(crate) fn tell(&mut self, waiting: Waiting, effects: &mut Effects) {
        match waiting.waiter {
            Waiter::Here(conn) => self.acknowledge(conn, waiting.ack, waiting.credit_bytes),
            Waiter::There(origin) => {
                let ack = Bytes::copy_from_slice(&waiting.ack.to_bytes());
                effects.push(Effect::Post {
                    to: Peer::Shard(origin.shard),
                    message: Message::Produced { origin, ack },
                });
            }
            Waiter::Nobody => {}
        }
    }

    /// Takes a batch that another shard forwarded. When too many wait for room it is refused: the producer tries again.
    pub(crate) fn take_forwarded(&mut self, now: Now, forwarded: Forwarded, effects: &mut Effects) {
        if self.forwarded_bytes > FORWARDED_BYTES_MAX {
            let waiter = Waiter::There(forwarded.origin);
            let ack = refusal(forwarded.origin.request, ErrorCode::Busy, 0);
            return self.tell(
                Waiting {
                    waiter,
                    ack,
                    credit_bytes: 0,
                },
                effects,
            );
        }
        self.forwarded_bytes += forwarded.bytes();
        self.forwarded.push_back(forwarded);
        self.drive_forwarded(now, effects);
    }

    /// Appends what other shards forwarded, in order, until the journal has no room.
    pub(crate) fn drive_forwarded(&mut self, now: Now, effects: &mut Effects) {
        while let Some(forwarded) = self.forwarded.pop_front() {
            self.forwarded_bytes -= forwarded.bytes();
            let Forwarded {
                origin,
                control,
                batch,
            } = &forwarded;
            let result = match Produce::decode(control) {
                Ok(produce) => self.append(now, produce, View::all(batch)),
                Err(_) => Err(Rejected::code(ErrorCode::BadControl)),
            };
            let waiter = Waiter::There(*origin);
            match result {
                Ok(accepted) => {
                    if let Some(waiting) = self.promise(now, accepted, waiter, origin.request, 0) {
                        self.tell(waiting, effects);
                    }
                }
                Err(Rejected::Busy) => {
                    self.forwarded_bytes += forwarded.bytes();
                    self.forwarded.push_front(forwarded);
                    return;
                }
                Err(Rejected::Error { code, detail }) => {
                    self.tell(
                        Waiting {
                            waiter,
                            ack: refusal(origin.request, code, detail),
                            credit_bytes: 0,
                        },
                        effects,
                    );
                }
                // The two shards see different catalogues: the client looks again.
                Err(Rejected::Elsewhere(_)) => {
                    self.tell(
                        Waiting {
                            waiter,
                            ack: refusal(origin.request, ErrorCode::NotLeader, 0),
                            credit_bytes: 0,
                        },
                        effects,
                    );
                }
            }
        }
    }

    /// Forwards a produce to the shard of this node that owns its partition.
    pub(crate) fn forward(
        &mut self,
        origin: Origin,
        to: Peer,
        control: Bytes,
        batch: Vec<Bytes>,
        effects: &mut Effects,
    ) {
        effects.push(Effect::Post {
            to,
            message: Message::Produce {
                origin,
                control,
                batch,
            },
        });
    }
}

/// What says that a producer is forgotten to make room.
fn expiry(producer: &Producer) -> ProducerExpire {
    ProducerExpire {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        reason: ExpireReason::Room,
    }
}

/// Checks a body where it lies: its checksum, and its archive unless it is packed.
fn check_payload(header: &BatchHeader, payload: &[u8]) -> Result<(), Rejected> {
    header
        .check_body(payload)
        .map_err(|error| Rejected::code(error.code()))?;
    if header.attributes().codec() == Codec::None {
        body::validate_batch(header, payload).map_err(|_| Rejected::code(ErrorCode::BatchBody))?;
    }
    Ok(())
}

/// The slot that a batch belongs to.
#[derive(Clone, Copy, Debug)]
struct Placed {
    slot: tiderace_base::ids::SlotId,
}

/// An acknowledgement that refuses.
pub(crate) fn refusal(request: MessageId, code: ErrorCode, detail: u64) -> Ack {
    Ack {
        request,
        base_offset: Offset::new(detail),
        append_time_us: 0,
        epoch: Epoch::ZERO,
        code: Some(code),
        flags: AckFlags::NONE,
    }
}
