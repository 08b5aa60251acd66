//! Features that no ordinary build may have. Cargo gives a crate every feature that anything in the same build asks of it, so
//! one careless line in a manifest would put the disk recorder into the program that people run.

use crate::{File, Finding, Tree};
use toml::{Table, Value};

/// Asked for on the command line, by whoever makes crash images, and by nothing else.
const RECORDING: &str = "disk-recording";

/// Every manifest that switches recording on by itself.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let manifests = tree
        .files()
        .iter()
        .filter(|file| file.name() == "Cargo.toml");
    let mut findings = Vec::new();
    for file in manifests {
        // What is no TOML is a finding of the arrows.
        let manifest = file.text.parse::<Table>().unwrap_or_default();
        check_own(file, &manifest, &mut findings);
        check_dependencies(file, &Value::Table(manifest), &mut findings);
    }
    findings
}

/// A feature of the package that brings recording with it has the name that says so.
fn check_own(file: &File, manifest: &Table, findings: &mut Vec<Finding>) {
    let own = manifest.get("features").and_then(Value::as_table);
    for (name, brings) in own.into_iter().flatten() {
        let is_recording = |item: &Value| {
            let item = item.as_str().unwrap_or_default();
            item.rsplit('/').next() == Some(RECORDING)
        };
        let brings = brings.as_array();
        if name != RECORDING && brings.is_some_and(|items| items.iter().any(is_recording)) {
            findings.push(Finding::about(
                file,
                format!("the feature {name:?} brings {RECORDING:?}, which only a feature of that name may: whoever records asks for it by name"),
            ));
        }
    }
}

/// No dependency asks for it, in whatever table it stands.
fn check_dependencies(file: &File, value: &Value, findings: &mut Vec<Finding>) {
    let Some(table) = value.as_table() else {
        return;
    };
    for (key, value) in table {
        let asks = |items: &Vec<Value>| items.iter().any(|item| item.as_str() == Some(RECORDING));
        if key == "features" && value.as_array().is_some_and(asks) {
            findings.push(Finding::about(
                file,
                format!("a dependency asks for {RECORDING:?}, and so every build beside it would record: ask for it on the command line"),
            ));
        }
        check_dependencies(file, value, findings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(manifest: &str) -> usize {
        check(&Tree::of(&[("tests/crash/Cargo.toml", manifest)])).len()
    }

    #[test]
    fn a_feature_of_its_name_passes_and_the_format_does_too() {
        assert_eq!(
            found("[features]\ndisk-recording = [\"tiderace-io/disk-recording\"]\n"),
            0
        );
        assert_eq!(
            found(
                "[dependencies]\ntiderace-io = { workspace = true, features = [\"disk-recording-format\"] }\n"
            ),
            0
        );
    }

    #[test]
    fn every_way_to_record_unasked_is_found() {
        for manifest in [
            "[features]\ndefault = [\"disk-recording\"]\n",
            "[features]\nfast = [\"tiderace-io/disk-recording\"]\n",
            "[dependencies]\ntiderace-io = { workspace = true, features = [\"disk-recording\"] }\n",
            "[dev-dependencies.tiderace-io]\nfeatures = [\"disk-recording\"]\n",
            "[workspace.dependencies]\ntiderace-io = { path = \"io\", features = [\"disk-recording\"] }\n",
            "[target.'cfg(unix)'.dependencies]\nio = { package = \"tiderace-io\", features = [\"disk-recording\"] }\n",
        ] {
            assert_eq!(found(manifest), 1, "{manifest}");
        }
    }
}
