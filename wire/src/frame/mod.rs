//! One struct for the control section of each kind of frame, and how a frame is written. Batches are never copied here:
//! what carries them is written as link header and control section, and the batches follow as they are. Decoding checks
//! every length before it allocates, every reserved byte, and every number that stands for a name.

mod catalogue;
mod control;
mod produce;
mod session;
mod subscribe;
pub mod tables;
mod work;
mod zone;

pub use catalogue::{
    DESCRIBED_PER_PAGE_MAX, DescribedPartition, Metadata, MetadataRequest, MetadataWhat,
    NODES_BYTES_PER_PAGE_MAX, NodeInfo, PARTITIONS_PER_PAGE_MAX, PartitionInfo,
    STREAMS_PER_PAGE_MAX, StreamCreate, StreamCreated, StreamDelete, StreamDeleted, StreamDescribe,
    StreamDescription, StreamList, StreamListing,
};
pub use control::ControlLetter;
pub use produce::{
    Ack, AckFlags, AckedLost, Acks, PRODUCE_FRONT_BYTES, Produce, ProduceResume, ProduceResumed,
    Produced,
};
pub use session::{
    Credit, CreditScope, Error, Goodbye, GoodbyeReason, Hello, MESSAGE_BYTES_MAX, NAME_BYTES_MAX,
    Ping, Pong, Welcome,
};
pub use subscribe::{
    ADDRESS_BYTES_MAX, Deliver, Diverged, Gap, GapReason, Loss, OffsetByTime, OffsetOfTime,
    Redirect, Subscribe, SubscribeFrom, Subscribed, Unsubscribe, Unsubscribed,
};
pub use work::{
    GroupCommit, GroupCommitted, SettleOutcome, TASKS_PER_GIVE_MAX, Task, TaskGive, TaskSettle,
    TaskSettled, TaskTake,
};
pub use zone::{
    Cut, FenceReason, LeaseAsk, LeaseGrant, SlotAck, SlotDiverged, SlotEntries, SlotFenced,
    SlotFetch, SlotSeal, SlotSealed, SlotSnapshot, SlotSnapshotRequest,
};

use crate::layout::ControlError;
use crate::link::{Flags, Kind, LinkHeader};
use bytes::{BufMut, BytesMut};
use tiderace_base::ids::MessageId;
use tiderace_base::limits::LINK_HEADER_BYTES;

/// Writes a frame: the link header, then the control section that `put` writes; `batch_bytes` of batches will follow.
fn write_frame(
    out: &mut BytesMut,
    kind: Kind,
    flags: Flags,
    message_id: MessageId,
    batch_bytes: usize,
    put: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_bytes(0, LINK_HEADER_BYTES);
    put(out);
    let (header, control) = out[start..].split_at_mut(LINK_HEADER_BYTES);
    let link = LinkHeader::new(kind, flags, message_id, control, batch_bytes);
    header.copy_from_slice(link.bytes());
}

/// A text: its length as u16, then UTF-8.
fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("a text keeps its limit"));
    out.put_slice(text.as_bytes());
}

/// Takes a text of at most `bytes_max` bytes from the front.
fn take_text(bytes: &[u8], bytes_max: usize) -> Result<(&str, &[u8]), ControlError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(ControlError::Short)?;
    let length = usize::from(u16::from_le_bytes(*length));
    // P-5: the length is held against its limit and against what is there before anything is made of it.
    if length > bytes_max {
        return Err(ControlError::TooLong);
    }
    let (text, rest) = rest.split_at_checked(length).ok_or(ControlError::Short)?;
    // P-7
    let text = core::str::from_utf8(text).map_err(|_| ControlError::Text)?;
    Ok((text, rest))
}

/// The end of a section.
fn end(rest: &[u8]) -> Result<(), ControlError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(ControlError::Long)
    }
}

/// A frame whose control section is one fixed run of fields, without batches.
macro_rules! fixed_frames {
    ($($name:ident),* $(,)?) => {$(
        const _: () = assert!(
            matches!(
                $crate::link::Kind::$name.control_bounds(),
                ($name::BYTES, $name::BYTES)
            ),
            concat!(stringify!($name), " has the bounds of its kind")
        );

        impl $name {
            /// The kind of its frame.
            pub const KIND: $crate::link::Kind = $crate::link::Kind::$name;

            /// Appends the whole frame.
            pub fn encode(&self, out: &mut ::bytes::BytesMut, message_id: ::tiderace_base::ids::MessageId) {
                super::write_frame(
                    out, Self::KIND, $crate::link::Flags::NONE, message_id, 0,
                    |out| out.extend_from_slice(&self.to_bytes()),
                );
            }

            /// Reads a control section.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn decode(control: &[u8]) -> Result<Self, $crate::layout::ControlError> {
                Self::from_bytes(control)
            }
        }
    )*};
}
pub(crate) use fixed_frames;

