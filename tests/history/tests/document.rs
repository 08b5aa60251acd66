//! `docs/consistency.md` and the code say the same: the table of checkers lists those that there are, the table of kinds what a
//! history can hold, each rule that is cited exists, and the example is a history.

use history::format::Reader;
use history::judge::Judge;
use history::observation::Kind;
use history::properties::names;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each has a checker of its own.
const ANOMALIES: [&str; 16] = [
    "lost write",
    "duplicate",
    "inconsistent offsets",
    "aborted read",
    "poll skip",
    "non-monotonic poll",
    "non-monotonic send",
    "hole in the middle",
    "unseen",
    "stale read",
    "committed-offset regression",
    "acknowledgement stronger than its durability",
    "resurrection after truncation",
    "credit conservation",
    "memory above budget",
    "tenant leak",
];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    fs::read_to_string(path).expect("the document is there")
}

/// The cells of the rows between two marks.
fn table(document: &str, name: &str) -> Vec<Vec<String>> {
    let (begin, end) = (
        format!("<!-- begin {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let (_, rest) = document.split_once(&begin).expect("the table has its mark");
    let (table, _) = rest.split_once(&end).expect("the mark ends");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn the_table_of_checkers_lists_those_that_there_are() {
    let rows = table(&document("consistency.md"), "checkers");
    let listed: Vec<&str> = rows.iter().map(|row| code(&row[0])).collect();
    assert_eq!(listed, names());
    for row in &rows {
        let [name, _, refuses, evidence, _] = row.as_slice() else {
            panic!("{row:?} has five cells");
        };
        assert!(!refuses.is_empty(), "{name} says what it refuses");
        let known = ["sim", "real", "planted"];
        assert!(
            evidence.split(", ").all(|word| known.contains(&word)),
            "{name} has evidence of a known sort: {evidence:?}"
        );
    }
    let mut anomalies: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    anomalies.retain(|anomaly| !anomaly.is_empty());
    anomalies.sort_unstable();
    let mut wanted = ANOMALIES.to_vec();
    wanted.sort_unstable();
    assert_eq!(anomalies, wanted, "each anomaly has one checker");
}

#[test]
fn the_table_of_kinds_lists_what_a_history_can_hold() {
    let snake = |kind: &Kind| {
        let mut name = String::new();
        for letter in format!("{kind:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(letter.to_lowercase());
        }
        name
    };
    let rows = table(&document("consistency.md"), "kinds");
    let listed: Vec<&str> = rows.iter().map(|row| code(&row[0])).collect();
    let kinds: Vec<String> = Kind::ALL.iter().map(snake).collect();
    assert_eq!(listed, kinds);
}

#[test]
fn every_rule_that_is_cited_exists() {
    let own = document("consistency.md");
    let cited: BTreeSet<&str> = own
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter(|word| {
            let digits = word.strip_prefix("P-").or_else(|| word.strip_prefix("J-"));
            digits.is_some_and(|digits| digits.parse::<u32>().is_ok())
        })
        .collect();
    assert!(cited.len() > 10, "the promises follow rules");
    let rules = document("protocol.md") + &document("journal.md");
    for rule in cited {
        let defined = format!("\n- **{rule}** ");
        assert!(rules.contains(&defined), "{rule} is defined nowhere");
    }
}

#[test]
fn the_example_is_a_history_that_breaks_nothing() {
    let own = document("consistency.md");
    let (_, rest) = own.split_once("```json\n").expect("there is an example");
    let (example, _) = rest.split_once("```").expect("it ends");
    let mut reader = Reader::begin(example.as_bytes()).expect("a history");
    let mut judge = Judge::default();
    while let Some(line) = reader.next_line().expect("a line of it") {
        judge.observe(line.at_ns, &line.saw);
    }
    assert_eq!(judge.violation(), None);
    assert_eq!((judge.acknowledged(), judge.delivered()), (1, 1));
}
