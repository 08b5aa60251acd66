//! A consuming connection: subscribes to partitions that one shard leads, from the end, and measures how long after
//! its intended time of sending each batch arrived. The time is the one that the records carry, in microseconds.

use super::link::Session;
use super::order::{Order, Seen};
use super::readers::{WINDOW_BATCHES, WINDOW_BYTES};
use super::tally::{Phase, Tally};
use crate::setup::Place;
use tiderace_base::ids::{PartitionKey, SubscriptionId};
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::{Epoch, Offset};
use tiderace_client::core::connection::{Identity, Notice};
use tiderace_client::core::consumer::From;
use tiderace_wire::batch::BatchHeader;

#[derive(Debug)]
struct Part {
    key: PartitionKey,
    id: Option<SubscriptionId>,
    next: Offset,
    received_bytes: u64,
    received_batches: u64,
    granted_bytes: u64,
    granted_batches: u64,
    order: Order,
}

/// A consuming connection.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) session: Session,
    /// Batches of other runs are passed over: a producer's id ends with this.
    run: u64,
    /// Whether each batch is checked against its checksums and its producer's numbers.
    verifies: bool,
    parts: Vec<Part>,
    asked: usize,
    begun: usize,
}

impl Subscriber {
    pub(crate) fn new(identity: &Identity, places: &[Place], run: u64, verifies: bool) -> Self {
        Self {
            session: Session::new(identity),
            run,
            verifies,
            parts: places
                .iter()
                .map(|place| Part {
                    key: place.key,
                    id: None,
                    next: Offset::ZERO,
                    received_bytes: 0,
                    received_batches: 0,
                    granted_bytes: WINDOW_BYTES,
                    granted_batches: WINDOW_BATCHES,
                    order: Order::default(),
                })
                .collect(),
            asked: 0,
            begun: 0,
        }
    }

    /// Asks for as many subscriptions as may wait for an answer at once.
    pub(crate) fn subscribe(&mut self) -> Result<(), String> {
        while self.asked < self.parts.len() {
            let part = &mut self.parts[self.asked];
            let subscribed = self.session.connection.subscribe(
                self.asked as u64,
                part.key,
                From::Latest,
                Epoch::ZERO,
                part.granted_bytes,
                part.granted_batches,
            );
            match subscribed {
                Ok(id) => part.id = Some(id),
                Err(_) if self.asked > self.begun => return Ok(()),
                Err(refused) => return Err(format!("cannot subscribe: {refused:?}")),
            }
            self.asked += 1;
        }
        Ok(())
    }

    /// Takes news. True: the last subscription has begun.
    pub(crate) fn notice(
        &mut self,
        owner: u64,
        notice: Notice,
        now_ns: u64,
        phase: Phase,
        tally: &mut Tally,
    ) -> Result<bool, String> {
        let part = &mut self.parts[owner as usize];
        match notice {
            Notice::Begun { next, .. } => {
                part.next = next;
                self.begun += 1;
                self.subscribe()?;
                return Ok(self.begun == self.parts.len());
            }
            Notice::Delivered { batches, .. } => {
                for bytes in batches {
                    let header = BatchHeader::parse(&bytes)
                        .map_err(|error| format!("a delivered batch is damaged: {error:?}"))?;
                    part.received_bytes += bytes.len() as u64;
                    part.received_batches += 1;
                    if header.base_offset() != part.next {
                        tally.delivered_out_of_order += 1;
                    }
                    part.next = header.next_offset();
                    let producer = header.producer_id().get();
                    if producer != 0 && producer as u64 != self.run {
                        continue;
                    }
                    tally.delivered += 1;
                    if self.verifies {
                        verify(&mut part.order, header, &bytes, tally);
                    }
                    if let Phase::Running { wall_offset_us, .. } = phase {
                        let time_us = header.first_time_us();
                        let intended_ns = time_us.saturating_add_signed(-wall_offset_us) * 1000;
                        if phase.measures(intended_ns) {
                            tally.delivery.record(now_ns.saturating_sub(intended_ns));
                        }
                    }
                }
                self.replenish(owner as usize);
            }
            Notice::Gap { from, to, .. } => {
                tally.delivered_out_of_order += 1;
                part.next = to;
                let _ = from;
            }
            Notice::Loss { .. } | Notice::Diverged { .. } | Notice::Refused(_) | Notice::Ended => {
                return Err(format!("a subscription ended: {notice:?}"));
            }
        }
        Ok(false)
    }

    /// Grants again what was used, once that is half of the window.
    fn replenish(&mut self, index: usize) {
        let part = &mut self.parts[index];
        let bytes = part.received_bytes + WINDOW_BYTES;
        let batches = part.received_batches + WINDOW_BATCHES;
        if let Some(id) = part.id
            && ((bytes - part.granted_bytes) * 2 >= WINDOW_BYTES
                || (batches - part.granted_batches) * 2 >= WINDOW_BATCHES)
        {
            part.granted_bytes = bytes;
            part.granted_batches = batches;
            self.session.connection.grant(id, bytes, batches);
        }
    }
}

/// Holds a delivered batch to its checksums and to its producer's numbers.
pub(super) fn verify(order: &mut Order, header: &BatchHeader, bytes: &[u8], tally: &mut Tally) {
    let body = &bytes[BATCH_HEADER_BYTES..];
    let whole = header
        .check_producer(body.len())
        .and_then(|()| header.check_placement())
        .and_then(|()| header.check_body(body));
    if whole.is_err() {
        tally.damaged += 1;
        return;
    }
    let producer = (header.producer_id().get() >> 64) as u64;
    let (epoch, seq) = (header.producer_epoch().get(), header.producer_seq().get());
    match order.take(producer, epoch, seq) {
        Seen::InOrder => {}
        Seen::Skipped(count) => tally.missing += count,
        Seen::Behind => tally.behind += 1,
    }
}
