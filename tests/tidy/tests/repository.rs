//! Runs every checker on this repository. One test for each, so that the name of a failure says which promise was broken.

use std::path::Path;
use tidy::{Tree, arrows, assert_none, features, leftovers, reach, rules, shape};

fn repository() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = Tree::of_repository(&root);
    assert!(
        tree.get("Cargo.toml").is_some() && tree.rust().count() > 10,
        "the repository's files were not found, so nothing would be checked"
    );
    tree
}

#[test]
fn only_the_planned_arrows_exist_between_rooms() {
    assert_none(&arrows::check(&repository()));
}

#[test]
fn no_ordinary_build_records_its_disk() {
    assert_none(&features::check(&repository()));
}

#[test]
fn every_module_opens_with_a_paragraph() {
    assert_none(&shape::openings(&repository()));
}

#[test]
fn no_file_outgrows_its_reader() {
    assert_none(&shape::sizes(&repository()));
}

#[test]
fn every_name_says_what_a_thing_is() {
    assert_none(&shape::names(&repository()));
}

#[test]
fn unsafe_code_has_one_room() {
    assert_none(&shape::unsafe_is_forbidden(&repository()));
}

#[test]
fn nothing_unfinished_or_local_is_left_over() {
    assert_none(&leftovers::check(&repository()));
}

#[test]
fn every_source_is_compiled() {
    assert_none(&reach::check(&repository()));
}

#[test]
fn every_rule_is_kept_by_code_and_test() {
    assert_none(&rules::check(&repository()));
}
