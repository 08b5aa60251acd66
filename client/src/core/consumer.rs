//! A cursor in one partition: where a consumer stands, as (epoch, offset), and the checks that hold between a delivery
//! and its reader. Knows no connection: after a reconnect it says where to go on. It trims what came again, refuses what
//! skips, and passes on what the node says is missing.
//!
//! Invariant: the offsets handed out are dense from the first one on, except across an explicit [`Item::Gap`].

use crate::core::batch::{Batch, BatchError};
use crate::error::ConsumeError;
use tiderace_base::ids::PartitionKey;
use tiderace_base::position::{Epoch, Offset};

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// At the oldest record that is kept.
    Earliest,
    /// After the newest record.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record appended at or after this time, in microseconds since 1970.
    Time(u64),
}

/// What a consumer gets from a partition, in order.
#[derive(Clone, Debug)]
pub enum Item {
    /// Records.
    Batch(Batch),
    /// Offsets that will never come, for example because they were not kept.
    Gap {
        /// Where.
        partition: PartitionKey,
        /// Why, by its number in the protocol (1 age, 2 bytes, 3 asked).
        reason: u8,
        /// The first missing offset.
        from: Offset,
        /// The next offset that can come.
        to: Offset,
    },
    /// A fail-over, which the stream's durability allows, lost what stood at `from` and later in the epochs before.
    Loss {
        /// Where.
        partition: PartitionKey,
        /// The epoch that says so.
        epoch: Epoch,
        /// The first lost offset.
        from: Offset,
    },
}

/// A place in one partition.
#[derive(Clone, Debug)]
pub struct Cursor {
    key: PartitionKey,
    from: From,
    /// Known once subscribed.
    next: Option<Offset>,
    epoch: Epoch,
    end: Offset,
}

impl Cursor {
    /// A cursor that has seen nothing yet.
    #[must_use]
    pub const fn new(key: PartitionKey, from: From) -> Self {
        Self {
            key,
            from,
            next: None,
            epoch: Epoch::ZERO,
            end: Offset::ZERO,
        }
    }

    /// The partition.
    #[must_use]
    pub const fn key(&self) -> PartitionKey {
        self.key
    }

    /// The next offset to come; `None` before the first subscription was answered.
    #[must_use]
    pub const fn next(&self) -> Option<Offset> {
        self.next
    }

    /// The last epoch seen; zero when none.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The visible end of the partition when it last spoke.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Where to subscribe, now and after a reconnect, with the last epoch seen.
    #[must_use]
    pub fn resume(&self) -> (From, Epoch) {
        match self.next {
            Some(next) => (From::Offset(next), self.epoch),
            None => (self.from, Epoch::ZERO),
        }
    }

    /// Goes elsewhere and forgets the epoch: what was seen before does not bind what comes.
    pub fn seek(&mut self, from: From) {
        self.from = from;
        self.next = None;
        self.epoch = Epoch::ZERO;
    }

    /// The node accepted a subscription that begins at `next`.
    ///
    /// # Errors
    /// [`ConsumeError::Jump`] when a resumed subscription does not go on where it was left.
    pub fn subscribed(
        &mut self,
        epoch: Epoch,
        end: Offset,
        next: Offset,
    ) -> Result<(), ConsumeError> {
        if let Some(expected) = self.next
            && next > expected
        {
            return Err(ConsumeError::Jump {
                partition: self.key.partition,
                expected,
                found: next,
            });
        }
        self.epoch = self.epoch.max(epoch);
        self.end = end;
        self.next.get_or_insert(next);
        Ok(())
    }

    /// The header of a delivery.
    pub fn visible(&mut self, epoch: Epoch, end: Offset) {
        self.epoch = self.epoch.max(epoch);
        self.end = self.end.max(end);
    }

    /// Checks one delivered batch and takes from it what has not been read. `None`: all of it had been.
    ///
    /// # Errors
    /// [`ConsumeError::Damaged`], [`ConsumeError::Codec`] or [`ConsumeError::Jump`]; the cursor stays where it was.
    pub fn batch(&mut self, bytes: bytes::Bytes) -> Result<Option<Batch>, ConsumeError> {
        let expected = self.next.unwrap_or(Offset::ZERO);
        let batch = Batch::verify(bytes, self.key).map_err(|error| match error {
            BatchError::Damaged => ConsumeError::Damaged {
                partition: self.key.partition,
                at: expected,
            },
            BatchError::Codec(at) => ConsumeError::Codec {
                partition: self.key.partition,
                at,
            },
        })?;
        let (base, next) = (batch.first_offset(), batch.next_offset());
        if base > expected {
            return Err(ConsumeError::Jump {
                partition: self.key.partition,
                expected,
                found: base,
            });
        }
        if next <= expected {
            return Ok(None);
        }
        self.next = Some(next);
        self.end = self.end.max(next);
        Ok(Some(batch.starting_at(expected)))
    }

    /// The node said that `from..to` will never come. `None` when that is already behind the cursor.
    ///
    /// # Errors
    /// [`ConsumeError::Jump`] when the gap itself skips offsets.
    pub fn gap(
        &mut self,
        reason: u8,
        from: Offset,
        to: Offset,
    ) -> Result<Option<Item>, ConsumeError> {
        let expected = self.next.unwrap_or(from);
        if from > expected {
            return Err(ConsumeError::Jump {
                partition: self.key.partition,
                expected,
                found: from,
            });
        }
        if to <= expected {
            return Ok(None);
        }
        self.next = Some(to);
        // No record of the new place was seen: the epoch of an older one says nothing about it.
        self.epoch = Epoch::ZERO;
        Ok(Some(Item::Gap {
            partition: self.key,
            reason,
            from: expected,
            to,
        }))
    }

    /// The node said that records from `from` on were lost before `epoch`.
    pub fn loss(&mut self, epoch: Epoch, from: Offset) -> Item {
        self.epoch = self.epoch.max(epoch);
        Item::Loss {
            partition: self.key,
            epoch,
            from,
        }
    }
}
