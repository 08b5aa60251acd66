//! Which room may depend on which, read from the manifests. The compiler keeps a wall once the manifest has none of the
//! other room in it; this keeps the manifests. A room that this table does not know may not exist.

use crate::{File, Finding, Tree};
use toml::Table;

/// A room, the rooms it may name, and whether it owns a world: a clock, a socket, a thread, entropy.
struct Room {
    folder: &'static str,
    package: &'static str,
    may_use: &'static [&'static str],
    owns_a_world: bool,
}

const fn pure(
    folder: &'static str,
    package: &'static str,
    may_use: &'static [&'static str],
) -> Room {
    Room {
        folder,
        package,
        may_use,
        owns_a_world: false,
    }
}

const fn worldly(
    folder: &'static str,
    package: &'static str,
    may_use: &'static [&'static str],
) -> Room {
    Room {
        folder,
        package,
        may_use,
        owns_a_world: true,
    }
}

/// The arrows of docs/architecture.md. Shard and control never see each other: they meet in node. io knows no protocol.
const ROOMS: &[Room] = &[
    pure("base", "tiderace-base", &[]),
    pure("wire", "tiderace-wire", &["tiderace-base"]),
    pure(
        "storage",
        "tiderace-storage",
        &["tiderace-wire", "tiderace-base"],
    ),
    pure(
        "dataplane/replica",
        "tiderace-replica",
        &["tiderace-storage", "tiderace-wire", "tiderace-base"],
    ),
    pure(
        "dataplane/sched",
        "tiderace-sched",
        &["tiderace-wire", "tiderace-base"],
    ),
    pure(
        "dataplane/shard",
        "tiderace-shard",
        &[
            "tiderace-replica",
            "tiderace-sched",
            "tiderace-storage",
            "tiderace-wire",
            "tiderace-base",
        ],
    ),
    worldly("dataplane/io", "tiderace-io", &["tiderace-base"]),
    pure(
        "control",
        "tiderace-control",
        &["tiderace-storage", "tiderace-wire", "tiderace-base"],
    ),
    worldly(
        "client",
        "tiderace-client",
        &["tiderace-wire", "tiderace-base"],
    ),
    pure(
        "node",
        "tiderace-node",
        &[
            "tiderace-shard",
            "tiderace-control",
            "tiderace-storage",
            "tiderace-wire",
            "tiderace-base",
        ],
    ),
    worldly(
        "node/bin",
        "tiderace",
        &[
            "tiderace-node",
            "tiderace-io",
            "tiderace-client",
            "tiderace-wire",
            "tiderace-base",
        ],
    ),
    worldly(
        "loadgen",
        "loadgen",
        &[
            "tiderace-client",
            "tiderace-io",
            "tiderace-wire",
            "tiderace-base",
        ],
    ),
    // Judges any run of anything, so it may know neither the product nor the simulator's world.
    pure("tests/history", "history", &["tiderace-base"]),
];

/// Crates that reach a clock, a socket, a file, a thread or entropy. A room without a world cannot even name them.
const WORLDS: &[&str] = &[
    "async-std",
    "crossbeam",
    "crossbeam-channel",
    "fastrand",
    "fjall",
    "getrandom",
    "hyper",
    "hyper-util",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "quinn",
    "rand",
    "rayon",
    "reqwest",
    "rustix",
    "socket2",
    "tokio",
    "tokio-util",
    "uuid",
];

/// Tests and benches may depend on anything, unless they are in the table, and nothing else depends on them.
fn is_free(folder: &str) -> bool {
    ["tests/", "benches/"]
        .iter()
        .any(|prefix| folder.starts_with(prefix))
}

/// Every arrow between manifests that the table does not allow.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let manifests: Vec<(&File, Table)> = tree
        .files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml" && !file.folder().is_empty())
        .filter_map(|file| match file.text.parse::<Table>() {
            Ok(manifest) => Some((file, manifest)),
            Err(error) => {
                findings.push(Finding::about(
                    file,
                    format!("is not valid TOML: {}", error.message()),
                ));
                None
            }
        })
        .collect();
    let ours: Vec<&str> = manifests
        .iter()
        .filter_map(|(_, manifest)| package(manifest))
        .chain(ROOMS.iter().map(|room| room.package))
        .collect();
    for (file, manifest) in &manifests {
        check_manifest(file, manifest, &ours, &mut findings);
    }
    findings
}

