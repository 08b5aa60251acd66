//! What was meant to go before the commit: unfinished code, notes to oneself, tests switched off, and places that exist
//! on one machine only. This folder is not looked at, because it has to spell what it looks for.

use crate::source::{code_only, line_of, word_positions};
use crate::{File, Finding, Tree};

const SELF: &str = "tests/tidy/";

/// Macros and attributes, looked for in code: a comment may speak of them.
const IN_CODE: &[(&str, &str)] = &[
    (
        "todo!",
        "finish it, or return a typed error that says what is not supported",
    ),
    (
        "unimplemented!",
        "finish it, or return a typed error that says what is not supported",
    ),
    (
        "dbg!",
        "drop it, or emit a `tracing` event that an operator would want too",
    ),
    (
        "#[ignore",
        "mend the test, make it fast enough to run always, or delete it: a test that does not run rots",
    ),
];

/// Notes to oneself, looked for in comments as well.
const NOTES: &[&str] = &["FIXME", "XXX", "HACK"];

/// Folders that exist on somebody's machine.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/work/"];

/// Hosts that cargo and pip know by themselves.
const REGISTRY_HOSTS: &[&str] = &[
    "crates.io",
    "files.pythonhosted.org",
    "pypi.org",
    "registry.npmjs.org",
    "proxy.golang.org",
];

/// The only script that looks beside the repository: the audit without a network takes its database from there.
const LOOKS_BESIDE: &str = ".ci/run";

/// A lock file names its registry by a URL that cargo writes.
const WRITTEN_BY_CARGO: &str = "Cargo.lock";

/// Leftovers in code and in prose.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree
        .files()
        .iter()
        .filter(|file| !file.path.starts_with(SELF))
    {
        if file.is_rust() {
            check_code(file, &mut findings);
        }
        if !file.path.ends_with(".md") {
            for note in NOTES {
                for at in word_positions(&file.text, note) {
                    findings.push(Finding::at(
                        file,
                        line_of(&file.text, at),
                        format!("{note}: resolve the doubt now, or write down the limit as a fact with its reason"),
                    ));
                }
            }
        }
        check_places(file, &mut findings);
    }
    findings
}

fn check_code(file: &File, findings: &mut Vec<Finding>) {
    let code = code_only(&file.text);
    for (needle, better) in IN_CODE {
        for at in word_positions(&code, needle) {
            findings.push(Finding::at(
                file,
                line_of(&code, at),
                format!("{needle} is left over: {better}"),
            ));
        }
    }
}

fn check_places(file: &File, findings: &mut Vec<Finding>) {
    for needle in MACHINE_PATHS {
        for (at, _) in file.text.match_indices(needle) {
            // `example.org/home/` is part of an address; `"/home/`, ` /home/` and `=/home/` are a place.
            let before = file.text[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || "._-}".contains(letter)) {
                continue;
            }
            findings.push(Finding::at(
                file,
                line_of(&file.text, at),
                format!("names {needle}, a folder of one machine: take a path relative to the repository or a flag"),
            ));
        }
    }
    if file.name() != WRITTEN_BY_CARGO {
        for host in REGISTRY_HOSTS {
            for at in word_positions(&file.text, host) {
                findings.push(Finding::at(
                    file,
                    line_of(&file.text, at),
                    format!("names the registry host {host}: leave that to the client's own settings, name the package only"),
                ));
            }
        }
    }
    if file.path != LOOKS_BESIDE {
        let folders_above = file.path.matches('/').count();
        for (at, _) in file.text.match_indices("../") {
            let starts_here = !file.text[..at].ends_with("../");
            let climbs = climbs(&file.text[at..]);
            if starts_here && climbs > folders_above {
                findings.push(Finding::at(
                    file,
                    line_of(&file.text, at),
                    "climbs out of the repository: what it needs must be in it, or come from a flag",
                ));
            }
        }
    }
}

fn climbs(mut text: &str) -> usize {
    let mut count = 0;
    while let Some(rest) = text.strip_prefix("../") {
        count += 1;
        text = rest;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn unfinished_code_is_found() {
        for planted in [
            "fn a() { todo!() }",
            "fn a() { unimplemented!(\"b\") }",
            "dbg!(1);",
            "#[ignore]\nfn a() {}",
        ] {
            assert_eq!(found("base/src/a.rs", planted), 1, "{planted}");
        }
        assert_eq!(
            found(
                "base/src/a.rs",
                "// `todo!` is banned\nlet a = \"dbg!\"; my_todo!();"
            ),
            0
        );
    }

    #[test]
    fn notes_to_oneself_are_found() {
        assert_eq!(found("base/src/a.rs", "// FIXME later"), 1);
        assert_eq!(found("deploy/run.sh", "# XXX"), 1);
        assert_eq!(found("base/src/a.rs", "const HACKNEY: u8 = 0;"), 0);
    }

    #[test]
    fn places_of_one_machine_are_found() {
        assert_eq!(found("deploy/a.sh", "cd /home/somebody"), 1);
        assert_eq!(found("docs/a.md", "see `/work/thing`"), 1);
        assert_eq!(
            found(
                "docs/a.md",
                "https://example.org/home/page, $HOME, target/work/x"
            ),
            0
        );
        assert_eq!(found("docs/a.md", "from https://crates.io/crates/a"), 1);
        for lock in ["Cargo.lock", "benches/runtimes/Cargo.lock"] {
            let source = "source = \"registry+https://example.org/crates.io-index\"";
            assert_eq!(found(lock, source), 0, "{lock}");
        }
    }

    #[test]
    fn climbing_out_is_found() {
        assert_eq!(found("node/bin/a.sh", "cat ../../../beside"), 1);
        assert_eq!(found("node/bin/a.sh", "cat ../../README.md"), 0);
        assert_eq!(found(LOOKS_BESIDE, "ls ../../beside"), 0);
    }
}
