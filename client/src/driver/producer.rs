//! The producer's handle. A send is encoded and written by the caller's own task; its acknowledgement is read by
//! whichever task waits.

use super::client::nanoseconds;
use super::{Client, Outcome, Place, Shared, Unsettled, entropy};
use crate::core::engine::ProducerKey;
use crate::core::producer::{PushError, SessionEpoch, Settings, Settled, Ticket};
use crate::error::SendError;
use crate::record::Record;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;
use tiderace_base::ids::{PartitionIndex, ProducerId};
use tiderace_base::position::{Epoch, Offset};

/// How a producer batches, how much it holds and how long it waits.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Who it is. A process that takes over from another one has its id and a higher session: from its first stored record
    /// in a partition on, the other one is fenced there, for as long as the partition remembers the id (1024 others may
    /// write before it is forgotten). Two sessions must never share a number: what the second sends then fails as refused
    /// with `SequenceReused`, or stands among what the first sends. `None`: a new random id.
    pub id: Option<(ProducerId, SessionEpoch)>,
    /// Bytes of records in one batch, at most.
    pub batch_bytes_max: usize,
    /// Records of one batch, at most.
    pub batch_records_max: u32,
    /// A record is sent at once while fewer batches than this of its partition wait; otherwise it gathers.
    pub eager_inflight: usize,
    /// Batches of one partition that may wait for their acknowledgements, at most 128.
    pub inflight_max: usize,
    /// Bytes of records held until acknowledged. Beyond it there is no credit.
    pub buffer_bytes_max: usize,
    /// How long a record may wait, for credit and for its acknowledgement, over all attempts.
    pub timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        let settings = Settings::new(ProducerId::new(0));
        Self {
            id: None,
            batch_bytes_max: settings.batch_bytes_max,
            batch_records_max: settings.batch_records_max,
            eager_inflight: settings.eager_inflight,
            inflight_max: settings.inflight_max,
            buffer_bytes_max: settings.buffer_bytes_max,
            timeout: Duration::from_nanos(settings.deadline_ns),
        }
    }
}

/// Where a record is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Its partition.
    pub partition: PartitionIndex,
    /// Its offset there.
    pub offset: Offset,
    /// The epoch in which it was stored.
    pub epoch: Epoch,
    /// An earlier attempt had stored it; it is there once.
    pub duplicate: bool,
    /// When the leader appended it, in microseconds since 1970.
    pub append_time_us: u64,
}

/// Why a record was not accepted at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrySendError {
    /// The producer holds as much as it may, or the stream's metadata is not here yet: try again later, or `send`,
    /// which waits. The record comes back.
    NoCredit(Record),
    /// It will not be accepted. The record comes back.
    Refused(Record, SendError),
}

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCredit(_) => f.write_str("the producer has no credit: try again later"),
            Self::Refused(_, error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrySendError {}

struct Handle {
    shared: Arc<Shared>,
    key: ProducerKey,
    timeout: Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // What was accepted and is not acknowledged is still sent: only an explicit close gives it up.
        if let Ok(mut hub) = self.shared.hub.lock() {
            hub.engine.retire_producer(self.key);
        }
    }
}

/// A producer of one stream. Cheap to clone; all clones are the same producer.
///
/// ```no_run
/// # async fn example(client: tiderace_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use tiderace_client::{ProducerOptions, Record};
///
/// let producer = client.producer("shop/orders", ProducerOptions::default());
/// // One by one, each acknowledged before the next:
/// producer.send(Record::new("a")).await?;
/// // Many on their way at once, in order:
/// for number in 0..1000 {
///     producer.enqueue(Record::new(format!("{number}"))).await?;
/// }
/// producer.flush().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("key", &self.handle.key)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A producer for the stream at `path`. It learns about the stream in the background: the first send waits for it.
    #[must_use]
    pub fn producer(&self, path: &str, options: ProducerOptions) -> Producer {
        let (id, session) = options.id.unwrap_or_else(|| {
            let random = u128::from(entropy()) << 64 | u128::from(entropy() | 1);
            (ProducerId::new(random), SessionEpoch::new(1))
        });
        let settings = Settings {
            id,
            session,
            batch_bytes_max: options.batch_bytes_max,
            batch_records_max: options.batch_records_max,
            eager_inflight: options.eager_inflight,
            inflight_max: options.inflight_max,
            buffer_bytes_max: options.buffer_bytes_max,
            deadline_ns: nanoseconds(options.timeout),
        };
        let now = self.shared.now();
        let mut hub = self.shared.lock();
        let key = hub.engine.producer(now, path, settings);
        while hub.producers.len() <= key.index() {
            hub.producers.push(super::ProducerState::default());
        }
        hub.carry_out(now);
        Producer {
            handle: Arc::new(Handle {
                shared: self.shared.clone(),
                key,
                timeout: options.timeout,
            }),
        }
    }
}

