//! The link header: 32 bytes before everything that crosses a link, new at each hop and never stored. Its lengths are
//! believed only after its own checksum and the bounds of its kind have been checked, so nothing is ever allocated or
//! awaited on the word of damaged or hostile bytes.

use crate::error::ErrorCode;
use crate::layout::coded;
use core::fmt;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::MessageId;
use tiderace_base::limits::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, CONTROL_BYTES_MAX, DELIVER_BYTES_MAX, LINK_HEADER_BYTES,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first two bytes of every frame: "Tr".
pub const LINK_MAGIC: u16 = 0x7254;
/// The version that this crate speaks.
pub const LINK_VERSION: u8 = 1;
/// Where the header's checksum stands.
const HEADER_CRC_AT: usize = 28;

/// Who may send a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Clients, to nodes.
    ToNode,
    /// Nodes, to clients.
    ToClient,
    /// Both.
    Both,
    /// Nodes, to nodes of their zone.
    Zone,
}

/// What follows a frame's control section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batches {
    /// Nothing.
    None,
    /// Exactly one batch.
    One,
    /// One or more batches, back to back.
    Some,
    /// Any number of entries, back to back, or none.
    Any,
}

macro_rules! kinds {
    ($( $name:ident = $code:literal, $direction:ident, $min:literal ..= $max:expr, $batches:ident, $doc:literal; )*) => {
        coded!(
            /// What a frame is.
            pub enum Kind: u8 {
                $( #[doc = $doc] $name = $code, )*
            }
        );

        impl Kind {
            /// Who may send it.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $( Self::$name => Direction::$direction, )* }
            }

            /// The smallest and the largest control section of it.
            #[must_use]
            pub const fn control_bounds(self) -> (usize, usize) {
                match self { $( Self::$name => ($min, $max), )* }
            }

            /// What follows its control section.
            #[must_use]
            pub const fn batches(self) -> Batches {
                match self { $( Self::$name => Batches::$batches, )* }
            }
        }
    };
}

kinds! {
    Hello = 1, ToNode, 26 ..= 90, None, "The first frame of a client: who it is and what it speaks.";
    Welcome = 2, ToClient, 76 ..= 76, None, "The answer to a hello: where the client is, the limits and the first link credit.";
    Ping = 3, Both, 8 ..= 8, None, "Asks for a pong.";
    Pong = 4, Both, 8 ..= 8, None, "Repeats the nonce of a ping.";
    Error = 5, ToClient, 30 ..= 542, None, "A request was refused, or the connection ends.";
    Goodbye = 6, Both, 8 ..= 8, None, "The sender begins nothing new and closes when what is open has ended.";
    Credit = 7, Both, 24 ..= 24, None, "What was granted since the session began.";
    MetadataRequest = 16, ToNode, 18 ..= 273, None, "Asks where a stream's partitions are led.";
    Metadata = 17, ToClient, 24 ..= CONTROL_BYTES_MAX, None, "Nodes, a stream and where its partitions are led; one page.";
    StreamCreate = 18, ToNode, 30 ..= 285, None, "Creates a stream.";
    StreamCreated = 19, ToClient, 54 ..= 309, None, "The stream exists.";
    StreamDescribe = 20, ToNode, 6 ..= 261, None, "Asks for a stream and its partitions' ends.";
    StreamDescription = 21, ToClient, 58 ..= CONTROL_BYTES_MAX, None, "A stream and the partitions that this shard leads; one page.";
    StreamList = 22, ToNode, 6 ..= 261, None, "Asks for the streams behind a path.";
    StreamListing = 23, ToClient, 12 ..= CONTROL_BYTES_MAX, None, "Streams in the order of their paths; one page.";
    StreamDelete = 24, ToNode, 8 ..= 8, None, "Deletes a stream.";
    StreamDeleted = 25, ToClient, 8 ..= 8, None, "The stream is gone.";
    Produce = 32, ToNode, 16 ..= 16, One, "One batch to append.";
    Produced = 33, ToClient, 36 ..= 32772, None, "Acknowledgements, as many as were due.";
    ProduceResume = 34, ToNode, 48 ..= 48, None, "Asks what a partition remembers of a producer.";
    ProduceResumed = 35, ToClient, 40 ..= 40, None, "What the partition remembers of the producer.";
    AckedLost = 36, ToClient, 48 ..= 48, None, "Batches that were acknowledged and are gone.";
    Subscribe = 40, ToNode, 48 ..= 48, None, "Begins a subscription, with its first credit.";
    Subscribed = 41, ToClient, 40 ..= 40, None, "The subscription has begun.";
    Deliver = 42, ToClient, 16 ..= 16, Some, "Batches of a subscription, in offset order.";
    Unsubscribe = 43, ToNode, 8 ..= 8, None, "Ends a subscription.";
    Unsubscribed = 44, ToClient, 16 ..= 16, None, "The subscription has ended: no deliver of it follows.";
    OffsetByTime = 45, ToNode, 24 ..= 24, None, "Asks for the first batch appended at or after a time.";
    OffsetOfTime = 46, ToClient, 32 ..= 32, None, "The answer to an offset by time.";
    Gap = 47, ToClient, 24 ..= 24, None, "Offsets of a subscription that are not kept.";
    Diverged = 48, ToClient, 24 ..= 24, None, "The cursor's epoch and offset are not in this log: where they part.";
    Redirect = 49, ToClient, 36 ..= 100, None, "Who leads the partition.";
    Loss = 50, ToClient, 24 ..= 24, None, "Records of a subscribed partition that were acknowledged and are gone.";
    SlotFetch = 64, Zone, 80 ..= 80, None, "A follower asks for a slot's entries behind its end, with credit.";
    SlotEntries = 65, Zone, 48 ..= 48, Any, "Entries of a slot, in slot sequence order.";
    SlotAck = 66, Zone, 40 ..= 40, None, "How far a follower is durable.";
    SlotSeal = 67, Zone, 32 ..= 32, None, "The control leader asks a member to refuse older epochs.";
    SlotSealed = 68, Zone, 80 ..= 80, None, "What a sealed member holds.";
    LeaseGrant = 69, Zone, 48 ..= 48, None, "A member lets a leader serve alone for a while.";
    SlotSnapshotRequest = 70, Zone, 24 ..= 24, None, "A follower below the slot's base asks for a snapshot.";
    SlotSnapshot = 71, Zone, 32 ..= CONTROL_BYTES_MAX, None, "A part of a slot's snapshot.";
    SlotDiverged = 72, Zone, 40 ..= 40, None, "Where a follower's copy and the leader's part.";
    SlotFenced = 73, Zone, 24 ..= 24, None, "A frame about a slot is refused.";
    LeaseAsk = 74, Zone, 32 ..= 32, None, "A leader asks a member to let it serve alone for a while.";
    ControlLetter = 76, Zone, 9 ..= 524_288, None, "What the control threads of a zone say to each other; opaque here.";
    GroupCommit = 80, ToNode, 40 ..= 40, None, "Moves a group's position.";
    GroupCommitted = 81, ToClient, 16 ..= 16, None, "The position is moved.";
    TaskTake = 82, ToNode, 40 ..= 40, None, "A worker asks for tasks.";
    TaskGive = 83, ToClient, 40 ..= 16408, Some, "Tasks for a worker.";
    TaskSettle = 84, ToNode, 48 ..= 48, None, "A worker ends or extends its lease of a task.";
    TaskSettled = 85, ToClient, 16 ..= 16, None, "What became of a task.";
}

