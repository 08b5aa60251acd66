//! When batches are meant to be sent. A schedule goes on whether or not the server keeps up: a time that has passed
//! unsent is still due, and latency counts from it. So a server that stalls shows in every batch that was due meanwhile,
//! not in the one that happened to wait (no coordinated omission). Reads no clock.

use clap::ValueEnum;
use serde::Serialize;
use tiderace_base::prng::Prng;

/// How the times between batches are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// As by many independent senders: exponential gaps with the same mean.
    Poisson,
}

/// The times of one connection, in nanoseconds of the monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Between two batches, in nanoseconds; fractions count, because a rate of 3 per second must not become 3.0000001.
    gap_ns: f64,
    /// Of the next batch, after the start.
    next_ns: f64,
    /// Of the first batch, after the start.
    first_ns: f64,
    /// Batches taken so far.
    taken: u64,
    start_ns: u64,
    prng: Prng,
}

impl Schedule {
    /// The schedule of connection `index` of `count`, which together send `rate` batches a second from `start_ns` on.
    /// Evenly spread connections take turns.
    ///
    /// # Panics
    /// When the rate is not positive.
    #[must_use]
    pub(crate) fn new(
        arrivals: Arrivals,
        rate: f64,
        start_ns: u64,
        index: usize,
        count: usize,
        seed: u64,
    ) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "a rate is positive");
        let gap_ns = 1e9 * count as f64 / rate;
        let first_ns = gap_ns * index as f64 / count as f64;
        let mut schedule = Self {
            arrivals,
            gap_ns,
            next_ns: first_ns,
            first_ns,
            taken: 0,
            start_ns,
            prng: Prng::new(seed ^ (index as u64) << 32),
        };
        if arrivals == Arrivals::Poisson {
            schedule.next_ns = schedule.exponential_ns();
        }
        schedule
    }

    /// When the next batch is due.
    #[must_use]
    pub(crate) fn next_ns(&self) -> u64 {
        self.start_ns + self.next_ns as u64
    }

    /// The next batch was taken: the one after it is next.
    pub(crate) fn advance(&mut self) {
        self.taken += 1;
        self.next_ns = match self.arrivals {
            // Multiplied, not added up: rounding does not gather.
            Arrivals::Constant => self.first_ns + self.taken as f64 * self.gap_ns,
            Arrivals::Poisson => self.next_ns + self.exponential_ns(),
        };
    }

    fn exponential_ns(&mut self) -> f64 {
        // 53 bits, never zero: the logarithm is finite.
        let uniform = ((self.prng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln() * self.gap_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let at = schedule.next_ns();
                schedule.advance();
                at
            })
            .collect()
    }

    #[test]
    fn constant_connections_take_turns_and_never_drift() {
        let both: Vec<Vec<u64>> = (0..2)
            .map(|index| {
                times(
                    Schedule::new(Arrivals::Constant, 3.0, 1000, index, 2, 1),
                    3_000_001,
                )
            })
            .collect();
        assert_eq!(both[0][0], 1000);
        assert_eq!(both[1][0], 1000 + 333_333_333);
        // Three million steps of two thirds of a second: not a microsecond off.
        let last = both[0][3_000_000] - 1000;
        assert!(last.abs_diff(2_000_000_000_000_000) < 1000, "{last}");
    }

    #[test]
    fn poisson_has_the_mean_and_the_spread_of_independent_senders() {
        let count = 200_000;
        let times = times(
            Schedule::new(Arrivals::Poisson, 10_000.0, 0, 0, 1, 7),
            count,
        );
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 100_000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_seed_decides_the_times() {
        let of = |seed| times(Schedule::new(Arrivals::Poisson, 1e6, 0, 3, 8, seed), 100);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
