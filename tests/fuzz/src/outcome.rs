//! What became of one input: taken, or refused by which check. Counted, because a target whose every input falls at the
//! first check tests that check and nothing behind it.

/// What a reader said to an input. The name is the check that refused it, or what it was taken for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// The reader took it, and everything that was read of it holds.
    Taken(&'static str),
    /// The reader refused it, as it may.
    Refused(&'static str),
}

impl Outcome {
    /// Whether the input passed every check.
    #[must_use]
    pub const fn is_taken(self) -> bool {
        matches!(self, Self::Taken(_))
    }

    /// The check, or what the input was taken for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken(name) | Self::Refused(name) => name,
        }
    }
}
