//! Ten cycles of each torture. Ten thousand by hand: `docs/torture.md`.

use torture::cycles::{Failure, Plan, Summary};
use torture::{damage, kill, refuse, stop};

fn holds(name: &str, outcome: Result<Summary, Failure>) {
    match outcome {
        Ok(_) => {}
        Err(Failure::Unavailable(what)) => panic!("{name} cannot be done here: {what}"),
        Err(Failure::Violated(violation)) => panic!(
            "{name}, cycle {}: {}; again: cargo run --release -p torture -- {name} --cycle {}",
            violation.cycle, violation.what, violation.cycle
        ),
    }
}

#[test]
fn what_was_acknowledged_outlives_kills() {
    holds("kill", kill::run(&Plan::new(1, 10), &|_| {}));
}

#[test]
fn what_was_acknowledged_outlives_pauses() {
    holds("stop", stop::run(&Plan::new(1, 10), &|_| {}));
}

#[test]
fn damage_has_the_outcome_that_the_document_says() {
    holds("damage", damage::run(&Plan::new(1, 10), &|_| {}));
}

#[test]
fn what_cannot_be_served_is_refused() {
    holds("refuse", refuse::run(&Plan::new(1, 2), &|_| {}));
}
