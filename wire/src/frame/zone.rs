//! Frames between the nodes of a zone: a follower's fetching and acknowledging, sealing before an election, leases and
//! snapshots. Their bytes are published; a node of this release refuses them on a client's connection.

use super::{fixed_frames, fixed_frames_before_batches, write_frame};
use crate::layout::{ControlError, coded, fixed};
use crate::link::{Flags, Kind};
use bytes::BytesMut;
use tiderace_base::ids::{BootId, DiskId, MessageId, NodeId, SlotId};
use tiderace_base::position::{Epoch, SlotSeq};

fixed!(
    /// A follower asks for a slot's entries, with credit.
    pub struct SlotFetch [56] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch that the follower knows.
        epoch: Epoch;
        /// The first sequence wanted.
        from_seq: SlotSeq;
        /// Credit in bytes of entries, from the session's start.
        credit_bytes: u64;
        /// The same in entries.
        credit_entries: u64;
        /// The follower's disk.
        disk: DiskId;
        /// The follower's run.
        boot: BootId;
    }
);

fixed!(
    /// Entries of a slot, in slot sequence order.
    pub struct SlotEntries [24] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The leader's epoch.
        epoch: Epoch;
        /// One past the leader's last entry.
        leader_end: SlotSeq;
        /// One past the last entry that W replicas have.
        committed: SlotSeq;
    }
);

fixed!(
    /// How far a follower is durable.
    pub struct SlotAck [40] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch of the entries.
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
    /// A candidate asks a replica to refuse older epochs.
    pub struct SlotSeal [24] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch that the candidate would lead.
        epoch: Epoch;
        /// The candidate.
        candidate: NodeId;
        /// The candidate's run.
        boot: BootId;
    }
);

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
    /// What the replica holds, promised to the candidate.
    pub struct SlotSealed [56] {
        /// Which slot.
        slot: SlotId, pad 2;
        /// The epoch promised.
        epoch: Epoch;
        /// The epoch of its last entry.
        last_epoch: Epoch;
        /// Whether a tail was cut off.
        cut: Cut, pad 3;
        /// One past its last entry.
        end_seq: SlotSeq;
        /// One past the last that is durable.
        flushed_end_seq: SlotSeq;
        /// The epoch of the greatest entry that it may have held; zero unless known.
        cut_epoch: Epoch, pad 4;
        /// The sequence of that entry; zero unless known.
        cut_seq: SlotSeq;
        /// What is left of a lease that it granted, in microseconds.
        lease_left_us: u64;
    }
);

fixed!(
    /// A member lets a leader serve alone for a while.
    pub struct LeaseGrant [24] {
        /// The first slot.
        slot_first: SlotId;
        /// One past the last slot.
        slot_end: SlotId;
        /// The leader's epoch.
        epoch: Epoch;
        /// When the leader sent what this answers, by the leader's clock.
        sent_us: u64;
        /// How long from then.
        length_us: u64;
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
    pub(crate) struct SlotSnapshotHead [24] {
        /// Which slot.
        slot: SlotId;
        /// Whether no part follows.
        last: bool, pad 1;
        /// The leader's epoch.
        epoch: Epoch;
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
