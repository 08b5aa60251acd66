//! Time as a value. Nothing here reads a clock: a driver reads it once per turn and passes it down.

/// Nanoseconds of a clock that never goes back, since an arbitrary start (`CLOCK_MONOTONIC`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mono(u64);

impl Mono {
    /// A point in time from its nanoseconds.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// The point `ns` later; the last one that can be named where there is none.
    #[must_use]
    pub const fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Microseconds since 1970-01-01T00:00:00Z. May jump, in either direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Wall(u64);

impl Wall {
    /// A point in time from its microseconds.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_us(self) -> u64 {
        self.0
    }
}

/// What the clocks said at the start of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For intervals and deadlines.
    pub mono: Mono,
    /// For stamps that people read.
    pub wall: Wall,
}
