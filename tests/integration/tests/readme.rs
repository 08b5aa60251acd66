//! The README's commands, read from the README and run as they are printed: in a directory where `target/release/tiderace` is
//! the program under test, on addresses of the test's own, which the environment gives.

use integration::node::{Output, Setup, get};
use integration::program;
use integration::scratch::Scratch;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Child, Command, Stdio};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");

/// The commands of the first block that holds `word`.
fn block_with(word: &str) -> Vec<String> {
    let readme = fs::read_to_string(README).expect("a README");
    let blocks = readme.split("```console\n").skip(1);
    let block = blocks
        .map(|rest| rest.split("```").next().expect("a block ends"))
        .find(|block| block.contains(word));
    let lines = block
        .unwrap_or_else(|| panic!("a block has {word:?}"))
        .lines();
    lines
        .filter_map(|line| line.strip_prefix("$ ").map(str::to_owned))
        .collect()
}

/// A process that ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_quick_start_works_as_printed() {
    let scratch = Scratch::new("readme");
    let setup = Setup::new(&scratch);
    let folder = scratch.join("target/release");
    fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink(program::path(), folder.join("tiderace")).expect("a link");
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        program::forget_environment(&mut command);
        command
            .args(["-c", line])
            .current_dir(scratch.path())
            .env("TIDERACE_LISTEN", setup.server.to_string())
            .env("TIDERACE_SHARD_LISTEN", setup.first_shard.to_string())
            .env("TIDERACE_ADMIN_LISTEN", setup.admin.to_string())
            .env("TIDERACE_SERVER", setup.server.to_string())
            // So that it neither takes the cores of a busy host nor more ports than are known to be free.
            .env("TIDERACE_PIN", "false")
            .env("TIDERACE_SHARDS", "2")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    };
    let mut node = None;
    let mut shown = Vec::new();
    for line in block_with("tiderace dev") {
        // Comments are the shell's business; the address in a URL is not.
        let line = line.replace("127.0.0.1:7440", &setup.admin.to_string());
        println!("$ {line}");
        if line.starts_with("cargo build") {
            continue;
        }
        let command = line.split('#').next().expect("a first part").trim_end();
        if let Some(command) = command.strip_suffix('&') {
            let mut child = shell(&format!("exec {command}"))
                .spawn()
                .expect("it starts");
            let said = Output::of(child.stdout.take().expect("piped"));
            node = Some((Background(child), said.clone()));
            assert!(said.wait_for("listens on").is_some(), "it does not run");
            assert!(said.wait_for("Ctrl-C stops it").is_some());
            continue;
        }
        if command.starts_with("curl") && Command::new("curl").arg("-V").output().is_err() {
            shown.push((line, get(setup.admin, "/metrics").1));
            continue;
        }
        let done = shell(command).output().expect("it starts");
        let output = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{line}: {:?} {output}", done.status);
        shown.push((line, output));
    }
    let shows = |command: &str, words: &[&str]| {
        let found = shown.iter().find(|(line, _)| line.contains(command));
        let (line, output) = found.unwrap_or_else(|| panic!("the README has {command:?}"));
        for word in words {
            assert!(
                output.contains(word),
                "{line} shows {word:?}, not\n{output}"
            );
        }
    };
    shows("stream create", &["shop/orders"]);
    shows("tail", &["ada", "bob", "{\"id\":1", "{\"id\":2"]);
    shows("stream ls", &["shop/orders", "4"]);
    shows("curl", &["tiderace_"]);

    let (mut node, _) = node.expect("the README starts a node");
    let id = i32::try_from(node.0.id()).ok().and_then(Pid::from_raw);
    kill_process(id.expect("an id"), Signal::TERM).expect("it is ours");
    assert!(node.0.wait().expect("it is ours").success());
}

#[test]
fn the_demo_loses_nothing() {
    let commands = block_with("-- demo");
    assert!(commands[0].starts_with("cargo run --release -- demo"));
    let readme = fs::read_to_string(README).expect("a README");
    assert!(readme.contains("`cargo run --release -- demo --once --json`"));
    let run = program::run(&["demo", "--once", "--json"]);
    assert_eq!(run.code, Some(0), "{}", run.errors);
    let report: serde_json::Value = serde_json::from_str(&run.output).expect("one JSON object");
    let number = |name: &str| {
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {report}"))
    };
    let sent = number("events_sent");
    assert!(sent >= 26_483, "{report}");
    assert_eq!(
        (number("events_acked"), number("events_delivered")),
        (sent, sent)
    );
    for none in ["lost", "duplicated", "reordered"] {
        assert_eq!(number(none), 0, "{none}: {report}");
    }
    assert_eq!(report["durability"], "local");
    for latency in ["ack_us", "delivery_us"] {
        for quantile in ["p50", "p99", "p999"] {
            assert!(
                report[latency][quantile].is_number(),
                "{latency}.{quantile}: {report}"
            );
        }
    }
}
