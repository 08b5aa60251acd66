//! Medians, and ratios of pairs with their interval. A ratio's logarithm is symmetric (twice and half are equally far),
//! so the interval is Student's over the logarithms of the pairs' ratios. With fewer than two pairs there is none.

use serde::Serialize;

/// Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1.
const T95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// For more.
const T95_LIMIT: f64 = 1.960;

/// The middle value; `None` of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Ratios of pairs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Paired {
    /// How many pairs.
    pub(crate) pairs: usize,
    /// The middle ratio.
    pub(crate) median: f64,
    /// The 95 % interval of the geometric mean; `None` of one pair.
    pub(crate) interval95: Option<[f64; 2]>,
}

impl Paired {
    /// Of each `over` by the `under` at the same place; pairs that lack one are left out. `None` when none is left.
    pub(crate) fn of(over: &[Option<f64>], under: &[Option<f64>]) -> Option<Self> {
        let ratios: Vec<f64> = over
            .iter()
            .zip(under)
            .filter_map(|(over, under)| Some((*over)? / (*under)?))
            .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
            .collect();
        let pairs = ratios.len();
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let mean = logs.iter().sum::<f64>() / pairs as f64;
        let interval95 = (pairs >= 2).then(|| {
            let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
            let error = (squares / (pairs - 1) as f64 / pairs as f64).sqrt();
            let t = T95.get(pairs - 2).copied().unwrap_or(T95_LIMIT);
            [(mean - t * error).exp(), (mean + t * error).exp()]
        });
        Some(Self {
            pairs,
            median: median(ratios)?,
            interval95,
        })
    }

    /// For people.
    pub(crate) fn cell(&self) -> String {
        match self.interval95 {
            Some([low, high]) => format!("{:.2} ({low:.2} to {high:.2})", self.median),
            None => format!("{:.2} (one pair)", self.median),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn drift_that_both_share_does_not_widen_the_interval() {
        let floor: Vec<Option<f64>> = [100.0, 50.0, 25.0, 80.0, 40.0].map(Some).to_vec();
        let half: Vec<Option<f64>> = floor
            .iter()
            .map(|value| value.map(|value| value / 2.0))
            .collect();
        let paired = Paired::of(&half, &floor).expect("pairs");
        assert!((paired.median - 0.5).abs() < 1e-12);
        let [low, high] = paired.interval95.expect("five pairs");
        assert!((low - 0.5).abs() < 1e-9 && (high - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_interval_is_students_and_refused_for_one_pair() {
        let ones = [Some(1.0), Some(1.0)];
        let e = std::f64::consts::E;
        // Logarithms 1 and 3: mean 2, error 1, t 12.706.
        let paired = Paired::of(&[Some(e), Some(e.powi(3))], &ones).expect("pairs");
        let [low, high] = paired.interval95.expect("two pairs");
        assert!((low.ln() - (2.0 - 12.706)).abs() < 1e-9);
        assert!((high.ln() - (2.0 + 12.706)).abs() < 1e-9);
        let one = Paired::of(&[Some(2.0), None], &ones).expect("a pair");
        assert_eq!((one.pairs, one.interval95), (1, None));
        assert_eq!(Paired::of(&[None], &ones), None);
    }
}
