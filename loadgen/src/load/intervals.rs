//! The measured part in pieces of one length: what was due in each, and what was acknowledged in each. A batch belongs to
//! the piece in which it was meant to be sent, as it belongs to the measured part; so a stall shows where it began. Bounded:
//! a plan refuses more pieces than [`INTERVALS_MAX`].

use crate::latency::Latency;

/// Pieces of one run. Each holds a histogram.
pub(crate) const INTERVALS_MAX: u64 = 1000;

/// One piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interval {
    /// From the intended time to the acknowledgement, of what was due in it.
    pub(crate) response: Latency,
    /// Batches acknowledged in it.
    pub(crate) acked: u64,
}

/// All of them, in order.
#[derive(Clone, Debug)]
pub(crate) struct Intervals {
    length_ns: u64,
    all: Vec<Interval>,
}

impl Intervals {
    /// None yet.
    ///
    /// # Panics
    /// When the length is zero.
    #[must_use]
    pub(crate) fn new(length_ns: u64) -> Self {
        assert!(length_ns > 0, "an interval has a length");
        Self {
            length_ns,
            all: Vec::new(),
        }
    }

    /// Those that anything fell into, and those before them.
    #[must_use]
    pub(crate) fn all(&self) -> &[Interval] {
        &self.all
    }

    fn at(&mut self, into_ns: u64) -> &mut Interval {
        let index = (into_ns / self.length_ns).min(INTERVALS_MAX) as usize;
        while self.all.len() <= index {
            self.all.push(Interval::default());
        }
        &mut self.all[index]
    }

    /// A batch that was due so far into the measured part has its answer, or is given up.
    pub(crate) fn responded(&mut self, into_ns: u64, response_ns: u64) {
        self.at(into_ns).response.record(response_ns);
    }

    /// A batch was acknowledged so far into the measured part.
    pub(crate) fn acked(&mut self, into_ns: u64) {
        self.at(into_ns).acked += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_belongs_to_the_interval_in_which_it_was_due() {
        let mut intervals = Intervals::new(100);
        intervals.responded(99, 500);
        intervals.acked(599);
        intervals.responded(100, 1);
        intervals.acked(101);
        let counts: Vec<(u64, u64)> = intervals
            .all()
            .iter()
            .map(|interval| (interval.response.count(), interval.acked))
            .collect();
        assert_eq!(counts, [(1, 0), (1, 1), (0, 0), (0, 0), (0, 0), (0, 1)]);
    }
}