/// A frame whose control section is one fixed run of fields, before batches.
macro_rules! fixed_frames_before_batches {
    ($($name:ident),* $(,)?) => {$(
        const _: () = assert!(
            matches!(
                $crate::link::Kind::$name.control_bounds(),
                ($name::BYTES, $name::BYTES)
            ),
            concat!(stringify!($name), " has the bounds of its kind")
        );

        impl $name {
            /// The kind of its frame.
            pub const KIND: $crate::link::Kind = $crate::link::Kind::$name;

            /// Appends link header and control section; `batch_bytes` bytes of batches must follow.
            ///
            /// # Panics
            /// When `batch_bytes` is outside the bounds of the kind.
            pub fn encode(
                &self,
                out: &mut ::bytes::BytesMut,
                message_id: ::tiderace_base::ids::MessageId,
                flags: $crate::link::Flags,
                batch_bytes: usize,
            ) {
                super::write_frame(
                    out, Self::KIND, flags, message_id, batch_bytes,
                    |out| out.extend_from_slice(&self.to_bytes()),
                );
            }

            /// Reads a control section.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn decode(control: &[u8]) -> Result<Self, $crate::layout::ControlError> {
                Self::from_bytes(control)
            }
        }
    )*};
}
pub(crate) use fixed_frames_before_batches;

/// A frame whose control section ends with texts or lists; the struct has a `put`.
macro_rules! open_frames {
    ($($name:ident),* $(,)?) => {$(
        impl $name {
            /// The kind of its frame.
            pub const KIND: $crate::link::Kind = $crate::link::Kind::$name;

            /// Appends the whole frame.
            ///
            /// # Panics
            /// When a text or a list is longer than its limit.
            pub fn encode(&self, out: &mut ::bytes::BytesMut, message_id: ::tiderace_base::ids::MessageId) {
                super::write_frame(
                    out, Self::KIND, $crate::link::Flags::NONE, message_id, 0,
                    |out| self.put(out),
                );
            }
        }
    )*};
}
pub(crate) use open_frames;

macro_rules! controls {
    ($($name:ident $(<$life:lifetime>)?),* $(,)?) => {
        /// The control section of any frame.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Control<'a> {
            $( #[doc = concat!("See [`", stringify!($name), "`].")] $name($name $(<$life>)?), )*
        }

        impl<'a> Control<'a> {
            /// Reads the control section of a frame of this kind.
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn decode(kind: Kind, control: &'a [u8]) -> Result<Self, ControlError> {
                match kind {
                    $( Kind::$name => $name::decode(control).map(Self::$name), )*
                }
            }

            /// The kind of the frame that it belongs to.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $( Self::$name(_) => Kind::$name, )*
                }
            }
        }
    };
}

controls!(
    Hello,
    Welcome,
    Ping,
    Pong,
    Error,
    Goodbye,
    Credit,
    MetadataRequest,
    Metadata,
    StreamCreate,
    StreamCreated,
    StreamDescribe,
    StreamDescription,
    StreamList,
    StreamListing,
    StreamDelete,
    StreamDeleted,
    Produce,
    Produced<'a>,
    ProduceResume,
    ProduceResumed,
    AckedLost,
    Subscribe,
    Subscribed,
    Deliver,
    Unsubscribe,
    Unsubscribed,
    OffsetByTime,
    OffsetOfTime,
    Gap,
    Diverged,
    Redirect,
    Loss,
    SlotFetch,
    SlotEntries,
    SlotAck,
    SlotSeal,
    SlotSealed,
    LeaseGrant,
    SlotSnapshotRequest,
    SlotSnapshot<'a>,
    SlotDiverged,
    SlotFenced,
    LeaseAsk,
    ControlLetter<'a>,
    GroupCommit,
    GroupCommitted,
    TaskTake,
    TaskGive,
    TaskSettle,
    TaskSettled,
);
