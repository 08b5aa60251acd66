//! What these machines say, as frames and as entries of the journal, and back. A frame names no sender: who sent it is known
//! from the link, and is told here. Refuses a frame that contradicts itself, which no machine of this crate ever sends:
//! whoever sent it is wrong, and its connection is closed.
//!
//! Invariant: what is read from a frame is what was written into it, and a frame that is taken is written again as the same.

use crate::configuration::{Generation, Member};
use crate::copy::{End, Marks, Reach};
use crate::follower::{Ack, Diverged, Fetch, FollowRefused, Shipment};
use crate::leader::FetchAnswer;
use crate::lease::LeaseAsk;
use crate::seal::{SealAnswer, SealAsk, SealEntry, SealRefused};
use tiderace_base::ids::{BootId, NodeId, SlotId};
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::time::Mono;
use tiderace_wire::entry::Seal;
use tiderace_wire::frame;
use tiderace_wire::frame::{
    Cut, FenceReason, LeaseGrant, SlotAck, SlotDiverged, SlotEntries, SlotFenced, SlotFetch,
    SlotSeal, SlotSealed,
};

/// A frame that contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction;

/// Credit that a follower grants with its fetch: of all slots of the link, from the session's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// Bytes of entries.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

fn cut_of(marks: Marks) -> (Cut, End) {
    match marks.cut {
        None => (Cut::None, End::default()),
        Some(Reach::Known(end)) => (Cut::Known, end),
        Some(Reach::Unknown) => (Cut::Unknown, End::default()),
    }
}

fn marks_of(suspect: bool, cut: Cut, greatest: End) -> Result<Marks, Contradiction> {
    let cut = match cut {
        Cut::Known => Some(Reach::Known(greatest)),
        _ if greatest != End::default() => return Err(Contradiction),
        Cut::Unknown => Some(Reach::Unknown),
        Cut::None => None,
    };
    Ok(Marks { suspect, cut })
}

/// An end has both an epoch and a sequence, or neither.
fn end_of(epoch: Epoch, seq: SlotSeq) -> Result<End, Contradiction> {
    if (epoch == Epoch::ZERO) == (seq == SlotSeq::ZERO) {
        Ok(End { epoch, seq })
    } else {
        Err(Contradiction)
    }
}

fn in_order(first: SlotSeq, second: SlotSeq) -> Result<(), Contradiction> {
    if first <= second {
        Ok(())
    } else {
        Err(Contradiction)
    }
}

impl Fetch {
    /// The frame that says it.
    #[must_use]
    pub fn frame(&self, slot: SlotId, credit: Credit) -> SlotFetch {
        let (cut, greatest) = cut_of(self.marks);
        SlotFetch {
            slot,
            suspect: self.marks.suspect,
            cut,
            epoch: self.epoch,
            last_epoch: self.held.epoch,
            cut_epoch: greatest.epoch,
            last_seq: self.held.seq,
            durable_seq: self.durable,
            cut_seq: greatest.seq,
            credit_bytes: credit.bytes,
            credit_entries: credit.entries,
            boot: self.member.boot,
            disk: self.member.disk,
        }
    }

    /// What a frame from this node says.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn read(frame: &SlotFetch, node: NodeId) -> Result<(Self, Credit), Contradiction> {
        in_order(frame.durable_seq, frame.last_seq)?;
        let greatest = End {
            epoch: frame.cut_epoch,
            seq: frame.cut_seq,
        };
        let fetch = Self {
            epoch: frame.epoch,
            member: Member {
                node,
                disk: frame.disk,
                boot: frame.boot,
            },
            held: end_of(frame.last_epoch, frame.last_seq)?,
            durable: frame.durable_seq,
            marks: marks_of(frame.suspect, frame.cut, greatest)?,
        };
        let credit = Credit {
            bytes: frame.credit_bytes,
            entries: frame.credit_entries,
        };
        Ok((fetch, credit))
    }
}