fn package(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

fn check_manifest(file: &File, manifest: &Table, ours: &[&str], findings: &mut Vec<Finding>) {
    if manifest.get("package").is_none() {
        return;
    }
    let name = package(manifest).unwrap_or_default();
    let Some(room) = ROOMS.iter().find(|room| room.folder == file.folder()) else {
        if is_free(file.folder()) {
            return;
        }
        findings.push(Finding::about(
            file,
            "is a room that the table in tests/tidy/src/arrows.rs does not know: add it there and to \
             docs/architecture.md with the arrows it needs, or make it a module of an existing room",
        ));
        return;
    };
    if room.package != name {
        findings.push(Finding::about(
            file,
            format!(
                "is called {name:?}: this folder's package is {:?}",
                room.package
            ),
        ));
    }
    if manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        != Some(true)
    {
        findings.push(Finding::about(
            file,
            "does not take the workspace's lints: add `[lints]` with `workspace = true`",
        ));
    }
    for (kind, dependency) in dependencies(manifest) {
        let arrow_allowed = room.may_use.contains(&dependency.as_str());
        let is_ours = ours.contains(&dependency.as_str());
        let is_room = ROOMS
            .iter()
            .any(|room| room.package == dependency && !is_free(room.folder));
        if kind == "dev-dependencies" {
            // Tests may look at any room, from any side. They may not lean on other tests.
            if is_ours && !is_room {
                findings.push(Finding::about(
                    file,
                    format!("tests with {dependency}, and nothing depends on tests or benches: move the test into tests/"),
                ));
            }
        } else if is_ours && !arrow_allowed {
            findings.push(Finding::about(
                file,
                format!(
                    "{kind} has an arrow {} -> {dependency} that may not exist (allowed: {}): move what both need into \
                     base, or let the room that sees both of them compose it",
                    room.package,
                    if room.may_use.is_empty() { "none".to_owned() } else { room.may_use.join(", ") },
                ),
            ));
        } else if !room.owns_a_world && WORLDS.contains(&dependency.as_str()) {
            findings.push(Finding::about(
                file,
                format!(
                    "{kind} names {dependency}, which reaches a clock, socket, file, thread or entropy: {} is driven by \
                     values, so let the room that owns this world pass them in",
                    room.package
                ),
            ));
        }
    }
}

/// Every dependency with the kind of table that it stands in, under the name that the registry or the workspace knows.
fn dependencies(manifest: &Table) -> Vec<(&'static str, String)> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let mut found = Vec::new();
    let mut collect = |table: &Table| {
        for kind in KINDS {
            let Some(entries) = table.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (key, value) in entries {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                found.push((kind, renamed.unwrap_or(key).to_owned()));
            }
        }
    };
    collect(manifest);
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    for target in targets.into_iter().flat_map(|targets| targets.values()) {
        if let Some(table) = target.as_table() {
            collect(table);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(manifest_path: &str, body: &str) -> Vec<String> {
        let tree = Tree::of(&[
            (manifest_path, body),
            (
                "tests/sim/Cargo.toml",
                "[package]\nname = \"sim\"\n[dependencies]\ntiderace-io.workspace = true\n",
            ),
        ]);
        check(&tree).iter().map(ToString::to_string).collect()
    }

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}")
    }

    #[test]
    fn an_allowed_arrow_passes() {
        let body = manifest(
            "tiderace-wire",
            "[dependencies]\ntiderace-base.workspace = true\nzerocopy = \"0.8\"\n",
        );
        assert_eq!(messages("wire/Cargo.toml", &body), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found_under_every_spelling() {
        for rest in [
            "[dependencies]\ntiderace-shard = { path = \"../dataplane/shard\" }\n",
            "[dependencies.tiderace-shard]\nworkspace = true\n",
            "[dependencies]\nother = { package = \"tiderace-shard\", workspace = true }\n",
            "[target.'cfg(unix)'.dependencies]\ntiderace-shard.workspace = true\n",
            "[build-dependencies]\ntiderace-shard.workspace = true\n",
        ] {
            let found = messages("control/Cargo.toml", &manifest("tiderace-control", rest));
            assert_eq!(found.len(), 1, "{rest}: {found:?}");
            assert!(
                found[0].contains("tiderace-control -> tiderace-shard"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_pure_room_cannot_name_a_runtime() {
        let body = manifest("tiderace-shard", "[dependencies]\ntokio = \"1\"\n");
        let found = messages("dataplane/shard/Cargo.toml", &body);
        assert!(found.len() == 1 && found[0].contains("tokio"), "{found:?}");
        let body = manifest("tiderace-client", "[dependencies]\ntokio = \"1\"\n");
        assert_eq!(messages("client/Cargo.toml", &body), Vec::<String>::new());
    }

    #[test]
    fn tests_may_look_at_rooms_but_not_lean_on_tests() {
        let looks = manifest(
            "tiderace-storage",
            "[dev-dependencies]\ntiderace-io.workspace = true\nproptest = \"1\"\n",
        );
        assert_eq!(messages("storage/Cargo.toml", &looks), Vec::<String>::new());
        let leans = manifest(
            "tiderace-storage",
            "[dev-dependencies]\nsim.workspace = true\n",
        );
        assert_eq!(messages("storage/Cargo.toml", &leans).len(), 1);
        let depends = manifest("tiderace-storage", "[dependencies]\nsim.workspace = true\n");
        assert_eq!(messages("storage/Cargo.toml", &depends).len(), 1);
    }

    #[test]
    fn the_judge_knows_neither_the_product_nor_the_simulator() {
        let knows = |rest| messages("tests/history/Cargo.toml", &manifest("history", rest));
        let base = "[dependencies]\ntiderace-base.workspace = true\nserde = \"1\"\n";
        assert_eq!(knows(base), Vec::<String>::new());
        for rest in [
            "[dependencies]\nsim.workspace = true\n",
            "[dependencies]\ntiderace-wire.workspace = true\n",
            "[dependencies]\ntokio = \"1\"\n",
        ] {
            assert_eq!(knows(rest).len(), 1, "{rest}");
        }
        let product = manifest("loadgen", "[dev-dependencies]\nhistory.workspace = true\n");
        assert_eq!(messages("loadgen/Cargo.toml", &product).len(), 1);
    }

    #[test]
    fn a_room_nobody_planned_is_found() {
        let found = messages("extras/Cargo.toml", &manifest("extras", ""));
        assert!(
            found.len() == 1 && found[0].contains("does not know"),
            "{found:?}"
        );
    }

    #[test]
    fn a_room_without_the_lints_is_found() {
        let found = messages("base/Cargo.toml", "[package]\nname = \"tiderace-base\"\n");
        assert!(found.len() == 1 && found[0].contains("lints"), "{found:?}");
    }
}
