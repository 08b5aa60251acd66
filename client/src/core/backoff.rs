//! How long to wait before the next attempt: twice as long each time, up to a bound, with half of it random so that
//! clients that lost the same node do not return together. Reads no clock and no entropy: the seed is given.

use tiderace_base::prng::Prng;

/// The bounds of a wait between attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The first wait, in nanoseconds.
    pub first_ns: u64,
    /// No wait is longer, in nanoseconds.
    pub longest_ns: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first_ns: 10_000_000,
            longest_ns: 2_000_000_000,
        }
    }
}

impl Backoff {
    /// The wait before attempt number `attempt`, where 0 is the first that waits. Between half of the exponential value
    /// and all of it.
    #[must_use]
    pub fn wait_ns(&self, attempt: u32, prng: &mut Prng) -> u64 {
        let doubled = self
            .first_ns
            .saturating_mul(1_u64.checked_shl(attempt.min(40)).unwrap_or(u64::MAX));
        let whole = doubled.clamp(1, self.longest_ns.max(1));
        whole - prng.below(whole / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded_on_both_sides_at_every_attempt() {
        let backoff = Backoff::default();
        let mut prng = Prng::new(3);
        for attempt in 0..200 {
            let wait = backoff.wait_ns(attempt, &mut prng);
            assert!(wait >= backoff.first_ns / 2);
            assert!(wait <= backoff.longest_ns);
        }
    }
}
