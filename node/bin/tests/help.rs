//! The help as people read it, kept as a file: a change of the command line shows in the review. To accept one, run
//! `UPDATE_SNAPSHOTS=1 cargo test -p tiderace --test help`.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::path::Path;
use support::run;

const COMMANDS: [&[&str]; 11] = [
    &[],
    &["serve"],
    &["dev"],
    &["demo"],
    &["stream"],
    &["stream", "create"],
    &["stream", "ls"],
    &["stream", "describe"],
    &["stream", "delete"],
    &["produce"],
    &["tail"],
];

#[test]
fn the_help_is_what_was_reviewed() {
    let mut help = String::new();
    for command in COMMANDS {
        let shown = run(&[command, &["--help"]].concat()).ok();
        let line = ["tiderace"]
            .iter()
            .chain(command)
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        help.push_str(&format!("$ {line} --help\n{shown}\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &help).expect("the snapshot can be written");
    }
    let reviewed = std::fs::read_to_string(&path).expect("tests/help.txt");
    assert!(
        help == reviewed,
        "the help differs from tests/help.txt:\n{help}"
    );
}

#[test]
fn a_wrong_command_line_has_its_own_code() {
    assert!(run(&["tial"]).refused(2).contains("tail"));
    run(&[]).refused(2);
    run(&["tail", "a", "--server", "localhost"]).refused(2);
    run(&["produce", "a", "--key", "id"]).refused(2);
}
