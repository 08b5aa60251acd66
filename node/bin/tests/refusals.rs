//! What the program refuses, as an operator meets it: each with its own exit code and a sentence that says what to do.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::net::TcpListener;
use support::{Folder, Node, Ran, node_flags, program, run};

fn serve(dir: &std::path::Path, other: &[&str]) -> Ran {
    let flags = node_flags(dir, other);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    run(&[&["serve"], flags.as_slice()].concat())
}

#[test]
fn a_config_typo_names_the_line_and_the_right_key() {
    let folder = Folder::new("typo");
    let file = folder.file("tiderace.toml", "shards = 1\nmemroy = \"64MiB\"\n");
    let error = run(&["serve", "--config", &file.display().to_string()]).refused(60);
    assert!(
        error.contains("tiderace.toml:2: unknown key \"memroy\""),
        "{error}"
    );
    assert!(error.contains("did you mean \"memory\"?"), "{error}");
}

#[test]
fn a_wrong_value_names_where_it_stands() {
    let folder = Folder::new("value");
    let file = folder.file("tiderace.toml", "\nsegment = \"1MiB\"\n");
    let file = file.display().to_string();
    let error = run(&["serve", "--config", &file]).refused(60);
    assert!(
        error.contains("tiderace.toml:2: segment = \"1MiB\" is out of bounds: 4MiB to 2GiB"),
        "{error}"
    );
    let output = program()
        .args(["serve", "--config", &file])
        .env("TIDERACE_SEGMENT", "x")
        .output();
    let error = String::from_utf8(output.expect("runs").stderr).expect("text");
    assert!(
        error.contains("environment TIDERACE_SEGMENT: segment = \"x\""),
        "{error}"
    );
    let error = run(&["serve", "--config", "absent.toml"]).refused(60);
    assert!(
        error.contains("cannot read the configuration file absent.toml"),
        "{error}"
    );
}

#[test]
fn printing_the_configuration_starts_nothing() {
    let folder = Folder::new("print");
    let dir = folder.join("data");
    let printed = serve(&dir, &["--print-config"]).ok();
    assert!(
        printed.contains("segment = \"4MiB\"") && printed.contains("# flag --segment"),
        "{printed}"
    );
    assert!(!dir.exists());
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let folder = Folder::new("in-use");
    let node = Node::start(&folder.join("data"));
    let error = serve(&folder.join("data"), &[]).refused(61);
    assert!(error.contains("in use by another process"), "{error}");
    drop(node);
}

#[test]
fn a_data_directory_that_is_no_directory_is_refused() {
    let folder = Folder::new("no-directory");
    let path = folder.file("data", "");
    let error = serve(&path, &[]).refused(62);
    assert!(error.contains("what to do"), "{error}");
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused() {
    let folder = Folder::new("newer");
    folder.file("layout", "version = 9\n");
    let error = serve(folder.path(), &[]).refused(63);
    assert!(error.contains("layout version 9"), "{error}");
}

#[test]
fn a_damaged_journal_is_refused_and_named() {
    let folder = Folder::new("damaged");
    let dir = folder.join("data");
    let node = Node::start(&dir);
    node.signal("TERM");
    assert_eq!(node.wait().0, Some(0));
    let superblock = dir.join("shard-0001/superblock");
    let bytes = std::fs::read(&superblock).expect("a superblock");
    std::fs::write(&superblock, vec![0x5a; bytes.len()]).expect("own directory");
    let error = serve(&dir, &[]).refused(64);
    assert!(
        error.contains("shard 1") && error.contains("superblock"),
        "{error}"
    );
    assert!(
        error.contains("copy the directory away before anything else"),
        "{error}"
    );
    // Refusing changed nothing: with the bytes back it starts.
    std::fs::write(&superblock, bytes).expect("own directory");
    drop(Node::start(&dir));
}

#[test]
fn another_number_of_shards_is_refused() {
    let folder = Folder::new("differs");
    let dir = folder.join("data");
    drop(Node::start(&dir));
    let error = serve(&dir, &["--shards", "3"]).refused(65);
    assert!(
        error.contains("made with 2 shards, and 3 are asked for"),
        "{error}"
    );
}

#[test]
fn a_taken_port_is_refused_before_anything_else() {
    let folder = Folder::new("port");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    for flag in ["--listen", "--shard-listen", "--admin-listen"] {
        let error = serve(&folder.join("data"), &[flag, &taken]).refused(66);
        assert!(
            error.contains(&format!("= {taken} is taken by another process")),
            "{error}"
        );
    }
}

#[test]
fn dev_stays_on_this_machine() {
    let error = run(&["dev", "--listen", "0.0.0.0:0", "--advertise", "127.0.0.1"]).refused(60);
    assert!(error.contains("stays on this machine"), "{error}");
}

#[test]
fn commands_without_a_node_say_how_to_get_one() {
    // A port that was free a moment ago and that nobody listens on.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");
    let error = run(&["stream", "ls", "--server", &nobody.to_string()]).refused(20);
    assert!(
        error.contains("no node answers") && error.contains("tiderace dev"),
        "{error}"
    );
    let error = run(&[
        "-o",
        "json",
        "stream",
        "ls",
        "--server",
        &nobody.to_string(),
    ])
    .refused(20);
    let object: serde_json::Value = serde_json::from_str(&error).expect("one JSON object");
    assert_eq!(object["exit_code"], 20);
}
