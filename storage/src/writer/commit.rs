//! Group commit: when the open chunk goes to the disk, and what is durable when writes complete in any order. Knows sizes
//! and places, not bytes.

use std::collections::VecDeque;
use tiderace_base::limits::KIB;
use tiderace_base::operation::OpId;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::Lsn;
use tiderace_base::time::Mono;

/// What each write in flight adds to the size from which another is worth its own trip to the disk. A write of this size
/// spends longer on its bytes than on the trip.
const WORTH_BYTES_EACH: usize = 128 * KIB;

/// The same behind a write that is late: what waits with it will need a trip of its own, which had better be under way
/// when it comes back.
const WORTH_BYTES_EACH_LATE: usize = 64 * KIB;

/// A write in flight for longer than this is late. Several times what a disk that is well takes for
/// [`WORTH_BYTES_EACH`].
const LATE_AFTER_NS: u64 = 1_000_000;

#[derive(Debug)]
struct Flight {
    op: OpId,
    end: Lsn,
    /// What was durable when it was sealed, which it says.
    proves: Lsn,
    begun: Mono,
    bytes: usize,
    done: bool,
}

/// Writes in flight, in the journal's order.
#[derive(Debug)]
pub(crate) struct Inflight {
    flights: VecDeque<Flight>,
    durable: Lsn,
    proven: Lsn,
}

impl Inflight {
    pub(crate) fn new(durable: Lsn) -> Self {
        Self {
            flights: VecDeque::new(),
            durable,
            // The superblock of this start says where the log ended.
            proven: durable,
        }
    }

    pub(crate) fn submitted(&mut self, op: OpId, end: Lsn, proves: Lsn, begun: Mono, bytes: usize) {
        assert!(
            self.flights.back().map_or(self.durable, |last| last.end) < end,
            "chunks are submitted in order"
        );
        self.flights.push_back(Flight {
            op,
            end,
            proves,
            begun,
            bytes,
            done: false,
        });
    }

    /// Whether an open chunk of `open_bytes` goes now, where at most `inflight_max` writes may be on their way.
    ///
    /// An idle disk gets whatever there is: one producer alone waits for nobody. Behind writes in flight the chunk keeps
    /// filling, because everyone in it then shares one trip; the more there is in flight, the more it has to hold to go
    /// before one of them is back. A chunk that is full does not ask here: it goes as soon as the bound allows.
    pub(crate) fn admits(&self, open_bytes: usize, inflight_max: usize, now: Mono) -> bool {
        let late = |first: &Flight| now > first.begun.after_ns(LATE_AFTER_NS);
        let each = if self.flights.front().is_some_and(late) {
            WORTH_BYTES_EACH_LATE
        } else {
            WORTH_BYTES_EACH
        };
        self.count() < inflight_max && open_bytes >= self.count() * each
    }

    /// When a write was begun, and of how many bytes.
    pub(crate) fn begun(&self, op: OpId) -> Option<(Mono, usize)> {
        let flight = self.flights.iter().find(|flight| flight.op == op)?;
        Some((flight.begun, flight.bytes))
    }

    /// A write goes on under another name: where it ends, and its bytes. Only a planted bug does so.
    pub(crate) fn rename(&mut self, op: OpId, other: OpId) -> Option<(Lsn, usize)> {
        let flight = self.flights.iter_mut().find(|flight| flight.op == op)?;
        flight.op = other;
        Some((flight.end, flight.bytes))
    }

    /// A write is on the disk. True when that moves the journal's durable end: everything before it is there too. J-5
    pub(crate) fn completed(&mut self, op: OpId) -> bool {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.op == op) {
            flight.done = true;
        }
        let before = self.durable;
        if is_planted(Bug::AcknowledgeOutOfOrder)
            && let Some(last) = self.flights.iter().rposition(|flight| flight.done)
        {
            self.durable = self.flights[last].end;
            self.flights.drain(..=last);
        }
        while let Some(flight) = self.flights.front().filter(|flight| flight.done) {
            self.durable = flight.end;
            self.proven = flight.proves;
            self.flights.pop_front();
        }
        self.durable > before
    }

    /// Everything below is on the disk.
    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// Everything below is on the disk, and something on the disk says so.
    pub(crate) fn proven(&self) -> Lsn {
        self.proven
    }

    pub(crate) fn count(&self) -> usize {
        self.flights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // J-5
    #[test]
    fn nothing_is_durable_before_what_precedes_it() {
        let mut inflight = Inflight::new(Lsn::ZERO);
        for n in 1..=3 {
            inflight.submitted(
                OpId::new(n),
                Lsn::new(n * 4096),
                Lsn::ZERO,
                Mono::from_ns(0),
                4096,
            );
        }
        assert!(!inflight.completed(OpId::new(3)));
        assert!(!inflight.completed(OpId::new(2)));
        assert_eq!(inflight.durable(), Lsn::ZERO);
        assert!(inflight.completed(OpId::new(1)));
        assert_eq!(inflight.durable(), Lsn::new(3 * 4096));
    }

    // J-6
    #[test]
    fn what_is_durable_is_proven_once_a_later_chunk_says_so() {
        let mut inflight = Inflight::new(Lsn::new(4096));
        assert_eq!(inflight.proven(), Lsn::new(4096));
        let end = |n: u64| Lsn::new(4096 * n);
        inflight.submitted(OpId::new(1), end(2), end(1), Mono::from_ns(0), 4096);
        inflight.submitted(OpId::new(2), end(3), end(1), Mono::from_ns(0), 4096);
        assert!(inflight.completed(OpId::new(1)));
        inflight.submitted(OpId::new(3), end(4), end(2), Mono::from_ns(0), 4096);
        assert!(!inflight.completed(OpId::new(3)));
        assert_eq!(
            inflight.proven(),
            end(1),
            "the one that says so may be lost"
        );
        assert!(inflight.completed(OpId::new(2)));
        assert_eq!((inflight.durable(), inflight.proven()), (end(4), end(2)));
    }

    #[test]
    fn an_idle_disk_gets_anything_and_a_busy_one_only_what_is_worth_it() {
        let mut inflight = Inflight::new(Lsn::ZERO);
        let begun = Mono::from_ns(5);
        let soon = begun.after_ns(LATE_AFTER_NS);
        let late = begun.after_ns(LATE_AFTER_NS + 1);
        assert!(inflight.admits(1, 4, soon));

        for (n, worth, worth_late) in [(1, 128, 64), (2, 256, 128), (3, 384, 192)] {
            inflight.submitted(OpId::new(n), Lsn::new(n * 4096), Lsn::ZERO, begun, 4096);
            assert!(!inflight.admits(worth * KIB - 1, 4, soon));
            assert!(inflight.admits(worth * KIB, 4, soon));
            assert!(!inflight.admits(worth_late * KIB - 1, 4, late));
            assert!(inflight.admits(worth_late * KIB, 4, late));
        }
        assert!(!inflight.admits(usize::MAX, 3, late));

        // The first one counts: what is behind it may be done, but is not durable before it.
        assert!(!inflight.completed(OpId::new(3)));
        assert!(inflight.admits(192 * KIB, 4, late));
    }
}
