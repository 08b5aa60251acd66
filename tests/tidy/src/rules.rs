//! The numbered rules of the published documents and the code that keeps them. A rule that nothing cites is a promise that
//! nobody keeps; a citation of a rule that is not there is a reason that nobody can read.
//!
//! A rule is defined by a line that starts with `- **P-12**` and is cited as `P-12`. Code and tests must both cite it.

use crate::source::{code_only, line_of, test_regions};
use crate::{File, Finding, Tree};
use std::collections::BTreeMap;

/// The documents and the letter of their rules.
const DOCUMENTS: &[(&str, char)] = &[("docs/protocol.md", 'P'), ("docs/journal.md", 'J')];

/// Elliptic curves, which are named like rules.
const NOT_RULES: &[&str] = &["P-224", "P-256", "P-384", "P-521"];

/// This folder cites planted rules.
const SELF: &str = "tests/tidy/";

#[derive(Default)]
struct Citations {
    in_code: bool,
    in_test: bool,
    first: Option<(usize, usize)>,
}

/// Rules without their code, rules without their test, and citations without their rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, letter) in DOCUMENTS {
        let Some(document) = tree.get(path) else {
            continue;
        };
        let cited = citations(tree, *letter);
        let mut defined: BTreeMap<String, usize> = BTreeMap::new();
        for (line, id) in definitions(document, *letter) {
            if let Some(earlier) = defined.insert(id.clone(), line) {
                findings.push(Finding::at(
                    document,
                    line,
                    format!("{id} is defined twice, first in line {earlier}: a rule keeps its number for ever, take a new one"),
                ));
            }
        }
        for (id, line) in &defined {
            let citation = cited.get(id);
            if !citation.is_some_and(|citation| citation.in_code) {
                findings.push(Finding::at(
                    document,
                    *line,
                    format!("{id} is cited by no code: put `{id}` into the comment of the code that keeps it"),
                ));
            }
            if !citation.is_some_and(|citation| citation.in_test) {
                findings.push(Finding::at(
                    document,
                    *line,
                    format!("{id} is cited by no test: put `{id}` into the comment of a test that fails without it"),
                ));
            }
        }
        for (id, citation) in &cited {
            if let (false, Some((file, line))) = (defined.contains_key(id), citation.first) {
                findings.push(Finding::at(
                    &tree.files()[file],
                    line,
                    format!("cites {id}, which {path} does not define: cite the rule that is meant, or write it down there"),
                ));
            }
        }
    }
    findings
}

fn definitions(document: &File, letter: char) -> Vec<(usize, String)> {
    let start = format!("- **{letter}-");
    document
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let rest = line.strip_prefix(&start)?;
            let digits = rest.split("**").next()?;
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| (index + 1, format!("{letter}-{digits}")))
        })
        .collect()
}

fn citations(tree: &Tree, letter: char) -> BTreeMap<String, Citations> {
    let mut cited: BTreeMap<String, Citations> = BTreeMap::new();
    for (index, file) in tree.files().iter().enumerate() {
        if !file.is_rust() || file.path.starts_with(SELF) {
            continue;
        }
        let regions = test_regions(&file.text);
        let whole_file_is_test = is_test_file(file, &regions);
        for (at, id) in ids(&file.text, letter) {
            let citation = cited.entry(id).or_default();
            if whole_file_is_test || regions.iter().any(|region| region.contains(&at)) {
                citation.in_test = true;
            } else {
                citation.in_code = true;
            }
            citation
                .first
                .get_or_insert_with(|| (index, line_of(&file.text, at)));
        }
    }
    cited
}

fn is_test_file(file: &File, regions: &[std::ops::Range<usize>]) -> bool {
    let by_place = file
        .path
        .split('/')
        .any(|part| part == "tests" || part == "tests.rs");
    by_place
        || code_only(&file.text)
            .match_indices("#[test]")
            .any(|(at, _)| !regions.iter().any(|region| region.contains(&at)))
}

fn ids(text: &str, letter: char) -> Vec<(usize, String)> {
    let needle = format!("{letter}-");
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&needle) {
        let touches =
            at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || b"_-".contains(&bytes[at - 1]));
        let digits: String = text[at + needle.len()..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let after = bytes.get(at + needle.len() + digits.len());
        let runs_on = after.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let id = format!("{needle}{digits}");
        if !touches && !runs_on && !digits.is_empty() && !NOT_RULES.contains(&id.as_str()) {
            found.push((at, id));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "/// Keeps P-1.\nfn a() {}\n#[cfg(test)]\nmod tests { /* P-1 */ }\n";

    fn found(document: &str, code: &str) -> Vec<String> {
        let tree = Tree::of(&[("docs/protocol.md", document), ("wire/src/a.rs", code)]);
        check(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_kept_rule_passes() {
        assert_eq!(
            found("- **P-1** A sender spends what it was granted.\n", KEPT),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_orphan_rule_is_found() {
        let found = found("- **P-1** a\n- **P-2** b\n", KEPT);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .all(|message| message.starts_with("docs/protocol.md:2: P-2")),
            "{found:?}"
        );
    }

    #[test]
    fn a_rule_without_a_test_is_found() {
        let found = found("- **P-1** a\n", "// P-1\n");
        assert!(
            found.len() == 1 && found[0].contains("no test"),
            "{found:?}"
        );
    }

    #[test]
    fn a_rule_that_only_a_test_knows_is_found() {
        let tree = Tree::of(&[
            ("docs/journal.md", "- **J-7** a\n"),
            ("tests/sim/src/a.rs", "// J-7\n"),
        ]);
        let found = check(&tree);
        assert!(
            found.len() == 1 && found[0].message.contains("no code"),
            "{found:?}"
        );
    }

    #[test]
    fn a_citation_of_nothing_is_found_and_a_curve_is_not_one() {
        let found = found(
            "- **P-1** a\n",
            &format!("{KEPT}\n// P-12, on the curve P-256, UP-3, P-3x\n"),
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("cites P-12"), "{found:?}");
    }

    #[test]
    fn a_number_used_twice_is_found() {
        assert_eq!(found("- **P-1** a\n- **P-1** b\n", KEPT).len(), 1);
    }

    #[test]
    fn a_document_that_is_not_there_asks_for_nothing() {
        assert_eq!(check(&Tree::of(&[("wire/src/a.rs", "// P-9")])), []);
    }
}
