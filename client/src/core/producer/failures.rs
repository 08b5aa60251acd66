//! Failures that nobody was told of yet. A failed batch is owed to as many listeners as it has records: whoever heard of
//! one says so, and what nobody heard of is told by the next flush. So a failure cannot pass unnoticed because its
//! listener was dropped, and none is told again once it was.
//!
//! Invariant: a failure stands here exactly while a record of it is owed. Bounded: beyond [`FAILURES_MAX`] the newest one
//! stands for those that follow it, so that whether something is owed stays exact and only which error is told may not be.

use crate::error::SendError;
use std::collections::VecDeque;

/// Failures that are kept apart.
const FAILURES_MAX: usize = 128;

/// Names a failed batch in [`super::Producer::told`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FailureId(u64);

#[derive(Debug)]
struct Failure {
    id: FailureId,
    error: SendError,
    /// Records whose listeners were not told.
    owed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Failures {
    /// By id, and so in the order in which they happened.
    untold: VecDeque<Failure>,
    next: u64,
}

impl Failures {
    /// A batch of `records` records failed.
    pub(super) fn add(&mut self, error: SendError, records: u32) -> FailureId {
        let owed = u64::from(records);
        if self.untold.len() == FAILURES_MAX
            && let Some(newest) = self.untold.back_mut()
        {
            newest.owed += owed;
            return newest.id;
        }
        let id = FailureId(self.next);
        self.next += 1;
        self.untold.push_back(Failure { id, error, owed });
        id
    }

    /// The listener of one record of this failure was told. Nothing happens when a flush was told before.
    pub(super) fn told(&mut self, id: FailureId) {
        let Ok(at) = self.untold.binary_search_by_key(&id, |failure| failure.id) else {
            return;
        };
        self.untold[at].owed -= 1;
        if self.untold[at].owed == 0 {
            self.untold.remove(at);
        }
    }

    /// The first failure that is owed. It stands for all of them: none is owed any more.
    pub(super) fn take(&mut self) -> Option<SendError> {
        let first = self.untold.front().map(|failure| failure.error);
        self.untold.clear();
        first
    }
}
