//! What rots is named, refused, or of no matter; a lone node is never silent about a record that it lacks.

use sim::rot::{Outcome, Rot, run};
use sim::world::trace::Lines;
use std::collections::BTreeMap;
use tiderace_base::disk::JournalFile;

const SEEDS: u64 = 150;
/// Seeds that were wrong once. 5486: the newest segment's file was lost, and a start took it for one never begun.
const ONCE_WRONG: [u64; 1] = [5486];

#[test]
fn what_rots_is_never_silently_lost() {
    let mut seen: BTreeMap<(Rot, &str), u64> = BTreeMap::new();
    for seed in (0..SEEDS).chain(ONCE_WRONG) {
        let Some(case) = run(seed, Lines::None) else {
            continue;
        };
        let outcome = match &case.outcome {
            Outcome::Refused => "refused",
            Outcome::Named => "named",
            Outcome::OfNoMatter => "of no matter",
            Outcome::Wrong(what) => panic!("seed {seed}: {case:?}: {what}"),
        };
        *seen.entry((case.rot, outcome)).or_default() += 1;
        // Alone, a file of the log is never of no matter to a start that needs it, and a footer always is.
        if matches!(case.file, JournalFile::Footer(_)) {
            assert_eq!(case.outcome, Outcome::OfNoMatter, "seed {seed}: {case:?}");
        }
    }
    for rot in Rot::ALL {
        assert!(
            seen.keys().any(|(kind, _)| *kind == rot),
            "{rot:?} was never tried: {seen:?}"
        );
    }
    for outcome in ["refused", "named", "of no matter"] {
        assert!(
            seen.keys().any(|(_, came)| *came == outcome),
            "never {outcome}: {seen:?}"
        );
    }
}
