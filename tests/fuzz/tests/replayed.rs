//! Every target on its corpus, on what was ever found, and on a few thousand inputs of the engine; and that the targets see
//! what they are for: each takes some inputs and refuses others, and a journal that lost something is noticed.

use std::fs;
use std::path::Path;

use fuzz::{TARGETS, Taken, find};

const RUNS: u64 = 1_500;

/// Inputs that broke something once: `found/TARGET/NAME`.
fn found(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("found")
        .join(target);
    let Ok(files) = fs::read_dir(folder) else {
        return Vec::new();
    };
    files
        .map(|file| fs::read(file.expect("it is listed").path()).expect("it can be read"))
        .collect()
}

#[test]
fn every_target_holds_on_its_corpus_and_on_what_was_found() {
    for target in TARGETS {
        let corpus = (target.corpus)();
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        for input in corpus.into_iter().chain(found(target.name)) {
            (target.run)(&input);
        }
    }
}

#[test]
fn every_target_holds_takes_some_and_refuses_others() {
    for target in TARGETS {
        let corpus = (target.corpus)();
        let verdicts = (0..RUNS).map(|number| (target.run)(&target.input(&corpus, 7, number)));
        let taken = verdicts.filter(|verdict| *verdict == Taken::Yes).count() as u64;
        assert!(
            taken > RUNS / 50 && taken < RUNS - RUNS / 50,
            "{}: {taken} of {RUNS} are taken: it is not looked at, or not in doubt",
            target.name
        );
    }
}

#[test]
fn an_input_is_its_seed_and_its_number() {
    for target in TARGETS {
        let corpus = (target.corpus)();
        for number in 0..20 {
            assert_eq!(
                target.input(&corpus, 3, number),
                target.input(&corpus, 3, number),
                "{}",
                target.name
            );
        }
    }
}

/// One file of the whole journals after the other, one bit of each block.
#[test]
fn a_journal_in_which_one_bit_rots_is_refused_or_whole() {
    let journal = find("journal").expect("it is a target");
    let (mut taken, mut refused) = (0, 0);
    for whole in 0..4 {
        for file in 0..24 {
            for block in 0..20_u32 {
                let at = (block * 4096 + 97 * block + 11).to_le_bytes();
                let input = [whole, file, 0, at[0], at[1], at[2], block as u8, 0];
                match (journal.run)(&input) {
                    Taken::Yes => taken += 1,
                    Taken::No => refused += 1,
                }
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} and {refused}");
}

#[test]
fn the_document_has_a_row_for_each_target() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fuzzing.md");
    let document = fs::read_to_string(document).expect("the document is there");
    for target in TARGETS {
        let row = format!("| `{}` | {} |", target.name, target.about);
        assert!(document.contains(&row), "docs/fuzzing.md lacks: {row}");
    }
}
