//! Runs a target with one input after the other, each made under a seed, counts what became of them and keeps what was found.
//! An input whose outcome is new joins the pool, so that the next ones begin where it ended. Invariant: a seed, a target and a
//! pool decide every input of a campaign; a clock decides at most when it ends.

use crate::memory;
use crate::mutate::{self, Format};
use crate::outcome::Outcome;
use crate::targets::Target;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Instant;
use tiderace_base::checksum::crc32c;
use tiderace_base::prng::Prng;

/// Inputs that may join a pool for their outcome, beyond what the corpus holds.
const KEPT_MAX: usize = 512;
/// Inputs that join for one outcome.
const KEPT_PER_OUTCOME_MAX: u64 = 8;
/// Runs that are spent on making a finding smaller.
const SHRINKING_RUNS_MAX: usize = 2000;
/// Runs between two looks at the clock.
const RUNS_PER_LOOK: u64 = 64;

/// When a campaign ends.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// So many inputs were run.
    pub runs: u64,
    /// It is so late.
    pub at: Option<Instant>,
}

/// What a campaign counted.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Inputs that were run.
    pub runs: u64,
    /// How many of them came to what.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The most that one run held, in bytes.
    pub held_bytes_max: usize,
    /// What broke a property, if anything did: the campaign ended there.
    pub finding: Option<Finding>,
}

/// An input that broke a property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The input, made as small as it could be.
    pub input: Vec<u8>,
    /// What broke.
    pub message: String,
    /// Which run of the campaign it was, from 0.
    pub run: u64,
}

impl Finding {
    /// A name for its file: the same input has the same name.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("found-{:08x}", crc32c(&self.input))
    }
}

impl Report {
    /// Inputs that passed every check.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let taken = self
            .outcomes
            .iter()
            .filter(|(outcome, _)| outcome.is_taken());
        taken.map(|(_, count)| count).sum()
    }

    /// Adds what another thread counted.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.held_bytes_max = self.held_bytes_max.max(other.held_bytes_max);
        if self.finding.is_none() {
            self.finding = other.finding;
        }
    }
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of a run are findings: they are told once, with their input, and not by the hook too.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
}

/// Runs one input. Says what became of it and what was held, or how a property broke.
///
/// # Errors
/// The message of what broke: a panic's, or that of the bound on memory.
pub fn once(target: &Target, input: &[u8]) -> Result<(Outcome, usize), String> {
    hush();
    IS_QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        memory::most_held(|| (target.run)(input))
    }));
    IS_QUIET.set(false);
    let (held, outcome) = result.map_err(|panic| text(&*panic))?;
    if held > target.held_bytes_max {
        return Err(format!(
            "held {held} bytes for an input of {}, and may hold {}",
            input.len(),
            target.held_bytes_max
        ));
    }
    Ok((outcome, held))
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

/// Runs inputs made from `pool` under `seed` until one breaks a property or `until` has come.
pub fn run(target: &Target, mut pool: Vec<Vec<u8>>, seed: u64, until: Until) -> Report {
    let format = Format {
        bytes_max: target.bytes_max,
        words: target.words,
        seal: target.seal,
    };
    let mut prng = Prng::new(seed);
    let mut report = Report::default();
    let kept_max = pool.len() + KEPT_MAX;
    while report.runs < until.runs {
        let looks = report.runs.is_multiple_of(RUNS_PER_LOOK);
        if looks && until.at.is_some_and(|at| Instant::now() >= at) {
            break;
        }
        let input = mutate::make(&mut prng, &pool, &format);
        match once(target, &input) {
            Ok((outcome, held)) => {
                report.held_bytes_max = report.held_bytes_max.max(held);
                let count = report.outcomes.entry(outcome).or_default();
                *count += 1;
                if *count <= KEPT_PER_OUTCOME_MAX && pool.len() < kept_max {
                    pool.push(input);
                }
            }
            Err(message) => {
                let (input, message) = shrink(target, input, message);
                report.finding = Some(Finding {
                    input,
                    message,
                    run: report.runs,
                });
                return report;
            }
        }
        report.runs += 1;
    }
    report
}

/// Leaves out and zeroes what does not matter to a finding.
fn shrink(target: &Target, mut input: Vec<u8>, mut message: String) -> (Vec<u8>, String) {
    let mut runs = 0;
    let mut piece = (input.len() / 2).max(1);
    while runs < SHRINKING_RUNS_MAX && !input.is_empty() {
        let mut at = 0;
        while at < input.len() && runs < SHRINKING_RUNS_MAX {
            let mut smaller = input.clone();
            smaller.drain(at..(at + piece).min(input.len()));
            runs += 1;
            match once(target, &smaller) {
                Err(broke) => (input, message) = (smaller, broke),
                Ok(_) => at += piece,
            }
        }
        if piece == 1 {
            break;
        }
        piece /= 2;
    }
    for at in 0..input.len().min(SHRINKING_RUNS_MAX.saturating_sub(runs)) {
        let mut plainer = input.clone();
        plainer[at] = 0;
        if let Err(broke) = once(target, &plainer) {
            (input, message) = (plainer, broke);
        }
    }
    (input, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks_at_a_word(input: &[u8]) -> Outcome {
        assert!(!input.windows(2).any(|at| at == b"no"), "a word");
        Outcome::Taken("text")
    }

    fn holds_too_much(input: &[u8]) -> Outcome {
        drop(vec![0_u8; 100 * input.len()]);
        Outcome::Refused("nothing")
    }

    const TARGET: Target = Target {
        name: "test",
        reads: "",
        holds: "",
        run: breaks_at_a_word,
        samples: Vec::new,
        seal: None,
        words: &[b"yes", b"no"],
        bytes_max: 100,
        held_bytes_max: 5000,
        runs_in_tests: 20_000,
    };

    const FOR_EVER: Until = Until {
        runs: 100_000,
        at: None,
    };

    #[test]
    fn what_breaks_is_found_made_small_and_found_again() {
        let find = || run(&TARGET, vec![b"some text".to_vec()], 7, FOR_EVER);
        let finding = find().finding.expect("the word is in the dictionary");
        assert_eq!(
            (finding.input.as_slice(), finding.message.as_str()),
            (&b"no"[..], "a word")
        );
        assert_eq!(find().finding, Some(finding));
    }

    #[test]
    fn memory_beyond_its_bound_is_a_finding() {
        let target = Target {
            run: holds_too_much,
            ..TARGET
        };
        let report = run(&target, vec![vec![7; 40]], 7, FOR_EVER);
        let finding = report.finding.expect("inputs may have 100 bytes");
        assert_eq!(finding.input.len(), 51);
        assert!(
            finding.message.starts_with("held 5100 bytes"),
            "{}",
            finding.message
        );
    }

    #[test]
    fn every_run_is_counted_once() {
        let target = Target {
            words: &[],
            bytes_max: 1,
            ..TARGET
        };
        let until = Until {
            runs: 1000,
            at: None,
        };
        let report = run(&target, vec![vec![7]], 7, until);
        assert_eq!((report.runs, report.taken()), (1000, 1000));
        assert_eq!(report.outcomes[&Outcome::Taken("text")], 1000);
    }
}
