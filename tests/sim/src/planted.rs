//! The checkers, checked: each bug of [`Bug::ALL`] is planted in the product's own code, and some seed has to notice it.
//! Only in builds with `--cfg planted`.

use std::panic;

use tiderace_base::planted::{Bug, plant};

use crate::history::Violation;
use crate::node::{DrainedNode, Habit, OneNode};
use crate::run::{Options, Scenario, run};

/// A seed that noticed a bug.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// Which.
    pub seed: u64,
    /// What it saw.
    pub violation: Violation,
}

/// Plants a bug and runs up to `seeds_max` seeds, until one notices it.
#[must_use]
pub fn hunt(bug: Bug, seeds_max: u64) -> Option<Noticed> {
    let scenario: &dyn Scenario = match bug {
        // Subscribers that stay until the end are a scenario of their own.
        Bug::ForgetReaders => &DrainedNode {
            habits: &[Habit::Reads],
        },
        _ => &OneNode,
    };
    // A panic is how some of them show: it is caught, and no news.
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    plant(Some(bug));
    let noticed = (0..seeds_max).find_map(|seed| {
        let violation = run(scenario, seed, Options::default()).violation?;
        Some(Noticed { seed, violation })
    });
    plant(None);
    panic::set_hook(before);
    noticed
}