impl Producer {
    /// Sends a record and waits for its acknowledgement. Waits for credit first where there is none.
    ///
    /// Dropped before it was accepted, the record is not sent; dropped later, it is, and only a flush says that it failed.
    ///
    /// # Errors
    /// [`SendError`] says whether it may be stored and what to do.
    pub async fn send(&self, record: Record) -> Result<Ack, SendError> {
        self.enqueue(record).await?.await
    }

    /// Waits until the record is accepted; the returned future waits for its acknowledgement. Records enqueued one after
    /// the other to one partition are stored in that order.
    ///
    /// # Errors
    /// [`SendError`]; the record was not sent.
    pub async fn enqueue(&self, record: Record) -> Result<AckFuture, SendError> {
        self.enqueue_to(record, None).await
    }

    /// [`Producer::enqueue`] to a chosen partition, whatever the key.
    ///
    /// # Errors
    /// [`SendError`]; the record was not sent.
    pub async fn enqueue_to(
        &self,
        record: Record,
        partition: Option<PartitionIndex>,
    ) -> Result<AckFuture, SendError> {
        let record = match self.try_send_to(record, partition) {
            Ok(ack) => return Ok(ack),
            Err(TrySendError::Refused(_, error)) => return Err(error),
            Err(TrySendError::NoCredit(record)) => record,
        };
        let waiting = Accepting {
            place: Place::new(self.handle.shared.clone()),
            producer: self.clone(),
            record,
            partition,
        };
        match tokio::time::timeout(self.handle.timeout, waiting).await {
            Ok(result) => result,
            Err(_) => Err(SendError::Deadline {
                maybe_stored: false,
            }),
        }
    }

