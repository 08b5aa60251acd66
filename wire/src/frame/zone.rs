//! Frames between the nodes of a zone: a follower's fetching and acknowledging, where two copies part, refusals, sealing
//! before an election, leases and snapshots. Who sends one is known from the link's certificate, and stands in none of them but
//! where it speaks for another. Sequences are those of entries, and zero where there is none. Their bytes are published; a
//! node of this release refuses them on a client's connection.

use super::{fixed_frames, fixed_frames_before_batches, write_frame};
use crate::layout::{ControlError, coded, fixed};
use crate::link::{Flags, Kind};
use bytes::BytesMut;
use tiderace_base::ids::{BootId, DiskId, MessageId, NodeId, SlotId};
use tiderace_base::position::{Epoch, SlotSeq};

coded!(
    /// Whether a replica's tail was cut off at a start.
    pub enum Cut: u8 {
        /// It was not.
        None = 0,
        /// It was, and the greatest entry that it may have held is known.
        Known = 1,
        /// It was, and what it held is not known.
        Unknown = 2,
    }
);

fixed!(
    /// A follower asks for a slot's entries behind its end, with credit.
    pub struct SlotFetch [80] {
        /// Which slot.
        slot: SlotId;
        /// Whether the follower's copy may lack anything.
        suspect: bool;
        /// Whether its tail was cut off.
        cut: Cut;
        /// The epoch that the follower follows.
        epoch: Epoch;
        /// The epoch of its last entry.
        last_epoch: Epoch;
        /// The epoch of the greatest entry that it may have held; zero unless known.
        cut_epoch: Epoch;
        /// The sequence of its last entry; zero when it has none.
        last_seq: SlotSeq;
        /// The highest sequence below which nothing is missing on its disk.
        durable_seq: SlotSeq;
        /// The sequence of the greatest entry that it may have held; zero unless known.
        cut_seq: SlotSeq;
        /// Credit in bytes of entries, of all slots of the link, from the session's start.
        credit_bytes: u64;
        /// The same in entries.
        credit_entries: u64;
        /// The follower's run.
        boot: BootId;
        /// The follower's disk.
        disk: DiskId;
    }
);

fixed!(
    /// Entries of a slot, in slot sequence order.
    pub struct SlotEntries [48] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The leader's epoch.
        epoch: Epoch;
        /// The leader's run.
        boot: BootId;
        /// The epoch of the leader's entry before the first of these.
        after_epoch: Epoch, pad 4;
        /// The sequence of that entry; zero when there is none.
        after_seq: SlotSeq;
        /// The sequence of the leader's last entry.
        leader_seq: SlotSeq;
        /// The sequence of the last entry that the leader knows to be committed.
        committed_seq: SlotSeq;
    }
);

fixed!(
    /// How far a follower is durable.
    pub struct SlotAck [40] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch of the leader that it follows.
        epoch: Epoch;
        /// The highest sequence below which nothing is missing on the follower's disk.
        durable_seq: SlotSeq;
        /// The follower's run.
        boot: BootId;
        /// The follower's disk.
        disk: DiskId;
    }
);

fixed!(
    /// Where two copies part, by the leader's map of epochs.
    pub struct SlotDiverged [40] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The leader's epoch.
        epoch: Epoch;
        /// The leader's run.
        boot: BootId;
        /// The epoch of the follower's last entry, as it asked.
        asked_epoch: Epoch;
        /// The newest of the leader's epochs that is not above it; zero when there is none.
        end_epoch: Epoch;
        /// The sequence of the follower's last entry, as it asked.
        asked_seq: SlotSeq;
        /// The last sequence of that epoch of the leader's.
        end_seq: SlotSeq;
    }
);

coded!(
    /// Why a frame about a slot is refused.
    pub enum FenceReason: u8 {
        /// Its epoch is over: the fence was promised, followed or led.
        Epoch = 1,
        /// The leader that was asked leads no more; control says who does.
        Deposed = 2,
        /// The sender is no member of the slot's set, on its disk and in its run.
        NotMember = 3,
        /// The sender's disk acknowledged more than it has: it is an old image; the number is what it acknowledged.
        OldImage = 4,
        /// What is asked for is not kept as entries: take a snapshot; the number is the slot's base.
        BelowBase = 5,
        /// The receiver's copy is out of use until an operator looks at it.
        Quarantined = 6,
        /// The seal was made from an older record of the slot; the number is the generation that is known.
        OldGeneration = 7,
        /// The epoch is led by another run of its leader: close the connection.
        OtherBoot = 8,
    }
);

fixed!(
    /// A frame about a slot is refused.
    pub struct SlotFenced [24] {
        /// Which slot.
        slot: SlotId;
        /// Why.
        reason: FenceReason, pad 1;
        /// The epoch of the frame that is refused.
        epoch: Epoch;
        /// The receiver takes nothing of an older epoch than this.
        fence: Epoch, pad 4;
        /// What the reason says; else zero.
        number: u64;
    }
);

