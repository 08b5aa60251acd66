//! Leases of one slot's leader: W members' word, its own included, that whoever seals them is told how much of it is left
//! . Needed where one copy alone decides: acknowledgements of `local` and `memory` streams, and reads that only the
//! leader answers. Arithmetic on monotonic nanoseconds of two clocks that are never compared with each other.
//!
//! Invariants: the leader counts from when it sent, less the drift; a granter from when it granted; who waits adds the
//! drift. So a leader stops believing before anybody that waited out what was left of its grants begins.

use crate::planted::{Bug, is_planted};
use tiderace_base::limits::{SLOT_LEASE_NS_MAX, SLOT_MEMBERS_MAX};
use tiderace_base::position::Epoch;
use tiderace_base::time::Mono;

/// Two clocks run apart by at most this part of a length: a fiftieth.
pub const DRIFT_PART: u64 = 50;

/// A leader asks a member for a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseAsk {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// When it sent this, by its own clock: comes back as it is.
    pub sent: Mono,
    /// For how long.
    pub length_ns: u64,
}

/// How long a leader believes in a grant of `length_ns`, from when it sent.
#[must_use]
pub const fn believed_ns(length_ns: u64) -> u64 {
    length_ns - length_ns.div_ceil(DRIFT_PART)
}

/// How long whoever is told that `left_ns` of a grant are left has to wait.
#[must_use]
pub const fn waited_ns(left_ns: u64) -> u64 {
    left_ns + left_ns.div_ceil(DRIFT_PART)
}

/// What a member remembers of what it granted for a slot, to whomever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grants {
    until: Mono,
}

impl Grants {
    /// A member that starts has forgotten what it granted: it has to assume the longest lease, granted a moment ago.
    #[must_use]
    pub fn started(now: Mono) -> Self {
        if is_planted(Bug::ForgetGrantsAtStart) {
            return Self::none();
        }
        Self {
            until: now.after_ns(SLOT_LEASE_NS_MAX),
        }
    }

    /// A member that never granted anything for this slot: the slot, or its part in it, is new.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            until: Mono::from_ns(0),
        }
    }

    /// Grants. That the leader may have it was checked before.
    ///
    /// # Panics
    /// When the lease is longer than any may be.
    pub(crate) fn grant(&mut self, length_ns: u64, now: Mono) {
        assert!(length_ns <= SLOT_LEASE_NS_MAX, "a lease has a limit");
        self.until = self.until.max(now.after_ns(length_ns));
    }

    /// What is left of the longest grant.
    #[must_use]
    pub fn left_ns(&self, now: Mono) -> u64 {
        self.until.since(now)
    }
}

/// What a leader holds of the members' word. By the member's place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    until: [Mono; SLOT_MEMBERS_MAX],
}

impl Lease {
    pub(crate) const NONE: Self = Self {
        until: [Mono::from_ns(0); SLOT_MEMBERS_MAX],
    };

    /// A member granted what was asked for at `sent`.
    pub(crate) fn granted(&mut self, index: usize, sent: Mono, length_ns: u64, now: Mono) {
        assert!(length_ns <= SLOT_LEASE_NS_MAX, "a lease has a limit");
        let from = if is_planted(Bug::LeaseFromAnswer) {
            now
        } else {
            sent
        };
        let until = from.after_ns(believed_ns(length_ns));
        self.until[index] = self.until[index].max(until);
    }

    /// A member's word is worth nothing any more: it started again, or is another.
    pub(crate) fn forget(&mut self, index: usize) {
        self.until[index] = Mono::from_ns(0);
    }

    /// Until when `quorum` of the first `count` members let the leader be alone.
    pub(crate) fn until(&self, count: usize, quorum: usize) -> Mono {
        let mut until = self.until;
        let members = &mut until[..count];
        members.sort_unstable();
        members[count - quorum]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// whoever waits what is left, with the drift, begins after the leader has stopped believing, on any two clocks
    /// that run apart by at most a fiftieth, whenever the member is sealed.
    #[test]
    fn a_lease_is_over_before_the_wait_is() {
        const LENGTH: u64 = 1_000_000_000;
        // In parts of a ten-thousandth, each clock within a hundredth of true time.
        for leader in [9_900, 10_000, 10_100] {
            for granter in [9_900, 10_000, 10_100] {
                for waiter in [9_900, 10_000, 10_100] {
                    for sealed in (0..=1_100_000_000_u64).step_by(10_000_000) {
                        let mut grants = Grants::none();
                        grants.grant(LENGTH, Mono::from_ns(0));
                        let left = grants.left_ns(Mono::from_ns(sealed * granter / 10_000));
                        let begins = sealed + waited_ns(left) * 10_000 / waiter;
                        let believes = believed_ns(LENGTH) * 10_000 / leader;
                        assert!(
                            left == 0 && sealed >= believes || begins >= believes,
                            "clocks {leader} {granter} {waiter}, sealed at {sealed}: {begins} < {believes}"
                        );
                    }
                }
            }
        }
    }

    ///
    #[test]
    pub(crate) fn a_granter_that_starts_assumes_the_longest_lease() {
        let grants = Grants::started(Mono::from_ns(7));
        assert_eq!(grants.left_ns(Mono::from_ns(7)), SLOT_LEASE_NS_MAX);
        assert_eq!(grants.left_ns(Mono::from_ns(7 + SLOT_LEASE_NS_MAX)), 0);
        assert_eq!(Grants::none().left_ns(Mono::from_ns(0)), 0);
    }

    ///
    #[test]
    fn a_lease_is_as_long_as_the_shortest_of_the_w_longest_words() {
        let mut lease = Lease::NONE;
        let at = Mono::from_ns;
        lease.granted(0, at(300), 100, at(900));
        lease.granted(2, at(100), 100, at(900));
        assert_eq!(lease.until(3, 1), at(398));
        assert_eq!(
            lease.until(3, 2),
            at(198),
            "counted from when it was asked for"
        );
        assert_eq!(lease.until(3, 3), at(0));
        lease.granted(2, at(50), 100, at(950));
        assert_eq!(
            lease.until(3, 2),
            at(198),
            "an older answer takes nothing back"
        );
        lease.forget(0);
        assert_eq!(lease.until(3, 2), at(0));
    }
}
