//! Bugs planted on purpose into what this crate does for slots, to see that its own model world finds them. They exist in
//! this crate's own tests only, one at a time and for one thread; in every other build [`is_planted`] is false at compile
//! time. Each breaks one rule of docs/journal.md, which its name and its comment say.

/// A bug, where it stands in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// A reader takes for alive whatever its run holds. J-61
    ServeDead,
    /// The index of a full segment is believed, whatever was cut behind it. J-61
    BelieveOldIndex,
    /// A start takes no truncation from the checkpoint. J-62
    ForgetCutAtStart,
    /// A truncation is forgotten as soon as the segment of its own entry is released. J-62
    ForgetCutEarly,
    /// A start takes no seal from the superblock. J-64
    ForgetSeal,
    /// A seal is told of before the superblock has it. J-64
    TellSealEarly,
    /// A mark is told of before the superblock has it. J-67
    TellMarkEarly,
    /// A segment is released whatever entries of slots it holds. J-65
    ReleaseAboveBase,
    /// A checkpoint covers what its owner has not captured. J-66
    CoverUncaptured,
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
