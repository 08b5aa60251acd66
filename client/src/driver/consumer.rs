//! The consumer's handle: takes what the engine received, and reads from the sockets itself while it waits.

use super::{Client, Place, Shared};
use crate::core::consumer::{From, Item};
use crate::core::engine::{ConsumerKey, ConsumerSettings};
use crate::error::ConsumeError;
use core::fmt;
use core::future::poll_fn;
use std::sync::Arc;
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::{Epoch, Offset};

/// A consumer to be begun.
#[derive(Clone, Debug)]
pub struct Subscribe {
    client: Client,
    path: String,
    settings: ConsumerSettings,
}

impl Subscribe {
    /// Only this partition. Said again: these partitions. Never said: all.
    #[must_use]
    pub fn partition(mut self, partition: PartitionIndex) -> Self {
        self.settings
            .partitions
            .get_or_insert_default()
            .push(partition);
        self
    }

    /// Batches that each partition may be ahead of the application: 2 to 65536, 1024 where it is not said.
    #[must_use]
    pub const fn credits(mut self, batches: u64) -> Self {
        self.settings.window_batches = batches;
        self
    }

    /// Bytes of batches that each partition may be ahead of the application: at least the largest batch, at most 64 MiB,
    /// 4 MiB where it is not said.
    #[must_use]
    pub const fn credit_bytes(mut self, bytes: u64) -> Self {
        self.settings.window_bytes = bytes;
        self
    }

    /// Credit is not granted again by itself: what was said here is the first grant, [`Consumer::grant`] gives more.
    #[must_use]
    pub const fn manual_credit(mut self) -> Self {
        self.settings.automatic = false;
        self
    }

    /// Begins. The consumer learns about the stream in the background; what is wrong with it comes from
    /// [`Consumer::next`].
    #[must_use]
    pub fn start(self) -> Consumer {
        let shared = self.client.shared;
        let now = shared.now();
        let mut hub = shared.lock();
        let key = hub.engine.consumer(now, &self.path, self.settings);
        while hub.consumers.len() <= key.index() {
            hub.consumers.push(Vec::new());
        }
        hub.carry_out(now);
        drop(hub);
        Consumer { shared, key }
    }
}

impl Client {
    /// A consumer of the stream at `path` that begins at `from` in every partition.
    #[must_use]
    pub fn subscribe(&self, path: &str, from: From) -> Subscribe {
        Subscribe {
            client: self.clone(),
            path: path.to_owned(),
            settings: ConsumerSettings {
                from,
                ..ConsumerSettings::default()
            },
        }
    }
}

/// A consumer of a stream's partitions. Dropped, it unsubscribes.
///
/// ```no_run
/// # async fn example(client: tiderace_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use tiderace_client::{From, Item};
///
/// let mut consumer = client.subscribe("shop/orders", From::Earliest).credits(256).start();
/// while let Some(item) = consumer.next().await {
///     match item? {
///         Item::Batch(batch) => {
///             for record in batch.records()? {
///                 println!("{} {:?}", record.offset(), record.value());
///             }
///         }
///         Item::Gap { from, to, .. } => println!("{from} to {to} are not kept"),
///         Item::Loss { from, .. } => println!("a fail-over lost what stood at {from}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
    key: ConsumerKey,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// The next item of any of its partitions; in order within a partition. Reconnects and moved partitions are not
    /// seen here: it goes on where it stood. `None` once the client is closed. Dropping the future loses nothing.
    ///
    /// An error about a partition halts that partition until [`Consumer::seek`]; the others go on. One about the stream
    /// is repeated by every call.
    pub async fn next(&mut self) -> Option<Result<Item, ConsumeError>> {
        let key = self.key;
        let mut place = Place::new(self.shared.clone());
        let item = poll_fn(|cx| {
            place.poll(cx, |hub, now, waiter| {
                let item = hub.engine.take(now, key);
                if item.is_none() {
                    let waiters = &mut hub.consumers[key.index()];
                    if !waiters.contains(&waiter) {
                        waiters.push(waiter);
                    }
                }
                item
            })
        })
        .await;
        match item {
            Err(ConsumeError::Closed) => None,
            item => Some(item),
        }
    }

    /// The next item if it is already here.
    pub fn try_next(&mut self) -> Option<Result<Item, ConsumeError>> {
        let now = self.shared.now();
        let mut hub = self.shared.lock();
        let item = hub.engine.take(now, self.key);
        hub.carry_out(now);
        item
    }

    /// Grants every partition this many more batches and bytes, after [`Subscribe::manual_credit`].
    pub fn grant(&mut self, batches: u64, bytes: u64) {
        let now = self.shared.now();
        let mut hub = self.shared.lock();
        hub.engine.grant(now, self.key, bytes, batches);
        hub.carry_out(now);
    }

    /// Goes on elsewhere in a partition, also after an error halted it. What was received and not taken is dropped.
    pub fn seek(&mut self, partition: PartitionIndex, from: From) {
        let now = self.shared.now();
        let mut hub = self.shared.lock();
        hub.engine.seek(now, self.key, partition, from);
        hub.carry_out(now);
    }

    /// Where it stands: for each partition the epoch and the next offset to be received; nothing for those that have not
    /// begun.
    #[must_use]
    pub fn positions(&self) -> Vec<(PartitionIndex, Epoch, Offset)> {
        let hub = self.shared.lock();
        hub.engine
            .cursors(self.key)
            .filter_map(|cursor| Some((cursor.key().partition, cursor.epoch(), cursor.next()?)))
            .collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let now = self.shared.now();
        if let Ok(hub) = self.shared.hub.lock() {
            let mut hub = super::Locked { hub: Some(hub) };
            hub.engine.close_consumer(now, self.key);
            hub.carry_out(now);
        }
    }
}