impl Shipment {
    /// The frame that says it, before the entries.
    #[must_use]
    pub fn frame(&self, slot: SlotId) -> SlotEntries {
        SlotEntries {
            slot,
            epoch: self.epoch,
            boot: self.boot,
            after_epoch: self.after.epoch,
            after_seq: self.after.seq,
            leader_seq: self.leader_end,
            committed_seq: self.committed,
        }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn read(frame: &SlotEntries) -> Result<Self, Contradiction> {
        in_order(frame.after_seq, frame.leader_seq)?;
        in_order(frame.committed_seq, frame.leader_seq)?;
        Ok(Self {
            epoch: frame.epoch,
            boot: frame.boot,
            after: end_of(frame.after_epoch, frame.after_seq)?,
            leader_end: frame.leader_seq,
            committed: frame.committed_seq,
        })
    }
}

impl Diverged {
    /// The frame that says it.
    #[must_use]
    pub fn frame(&self, slot: SlotId) -> SlotDiverged {
        SlotDiverged {
            slot,
            epoch: self.epoch,
            boot: self.boot,
            asked_epoch: self.asked.epoch,
            end_epoch: self.end.epoch,
            asked_seq: self.asked.seq,
            end_seq: self.end.seq,
        }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn read(frame: &SlotDiverged) -> Result<Self, Contradiction> {
        Ok(Self {
            epoch: frame.epoch,
            boot: frame.boot,
            asked: end_of(frame.asked_epoch, frame.asked_seq)?,
            end: end_of(frame.end_epoch, frame.end_seq)?,
        })
    }
}

impl Ack {
    /// The frame that says it.
    #[must_use]
    pub fn frame(&self, slot: SlotId) -> SlotAck {
        SlotAck {
            slot,
            epoch: self.epoch,
            durable_seq: self.durable,
            boot: self.member.boot,
            disk: self.member.disk,
        }
    }

    /// What a frame from this node says.
    #[must_use]
    pub fn read(frame: &SlotAck, node: NodeId) -> Self {
        Self {
            epoch: frame.epoch,
            member: Member {
                node,
                disk: frame.disk,
                boot: frame.boot,
            },
            durable: frame.durable_seq,
        }
    }
}

/// A refusal of a frame of this epoch, and what else it says.
fn fenced(
    slot: SlotId,
    epoch: Epoch,
    reason: FenceReason,
    fence: Epoch,
    number: u64,
) -> SlotFenced {
    SlotFenced {
        slot,
        reason,
        epoch,
        fence,
        number,
    }
}

impl FetchAnswer {
    /// The refusal to send for a fetch of this epoch; none: it is no refusal, and another frame says it.
    #[must_use]
    pub fn refusal(&self, slot: SlotId, epoch: Epoch) -> Option<SlotFenced> {
        let (reason, fence, number) = match *self {
            Self::Entries(_) | Self::Diverged(_) => return None,
            Self::Snapshot { base } => (FenceReason::BelowBase, Epoch::ZERO, base.get()),
            Self::Fenced { epoch: fence } => (FenceReason::Epoch, fence, 0),
            Self::Deposed => (FenceReason::Deposed, Epoch::ZERO, 0),
            Self::NotMember => (FenceReason::NotMember, Epoch::ZERO, 0),
            Self::OldImage { acknowledged } => {
                (FenceReason::OldImage, Epoch::ZERO, acknowledged.get())
            }
        };
        Some(fenced(slot, epoch, reason, fence, number))
    }
}

impl FollowRefused {
    /// The refusal to send for a frame of this epoch; none: the follower asks again, or waits, and the leader learns nothing
    /// from a refusal.
    #[must_use]
    pub fn refusal(&self, slot: SlotId, epoch: Epoch) -> Option<SlotFenced> {
        let (reason, fence) = match *self {
            Self::Fenced { fence } => (FenceReason::Epoch, fence),
            Self::OtherBoot => (FenceReason::OtherBoot, Epoch::ZERO),
            Self::Quarantined => (FenceReason::Quarantined, Epoch::ZERO),
            Self::Ahead
            | Self::Owed
            | Self::Gap
            | Self::Unmatched
            | Self::Parted
            | Self::Malformed => return None,
        };
        Some(fenced(slot, epoch, reason, fence, 0))
    }
}

impl SealRefused {
    /// The refusal to send for a seal of this epoch.
    #[must_use]
    pub fn refusal(&self, slot: SlotId, epoch: Epoch) -> SlotFenced {
        let (reason, fence, number) = match *self {
            Self::OldGeneration { known } => (FenceReason::OldGeneration, Epoch::ZERO, known.get()),
            Self::Stale { seen } => (FenceReason::Epoch, seen, 0),
            Self::Quarantined => (FenceReason::Quarantined, Epoch::ZERO, 0),
        };
        fenced(slot, epoch, reason, fence, number)
    }
}

impl SealAsk {
    /// The frame that says it, from the control leader in its run.
    #[must_use]
    pub fn frame(&self, slot: SlotId, node: NodeId, boot: BootId) -> SlotSeal {
        SlotSeal {
            slot,
            epoch: self.epoch,
            generation: self.generation.get(),
            node,
            boot,
        }
    }

