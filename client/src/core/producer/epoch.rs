//! A producer's epochs, which the node knows as one number of 32 bits: in its high half the session, which the application
//! chooses, in its low half how often a lane began again, which it does not see. So no lane ever takes an epoch that another
//! session of the same producer may have: a higher session fences all epochs of a lower one. And what a lane knows of its
//! partition's end when it begins an epoch. Invariant: an epoch only grows, and never leaves its session.

use tiderace_base::position::{Epoch, Offset, ProducerEpoch};

const LANE_BITS: u32 = 16;

/// Which session of a producer this is, chosen by the application: one that takes over from an older one with the same id
/// has a higher number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionEpoch(u16);

impl SessionEpoch {
    /// The session of this number.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The first epoch of its lanes, as the node knows it.
    #[must_use]
    pub const fn first(self) -> ProducerEpoch {
        ProducerEpoch::new((self.0 as u32) << LANE_BITS)
    }
}

/// The epoch after this one in the same session; `None` behind the last.
pub(super) fn next(epoch: ProducerEpoch) -> Option<ProducerEpoch> {
    let next = epoch.checked_add(1)?;
    (next.get() >> LANE_BITS == epoch.get() >> LANE_BITS).then_some(next)
}

/// A partition's end at some time: it had come to `offset` in `epoch`. The default says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Reached {
    /// The slot's epoch, without which the offset means nothing.
    pub epoch: Epoch,
    /// The next offset then, or a lower one.
    pub offset: Offset,
}

impl Reached {
    /// Takes what is known now, if that is more.
    pub(super) fn raise(&mut self, other: Self) {
        *self = (*self).max(other);
    }

    /// What a produce frame of this epoch says.
    #[must_use]
    pub fn within(self, epoch: Epoch) -> Offset {
        if self.epoch == epoch {
            self.offset
        } else {
            Offset::ZERO
        }
    }
}