impl Kind {
    /// The least number of batch bytes of it, and the most.
    #[must_use]
    pub const fn batch_bounds(self) -> (usize, usize) {
        match self.batches() {
            Batches::None => (0, 0),
            Batches::One => (BATCH_HEADER_BYTES + 1, BATCH_BYTES_MAX),
            Batches::Some => (BATCH_HEADER_BYTES + 1, DELIVER_BYTES_MAX),
            Batches::Any => (0, DELIVER_BYTES_MAX),
        }
    }
}

impl TryFrom<u8> for Kind {
    type Error = ErrorCode;

    fn try_from(code: u8) -> Result<Self, ErrorCode> {
        Self::from_code(code).ok_or(ErrorCode::BadKind)
    }
}

/// A frame's flags: they repeat its batch's attributes for whoever only forwards. A node acts on the batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The batch has a codec.
    pub const COMPRESSED: Self = Self(1);
    /// The batch goes ahead of others.
    pub const PRIORITY: Self = Self(1 << 1);
    /// The batch's retries are recognised.
    pub const IDEMPOTENT: Self = Self(1 << 2);
    /// The batch is followed through the system.
    pub const TRACED: Self = Self(1 << 3);
    const KNOWN: u16 = 0xf;

    /// Exactly these bits, or `None` when one of them means nothing.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of a frame that carries a batch with these attributes.
    #[must_use]
    pub fn of(attributes: crate::batch::Attributes) -> Self {
        let mut flags = Self::NONE;
        if attributes.codec() != crate::batch::Codec::None {
            flags = flags.with(Self::COMPRESSED);
        }
        if attributes.is_priority() {
            flags = flags.with(Self::PRIORITY);
        }
        if attributes.is_idempotent() {
            flags = flags.with(Self::IDEMPOTENT);
        }
        if attributes.is_traced() {
            flags = flags.with(Self::TRACED);
        }
        flags
    }
}

/// The header before everything that crosses a link. Aligned so that it moves in whole words; it is copied out of what
/// arrived, which lies anywhere.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct LinkHeader {
    magic: U16,
    version: u8,
    kind: u8,
    flags: U16,
    reserved: U16,
    message_id: U64,
    control_bytes: U32,
    batch_bytes: U32,
    control_crc: U32,
    header_crc: U32,
}

