//! The model's memory, in the place of `crate::sync`: the same names, and each use of one is a point at which the model may
//! let another thread go first.

pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::Arc;
pub(super) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
