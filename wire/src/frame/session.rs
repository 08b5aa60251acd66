//! Frames that open, keep and end a session, and the credit that flows in both directions.

use super::{end, fixed_frames, open_frames, put_text, take_text};
use crate::error::{ErrorCode, Retry};
use crate::layout::{ControlError, coded, fixed};
use bytes::BytesMut;
use tiderace_base::ids::{BootId, MessageId, NodeId, ShardId, ZoneId};
use tiderace_base::position::CatalogueVersion;

/// A client's name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// An error's message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 512;

fixed!(
    pub(crate) struct HelloHead [24] {
        /// The oldest version that it speaks.
        version_min: u8;
        /// The newest.
        version_max: u8, pad 2;
        /// What it can do beyond the version; unknown bits are ignored.
        features: u32;
        /// 128 random bits, for logs.
        client_id: u128;
    }
);

/// The first frame of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The oldest version that it speaks.
    pub version_min: u8,
    /// The newest.
    pub version_max: u8,
    /// What it can do beyond the version; no bit has a meaning yet, and unknown ones are ignored.
    pub features: u32,
    /// 128 random bits, for logs.
    pub client_id: u128,
    /// Its name, for logs; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
}

impl Hello {
    fn put(&self, out: &mut BytesMut) {
        let head = HelloHead {
            version_min: self.version_min,
            version_max: self.version_max,
            features: self.features,
            client_id: self.client_id,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(out, &self.name);
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = HelloHead::from_prefix(control)?;
        let (name, rest) = take_text(rest, NAME_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            version_min: head.version_min,
            version_max: head.version_max,
            features: head.features,
            client_id: head.client_id,
            name: name.to_owned(),
        })
    }
}

fixed!(
    /// The answer to a hello.
    pub struct Welcome [76] {
        /// The version that both speak from now on.
        version: u8, pad 1;
        /// The shard that the client reached.
        shard: ShardId;
        /// How many shards the node has.
        shard_count: u16, pad 2;
        /// What the node can do beyond the version.
        features: u32;
        /// The node.
        node: NodeId;
        /// Its run.
        boot: BootId;
        /// Its zone.
        zone: ZoneId;
        /// The catalogue that the node knows.
        catalogue_version: CatalogueVersion;
        /// The largest body.
        body_bytes_max: u32;
        /// The most records of one batch.
        batch_records_max: u32;
        /// The most batches of one producer in flight to one partition.
        producer_window: u32;
        /// The most requests waiting that no credit covers.
        uncredited_max: u32;
        /// Credit of the link, in bytes of batches, from the session's start.
        bytes_total: u64;
        /// The same in batches.
        batches_total: u64;
    }
);

fixed!(
    /// Asks for a pong.
    pub struct Ping [8] {
        /// Comes back as it is.
        nonce: u64;
    }
);

fixed!(
    /// Repeats the nonce of a ping.
    pub struct Pong [8] {
        /// The ping's.
        nonce: u64;
    }
);

fixed!(
    pub(crate) struct ErrorHead [28] {
        /// The request's message id; zero when it concerns the connection.
        request: MessageId;
        /// What is wrong.
        code: ErrorCode;
        /// What may be done.
        retry: Retry;
        /// Whether the connection ends behind it.
        fatal: bool;
        /// See the table of codes.
        detail_a: u64;
        /// See the table of codes.
        detail_b: u64;
    }
);

/// A request was refused, or the connection ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// The request's message id; zero when it concerns the connection.
    pub request: MessageId,
    /// What is wrong.
    pub code: ErrorCode,
    /// What may be done.
    pub retry: Retry,
    /// Whether the connection ends behind it.
    pub fatal: bool,
    /// See the table of codes.
    pub detail_a: u64,
    /// See the table of codes.
    pub detail_b: u64,
    /// For people; at most [`MESSAGE_BYTES_MAX`] bytes, the rest is cut off when it is written.
    pub message: String,
}

impl Error {
    /// An error about a request, as its code's table says, without details.
    #[must_use]
    pub fn about(request: MessageId, code: ErrorCode) -> Self {
        Self {
            request,
            code,
            retry: code.retry(),
            fatal: code.is_fatal(),
            detail_a: 0,
            detail_b: 0,
            message: code.meaning().to_owned(),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        let head = ErrorHead {
            request: self.request,
            code: self.code,
            retry: self.retry,
            fatal: self.fatal,
            detail_a: self.detail_a,
            detail_b: self.detail_b,
        };
        out.extend_from_slice(&head.to_bytes());
        put_text(
            out,
            &self.message[..self.message.floor_char_boundary(MESSAGE_BYTES_MAX)],
        );
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = ErrorHead::from_prefix(control)?;
        let (message, rest) = take_text(rest, MESSAGE_BYTES_MAX)?;
        end(rest)?;
        Ok(Self {
            request: head.request,
            code: head.code,
            retry: head.retry,
            fatal: head.fatal,
            detail_a: head.detail_a,
            detail_b: head.detail_b,
            message: message.to_owned(),
        })
    }
}

coded!(
    /// Why a side begins nothing new.
    pub enum GoodbyeReason: u8 {
        /// The node is going away: what is open ends in order, then connect elsewhere.
        Drain = 0,
        /// Nothing happened for too long.
        Idle = 1,
        /// The sender does not understand its peer.
        Protocol = 2,
    }
);

fixed!(
    /// The sender begins nothing new and closes when what is open has ended.
    pub struct Goodbye [8] {
        /// Why.
        reason: GoodbyeReason, pad 7;
    }
);

coded!(
    /// What credit is for.
    pub enum CreditScope: u8 {
        /// All batches of the link; the id is zero.
        Link = 0,
        /// One subscription; the id is its number.
        Subscription = 1,
        /// One produce slot; the id is its number.
        ProduceSlot = 2,
    }
);

fixed!(
    /// What was granted since the session began. Totals, not steps: a lower one than before is ignored.
    pub struct Credit [24] {
        /// For what.
        scope: CreditScope, pad 3;
        /// For which.
        id: u32;
        /// Bytes of batches, headers included.
        bytes_total: u64;
        /// Batches.
        batches_total: u64;
    }
);

fixed_frames!(Welcome, Ping, Pong, Goodbye, Credit);
open_frames!(Hello, Error);
