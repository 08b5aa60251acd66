//! Consumers in the engine: one subscription for each partition, on the link that leads to it, with credit of its own. A
//! lost link or a moved partition subscribes again where the cursor stands; what the application has not taken yet counts
//! against the new credit, so that a consumer never holds more than its window.

use super::{ConsumerKey, Engine, Event, LinkState, Timer, Waiter};
use crate::core::connection::{Notice, SendRefused};
use crate::core::consumer::{Cursor, From, Item};
use crate::error::{ConsumeError, Refusal, RequestError};
use std::collections::VecDeque;
use tiderace_base::ids::{PartitionIndex, PartitionKey, SubscriptionId};
use tiderace_base::limits;
use tiderace_base::position::Offset;
use tiderace_base::time::Now;
use tiderace_wire::error::{ErrorCode, Retry};
use tiderace_wire::frame::GapReason;

/// What a consumer reads and how much it lets the nodes send ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerSettings {
    /// Where each partition begins.
    pub from: From,
    /// Which partitions; `None`: all.
    pub partitions: Option<Vec<PartitionIndex>>,
    /// Bytes that each partition may be ahead of the application. At least the largest batch.
    pub window_bytes: u64,
    /// Batches that each partition may be ahead of the application. At least 2.
    pub window_batches: u64,
    /// Credit is granted again when half of it is used; otherwise the application grants it.
    pub automatic: bool,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            from: From::Earliest,
            partitions: None,
            window_bytes: 4 * limits::MIB as u64,
            window_batches: 1024,
            automatic: true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PartState {
    /// Not subscribed: waits for its link, its route or its turn.
    Idle,
    /// Subscribed, or asked to be.
    Live { link: u32, id: SubscriptionId },
    /// Stopped by an error that the application was told.
    Halted,
}

#[derive(Debug)]
struct Part {
    cursor: Cursor,
    state: PartState,
    attempt: u32,
    /// Cumulative grants of the running subscription.
    granted_bytes: u64,
    granted_batches: u64,
    /// Delivered in the running subscription.
    received_bytes: u64,
    received_batches: u64,
    /// Delivered and not taken by the application.
    held_bytes: u64,
    held_batches: u64,
    /// Granted by hand, beyond what was received.
    asked_bytes: u64,
    asked_batches: u64,
}

#[derive(Debug)]
struct Waiting {
    part: u32,
    item: Result<Item, ConsumeError>,
    bytes: u64,
    batches: u64,
}

#[derive(Debug)]
pub(super) struct ConsumerEntry {
    pub(super) route: u32,
    settings: ConsumerSettings,
    parts: Vec<Part>,
    begun: bool,
    ready: VecDeque<Waiting>,
    failed: Option<ConsumeError>,
    told: bool,
}

impl Engine {
    /// A consumer of the stream at `path`. [`Event::Ready`] says when there is something to [`Engine::take`].
    pub fn consumer(
        &mut self,
        now: Now,
        path: &str,
        mut settings: ConsumerSettings,
    ) -> ConsumerKey {
        settings.window_bytes = settings.window_bytes.clamp(
            limits::BATCH_BYTES_MAX as u64,
            limits::SUBSCRIPTION_WINDOW_BYTES_MAX,
        );
        settings.window_batches = settings
            .window_batches
            .clamp(2, u64::from(limits::SUBSCRIPTION_WINDOW_BATCHES_MAX));
        let route = self.route_of(now, path);
        self.consumers.push(Some(Box::new(ConsumerEntry {
            route,
            settings,
            parts: Vec::new(),
            begun: false,
            ready: VecDeque::new(),
            failed: self.closed.then_some(ConsumeError::Closed),
            told: false,
        })));
        let key = ConsumerKey((self.consumers.len() - 1) as u32);
        self.consumers_begin(route);
        self.run(now);
        key
    }

