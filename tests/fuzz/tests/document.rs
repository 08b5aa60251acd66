//! docs/fuzzing.md names every target with what reads its bytes and what must hold, as the code does.

use fuzz::targets;
use std::path::Path;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/fuzzing.md");
    std::fs::read_to_string(path).expect("the document can be read")
}

#[test]
fn the_table_of_targets_is_that_of_the_code() {
    let mut table =
        String::from("| target | what reads the bytes | what must hold |\n|---|---|---|\n");
    for target in targets::ALL {
        table.push_str(&format!(
            "| `{}` | {} | {} |\n",
            target.name, target.reads, target.holds
        ));
    }
    assert!(
        document().contains(&table),
        "docs/fuzzing.md should say:\n{table}"
    );
}

#[test]
fn targets_have_names_of_their_own_and_bounds() {
    for (at, target) in targets::ALL.iter().enumerate() {
        let others = targets::ALL.iter().skip(at + 1);
        assert!(
            others.clone().all(|other| other.name != target.name),
            "{}",
            target.name
        );
        assert!(target.bytes_max > 0 && target.held_bytes_max > 0 && target.runs_in_tests > 0);
    }
}
