//! Bugs that the world of the tests plants, to see that it notices them. In every build but that of the tests there are none.

/// A bug, where it stands in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// Votes and acknowledgements do not wait for the disk.
    PromiseUndurable,
    /// The leader counts what it has not written yet.
    CountUnwritten,
    /// A voter votes although its word to a leader still holds.
    VoteInLease,
    /// A voter that starts has given no word to anybody.
    ForgetWordAtStart,
    /// The leader's lease counts from the answer.
    LeaseFromAnswer,
    /// A leader that handed over goes on relying on its lease.
    KeepLeaseHandedOver,
    /// A read is answered though nobody confirmed the leader.
    ReadUnconfirmed,
    /// A new leader answers reads before it knows what is committed.
    ReadBeforeTerm,
    /// A voter whose log was damaged votes and counts as before.
    DamagedCounts,
    /// A damaged voter is whole again when it has what a leader knows to be committed, though that leader is too new to know.
    HealTooSoon,
    /// A damaged voter is taken back though another one may lead a later term, for which it voted and which it has forgotten.
    ReadmitUnasked,
    /// A voter by itself says that it leads before its vote is durable.
    LeadUndurable,
}

#[cfg(test)]
impl Bug {
    pub(super) const ALL: [Self; 12] = [
        Self::PromiseUndurable,
        Self::CountUnwritten,
        Self::VoteInLease,
        Self::ForgetWordAtStart,
        Self::LeaseFromAnswer,
        Self::KeepLeaseHandedOver,
        Self::ReadUnconfirmed,
        Self::ReadBeforeTerm,
        Self::DamagedCounts,
        Self::HealTooSoon,
        Self::ReadmitUnasked,
        Self::LeadUndurable,
    ];
}

#[cfg(test)]
std::thread_local! {
    static CHOSEN: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Plants a bug in this thread, in place of the one before.
#[cfg(test)]
pub(super) fn plant(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

#[cfg(test)]
pub(super) fn is_planted(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

#[cfg(not(test))]
#[inline(always)]
pub(super) const fn is_planted(_: Bug) -> bool {
    false
}