    /// The stream's metadata is here.
    pub(super) fn consumers_begin(&mut self, route: u32) {
        let Some(row) = self.routes[route as usize].stream.clone() else {
            return;
        };
        for index in 0..self.consumers.len() {
            let Some(entry) = &mut self.consumers[index] else {
                continue;
            };
            if entry.route != route || entry.begun || entry.failed.is_some() {
                continue;
            }
            entry.begun = true;
            let all = (0..row.partitions).map(PartitionIndex::new).collect();
            let chosen = entry.settings.partitions.clone().unwrap_or(all);
            for partition in chosen {
                let from = entry.settings.from;
                let part = entry.parts.len() as u32;
                let exists = partition.get() < row.partitions;
                let automatic = entry.settings.automatic;
                entry.parts.push(Part {
                    cursor: Cursor::new(
                        PartitionKey {
                            stream: row.id,
                            partition,
                        },
                        from,
                    ),
                    state: if exists {
                        PartState::Idle
                    } else {
                        PartState::Halted
                    },
                    attempt: 0,
                    granted_bytes: 0,
                    granted_batches: 0,
                    received_bytes: 0,
                    received_batches: 0,
                    held_bytes: 0,
                    held_batches: 0,
                    asked_bytes: if automatic {
                        0
                    } else {
                        entry.settings.window_bytes
                    },
                    asked_batches: if automatic {
                        0
                    } else {
                        entry.settings.window_batches
                    },
                });
                if exists {
                    self.due.push_back(Waiter::Part {
                        consumer: index as u32,
                        part,
                    });
                } else {
                    entry.ready.push_back(Waiting {
                        part,
                        item: Err(ConsumeError::Refused {
                            partition,
                            refusal: Refusal {
                                code: ErrorCode::UnknownPartition,
                                detail_a: 0,
                                detail_b: 0,
                            },
                        }),
                        bytes: 0,
                        batches: 0,
                    });
                    self.events.push_back(Event::Ready {
                        consumer: ConsumerKey(index as u32),
                    });
                }
            }
        }
    }

    pub(super) fn consumers_fail(&mut self, route: u32, error: RequestError) {
        for index in 0..self.consumers.len() {
            if self.consumers[index]
                .as_ref()
                .is_some_and(|entry| entry.route == route)
            {
                self.fail_consumer(index, ConsumeError::Stream(error));
            }
        }
    }

    fn fail_consumer(&mut self, index: usize, error: ConsumeError) {
        if let Some(entry) = &mut self.consumers[index] {
            entry.failed.get_or_insert(error);
            self.events.push_back(Event::Ready {
                consumer: ConsumerKey(index as u32),
            });
        }
    }

    pub(super) fn close_consumers(&mut self) {
        for index in 0..self.consumers.len() {
            self.fail_consumer(index, ConsumeError::Closed);
        }
    }

    fn part_mut(&mut self, consumer: u32, part: u32) -> Option<&mut Part> {
        self.consumers
            .get_mut(consumer as usize)?
            .as_mut()?
            .parts
            .get_mut(part as usize)
    }

    /// Subscribes a part that is idle, as far as its link allows.
    pub(super) fn serve_part(&mut self, now: Now, consumer: u32, index: u32) {
        let waiter = Waiter::Part {
            consumer,
            part: index,
        };
        let Some(entry) = self
            .consumers
            .get(consumer as usize)
            .and_then(Option::as_deref)
        else {
            return;
        };
        let (route, automatic) = (entry.route, entry.settings.automatic);
        let window = (entry.settings.window_bytes, entry.settings.window_batches);
        let Some(part) = entry.parts.get(index as usize) else {
            return;
        };
        if part.state != PartState::Idle || entry.failed.is_some() {
            return;
        }
        let key = part.cursor.key();
        let Some(place) = self.place(route, key.partition.get()) else {
            self.refresh(now, route, waiter);
            return;
        };
        let link = self.link_to(place);
        if self.links[link as usize].state != LinkState::Open {
            self.links[link as usize].waiters.insert(waiter);
            self.connect(now, link);
            return;
        }
        let Some(part) = self.part_mut(consumer, index) else {
            return;
        };
        let (from, epoch) = part.cursor.resume();
        let (bytes, batches) = if automatic {
            (
                window.0.saturating_sub(part.held_bytes),
                window.1.saturating_sub(part.held_batches),
            )
        } else {
            (part.asked_bytes, part.asked_batches)
        };
        let owner = u64::from(consumer) << 32 | u64::from(index);
        let Some(connection) = &mut self.links[link as usize].connection else {
            return;
        };
        match connection.subscribe(owner, key, from, epoch, bytes, batches) {
            Ok(id) => {
                self.mark_dirty(link);
                if let Some(part) = self.part_mut(consumer, index) {
                    part.state = PartState::Live { link, id };
                    part.granted_bytes = bytes;
                    part.granted_batches = batches;
                    part.received_bytes = 0;
                    part.received_batches = 0;
                }
            }
            Err(SendRefused::NoCredit) => {
                self.links[link as usize].waiters.insert(waiter);
            }
            Err(SendRefused::NotOpen) => self.place_lost(now, waiter),
        }
    }

