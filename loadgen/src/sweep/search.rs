//! The search for the knee, without a load: offered rates that grow geometrically until one fails (or, when the first one
//! fails, shrink until one holds), then bisection between the highest that held and the lowest that failed. Invariant: every rate that held is below every rate that failed; a
//! search ends after a bounded number of steps.

/// What a step showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The rate was kept within the bound.
    Held,
    /// It was not.
    Failed,
    /// The generator was the limit: nothing above says anything about the server.
    Unknown,
}

/// Where the knee lies.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Knee {
    /// Between these rates: the first held, the second failed.
    Between(f64, f64),
    /// Below the lowest rate that may be tried.
    Below(f64),
    /// Not found up to this rate, which held.
    AtLeast(f64),
    /// Nothing held and nothing failed.
    Unknown,
}

/// The search.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    factor: f64,
    /// It ends when the rates that held and failed are this close: 0.05 is 5 %.
    precision: f64,
    steps_left: u32,
    rate_min: f64,
    rate_max: f64,
    next: Option<f64>,
    held: Option<f64>,
    failed: Option<f64>,
}

impl Search {
    /// A search that begins at `from` and stays within `rate_min..=rate_max`.
    ///
    /// # Panics
    /// When a rate is not positive or the factor is not above 1.
    #[must_use]
    pub(crate) fn new(
        from: f64,
        [rate_min, rate_max]: [f64; 2],
        factor: f64,
        precision: f64,
        steps: u32,
    ) -> Self {
        assert!(
            rate_min > 0.0 && from >= rate_min && rate_max >= from,
            "rates are positive and in order"
        );
        assert!(
            factor > 1.0 && precision > 0.0,
            "the rate grows, the search ends"
        );
        Self {
            factor,
            precision,
            steps_left: steps,
            rate_min,
            rate_max,
            next: Some(from),
            held: None,
            failed: None,
        }
    }

    /// The next rate to offer; `None`: the search is over.
    #[must_use]
    pub(crate) const fn next(&self) -> Option<f64> {
        self.next
    }

    /// What became of that rate.
    ///
    /// # Panics
    /// When the search is over.
    pub(crate) fn tell(&mut self, verdict: Verdict) {
        let rate = self.next.take().expect("a rate was offered");
        self.steps_left = self.steps_left.saturating_sub(1);
        match verdict {
            Verdict::Held => self.held = Some(rate),
            Verdict::Failed => self.failed = Some(rate),
            Verdict::Unknown => return,
        }
        if self.steps_left > 0 {
            self.next = self.following();
        }
    }

    fn following(&self) -> Option<f64> {
        match (self.held, self.failed) {
            (Some(held), None) if held < self.rate_max => {
                Some((held * self.factor).min(self.rate_max))
            }
            (None, Some(failed)) if failed > self.rate_min => {
                Some((failed / self.factor).max(self.rate_min))
            }
            // In the middle by ratio, as the steps before.
            (Some(held), Some(failed)) if failed / held > 1.0 + self.precision => {
                Some((held * failed).sqrt())
            }
            _ => None,
        }
    }

    /// Where the knee lies, as far as is known.
    #[must_use]
    pub(crate) const fn knee(&self) -> Knee {
        match (self.held, self.failed) {
            (Some(held), Some(failed)) => Knee::Between(held, failed),
            (None, Some(failed)) => Knee::Below(failed),
            (Some(held), None) => Knee::AtLeast(held),
            (None, None) => Knee::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds every rate up to `capacity`. Gives the rates that were offered.
    fn offered(mut search: Search, capacity: f64) -> (Vec<f64>, Knee) {
        let mut rates = Vec::new();
        while let Some(rate) = search.next() {
            rates.push(rate);
            search.tell(if rate <= capacity {
                Verdict::Held
            } else {
                Verdict::Failed
            });
        }
        (rates, search.knee())
    }

    #[test]
    fn it_grows_until_it_fails_and_then_halves_the_ratio() {
        let search = Search::new(1000.0, [1000.0, 1e9], 2.0, 0.05, 100);
        let (rates, knee) = offered(search, 11_000.0);
        assert_eq!(rates[..5], [1000.0, 2000.0, 4000.0, 8000.0, 16_000.0]);
        assert!((rates[5] - 11_313.7).abs() < 1.0);
        let Knee::Between(held, failed) = knee else {
            panic!("{knee:?}");
        };
        assert!(held <= 11_000.0 && failed > 11_000.0 && failed / held <= 1.05);
    }

    #[test]
    fn what_fails_at_once_and_what_never_fails_are_said() {
        let search = || Search::new(1000.0, [300.0, 5000.0], 2.0, 0.05, 100);
        let (rates, knee) = offered(search(), 10.0);
        assert_eq!(rates, [1000.0, 500.0, 300.0]);
        assert_eq!(knee, Knee::Below(300.0));
        let (rates, knee) = offered(search(), 600.0);
        assert_eq!(rates[..2], [1000.0, 500.0]);
        assert!(matches!(knee, Knee::Between(held, failed) if held <= 600.0 && failed > 600.0));
        let (rates, knee) = offered(search(), 1e9);
        assert_eq!(rates, [1000.0, 2000.0, 4000.0, 5000.0]);
        assert_eq!(knee, Knee::AtLeast(5000.0));
    }

    #[test]
    fn a_generator_at_its_end_ends_the_search_and_steps_are_bounded() {
        let mut search = Search::new(1000.0, [1000.0, 1e9], 2.0, 0.05, 100);
        search.tell(Verdict::Held);
        search.tell(Verdict::Unknown);
        assert_eq!(search.next(), None);
        assert_eq!(search.knee(), Knee::AtLeast(1000.0));
        let (rates, knee) = offered(Search::new(1000.0, [1000.0, 1e9], 2.0, 0.001, 7), 11_000.0);
        assert_eq!(rates.len(), 7);
        assert!(matches!(knee, Knee::Between(..)));
    }
}
