//! Bugs planted on purpose, to see that the simulator finds them: a checker that never refused anything has shown nothing.
//! They exist only where the compiler was told so (`--cfg planted`, see CONTRIBUTING.md), one at a time, chosen when a
//! program starts. In every other build [`is_planted`] is false at compile time, and the program refuses to be built with
//! them.

/// A bug, where it stands in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A chunk's write does not wait for the disk to keep it.
    AcknowledgeBeforeSync = 1,
    /// A chunk counts as durable while an earlier one is still in flight. J-5
    AcknowledgeOutOfOrder,
    /// A write that failed is done again, and everything goes on. J-16
    RetryFailedSync,
    /// A chunk begins in the last block of the one before it.
    RewriteTailBlock,
    /// Recovery takes any journal's and any life's chunk for one of this life. J-4
    ParseOldChunk,
    /// Recovery leaves out a chunk.
    DropChunkOnRecovery,
    /// Recovery forgets what an earlier one marked. J-10
    ForgetMarks,
    /// A segment is released while a partition needs it. J-14
    RecycleTooEarly,
    /// A started shard has forgotten what it knew of producers.
    ForgetProducerWindow,
    /// A duplicate is answered before the original is durable.
    AnswerDuplicateEarly,
    /// A batch gets an offset that was given before.
    ReuseOffset,
    /// A batch is delivered before it is durable.
    DeliverUndurable,
    /// An append time is what the wall clock says, whatever it said before.
    FollowWallClock,
    /// A node goes on with the epoch that it had before it started.
    ResumeOldEpoch,
    /// A producer that knows an epoch that has ended is served.
    AcceptOldEpoch,
    /// What was deleted is kept and served.
    KeepDeleted,
    /// Room that a producer's batches no longer take is not granted again.
    LeakCredit,
    /// A batch that waits for room in the journal is not tried again.
    ForgetWaiting,
    /// An acknowledgement names another request.
    AnswerAnother,
    /// A drain does not wait for its readers.
    ForgetReaders,
    /// A subscription that has had everything is not woken by what becomes visible.
    ForgetSubscription,
    /// Producers are remembered for whom there is no memory.
    KeepEverybody,
    /// A subscription is told an end that was passed long ago.
    AnswerOldEnd,
    /// A batch is refused and appended.
    RefuseAppended,
    /// What was delivered is delivered again.
    DeliverAgain,
    /// A batch is passed over in a delivery.
    SkipBatch,
    /// A producer's epoch is served that a higher one has fenced.
    AcceptFenced,
    /// An acknowledgement names another place.
    AnswerOtherPlace,
    /// Half of what a retention promises is kept.
    TrimTooMuch,
    /// A shard says that it has dropped what it keeps.
    SayDropped,
    /// A delivery does not ask whether it was granted.
    OverspendCredit,
    /// A process ends because it has no room now.
    ExitForNothing,
    /// A batch without a producer id is acknowledged before it is durable.
    AcknowledgeNamelessEarly,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 33] = [
        Self::AcknowledgeBeforeSync,
        Self::AcknowledgeOutOfOrder,
        Self::RetryFailedSync,
        Self::RewriteTailBlock,
        Self::ParseOldChunk,
        Self::DropChunkOnRecovery,
        Self::ForgetMarks,
        Self::RecycleTooEarly,
        Self::ForgetProducerWindow,
        Self::AnswerDuplicateEarly,
        Self::ReuseOffset,
        Self::DeliverUndurable,
        Self::FollowWallClock,
        Self::ResumeOldEpoch,
        Self::AcceptOldEpoch,
        Self::KeepDeleted,
        Self::LeakCredit,
        Self::ForgetWaiting,
        Self::AnswerAnother,
        Self::ForgetReaders,
        Self::ForgetSubscription,
        Self::KeepEverybody,
        Self::AnswerOldEnd,
        Self::RefuseAppended,
        Self::DeliverAgain,
        Self::SkipBatch,
        Self::AcceptFenced,
        Self::AnswerOtherPlace,
        Self::TrimTooMuch,
        Self::SayDropped,
        Self::OverspendCredit,
        Self::ExitForNothing,
        Self::AcknowledgeNamelessEarly,
    ];
}

#[cfg(planted)]
static CHOSEN: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Plants a bug in this process, in place of the one before; none: it is sound again.
#[cfg(planted)]
pub fn plant(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8);
    CHOSEN.store(number, core::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(planted)]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this bug is planted: it is not.
#[cfg(not(planted))]
#[must_use]
#[inline(always)]
pub const fn is_planted(_: Bug) -> bool {
    false
}