    /// Sends a record without waiting. The returned future waits for the acknowledgement; once it is dropped, only a flush
    /// says that the record failed.
    ///
    /// # Errors
    /// [`TrySendError::NoCredit`] with the record, when it would have to wait.
    #[expect(
        clippy::result_large_err,
        reason = "the record comes back as it was given, without an allocation"
    )]
    pub fn try_send(&self, record: Record) -> Result<AckFuture, TrySendError> {
        self.try_send_to(record, None)
    }

    /// [`Producer::try_send`] to a chosen partition, whatever the key.
    ///
    /// # Errors
    /// As [`Producer::try_send`].
    #[expect(
        clippy::result_large_err,
        reason = "the record comes back as it was given, without an allocation"
    )]
    pub fn try_send_to(
        &self,
        record: Record,
        partition: Option<PartitionIndex>,
    ) -> Result<AckFuture, TrySendError> {
        match self.push(&record, partition) {
            Ok(ack) => Ok(ack),
            Err(PushError::Full) => Err(TrySendError::NoCredit(record)),
            Err(PushError::Invalid(error)) => Err(TrySendError::Refused(record, error)),
        }
    }

    fn push(
        &self,
        record: &Record,
        partition: Option<PartitionIndex>,
    ) -> Result<AckFuture, PushError> {
        let shared = &self.handle.shared;
        let now = shared.now();
        let mut locked = shared.lock();
        let result = self.push_locked(&mut locked, now, record, partition);
        locked.carry_out(now);
        result
    }

    fn push_locked(
        &self,
        hub: &mut super::Hub,
        now: tiderace_base::time::Now,
        record: &Record,
        partition: Option<PartitionIndex>,
    ) -> Result<AckFuture, PushError> {
        let key = self.handle.key;
        let ticket = hub.engine.push(now, key, record, partition)?;
        let index = ticket.batch as usize;
        let unsettled = &mut hub.producers[key.index()].unsettled;
        if unsettled.len() <= index {
            unsettled.resize_with(index + 1, || None);
        }
        let unsettled = unsettled[index].get_or_insert_with(|| Unsettled {
            outcome: Arc::default(),
            waiters: Vec::new(),
        });
        Ok(AckFuture {
            ticket,
            settling: Settling {
                outcome: unsettled.outcome.clone(),
                batch: ticket.batch,
                key,
                place: Place::new(self.handle.shared.clone()),
                registered: false,
            },
            told: false,
        })
    }

    /// Sends records, in order, and waits for all of them.
    pub async fn send_batch(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Vec<Result<Ack, SendError>> {
        let mut waiting = Vec::new();
        for record in records {
            waiting.push(self.enqueue(record).await);
        }
        let mut results = Vec::with_capacity(waiting.len());
        for ack in waiting {
            results.push(match ack {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Waits until every record accepted so far, by this producer or a clone, is acknowledged or has failed. `Ok` means
    /// that no record accepted since the last flush failed but those of which somebody was told.
    ///
    /// A failure is told by the [`AckFuture`] of its record. One that was dropped, or was not polled to its end, has told
    /// nobody: then this does, also when the failure came long before. Each failure is told once in this way: no later
    /// flush repeats what a future or a flush has said. (A future that is still held says what became of its own record
    /// also after a flush, and of two flushes that wait for the same failure both say it.)
    ///
    /// The error is the first failure and stands for all that there were: await the futures to learn which records failed.
    /// Losses of acknowledged batches are never summed up like that: each is told by a flush or a send of its own.
    ///
    /// Dropped while it waits, it has told nothing and forgotten nothing.
    ///
    /// # Errors
    /// The first failure that nobody was told of, or that it waited for; then the next loss of acknowledged batches.
    pub async fn flush(&self) -> Result<(), SendError> {
        let waited = self.settled().await;
        let untold = self
            .handle
            .shared
            .lock()
            .engine
            .take_failure(self.handle.key);
        untold.map_or(waited, Err)
    }

    /// Waits until everything accepted so far is settled; the first failure.
    async fn settled(&self) -> Result<(), SendError> {
        let waiting: Vec<Settling> = {
            let hub = self.handle.shared.lock();
            hub.producers[self.handle.key.index()]
                .unsettled
                .iter()
                .enumerate()
                .filter_map(|(index, cell)| {
                    let unsettled = cell.as_ref()?;
                    Some(Settling {
                        outcome: unsettled.outcome.clone(),
                        batch: index as u32,
                        key: self.handle.key,
                        place: Place::new(self.handle.shared.clone()),
                        registered: false,
                    })
                })
                .collect()
        };
        let mut result = Ok(());
        for batch in waiting {
            result = result.and(batch.await.result.map(|_| ()));
        }
        result
    }

    /// Flushes, then ends this producer and its clones: what they send afterwards is refused as [`SendError::Closed`].
    /// What a clone got accepted during the flush and is not acknowledged when it ends fails as [`SendError::Closed`] too;
    /// it may be stored.
    ///
    /// It says what a flush says, and is the last to say it. A producer whose clones are all dropped without it still sends
    /// what it accepted, and nobody hears of a failure.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<(), SendError> {
        let flushed = self.flush().await;
        let now = self.handle.shared.now();
        let mut hub = self.handle.shared.lock();
        let closed = hub.engine.close_producer(now, self.handle.key);
        hub.carry_out(now);
        flushed.and(closed)
    }
}

/// Waits until there is credit for a record.
struct Accepting {
    place: Place,
    producer: Producer,
    record: Record,
    partition: Option<PartitionIndex>,
}

impl Future for Accepting {
    type Output = Result<AckFuture, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (producer, record, partition) = (&this.producer, &this.record, this.partition);
        this.place.poll(cx, |hub, now, waiter| {
            match producer.push_locked(hub, now, record, partition) {
                Ok(ack) => Some(Ok(ack)),
                Err(PushError::Invalid(error)) => Some(Err(error)),
                Err(PushError::Full) => {
                    let waiters = &mut hub.producers[producer.handle.key.index()].waiters;
                    if !waiters.contains(&waiter) {
                        waiters.push(waiter);
                    }
                    None
                }
            }
        })
    }
}

/// Waits for a batch's outcome.
struct Settling {
    outcome: Arc<Outcome>,
    batch: u32,
    key: ProducerKey,
    place: Place,
    registered: bool,
}

impl Future for Settling {
    type Output = Settled;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (outcome, batch, key) = (&this.outcome, this.batch, this.key);
        let registered = &mut this.registered;
        if let Some(settled) = outcome.0.get()
            && this.place.id.is_none()
        {
            return Poll::Ready(*settled);
        }
        this.place.poll(cx, |hub, _, waiter| {
            if let Some(settled) = outcome.0.get() {
                return Some(*settled);
            }
            // Not settled: the batch's number is still this batch's.
            if !core::mem::replace(registered, true)
                && let Some(Some(unsettled)) =
                    hub.producers[key.index()].unsettled.get_mut(batch as usize)
            {
                unsettled.waiters.push(waiter);
            }
            None
        })
    }
}

/// Waits for a record's acknowledgement, and reads it from the connection where no other task does. May be dropped at
/// any time: the record is on its way nevertheless, and its failure is told by [`Producer::flush`].
pub struct AckFuture {
    ticket: Ticket,
    settling: Settling,
    /// Its failure was told, which counts once however often it is polled.
    told: bool,
}

impl fmt::Debug for AckFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckFuture")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl Future for AckFuture {
    type Output = Result<Ack, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ticket = this.ticket;
        Pin::new(&mut this.settling).poll(cx).map(|settled| {
            if let Some(failure) = settled.failure
                && !core::mem::replace(&mut this.told, true)
            {
                let settling = &this.settling;
                let mut hub = settling.place.shared.lock();
                hub.engine.told(settling.key, failure);
            }
            settled.result.map(|placed| Ack {
                partition: ticket.partition,
                // A node that names an impossible offset breaks nothing here.
                offset: placed
                    .base_offset
                    .checked_add(u64::from(ticket.record))
                    .unwrap_or(Offset::MAX),
                epoch: placed.epoch,
                duplicate: placed.duplicate,
                append_time_us: placed.append_time_us,
            })
        })
    }
}
