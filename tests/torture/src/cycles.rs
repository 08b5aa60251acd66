//! What all tortures share: which cycles run under which seed, how far they are, what came of them, and the violation that
//! ends a run. A violation is a panic inside a cycle, as in every test, so that whatever asserts below it counts as well.
//! Invariant: the choices of a cycle depend on the seed and its number alone, so that one cycle can be run again.

use serde_json::{Map, Value};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiderace_base::prng::Prng;

/// A line of progress comes after so many cycles.
const TOLD_EVERY: u64 = 100;

/// Which cycles to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Decides every choice.
    pub seed: u64,
    /// How many cycles, from number 0 on.
    pub cycles: u64,
    /// Only what is needed to see this one again.
    pub only: Option<u64>,
    /// Nodes at once, where a torture can have more than one: at least 1.
    pub at_once: usize,
    /// A violation is told and does not end the run, where cycles stand alone.
    pub keep_going: bool,
}

impl Plan {
    /// So many cycles of a seed, two nodes at once.
    #[must_use]
    pub const fn new(seed: u64, cycles: u64) -> Self {
        Self {
            seed,
            cycles,
            only: None,
            at_once: 2,
            keep_going: false,
        }
    }

    /// The numbers of the cycles to run, where each stands alone.
    #[must_use]
    pub fn numbers(&self) -> Range<u64> {
        self.only.map_or(0..self.cycles, |only| only..only + 1)
    }

    /// The same where cycles build on those before them, since the last that `every` divides.
    #[must_use]
    pub fn numbers_since(&self, every: u64) -> Range<u64> {
        self.only
            .map_or(0..self.cycles, |only| only - only % every..only + 1)
    }

    /// The choices of a cycle.
    #[must_use]
    pub fn choices(&self, cycle: u64) -> Prng {
        let mut prng = Prng::new(self.seed);
        Prng::new(prng.next_u64() ^ cycle.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// What came of the cycles that ran.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Cycles that ran.
    pub cycles: u64,
    /// How often things happened, by their names.
    pub counts: BTreeMap<String, u64>,
}

impl Summary {
    /// Something happened so often.
    pub fn add(&mut self, what: impl Into<String>, count: u64) {
        *self.counts.entry(what.into()).or_default() += count;
    }

    /// Something was as much as this, at most.
    pub fn at_most(&mut self, what: impl Into<String>, count: u64) {
        let most = self.counts.entry(what.into()).or_default();
        *most = (*most).max(count);
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// The sum of all whose names begin so.
    #[must_use]
    pub fn sum(&self, prefix: &str) -> u64 {
        let named = self.counts.iter();
        named
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, count)| count)
            .sum()
    }

    /// One JSON object: the torture, its seed, how long it took in seconds, and every count.
    #[must_use]
    pub fn json(&self, torture: &str, seed: u64, took: Duration) -> String {
        let mut object = Map::new();
        object.insert("torture".into(), torture.into());
        object.insert("seed".into(), seed.into());
        object.insert("cycles".into(), self.cycles.into());
        object.insert("seconds".into(), took.as_secs().into());
        object.insert("violations".into(), 0.into());
        let counts = self.counts.iter();
        object.extend(counts.map(|(name, count)| (name.clone(), Value::from(*count))));
        Value::Object(object).to_string()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cycles", self.cycles)?;
        for (name, count) in &self.counts {
            write!(f, "; {name} {count}")?;
        }
        Ok(())
    }
}

/// What must not have come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// In which cycle.
    pub cycle: u64,
    /// What.
    pub what: String,
}

/// Why a torture did not come to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The product did what it must not: look at the directory that was kept, and run the cycle again.
    Violated(Violation),
    /// This machine or this user cannot do it: the sentence says what it needs.
    Unavailable(String),
}

/// How far a torture is. Shared by its workers.
pub struct Progress<'a> {
    torture: &'static str,
    begun: Instant,
    done: AtomicU64,
    tell: &'a (dyn Fn(&str) + Sync),
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("torture", &self.torture)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

impl<'a> Progress<'a> {
    /// Nothing is done yet. `tell` is given lines for people.
    #[must_use]
    pub fn new(torture: &'static str, tell: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self {
            torture,
            begun: Instant::now(),
            done: AtomicU64::new(0),
            tell,
        }
    }

    /// Another cycle is done.
    pub fn step(&self, summary: &Summary) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(TOLD_EVERY) {
            let seconds = self.begun.elapsed().as_secs();
            (self.tell)(&format!(
                "{}: {done} cycles in {seconds} s: {summary}",
                self.torture
            ));
        }
    }
}

/// Runs cycles that may panic. What they panic with is the violation; `at` says in which cycle they were.
///
/// # Errors
/// The violation.
pub fn guarded<T>(at: &AtomicU64, run: impl FnOnce() -> T) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| Violation {
        cycle: at.load(Ordering::Relaxed),
        what: text_of(&*panic),
    })
}

/// Runs cycles that stand alone on some threads. The first violation ends all, unless the plan says to keep going.
///
/// # Errors
/// The first violation.
pub fn in_parallel(
    plan: &Plan,
    numbers: Range<u64>,
    tell: &(dyn Fn(&str) + Sync),
    one: impl Fn(u64) + Sync,
) -> Result<(), Violation> {
    let next = AtomicU64::new(numbers.start);
    let first: Mutex<Option<Violation>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..plan.at_once {
            scope.spawn(|| {
                loop {
                    let cycle = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = !plan.keep_going && first.lock().is_ok_and(|it| it.is_some());
                    if cycle >= numbers.end || is_over {
                        return;
                    }
                    if let Err(violation) = guarded(&AtomicU64::new(cycle), || one(cycle)) {
                        tell(&format!("VIOLATED in cycle {cycle}: {}", violation.what));
                        let mut first = first.lock().expect("nobody panics with it");
                        first.get_or_insert(violation);
                    }
                }
            });
        }
    });
    let first = first.into_inner().expect("nobody panics with it");
    first.map_or(Ok(()), Err)
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

/// Lets the drawn moment of a fault come. Nothing is waited for with it.
pub fn let_pass(moment: Duration) {
    std::thread::sleep(moment);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_can_be_chosen_again_alone() {
        let plan = Plan::new(7, 100);
        let alone = Plan {
            only: Some(31),
            ..plan
        };
        assert_eq!(alone.numbers(), 31..32);
        assert_eq!(alone.numbers_since(20), 20..32);
        assert_eq!(
            plan.choices(31).next_u64(),
            alone.choices(31).next_u64(),
            "its choices are the same"
        );
        assert_ne!(plan.choices(31).next_u64(), plan.choices(32).next_u64());
    }

    #[test]
    fn a_panic_is_a_violation_of_the_cycle_it_happened_in() {
        let at = AtomicU64::new(0);
        let ran: Result<(), _> = guarded(&at, || {
            at.store(5, Ordering::Relaxed);
            panic!("record {} is gone", 9);
        });
        let expected = Violation {
            cycle: 5,
            what: "record 9 is gone".to_owned(),
        };
        assert_eq!(ran, Err(expected));
    }
}
