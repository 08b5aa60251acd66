//! What threads share memory with. The queue and the sleeper's flag take it from beside them, so that tests can put a model
//! in its place that tries every interleaving (`interleavings`).

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// As in the standard library, reached through a closure, as the model wants it.
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// The pointer is good for as long as the closure runs.
    #[inline(always)]
    pub(super) fn with_mut<R>(&self, touch: impl FnOnce(*mut T) -> R) -> R {
        touch(self.0.get())
    }
}
