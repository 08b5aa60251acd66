//! Frames of producers. A produce frame carries exactly one batch; acknowledgements come back many in one frame, each
//! 32 bytes, written and read in bulk.

use super::{fixed_frames, fixed_frames_before_batches, write_frame};
use crate::batch::BatchHeader;
use crate::error::ErrorCode;
use crate::layout::{ControlError, Field, fixed};
use crate::link::{Flags, Kind, LinkHeader};
use bytes::{BufMut, BytesMut};
use tiderace_base::ids::{MessageId, PartitionIndex, ProducerId, StreamId};
use tiderace_base::limits::{ACKS_PER_FRAME_MAX, BATCH_HEADER_BYTES, LINK_HEADER_BYTES};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq};
use zerocopy::little_endian::U16;

/// What goes before the body of a produce frame: link header, control section, batch header.
pub const PRODUCE_FRONT_BYTES: usize = LINK_HEADER_BYTES + Produce::BYTES + BATCH_HEADER_BYTES;

fixed!(
    /// One batch to append.
    pub struct Produce [16] {
        /// The slot's epoch as the producer knows it; zero when it does not.
        epoch: Epoch;
        /// Which produce slot's credit is spent beside the link's.
        produce_slot: u32;
        /// An offset that the partition's end had reached in this epoch when the producer began to number its batches;
        /// zero when it knows none. Means nothing where `epoch` is zero.
        since: Offset;
    }
);

impl Produce {
    /// All that goes before the body of this batch, to be put into the room in front of a body.
    #[must_use]
    pub fn front(self, message_id: MessageId, batch: &BatchHeader) -> [u8; PRODUCE_FRONT_BYTES] {
        let control = self.to_bytes();
        let link = LinkHeader::new(
            Kind::Produce,
            Flags::of(batch.attributes()),
            message_id,
            &control,
            batch.batch_len(),
        );
        let mut front = [0; PRODUCE_FRONT_BYTES];
        front[..LINK_HEADER_BYTES].copy_from_slice(link.bytes());
        front[LINK_HEADER_BYTES..][..Self::BYTES].copy_from_slice(&control);
        front[LINK_HEADER_BYTES + Self::BYTES..].copy_from_slice(batch.bytes());
        front
    }
}

/// The flags of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AckFlags(u16);

impl AckFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The batch had been appended before: this is its first acknowledgement again.
    pub const DUPLICATE: Self = Self(1);

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the batch had been appended before.
    #[must_use]
    pub const fn is_duplicate(self) -> bool {
        self.0 & Self::DUPLICATE.0 != 0
    }
}

impl Field for AckFlags {
    type Raw = U16;
    fn to_raw(self) -> U16 {
        self.0.into()
    }
    fn from_raw(raw: U16) -> Result<Self, ControlError> {
        match raw.get() {
            bits @ 0..=1 => Ok(Self(bits)),
            _ => Err(ControlError::Value),
        }
    }
}

fixed!(
    /// What became of one produce frame.
    pub struct Ack [32] {
        /// The frame's message id.
        request: MessageId;
        /// Offset of the batch's first record. When it was refused: detail_a of the code, as a number.
        base_offset: Offset;
        /// When it was appended, in microseconds since 1970. When it was refused: detail_b of the code.
        append_time_us: u64;
        /// The slot's epoch.
        epoch: Epoch;
        /// Why it was refused; `None` when it is appended and durable at the stream's level.
        code: Option<ErrorCode>;
        /// Flags.
        flags: AckFlags;
    }
);

impl Ack {
    /// A refused batch.
    #[must_use]
    pub const fn refused(
        request: MessageId,
        code: ErrorCode,
        detail_a: u64,
        detail_b: u64,
    ) -> Self {
        Self {
            request,
            base_offset: Offset::new(detail_a),
            append_time_us: detail_b,
            epoch: Epoch::ZERO,
            code: Some(code),
            flags: AckFlags::NONE,
        }
    }
}

