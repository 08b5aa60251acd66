//! Whether a thread sleeps, so that whoever has published something for it knows whether to wake it.
//!
//! No wake-up is lost. The publisher stores what it has to say (P1), fences, then loads the flag (P2). The sleeper stores
//! the flag (S1), fences, then looks at everything that may have been published (S2), and sleeps only when it found
//! nothing. Both fences are sequentially consistent, so one of them comes first: if the publisher's does, S2 sees P1 and
//! the sleeper stays awake; if the sleeper's does, P2 sees S1 and it is woken. Of several publishers the one that swaps
//! the flag back wakes it; the rest need not.

use super::sync::{AtomicBool, Ordering, fence};

/// See the module.
#[derive(Debug)]
pub(crate) struct Sleeping(AtomicBool);

impl Sleeping {
    /// Awake.
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Publisher: after publishing, whether the sleeper has to be woken, by this caller. Async-signal-safe.
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    /// Sleeper: says that it will sleep. What was published must be looked at after this and before sleeping.
    pub(crate) fn prepare_sleep(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeper: is awake again.
    pub(crate) fn awake(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
