//! Bugs planted on purpose into one slot's machines, to see that the model world of this crate finds them. They exist in
//! this crate's own tests only, one at a time and for one thread; in every other build [`is_planted`] is false at compile
//! time. Each breaks one rule of docs/replication.md, which its name and its comment say.

/// A bug, where it stands in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// A tail that was cut counts like a sound one. R-6
    CountCut,
    /// A mark of suspicion is gone after the next start. R-6
    ForgetSuspect,
    /// An acknowledgement counts for its node, whatever disk and boot it speaks of. R-7
    CountByNode,
    /// What W hold is committed, of whatever epoch. R-4
    CommitOlderEpochs,
    /// A leader serves before its epoch-start is committed. R-4
    ServeBeforeStart,
    /// A follower cuts to its committed end. R-5
    CutByWatermark,
    /// An acknowledgement says what is durable before the copy was found to be the leader's. R-5
    AcknowledgeUnmatched,
    /// A committed end is believed before the copy was found to be the leader's. R-5
    CommitUnmatched,
    /// Nobody remembers what a leader that is alone in its quorum granted to itself. R-8
    ForgetLeaseOfOne,
    /// A leader that is alone in its quorum believes its own word, whoever has declared it dead. R-8
    ForgetConfirmation,
    /// A granter forgets at a start what it granted. R-8
    ForgetGrantsAtStart,
    /// A lease counts from the moment of the answer. R-8
    LeaseFromAnswer,
    /// A seal is answered when it is written. R-3
    AnswerUndurableSeal,
    /// A sealed replica still takes entries of older epochs. R-3
    TakeBelowPromise,
    /// A mark goes when the epoch-start was fetched, durable or not. R-6
    ClearMarkEarly,
    /// What lies behind unreadable bytes is taken when its number fits. R-6
    TakeBehindDamage,
    /// A seal's answer is repeated although the copy lost what it said.
    RepeatLostAnswer,
    /// A new set commits before the catalogue has it. R-2
    CommitBeforeSet,
    /// A completion that belongs to entries that were cut counts for those that took their places. R-5
    MistakeDurable,
    /// A leader that starts again goes on with its epoch. R-1
    #[cfg(test)]
    ResumeEpoch,
    /// A set is changed without a seal and in the same epoch. R-2
    #[cfg(test)]
    ChangeSetUnsealed,
    /// A truncation is written behind the entries that it makes room for. R-5
    #[cfg(test)]
    TruncateLate,
}

#[cfg(test)]
thread_local! {
    static CHOSEN: core::cell::Cell<Option<Bug>> = const { core::cell::Cell::new(None) };
}

/// Plants a bug in this thread, in place of the one before; none: it is sound again.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Whether this bug is planted.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

/// Whether this bug is planted: it is not.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}