    /// What a frame says.
    #[must_use]
    pub fn read(frame: &SlotSeal) -> Self {
        Self {
            generation: Generation::new(frame.generation),
            epoch: frame.epoch,
        }
    }
}

impl SealAnswer {
    /// The frame that says it, to who asked with this generation.
    #[must_use]
    pub fn frame(&self, slot: SlotId, generation: Generation) -> SlotSealed {
        let (cut, greatest) = cut_of(self.marks);
        SlotSealed {
            slot,
            suspect: self.marks.suspect,
            cut,
            epoch: self.epoch,
            last_epoch: self.held.epoch,
            cut_epoch: greatest.epoch,
            last_seq: self.held.seq,
            flushed_seq: self.flushed,
            cut_seq: greatest.seq,
            lease_left_ns: self.lease_left_ns,
            generation: generation.get(),
            boot: self.member.boot,
            disk: self.member.disk,
        }
    }

    /// What a frame from this node says, and the generation that was asked with: an answer of another one is dropped.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn read(frame: &SlotSealed, node: NodeId) -> Result<(Self, Generation), Contradiction> {
        let greatest = End {
            epoch: frame.cut_epoch,
            seq: frame.cut_seq,
        };
        let answer = Self {
            member: Member {
                node,
                disk: frame.disk,
                boot: frame.boot,
            },
            epoch: frame.epoch,
            held: end_of(frame.last_epoch, frame.last_seq)?,
            flushed: frame.flushed_seq,
            marks: marks_of(frame.suspect, frame.cut, greatest)?,
            lease_left_ns: frame.lease_left_ns,
        };
        Ok((answer, Generation::new(frame.generation)))
    }
}

impl SealEntry {
    /// What stands in the journal and in the superblock.
    #[must_use]
    pub fn entry(&self, slot: SlotId) -> Seal {
        Seal {
            slot,
            epoch: self.epoch,
            last_epoch: self.held.epoch,
            last_seq: self.held.seq,
            flushed_seq: self.flushed,
            cut: self.cut,
        }
    }

    /// What was found there.
    #[must_use]
    pub fn read(seal: &Seal) -> Self {
        Self {
            epoch: seal.epoch,
            held: End {
                epoch: seal.last_epoch,
                seq: seal.last_seq,
            },
            flushed: seal.flushed_seq,
            cut: seal.cut,
        }
    }
}

impl LeaseAsk {
    /// The frame that says it, from the leader in its run.
    #[must_use]
    pub fn frame(&self, slot: SlotId, boot: BootId) -> frame::LeaseAsk {
        frame::LeaseAsk {
            slot,
            epoch: self.epoch,
            boot,
            sent_ns: self.sent.as_ns(),
            length_ns: self.length_ns,
        }
    }

    /// What a frame says, and the leader's run.
    #[must_use]
    pub fn read(frame: &frame::LeaseAsk) -> (Self, BootId) {
        let ask = Self {
            epoch: frame.epoch,
            sent: Mono::from_ns(frame.sent_ns),
            length_ns: frame.length_ns,
        };
        (ask, frame.boot)
    }

    /// The frame with which `member` grants `length_ns` of what was asked.
    #[must_use]
    pub fn grant(&self, slot: SlotId, member: Member, length_ns: u64) -> LeaseGrant {
        LeaseGrant {
            slot,
            epoch: self.epoch,
            sent_ns: self.sent.as_ns(),
            length_ns,
            boot: member.boot,
            disk: member.disk,
        }
    }