    /// News of a subscription.
    pub(super) fn subscription(
        &mut self,
        now: Now,
        link: u32,
        owner: u64,
        id: SubscriptionId,
        notice: Notice,
    ) {
        let (consumer, index) = ((owner >> 32) as u32, owner as u32);
        let Some(entry) = self
            .consumers
            .get_mut(consumer as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        let route = entry.route;
        let Some(part) = entry.parts.get_mut(index as usize) else {
            return;
        };
        if part.state != (PartState::Live { link, id }) {
            return;
        }
        let partition = part.cursor.key().partition;
        let mut halted = None;
        let mut again = None;
        match notice {
            Notice::Begun { epoch, end, next } => {
                part.attempt = 0;
                halted = part.cursor.subscribed(epoch, end, next).err();
            }
            Notice::Delivered {
                epoch,
                end,
                batches,
            } => {
                part.cursor.visible(epoch, end);
                for bytes in batches {
                    let cost = bytes.len() as u64;
                    part.received_bytes += cost;
                    part.received_batches += 1;
                    part.asked_bytes = part.asked_bytes.saturating_sub(cost);
                    part.asked_batches = part.asked_batches.saturating_sub(1);
                    match part.cursor.batch(bytes) {
                        Ok(Some(batch)) => {
                            part.held_bytes += cost;
                            part.held_batches += 1;
                            entry.ready.push_back(Waiting {
                                part: index,
                                item: Ok(Item::Batch(batch)),
                                bytes: cost,
                                batches: 1,
                            });
                        }
                        Ok(None) => {}
                        Err(error) => {
                            halted = Some(error);
                            break;
                        }
                    }
                }
            }
            Notice::Gap { reason, from, to } => match part.cursor.gap(reason, from, to) {
                Ok(Some(item)) => entry.ready.push_back(Waiting::told(index, Ok(item))),
                Ok(None) => {}
                Err(error) => halted = Some(error),
            },
            Notice::Loss { epoch, from } => {
                let item = part.cursor.loss(epoch, from);
                entry.ready.push_back(Waiting::told(index, Ok(item)));
            }
            Notice::Diverged { epoch, end } => {
                halted = Some(ConsumeError::Diverged {
                    partition,
                    epoch,
                    end,
                });
            }
            // To ask again brings the same answer for as long as nobody mends the file: whoever reads has to know, and to
            // decide whether to wait or to go on behind it.
            Notice::Refused(refusal) if refusal.code == ErrorCode::Damaged => {
                let at = part.cursor.next().unwrap_or(Offset::new(refusal.detail_a));
                halted = Some(ConsumeError::Damaged { partition, at });
            }
            Notice::Refused(refusal) => match refusal.retry() {
                Retry::Later => {
                    part.state = PartState::Idle;
                    let attempt = part.attempt;
                    part.attempt = attempt.saturating_add(1);
                    again = Some((false, attempt));
                }
                Retry::Refresh | Retry::Reconnect => {
                    part.state = PartState::Idle;
                    again = Some((true, 0));
                }
                Retry::Never
                    if refusal.code == ErrorCode::OffsetBelowStart
                        && part.cursor.next().is_some() =>
                {
                    // While it was away, what it would have read next was dropped: that is a gap, and it goes on.
                    let from = part.cursor.next().unwrap_or(Offset::ZERO);
                    let to = Offset::new(refusal.detail_a);
                    part.state = PartState::Idle;
                    match part.cursor.gap(GapReason::Age.code(), from, to) {
                        Ok(Some(item)) => {
                            entry.ready.push_back(Waiting::told(index, Ok(item)));
                            again = Some((false, 0));
                        }
                        Ok(None) => {
                            halted = Some(ConsumeError::OutOfRange { partition, refusal });
                        }
                        Err(error) => halted = Some(error),
                    }
                }
                Retry::Never => {
                    halted = Some(match refusal.code {
                        ErrorCode::OffsetBelowStart | ErrorCode::OffsetBeyondEnd => {
                            ConsumeError::OutOfRange { partition, refusal }
                        }
                        _ => ConsumeError::Refused { partition, refusal },
                    });
                }
            },
            Notice::Ended => {
                part.state = PartState::Idle;
                again = Some((true, 0));
            }
        }
        let halts = halted.is_some();
        if let Some(error) = halted {
            part.state = PartState::Halted;
            entry.ready.push_back(Waiting::told(index, Err(error)));
        }
        if !entry.ready.is_empty() && !core::mem::replace(&mut entry.told, true) {
            self.events.push_back(Event::Ready {
                consumer: ConsumerKey(consumer),
            });
        }
        if halts {
            self.unsubscribe(link, id);
        }
        let waiter = Waiter::Part {
            consumer,
            part: index,
        };
        match again {
            Some((true, _)) => self.refresh(now, route, waiter),
            Some((false, attempt)) => {
                let wait = self.settings.backoff.wait_ns(attempt, &mut self.prng);
                self.arm(now.mono.after_ns(wait), Timer::Waiter(waiter));
            }
            None => self.route_works(route),
        }
        // What was trimmed away is credit that nobody holds.
        self.replenish(consumer, index);
    }

    fn unsubscribe(&mut self, link: u32, id: SubscriptionId) {
        if let Some(connection) = &mut self.links[link as usize].connection {
            connection.unsubscribe(id);
            self.mark_dirty(link);
        }
    }

    /// Takes the next item, and the credit that it held is granted again. `None`: nothing is here yet.
    pub fn take(&mut self, now: Now, key: ConsumerKey) -> Option<Result<Item, ConsumeError>> {
        let Some(entry) = self.consumers[key.index()].as_mut() else {
            return Some(Err(ConsumeError::Closed));
        };
        let Some(waiting) = entry.ready.pop_front() else {
            entry.told = false;
            return entry.failed.map(Err);
        };
        let part = &mut entry.parts[waiting.part as usize];
        part.held_bytes -= waiting.bytes;
        part.held_batches -= waiting.batches;
        self.replenish(key.0, waiting.part);
        self.run(now);
        Some(waiting.item)
    }

    /// Grants again what was used, once that is half of the window, or once so little is left that the largest batch may
    /// not fit.
    fn replenish(&mut self, consumer: u32, index: u32) {
        let Some(entry) = self
            .consumers
            .get_mut(consumer as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        if !entry.settings.automatic {
            return;
        }
        let window = (entry.settings.window_bytes, entry.settings.window_batches);
        let Some(part) = entry.parts.get_mut(index as usize) else {
            return;
        };
        let PartState::Live { link, id } = part.state else {
            return;
        };
        let bytes = (part.received_bytes + window.0).saturating_sub(part.held_bytes);
        let batches = (part.received_batches + window.1).saturating_sub(part.held_batches);
        let left = part.granted_bytes.saturating_sub(part.received_bytes);
        let half = bytes.saturating_sub(part.granted_bytes) * 2 >= window.0
            || batches.saturating_sub(part.granted_batches) * 2 >= window.1;
        let starved = part.held_batches == 0
            && bytes > part.granted_bytes
            && left < limits::BATCH_BYTES_MAX as u64;
        if half || starved {
            part.granted_bytes = part.granted_bytes.max(bytes);
            part.granted_batches = part.granted_batches.max(batches);
            let (bytes, batches) = (part.granted_bytes, part.granted_batches);
            if let Some(connection) = &mut self.links[link as usize].connection {
                connection.grant(id, bytes, batches);
                self.mark_dirty(link);
            }
        }
    }

    /// Grants that much more to every partition, where credit is not granted by itself. What is outstanding never exceeds
    /// the protocol's window; the rest of a larger grant is dropped.
    pub fn grant(&mut self, now: Now, key: ConsumerKey, bytes: u64, batches: u64) {
        let Some(entry) = self.consumers[key.index()].as_mut() else {
            return;
        };
        if entry.settings.automatic {
            return;
        }
        let mut grants = Vec::new();
        for part in &mut entry.parts {
            part.asked_bytes =
                (part.asked_bytes + bytes).min(limits::SUBSCRIPTION_WINDOW_BYTES_MAX);
            part.asked_batches = (part.asked_batches + batches)
                .min(u64::from(limits::SUBSCRIPTION_WINDOW_BATCHES_MAX));
            if let PartState::Live { link, id } = part.state {
                part.granted_bytes = part
                    .granted_bytes
                    .max(part.received_bytes + part.asked_bytes);
                part.granted_batches = part
                    .granted_batches
                    .max(part.received_batches + part.asked_batches);
                grants.push((link, id, part.granted_bytes, part.granted_batches));
            }
        }
        for (link, id, bytes, batches) in grants {
            if let Some(connection) = &mut self.links[link as usize].connection {
                connection.grant(id, bytes, batches);
                self.mark_dirty(link);
            }
        }
        self.run(now);
    }

    /// Goes on elsewhere in a partition, also after an error halted it. What was received and not taken is dropped.
    pub fn seek(&mut self, now: Now, key: ConsumerKey, partition: PartitionIndex, from: From) {
        let Some(entry) = self.consumers[key.index()].as_mut() else {
            return;
        };
        let Some(index) = entry
            .parts
            .iter()
            .position(|part| part.cursor.key().partition == partition)
        else {
            return;
        };
        entry.ready.retain(|waiting| waiting.part as usize != index);
        let part = &mut entry.parts[index];
        part.cursor.seek(from);
        part.held_bytes = 0;
        part.held_batches = 0;
        part.attempt = 0;
        let was = core::mem::replace(&mut part.state, PartState::Idle);
        if let PartState::Live { link, id } = was {
            self.unsubscribe(link, id);
        }
        self.due.push_back(Waiter::Part {
            consumer: key.0,
            part: index as u32,
        });
        self.run(now);
    }

    /// The cursors of a consumer, one for each partition; none before the stream's metadata is here.
    pub fn cursors(&self, key: ConsumerKey) -> impl Iterator<Item = &Cursor> {
        self.consumers[key.index()]
            .iter()
            .flat_map(|entry| entry.parts.iter().map(|part| &part.cursor))
    }

    /// Ends a consumer's subscriptions.
    pub fn close_consumer(&mut self, now: Now, key: ConsumerKey) {
        if let Some(entry) = self.consumers[key.index()].take() {
            for part in entry.parts {
                if let PartState::Live { link, id } = part.state {
                    self.unsubscribe(link, id);
                }
            }
        }
        self.run(now);
    }

    /// A link is gone: its subscriptions begin again where their cursors stand, once it is known where that is.
    pub(super) fn parts_lost(&mut self, now: Now, lost: u32) {
        let mut waiting = Vec::new();
        for (consumer, entry) in self.consumers.iter_mut().enumerate() {
            let Some(entry) = entry else {
                continue;
            };
            for (index, part) in entry.parts.iter_mut().enumerate() {
                if matches!(part.state, PartState::Live { link, .. } if link == lost) {
                    part.state = PartState::Idle;
                    let waiter = Waiter::Part {
                        consumer: consumer as u32,
                        part: index as u32,
                    };
                    waiting.push((entry.route, waiter));
                }
            }
        }
        for (route, waiter) in waiting {
            self.refresh(now, route, waiter);
        }
    }
}

impl Waiting {
    /// Something that holds no credit.
    const fn told(part: u32, item: Result<Item, ConsumeError>) -> Self {
        Self {
            part,
            item,
            bytes: 0,
            batches: 0,
        }
    }
}