fixed!(
    pub(crate) struct ProducedHead [4] {
        /// How many acknowledgements follow.
        count: u32;
    }
);

/// Acknowledgements, as many as were due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Produced<'a> {
    acks: &'a [u8],
}

const _: () = assert!(
    matches!(
        Kind::Produced.control_bounds(),
        (min, max) if min == ProducedHead::BYTES + Ack::BYTES && max == ProducedHead::BYTES + ACKS_PER_FRAME_MAX * Ack::BYTES
    ),
    "a produced frame has the bounds of its kind"
);

impl<'a> Produced<'a> {
    /// The kind of its frame.
    pub const KIND: Kind = Kind::Produced;

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When there are no acknowledgements, or more than [`ACKS_PER_FRAME_MAX`].
    pub fn encode(acks: &[Ack], out: &mut BytesMut, message_id: MessageId) {
        let bytes = ProducedHead::BYTES + acks.len() * Ack::BYTES;
        out.reserve(LINK_HEADER_BYTES + bytes);
        write_frame(out, Kind::Produced, Flags::NONE, message_id, 0, |out| {
            let head = ProducedHead {
                count: acks.len() as u32,
            };
            out.put_slice(&head.to_bytes());
            for ack in acks {
                out.put_slice(&ack.to_bytes());
            }
        });
    }

    /// Reads a control section. Every acknowledgement in it is checked; none is copied.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &'a [u8]) -> Result<Self, ControlError> {
        let (head, acks) = ProducedHead::from_prefix(control)?;
        let count = head.count as usize;
        // P-5
        if count > ACKS_PER_FRAME_MAX {
            return Err(ControlError::TooLong);
        }
        match acks.len().cmp(&(count * Ack::BYTES)) {
            core::cmp::Ordering::Less => return Err(ControlError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(ControlError::Long),
        }
        for ack in acks.chunks_exact(Ack::BYTES) {
            Ack::from_bytes(ack)?;
        }
        Ok(Self { acks })
    }

    /// The acknowledgements, in the order of the frame.
    #[must_use]
    pub fn acks(&self) -> Acks<'a> {
        Acks {
            rest: self.acks.chunks_exact(Ack::BYTES),
        }
    }
}

/// See [`Produced::acks`].
#[derive(Clone, Debug)]
pub struct Acks<'a> {
    rest: core::slice::ChunksExact<'a, u8>,
}

impl Iterator for Acks<'_> {
    type Item = Ack;

    fn next(&mut self) -> Option<Ack> {
        self.rest
            .next()
            .map(|ack| Ack::from_bytes(ack).expect("checked when the frame was read"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl ExactSizeIterator for Acks<'_> {}

fixed!(
    /// Asks what a partition remembers of a producer.
    pub struct ProduceResume [48] {
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex;
        /// The producer's epoch.
        producer_epoch: ProducerEpoch;
        /// The producer.
        producer_id: ProducerId;
        /// The last batch whose acknowledgement the producer saw.
        last_acked_seq: ProducerSeq;
        /// Whether it saw any.
        has_acked: bool, pad 7;
    }
);

fixed!(
    /// What the partition remembers of the producer.
    pub struct ProduceResumed [40] {
        /// The request.
        request: MessageId;
        /// Whether it remembers anything of this producer and epoch.
        known: bool, pad 3;
        /// The slot's epoch.
        epoch: Epoch;
        /// The last batch appended.
        last_seq: ProducerSeq;
        /// The offset of that batch's first record.
        last_offset: Offset;
        /// The partition's next offset: the `since` of a producer that begins now.
        end: Offset;
    }
);

fixed!(
    /// Batches that were acknowledged and are gone.
    pub struct AckedLost [48] {
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex, pad 4;
        /// The producer.
        producer_id: ProducerId;
        /// The first batch lost.
        from_seq: ProducerSeq;
        /// The last batch lost.
        to_seq: ProducerSeq;
    }
);

fixed_frames!(ProduceResume, ProduceResumed, AckedLost);
fixed_frames_before_batches!(Produce);