fixed!(
    /// The control leader asks a member to refuse older epochs.
    pub struct SlotSeal [32] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch that it means to give.
        epoch: Epoch;
        /// The generation of the slot's record that it looks at.
        generation: u64;
        /// The control leader.
        node: NodeId;
        /// Its run.
        boot: BootId;
    }
);

fixed!(
    /// What a sealed member holds, as it stands in its journal, with what is known of it today.
    pub struct SlotSealed [80] {
        /// Which slot.
        slot: SlotId;
        /// Whether the copy may lack anything.
        suspect: bool;
        /// Whether its tail was cut off.
        cut: Cut;
        /// The epoch promised, which may be above the one that was asked for.
        epoch: Epoch;
        /// The epoch of its last entry.
        last_epoch: Epoch;
        /// The epoch of the greatest entry that it may have held; zero unless known.
        cut_epoch: Epoch;
        /// The sequence of its last entry; zero when it has none.
        last_seq: SlotSeq;
        /// How far of that was durable before the seal.
        flushed_seq: SlotSeq;
        /// The sequence of the greatest entry that it may have held; zero unless known.
        cut_seq: SlotSeq;
        /// What is left of a lease that it granted, by its own clock, in nanoseconds.
        lease_left_ns: u64;
        /// The generation that was asked with.
        generation: u64;
        /// The member's run.
        boot: BootId;
        /// The member's disk.
        disk: DiskId;
    }
);

fixed!(
    /// A leader asks a member to let it serve alone for a while.
    pub struct LeaseAsk [32] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The leader's epoch.
        epoch: Epoch;
        /// The leader's run.
        boot: BootId;
        /// When it sent this, by its own clock.
        sent_ns: u64;
        /// For how long.
        length_ns: u64;
    }
);

fixed!(
    /// A member lets a leader serve alone for a while.
    pub struct LeaseGrant [48] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The leader's epoch.
        epoch: Epoch;
        /// What the leader said of when it sent.
        sent_ns: u64;
        /// How long from then.
        length_ns: u64;
        /// The member's run.
        boot: BootId;
        /// The member's disk.
        disk: DiskId;
    }
);

fixed!(
    /// A follower below the slot's base asks for a snapshot.
    pub struct SlotSnapshotRequest [24] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch that the follower knows.
        epoch: Epoch;
        /// The first sequence that it misses.
        from_seq: SlotSeq;
        /// The part wanted, from 0.
        part: u32, pad 4;
    }
);

fixed!(
    pub(crate) struct SlotSnapshotHead [32] {
        /// Which slot.
        slot: SlotId;
        /// Whether no part follows.
        last: bool, pad 1;
        /// The leader's epoch.
        epoch: Epoch;
        /// The leader's run.
        boot: BootId;
        /// The slot's base: entries above it are fetched.
        base_seq: SlotSeq;
        /// Number of this part, from 0.
        part: u32;
        /// How many bytes of it follow.
        part_bytes: u32;
    }
);

/// A part of a slot's snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSnapshot<'a> {
    /// Which slot.
    pub slot: SlotId,
    /// Whether no part follows.
    pub last: bool,
    /// The leader's epoch.
    pub epoch: Epoch,
    /// The leader's run.
    pub boot: BootId,
    /// The slot's base: entries above it are fetched.
    pub base_seq: SlotSeq,
    /// Number of this part, from 0.
    pub part: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl SlotSnapshot<'_> {
    fn put(&self, out: &mut BytesMut) {
        let head = SlotSnapshotHead {
            slot: self.slot,
            last: self.last,
            epoch: self.epoch,
            boot: self.boot,
            base_seq: self.base_seq,
            part: self.part,
            part_bytes: u32::try_from(self.bytes.len()).expect("a part keeps its limit"),
        };
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(self.bytes);
    }
}

impl<'a> SlotSnapshot<'a> {
    /// Reads a control section; the part's bytes are not copied.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &'a [u8]) -> Result<Self, ControlError> {
        let (head, bytes) = SlotSnapshotHead::from_prefix(control)?;
        match bytes.len().cmp(&(head.part_bytes as usize)) {
            core::cmp::Ordering::Less => return Err(ControlError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(ControlError::Long),
        }
        Ok(Self {
            slot: head.slot,
            last: head.last,
            epoch: head.epoch,
            boot: head.boot,
            base_seq: head.base_seq,
            part: head.part,
            bytes,
        })
    }
}

fixed_frames!(
    SlotFetch,
    SlotAck,
    SlotSeal,
    SlotSealed,
    LeaseGrant,
    SlotSnapshotRequest,
    SlotDiverged,
    SlotFenced,
    LeaseAsk,
);
fixed_frames_before_batches!(SlotEntries);

impl SlotSnapshot<'_> {
    /// The kind of its frame.
    pub const KIND: Kind = Kind::SlotSnapshot;

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When the part is larger than a control section.
    pub fn encode(&self, out: &mut BytesMut, message_id: MessageId) {
        write_frame(out, Self::KIND, Flags::NONE, message_id, 0, |out| {
            self.put(out);
        });
    }
}