const _: () = {
    assert!(
        size_of::<LinkHeader>() == LINK_HEADER_BYTES,
        "a link header has its published size"
    );
    assert!(
        core::mem::offset_of!(LinkHeader, message_id) == 8,
        "the message id is at 8"
    );
    assert!(
        core::mem::offset_of!(LinkHeader, header_crc) == HEADER_CRC_AT,
        "the checksum is at 28"
    );
};

impl LinkHeader {
    /// The header of a frame with this control section, before `batch_bytes` bytes of batches.
    ///
    /// # Panics
    /// When a length is outside the bounds of the kind: the sender has checked them.
    #[must_use]
    pub fn new(
        kind: Kind,
        flags: Flags,
        message_id: MessageId,
        control: &[u8],
        batch_bytes: usize,
    ) -> Self {
        let (control_min, control_max) = kind.control_bounds();
        let (batch_min, batch_max) = kind.batch_bounds();
        assert!(
            (control_min..=control_max).contains(&control.len())
                && (batch_min..=batch_max).contains(&batch_bytes),
            "a frame keeps the bounds of its kind"
        );
        let mut header = Self {
            magic: LINK_MAGIC.into(),
            version: LINK_VERSION,
            kind: kind.code(),
            flags: flags.bits().into(),
            reserved: 0.into(),
            message_id: message_id.get().into(),
            control_bytes: (control.len() as u32).into(),
            batch_bytes: (batch_bytes as u32).into(),
            control_crc: crc32c(control).into(),
            header_crc: 0.into(),
        };
        header.header_crc = crc32c(&header.as_bytes()[..HEADER_CRC_AT]).into();
        header
    }

    /// Reads and checks a header: magic, version, checksum, kind, flags, and both lengths against the bounds of the
    /// kind. After that its getters are to be believed.
    ///
    /// # Errors
    /// The code with which the connection ends.
    #[inline]
    pub fn parse(bytes: &[u8; LINK_HEADER_BYTES]) -> Result<Self, ErrorCode> {
        let header: Self = zerocopy::transmute!(*bytes);
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), ErrorCode> {
        if self.magic.get() != LINK_MAGIC {
            return Err(ErrorCode::BadMagic);
        }
        if self.version != LINK_VERSION {
            return Err(ErrorCode::BadVersion);
        }
        // P-1: no other field is believed before the checksum holds.
        if crc32c(&self.bytes()[..HEADER_CRC_AT]) != self.header_crc.get() {
            return Err(ErrorCode::BadChecksum);
        }
        let kind = Kind::try_from(self.kind)?;
        // P-2
        if Flags::from_bits(self.flags.get()).is_none() || self.reserved.get() != 0 {
            return Err(ErrorCode::BadFlags);
        }
        // P-3
        let (control_min, control_max) = kind.control_bounds();
        let (batch_min, batch_max) = kind.batch_bounds();
        let control = self.control_len();
        let batch = self.batch_len();
        if control < control_min || control > control_max || batch < batch_min || batch > batch_max
        {
            return Err(ErrorCode::BadLength);
        }
        Ok(())
    }

    /// Checks the control section that arrived behind the header.
    ///
    /// # Errors
    /// [`ErrorCode::BadChecksum`].
    pub fn check_control(&self, control: &[u8]) -> Result<(), ErrorCode> {
        // P-4
        if control.len() == self.control_len() && crc32c(control) == self.control_crc.get() {
            Ok(())
        } else {
            Err(ErrorCode::BadChecksum)
        }
    }

    /// The header's own bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; LINK_HEADER_BYTES] {
        zerocopy::transmute_ref!(self)
    }

    /// What the frame is.
    ///
    /// # Panics
    /// When the header came neither from [`LinkHeader::parse`] nor from [`LinkHeader::new`].
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_code(self.kind).expect("a header is checked before it is used")
    }

    /// The frame's flags.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.flags.get())
    }

    /// Unique and growing per connection and direction.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        MessageId::new(self.message_id.get())
    }

    /// Size of the control section.
    #[must_use]
    pub fn control_len(&self) -> usize {
        self.control_bytes.get() as usize
    }

    /// Size of what follows it.
    #[must_use]
    pub fn batch_len(&self) -> usize {
        self.batch_bytes.get() as usize
    }

    /// Size of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        LINK_HEADER_BYTES + self.control_len() + self.batch_len()
    }
}

impl fmt::Debug for LinkHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkHeader")
            .field("kind", &Kind::from_code(self.kind))
            .field("flags", &self.flags.get())
            .field("message_id", &self.message_id())
            .field("control_len", &self.control_len())
            .field("batch_len", &self.batch_len())
            .finish_non_exhaustive()
    }
}
