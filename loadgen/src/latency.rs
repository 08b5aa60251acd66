//! Latencies in nanoseconds: one histogram each, with three significant digits up to an hour, and what may be said of it.
//! A percentile that rests on fewer than [`BEYOND_MIN`] samples beyond it is refused, because the next run would give
//! another one. Nothing is averaged over time.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write;

/// Samples that must lie beyond a percentile before it is printed.
pub(crate) const BEYOND_MIN: u64 = 10;
/// An hour: what takes longer counts as an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;
/// Parts per 10,000, with their names.
const PERCENTILES: [(u64, &str); 5] = [
    (5000, "p50"),
    (9000, "p90"),
    (9900, "p99"),
    (9990, "p99.9"),
    (9999, "p99.99"),
];

/// Samples of one latency.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// No samples yet.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("constant bounds"))
    }

    /// Takes a sample.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// How many samples.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// What may be said of it.
    #[must_use]
    pub(crate) fn summary(&self) -> Summary {
        let count = self.count();
        let mut refused = Vec::new();
        let mut value = |parts: u64, name: &str| {
            let needed = (BEYOND_MIN * 10_000).div_ceil(10_000 - parts);
            if count >= needed {
                return Some(self.0.value_at_quantile(parts as f64 / 10_000.0));
            }
            refused.push(format!("{name} needs {needed} samples, there are {count}"));
            None
        };
        let [p50, p90, p99, p999, p9999] = PERCENTILES.map(|(parts, name)| value(parts, name));
        Summary {
            count,
            mean: (count > 0).then(|| self.0.mean()),
            p50,
            p90,
            p99,
            p999,
            p9999,
            max: (count > 0).then(|| self.0.max()),
            refused,
        }
    }

    /// The whole distribution as the HdrHistogram plotters read it (`.hgrm`), in microseconds.
    #[must_use]
    pub(crate) fn hgrm(&self) -> String {
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        let mut total = 0;
        for step in self.0.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / 1000.0;
            // Writing to a string does not fail.
            let _ = if quantile < 1.0 {
                writeln!(
                    text,
                    "{value:12.3} {quantile:2.12} {total:10} {:14.2}",
                    1.0 / (1.0 - quantile)
                )
            } else {
                writeln!(
                    text,
                    "{value:12.3} {quantile:2.12} {total:10}            inf"
                )
            };
        }
        let _ = writeln!(
            text,
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]",
            self.0.mean() / 1000.0,
            self.0.stdev() / 1000.0,
            self.0.max() as f64 / 1000.0,
            self.count()
        );
        text
    }
}

/// Percentiles in nanoseconds; `null` where refused.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Summary {
    /// Samples.
    pub(crate) count: u64,
    /// Mean.
    pub(crate) mean: Option<f64>,
    /// Half are at most this.
    pub(crate) p50: Option<u64>,
    /// 90 of 100 are at most this.
    pub(crate) p90: Option<u64>,
    /// 99 of 100.
    pub(crate) p99: Option<u64>,
    /// 999 of 1,000.
    pub(crate) p999: Option<u64>,
    /// 9,999 of 10,000.
    pub(crate) p9999: Option<u64>,
    /// The largest.
    pub(crate) max: Option<u64>,
    /// Percentiles that are not printed, and why.
    pub(crate) refused: Vec<String>,
}

impl Summary {
    /// One line for people, in microseconds.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let show = |value: Option<u64>| {
            value.map_or_else(
                || "too few".to_owned(),
                |ns| format!("{:.1}", ns as f64 / 1000.0),
            )
        };
        format!(
            "p50 {} | p90 {} | p99 {} | p99.9 {} | p99.99 {} | max {} us ({} samples)",
            show(self.p50),
            show(self.p90),
            show(self.p99),
            show(self.p999),
            show(self.p9999),
            show(self.max),
            self.count
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u64) -> Latency {
        let mut latency = Latency::new();
        for ns in 1..=count {
            latency.record(ns * 1000);
        }
        latency
    }

    #[test]
    fn a_percentile_with_too_few_samples_beyond_it_is_refused() {
        let few = of(19).summary();
        assert_eq!((few.p50, few.max), (None, Some(19_007)));
        assert_eq!(few.refused.len(), 5);
        assert!(few.refused[0].contains("needs 20 samples, there are 19"));
        assert!(few.line().contains("p50 too few"));
        let some = of(9_999).summary();
        assert!(some.p99.is_some());
        assert_eq!(some.p999, None);
        assert!(of(10_000).summary().p999.is_some());
        assert_eq!(of(99_999).summary().p9999, None);
        let all = of(100_000).summary();
        assert!(all.refused.is_empty());
        assert!(all.p9999.is_some());
    }

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let summary = of(100_000).summary();
        for (value, exact) in [(summary.p50, 50_000_000), (summary.p999, 99_900_000)] {
            let value = value.expect("enough samples");
            assert!(value.abs_diff(exact) * 1000 <= exact, "{value} {exact}");
        }
    }

    #[test]
    fn the_distribution_ends_at_the_largest_sample() {
        let text = of(1000).hgrm();
        let last = text
            .lines()
            .rfind(|line| !line.starts_with('#'))
            .expect("it has lines");
        assert!(last.trim_start().starts_with("1000"), "{last}");
        assert!(last.contains("1.000000000000"));
        assert!(text.contains("Total count    =         1000"));
    }
}
