//! Handshakes and connects that are not done, in the order in which their time ends: each of one kind has equally long, and
//! whoever does not use it is gone.

use crate::slab::Place;
use std::collections::VecDeque;
use tiderace_base::time::Mono;

/// See the module.
#[derive(Debug)]
pub(crate) struct Handshakes {
    each_ns: u64,
    waiting: VecDeque<(Mono, Place)>,
}

impl Handshakes {
    /// Each has so long.
    pub(crate) const fn new(each_ns: u64) -> Self {
        Self {
            each_ns,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn begin(&mut self, place: Place, now: Mono) {
        self.waiting.push_back((now.after_ns(self.each_ns), place));
    }

    /// When the time of the first one ends.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        self.waiting.front().map(|(at, _)| *at)
    }

    /// The first one, if it is over: `is_done`, or its time has ended.
    pub(crate) fn take(&mut self, now: Mono, is_done: impl FnOnce(Place) -> bool) -> Option<Place> {
        let (at, place) = *self.waiting.front()?;
        if at > now && !is_done(place) {
            return None;
        }
        self.waiting.pop_front();
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::limits::HANDSHAKE_NS_MAX;

    fn place(slot: u32) -> Place {
        Place {
            slot,
            generation: 1,
        }
    }

    #[test]
    fn one_that_is_done_is_forgotten_and_one_that_is_not_has_its_time() {
        let at = |ns| Mono::from_ns(HANDSHAKE_NS_MAX + ns);
        let mut handshakes = Handshakes::new(HANDSHAKE_NS_MAX);
        assert_eq!(handshakes.next_wake(), None);
        handshakes.begin(place(1), Mono::from_ns(5));
        handshakes.begin(place(2), Mono::from_ns(7));
        assert_eq!(handshakes.next_wake(), Some(at(5)));
        assert_eq!(handshakes.take(at(4), |_| false), None);
        assert_eq!(handshakes.take(at(4), |_| true), Some(place(1)));
        assert_eq!(handshakes.take(at(6), |_| false), None);
        assert_eq!(handshakes.take(at(7), |_| false), Some(place(2)));
        assert_eq!(handshakes.take(at(9), |_| true), None);
    }
}