    /// What a grant from this node says: who grants, and the ask that it answers, with the length that was granted.
    #[must_use]
    pub fn granted(frame: &LeaseGrant, node: NodeId) -> (Member, Self) {
        let member = Member {
            node,
            disk: frame.disk,
            boot: frame.boot,
        };
        let ask = Self {
            epoch: frame.epoch,
            sent: Mono::from_ns(frame.sent_ns),
            length_ns: frame.length_ns,
        };
        (member, ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use tiderace_base::ids::{DiskId, MessageId};
    use tiderace_base::limits::LINK_HEADER_BYTES;
    use tiderace_base::prng::Prng;
    use tiderace_wire::link::Flags;

    const SLOT: SlotId = SlotId::new(77);
    const NODE: NodeId = NodeId::new(9);
    const ID: MessageId = MessageId::new(1);

    fn seq(prng: &mut Prng) -> SlotSeq {
        SlotSeq::new(prng.range(1, 1000))
    }

    fn end(prng: &mut Prng) -> End {
        if prng.chance(1, 4) {
            return End::default();
        }
        End {
            epoch: Epoch::new(prng.range(1, 50) as u32),
            seq: seq(prng),
        }
    }

    fn marks(prng: &mut Prng) -> Marks {
        Marks {
            suspect: prng.chance(1, 2),
            cut: match prng.below(3) {
                0 => None,
                1 => Some(Reach::Unknown),
                _ => Some(Reach::Known(end(prng))),
            },
        }
    }

    fn member(prng: &mut Prng) -> Member {
        Member {
            node: NODE,
            disk: DiskId::new(prng.next_u128()),
            boot: BootId::new(prng.next_u64()),
        }
    }

    fn epoch(prng: &mut Prng) -> Epoch {
        Epoch::new(prng.next_u64() as u32)
    }

    /// The control section of a frame, as it crosses a link.
    fn section(encode: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode(&mut out);
        out[LINK_HEADER_BYTES..].to_vec()
    }

    #[test]
    fn whatever_a_machine_says_is_heard_as_it_was_said() {
        for seed in 0..2000 {
            let prng = &mut Prng::new(seed);
            let held = end(prng);
            let fetch = Fetch {
                epoch: epoch(prng),
                member: member(prng),
                held,
                durable: SlotSeq::new(prng.below(held.seq.get() + 1)),
                marks: marks(prng),
            };
            let credit = Credit {
                bytes: prng.next_u64(),
                entries: prng.next_u64(),
            };
            let bytes = section(|out| fetch.frame(SLOT, credit).encode(out, ID));
            let frame = SlotFetch::decode(&bytes).expect("it was written");
            assert_eq!(Fetch::read(&frame, NODE), Ok((fetch, credit)));
            assert_eq!(frame.slot, SLOT);

            let leader_end = seq(prng);
            let after = end(prng);
            let shipment = Shipment {
                epoch: epoch(prng),
                boot: member(prng).boot,
                after,
                leader_end: leader_end.max(after.seq),
                committed: SlotSeq::new(prng.below(leader_end.get() + 1)),
            };
            let bytes = section(|out| shipment.frame(SLOT).encode(out, ID, Flags::NONE, 0));
            let frame = SlotEntries::decode(&bytes).expect("it was written");
            assert_eq!(Shipment::read(&frame), Ok(shipment));

            let diverged = Diverged {
                epoch: epoch(prng),
                boot: member(prng).boot,
                asked: end(prng),
                end: end(prng),
            };
            let bytes = section(|out| diverged.frame(SLOT).encode(out, ID));
            let frame = SlotDiverged::decode(&bytes).expect("it was written");
            assert_eq!(Diverged::read(&frame), Ok(diverged));

            let ack = Ack {
                epoch: epoch(prng),
                member: member(prng),
                durable: seq(prng),
            };
            let bytes = section(|out| ack.frame(SLOT).encode(out, ID));
            let frame = SlotAck::decode(&bytes).expect("it was written");
            assert_eq!(Ack::read(&frame, NODE), ack);

            let ask = SealAsk {
                generation: Generation::new(prng.next_u64()),
                epoch: epoch(prng),
            };
            let bytes = section(|out| ask.frame(SLOT, NODE, ack.member.boot).encode(out, ID));
            let frame = SlotSeal::decode(&bytes).expect("it was written");
            assert_eq!(SealAsk::read(&frame), ask);

            let answer = SealAnswer {
                member: member(prng),
                epoch: epoch(prng),
                held: end(prng),
                flushed: seq(prng),
                marks: marks(prng),
                lease_left_ns: prng.next_u64(),
            };
            let bytes = section(|out| answer.frame(SLOT, ask.generation).encode(out, ID));
            let frame = SlotSealed::decode(&bytes).expect("it was written");
            assert_eq!(SealAnswer::read(&frame, NODE), Ok((answer, ask.generation)));

            let entry = SealEntry {
                epoch: epoch(prng),
                held: end(prng),
                flushed: seq(prng),
                cut: prng.chance(1, 2),
            };
            let seal = Seal::from_bytes(&entry.entry(SLOT).to_bytes()).expect("it was written");
            assert_eq!(SealEntry::read(&seal), entry);

            let lease = LeaseAsk {
                epoch: epoch(prng),
                sent: Mono::from_ns(prng.next_u64()),
                length_ns: prng.next_u64(),
            };
            let boot = ack.member.boot;
            let bytes = section(|out| lease.frame(SLOT, boot).encode(out, ID));
            let frame = frame::LeaseAsk::decode(&bytes).expect("it was written");
            assert_eq!(LeaseAsk::read(&frame), (lease, boot));
            let bytes = section(|out| lease.grant(SLOT, ack.member, 5).encode(out, ID));
            let frame = LeaseGrant::decode(&bytes).expect("it was written");
            let granted = LeaseAsk {
                length_ns: 5,
                ..lease
            };
            assert_eq!(LeaseAsk::granted(&frame, NODE), (ack.member, granted));
        }
    }

    fn a_fetch() -> SlotFetch {
        let fetch = Fetch {
            epoch: Epoch::new(3),
            member: member(&mut Prng::new(1)),
            held: End {
                epoch: Epoch::new(2),
                seq: SlotSeq::new(10),
            },
            durable: SlotSeq::new(8),
            marks: Marks::default(),
        };
        fetch.frame(SLOT, Credit::default())
    }

    #[test]
    fn a_frame_that_contradicts_itself_is_refused() {
        assert!(Fetch::read(&a_fetch(), NODE).is_ok());
        let contradictions = [
            SlotFetch {
                durable_seq: SlotSeq::new(11),
                ..a_fetch()
            },
            SlotFetch {
                last_epoch: Epoch::ZERO,
                ..a_fetch()
            },
            SlotFetch {
                last_seq: SlotSeq::ZERO,
                durable_seq: SlotSeq::ZERO,
                ..a_fetch()
            },
            SlotFetch {
                cut_seq: SlotSeq::new(1),
                ..a_fetch()
            },
            SlotFetch {
                cut: Cut::Unknown,
                cut_epoch: Epoch::new(1),
                ..a_fetch()
            },
        ];
        for frame in contradictions {
            assert_eq!(Fetch::read(&frame, NODE), Err(Contradiction), "{frame:?}");
        }
        let sound = SlotEntries {
            slot: SLOT,
            epoch: Epoch::new(3),
            boot: BootId::new(1),
            after_epoch: Epoch::new(2),
            after_seq: SlotSeq::new(10),
            leader_seq: SlotSeq::new(20),
            committed_seq: SlotSeq::new(5),
        };
        assert!(Shipment::read(&sound).is_ok());
        for frame in [
            SlotEntries {
                after_seq: SlotSeq::new(21),
                ..sound
            },
            SlotEntries {
                committed_seq: SlotSeq::new(21),
                ..sound
            },
            SlotEntries {
                after_epoch: Epoch::ZERO,
                ..sound
            },
        ] {
            assert_eq!(Shipment::read(&frame), Err(Contradiction), "{frame:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_its_reason_needs() {
        let at = Epoch::new(4);
        let fence = Epoch::new(6);
        let of = |reason, fence, number| fenced(SLOT, at, reason, fence, number);
        let none = Epoch::ZERO;
        let seq = SlotSeq::new(30);
        let answers = [
            (
                FetchAnswer::Fenced { epoch: fence },
                of(FenceReason::Epoch, fence, 0),
            ),
            (FetchAnswer::Deposed, of(FenceReason::Deposed, none, 0)),
            (FetchAnswer::NotMember, of(FenceReason::NotMember, none, 0)),
            (
                FetchAnswer::OldImage { acknowledged: seq },
                of(FenceReason::OldImage, none, 30),
            ),
            (
                FetchAnswer::Snapshot { base: seq },
                of(FenceReason::BelowBase, none, 30),
            ),
        ];
        for (answer, expected) in answers {
            assert_eq!(answer.refusal(SLOT, at), Some(expected));
        }
        assert_eq!(
            FollowRefused::Fenced { fence }.refusal(SLOT, at),
            Some(of(FenceReason::Epoch, fence, 0))
        );
        assert_eq!(FollowRefused::Gap.refusal(SLOT, at), None);
        let known = Generation::new(8);
        assert_eq!(
            SealRefused::OldGeneration { known }.refusal(SLOT, at),
            of(FenceReason::OldGeneration, none, 8)
        );
        assert_eq!(
            SealRefused::Stale { seen: fence }.refusal(SLOT, at),
            of(FenceReason::Epoch, fence, 0)
        );
    }
}
