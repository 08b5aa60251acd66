//! Dead files: Rust sources that no crate compiles. They look maintained, are searched and read, and mean nothing.

use crate::source::{code_only, modules};
use crate::{File, Finding, Tree};
use std::collections::BTreeSet;
use toml::{Table, Value};

/// Every `.rs` file that cannot be reached from a crate's root by `mod` or `include!`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for manifest in tree
        .files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml")
    {
        for root in roots(tree, manifest) {
            visit(tree, root, true, &mut reached);
        }
    }
    tree.rust()
        .filter(|file| !reached.contains(file.path.as_str()))
        .map(|file| {
            Finding::about(
                file,
                "is compiled by no crate: declare it with `mod` where it belongs, or delete it (history keeps it)",
            )
        })
        .collect()
}

/// The files that cargo itself compiles for a package: those it finds by their place and those the manifest names.
fn roots<'a>(tree: &'a Tree, manifest: &File) -> Vec<&'a File> {
    let folder = manifest.folder();
    let mut roots: Vec<&File> = tree
        .rust()
        .filter(|file| {
            let inside = if folder.is_empty() {
                Some(file.path.as_str())
            } else {
                file.path
                    .strip_prefix(folder)
                    .and_then(|rest| rest.strip_prefix('/'))
            };
            inside.is_some_and(is_found_by_cargo)
        })
        .collect();
    let table = manifest.text.parse::<Table>().unwrap_or_default();
    let single = ["lib", "package"].iter().filter_map(|key| table.get(*key));
    let listed = ["bin", "test", "bench", "example"]
        .iter()
        .filter_map(|key| table.get(*key).and_then(Value::as_array))
        .flatten();
    for target in single.chain(listed) {
        for key in ["path", "build"] {
            if let Some(path) = target.get(key).and_then(Value::as_str) {
                roots.extend(tree.get(&join(folder, path)));
            }
        }
    }
    roots
}

fn is_found_by_cargo(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    )
}

fn visit<'a>(tree: &'a Tree, file: &'a File, is_root: bool, reached: &mut BTreeSet<&'a str>) {
    if !reached.insert(&file.path) {
        return;
    }
    // A root's and a mod.rs's modules lie beside it; every other file's lie in a folder of its name.
    let beside = is_root || file.name() == "mod.rs";
    let own_folder = if beside {
        file.folder().to_owned()
    } else {
        file.path.trim_end_matches(".rs").to_owned()
    };
    for module in modules(&file.text)
        .into_iter()
        .filter(|module| !module.inline)
    {
        let mut folder = own_folder.clone();
        for outer in &module.within {
            folder = join(&folder, outer);
        }
        let candidates = match &module.path {
            Some(path) if module.within.is_empty() => vec![join(file.folder(), path)],
            Some(path) => vec![join(&folder, path)],
            None => vec![
                join(&folder, &format!("{}.rs", module.name)),
                join(&folder, &format!("{}/mod.rs", module.name)),
            ],
        };
        for child in candidates.iter().filter_map(|path| tree.get(path)) {
            // A file named by `#[path]` keeps its modules beside it, as a root does.
            visit(tree, child, module.path.is_some(), reached);
        }
    }
    for (at, _) in code_only(&file.text).match_indices("include!(") {
        let included = file.text[at..].split('"').nth(1);
        if let Some(child) = included.and_then(|path| tree.get(&join(file.folder(), path))) {
            visit(tree, child, true, reached);
        }
    }
}

/// Joins two paths and resolves `.` and `..` by name alone.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files))
            .into_iter()
            .map(|finding| finding.path)
            .collect()
    }

    #[test]
    fn a_file_that_nothing_declares_is_found() {
        assert_eq!(
            dead(&[
                ("base/Cargo.toml", ""),
                (
                    "base/src/lib.rs",
                    "mod a;\nmod in_place { mod c; }\n// mod dead;"
                ),
                ("base/src/a.rs", "mod b;"),
                ("base/src/a/b.rs", ""),
                ("base/src/in_place/c.rs", ""),
                ("base/src/dead.rs", ""),
                ("base/src/b.rs", ""),
            ]),
            ["base/src/b.rs", "base/src/dead.rs"]
        );
    }

    #[test]
    fn every_kind_of_root_and_of_declaration_reaches() {
        assert_eq!(
            dead(&[
                (
                    "a/Cargo.toml",
                    "[[bin]]\nname = \"x\"\npath = \"odd/x.rs\"\n[package]\nbuild = \"make.rs\""
                ),
                ("a/make.rs", ""),
                ("a/odd/x.rs", "mod y;"),
                ("a/odd/y/mod.rs", "mod z;"),
                ("a/odd/y/z.rs", ""),
                (
                    "a/src/bin/tool.rs",
                    "#[path = \"../../shared.rs\"]\nmod shared;"
                ),
                ("a/shared.rs", "mod beside;"),
                ("a/beside.rs", ""),
                ("a/tests/one.rs", "mod support;"),
                ("a/tests/support/mod.rs", "include!(\"vectors.rs\");"),
                ("a/tests/support/vectors.rs", ""),
                ("a/benches/append/main.rs", ""),
            ]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_source_outside_every_package_is_found() {
        assert_eq!(
            dead(&[("base/Cargo.toml", ""), ("stray.rs", "")]),
            ["stray.rs"]
        );
    }
}
