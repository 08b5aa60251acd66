//! A record as an application gives it: owned, cheap to move, not yet bytes of the wire. What comes back from a stream is
//! not this type but a view into the received batch, see [`crate::core::batch`].

use bytes::Bytes;
use tiderace_wire::body::{HEADER_ROW_BYTES, RECORD_ROW_BYTES};

/// One record to be sent.
///
/// ```
/// use tiderace_client::Record;
///
/// let record = Record::new("paid").key("order-17").header("trace", "4bf92f");
/// assert_eq!(record.key.as_deref(), Some(&b"order-17"[..]));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Records with the same key go to the same partition, in order. Without a key the client chooses the partition.
    pub key: Option<Bytes>,
    /// `None` is a tombstone: it says that the key has no value any more.
    pub value: Option<Bytes>,
    /// Names and values that travel with the record. The order is kept, names may repeat.
    pub headers: Vec<(Bytes, Bytes)>,
    /// When it happened, in microseconds since 1970; `None` takes the time of sending.
    pub time_us: Option<u64>,
}

impl Record {
    /// A record with this value, without a key.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record that says that `key` has no value any more.
    #[must_use]
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self {
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With the time at which it happened, in microseconds since 1970.
    #[must_use]
    pub const fn time_us(mut self, time_us: u64) -> Self {
        self.time_us = Some(time_us);
        self
    }

    /// Bytes that the record takes in a body, and that it counts for against the producer's buffer.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| HEADER_ROW_BYTES + name.len() + value.len())
            .sum();
        RECORD_ROW_BYTES
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
    }
}
