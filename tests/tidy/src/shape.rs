//! The shape of the tree: how modules open, how long files are, what things are called, where unsafe may live.

use crate::source::{code_only, line_of, modules};
use crate::{Finding, Tree};

/// A reader cannot keep more than this in mind, and neither can a diff.
const LINES_MAX: usize = 900;
/// Every clone carries every blob for ever.
const BLOB_BYTES_MAX: u64 = 2 << 20;
/// Blobs that are worth more, each with its reason.
const LARGE_BLOBS: &[&str] = &[];
/// An opening shorter than this names the module again and says nothing.
const OPENING_CHARS_MIN: usize = 60;

/// Names that say where something was put and not what it is.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "impls", "misc", "util", "utils",
];

/// Crates that may hold unsafe code, each with its reason.
const MAY_BE_UNSAFE: &[&str] = &[
    // The ring and its buffers are shared with the kernel.
    "dataplane/io",
];

/// Every module opens with a paragraph: what the room is for, what it refuses, its invariants.
pub fn openings(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| {
            let paragraph: usize = file
                .text
                .trim_start()
                .lines()
                .map_while(|line| line.strip_prefix("//!"))
                .map(|line| line.trim().chars().count())
                .sum();
            paragraph < OPENING_CHARS_MIN
        })
        .map(|file| {
            Finding::about(
                file,
                "does not open with a `//!` paragraph: say first what this room is for, what it refuses and its invariants",
            )
        })
        .collect()
}

/// No file is longer than a reader can hold, no blob larger than every clone should carry.
pub fn sizes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        let lines = file.text.lines().count();
        if file.is_rust() && lines > LINES_MAX {
            findings.push(Finding::about(
                file,
                format!("has {lines} lines, more than {LINES_MAX}: find the second concern in it and give that a room"),
            ));
        }
        if file.size_bytes > BLOB_BYTES_MAX && !LARGE_BLOBS.contains(&file.path.as_str()) {
            findings.push(Finding::about(
                file,
                format!(
                    "has {} bytes, more than {BLOB_BYTES_MAX}: generate it, trim it, or list it with its reason in \
                     tests/tidy/src/shape.rs",
                    file.size_bytes
                ),
            ));
        }
    }
    findings
}

/// A name says what a thing is.
pub fn names(tree: &Tree) -> Vec<Finding> {
    const BETTER: &str = "says where things were put, not what they are: name it after what its contents have in common";
    let mut findings = Vec::new();
    for file in tree.rust() {
        for part in file.path.trim_end_matches(".rs").split('/') {
            if EMPTY_NAMES.contains(&part) {
                findings.push(Finding::about(file, format!("the name `{part}` {BETTER}")));
            }
        }
        for module in modules(&file.text).iter().filter(|module| module.inline) {
            if EMPTY_NAMES.contains(&module.name.as_str()) {
                findings.push(Finding::at(
                    file,
                    line_of(&file.text, module.position),
                    format!("the name `{}` {BETTER}", module.name),
                ));
            }
        }
    }
    findings
}

/// Unsafe has one room; every other crate of the product forbids it in its root, where no `allow` can undo it.
pub fn unsafe_is_forbidden(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| {
            let is_root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
            let krate = file.folder().trim_end_matches("src").trim_end_matches('/');
            let is_product = !krate.starts_with("tests/") && !krate.starts_with("benches/");
            is_root && is_product && !MAY_BE_UNSAFE.contains(&krate)
        })
        .filter(|file| !code_only(&file.text).contains("#![forbid(unsafe_code)]"))
        .map(|file| {
            Finding::about(
                file,
                "lacks `#![forbid(unsafe_code)]`: unsafe code belongs to dataplane/io, behind a safe function",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: &str =
        "//! The credit ledger. Owns what has been granted on one link.\n//! Never allocates.\n";

    #[test]
    fn a_missing_or_empty_opening_is_found() {
        let bare = "use std::fmt;\n";
        let late = format!("use std::fmt;\n{OPENING}");
        let short = "//! The ledger.\n";
        for text in [bare, &late, short, ""] {
            assert_eq!(
                openings(&Tree::of(&[("wire/src/credit.rs", text)])).len(),
                1,
                "{text:?}"
            );
        }
        assert_eq!(openings(&Tree::of(&[("wire/src/credit.rs", OPENING)])), []);
    }

    #[test]
    fn a_long_file_and_a_large_blob_are_found() {
        let long = "\n".repeat(LINES_MAX + 1);
        let large = "x".repeat(usize::try_from(BLOB_BYTES_MAX).expect("two mebibytes fit") + 1);
        let tree = Tree::of(&[
            ("base/src/a.rs", &long),
            ("docs/a.svg", &large),
            ("docs/b.md", &long),
        ]);
        let paths: Vec<_> = sizes(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect();
        assert_eq!(paths, ["base/src/a.rs", "docs/a.svg"]);
    }

    #[test]
    fn empty_names_are_found() {
        let tree = Tree::of(&[
            ("base/src/utils.rs", ""),
            ("node/src/common/mod.rs", ""),
            ("wire/src/lib.rs", "mod helpers { }\nmod tests { }"),
            ("wire/src/utility.rs", ""),
        ]);
        assert_eq!(names(&tree).len(), 3);
    }

    #[test]
    fn a_root_that_permits_unsafe_is_found() {
        let tree = Tree::of(&[
            ("base/src/lib.rs", "//! #![forbid(unsafe_code)]\n"),
            ("wire/src/lib.rs", "#![forbid(unsafe_code)]\n"),
            ("wire/src/credit.rs", ""),
            ("node/bin/src/main.rs", ""),
            ("dataplane/io/src/lib.rs", ""),
            ("tests/sim/src/lib.rs", ""),
        ]);
        let paths: Vec<_> = unsafe_is_forbidden(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect();
        assert_eq!(paths, ["base/src/lib.rs", "node/bin/src/main.rs"]);
    }
}
