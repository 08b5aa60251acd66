//! The commands against a real node: what goes in comes out, in order, once; and the node ends as it is asked to.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use support::{Folder, Node, program, run};

fn values(tail: &str) -> Vec<&str> {
    tail.lines().collect()
}

#[test]
fn streams_are_created_listed_described_and_deleted() {
    let folder = Folder::new("streams");
    let node = Node::start(folder.path());
    assert!(node.run(&["stream", "ls"]).ok().contains("no streams"));
    let made = [
        "stream",
        "create",
        "shop/orders",
        "-p",
        "3",
        "--retention-age",
        "7d",
        "-o",
        "json",
    ];
    let object: serde_json::Value = serde_json::from_str(&node.run(&made).ok()).expect("JSON");
    assert_eq!(
        (
            &object["path"],
            &object["partitions"],
            &object["durability"]
        ),
        (&"shop/orders".into(), &3.into(), &"local".into())
    );
    assert_eq!(object["retention_age_ms"], 604_800_000);
    // Creating the same again is no error; another one of that name is.
    node.run(&made).ok();
    node.run(&["stream", "create", "shop/orders", "-p", "4"])
        .refused(22);
    let error = node.run(&["stream", "create", "bad path"]).refused(2);
    assert!(error.contains("holds ' ' as its character 4"), "{error}");
    node.run(&["stream", "create", "volatile", "-d", "memory"])
        .ok();
    let list = node.run(&["stream", "ls"]).ok();
    assert!(list.contains("memory (a crash loses it)"), "{list}");
    assert_eq!(
        node.run(&["stream", "ls", "shop/", "-o", "json"])
            .ok()
            .lines()
            .count(),
        1
    );
    let described = node
        .run(&["stream", "describe", "shop/orders", "-o", "json"])
        .ok();
    let described: serde_json::Value = serde_json::from_str(&described).expect("JSON");
    let partitions = described["partition_list"].as_array().expect("a list");
    assert!(
        partitions.len() == 3
            && partitions
                .iter()
                .all(|partition| partition["start"] == 0 && partition["end"] == 0)
    );
    let none = node.run(&["stream", "ls", "zzz"]).ok();
    assert!(none.contains("no stream begins with \"zzz\""), "{none}");
    node.run(&["stream", "delete", "shop/orders"]).ok();
    node.run(&["stream", "describe", "shop/orders"]).refused(21);
    node.run(&["stream", "delete", "shop/orders"]).refused(21);
}

#[test]
fn lines_come_back_in_order_from_wherever_one_begins() {
    let folder = Folder::new("lines");
    let node = Node::start(folder.path());
    let input: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    for input in [input.as_bytes(), b""] {
        let error = node
            .run_with_input(&["produce", "log", "-"], input)
            .refused(21);
        assert!(
            error.contains("there is no stream log") && error.contains("--create"),
            "{error}"
        );
        assert!(!error.contains("acknowledged"), "{error}");
    }
    let sent = node.run_with_input(&["produce", "log", "--create"], input.as_bytes());
    assert!(sent.err.contains("log: 1,000 acknowledged"), "{}", sent.err);
    sent.ok();
    let all = node.run(&["tail", "log", "--values"]).ok();
    assert_eq!(all, input);
    assert_eq!(
        values(&node.run(&["tail", "log", "--values", "-n", "2"]).ok()),
        ["line 998", "line 999"]
    );
    assert_eq!(
        values(
            &node
                .run(&["tail", "log", "--values", "--from", "earliest", "-n", "2"])
                .ok()
        ),
        ["line 0", "line 1"]
    );
    assert_eq!(
        values(&node.run(&["tail", "log", "--values", "--from", "998"]).ok()),
        ["line 998", "line 999"]
    );
    assert_eq!(
        node.run(&[
            "tail", "log", "--values", "--from", "1h", "-f", "-n", "1000"
        ])
        .ok(),
        input
    );
    assert_eq!(
        node.run(&["tail", "log", "--values", "--from", "latest"])
            .ok(),
        ""
    );
    assert_eq!(
        node.run(&["tail", "log", "--values", "--from", "1000"])
            .ok(),
        ""
    );
    let error = node.run(&["tail", "log", "--from", "1001"]).refused(24);
    assert!(
        error.contains("holds the offsets 0 to 999 (the next is 1000)"),
        "{error}"
    );
    node.run(&["tail", "log", "--partition", "1"]).refused(21);
    node.run(&["tail", "absent"]).refused(21);
}

#[test]
fn csv_rows_are_keyed_objects_and_a_broken_row_is_named() {
    let folder = Folder::new("csv");
    let node = Node::start(&folder.join("data"));
    node.run(&["stream", "create", "flights", "-p", "4"]).ok();
    let file = folder.file("flights.csv", "tail,dest\nN1,IAH\nN2,\"a, b\"\nN1,MIA\n");
    let file = file.display().to_string();
    node.run(&["produce", "flights", &file, "--key", "tail"])
        .ok();
    let records: Vec<serde_json::Value> = node
        .run(&["tail", "flights", "-o", "json"])
        .ok()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(records.len(), 3);
    let of_first: Vec<_> = records
        .iter()
        .filter(|record| record["key"] == "N1")
        .collect();
    assert_eq!(of_first[0]["partition"], of_first[1]["partition"]);
    assert_eq!(of_first[0]["value"], r#"{"tail":"N1","dest":"IAH"}"#);
    assert_eq!(of_first[1]["value"], r#"{"tail":"N1","dest":"MIA"}"#);
    let error = node
        .run(&["produce", "flights", &file, "--key", "tial"])
        .refused(10);
    assert!(
        error.contains("flights.csv:1") && error.contains("did you mean \"tail\"?"),
        "{error}"
    );
    let broken = folder.file("broken.csv", "tail,dest\nN3,IAH\nN4\n");
    let error = node
        .run(&["produce", "flights", &broken.display().to_string()])
        .refused(10);
    assert!(
        error.contains("broken.csv:3")
            && error.contains("flights: 1 acknowledged; go on from line 3"),
        "{error}"
    );
    // Nothing was sent: the error alone says so.
    let broken = folder.file("first.ndjson", "{\n");
    let error = node
        .run(&["produce", "flights", &broken.display().to_string()])
        .refused(10);
    assert!(
        error.contains("first.ndjson:1") && error.contains("nothing was sent"),
        "{error}"
    );
    assert!(!error.contains("acknowledged"), "{error}");
    let typed = node.run_with_input(
        &["produce", "flights", "-f", "ndjson", "-k", "id"],
        b"{\"id\":7}\n{\"id\":",
    );
    assert!(typed.refused(10).contains("standard input:2"));
    assert_eq!(
        node.run(&["tail", "flights", "--values"])
            .ok()
            .lines()
            .count(),
        5
    );
    // The last ones of all partitions, in the order in which they were appended.
    assert_eq!(
        node.run(&["tail", "flights", "--values", "-n", "1"]).ok(),
        "{\"id\":7}\n"
    );
}

#[test]
fn a_follower_gets_what_is_sent_after_it_began() {
    let folder = Folder::new("follow");
    let node = Node::start(folder.path());
    node.run(&["stream", "create", "live"]).ok();
    let mut follower = program()
        .args([
            "tail",
            "live",
            "-f",
            "--values",
            "-n",
            "0",
            "--server",
            &node.server,
        ])
        .args(["--from", "earliest"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    assert!(follower.wait().expect("nothing is wanted").success());
    let mut follower = program()
        .args(["tail", "live", "-f", "--values", "--server", &node.server])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    for text in ["one", "two"] {
        node.run_with_input(&["produce", "live"], text.as_bytes())
            .ok();
        assert_eq!(lines.next().expect("a line").expect("text"), text);
    }
    drop(lines);
    // The reader is gone: the next record ends the follower, and that is no failure.
    node.run_with_input(&["produce", "live"], b"three").ok();
    assert!(follower.wait().expect("it ends").success());
}

#[test]
fn a_signal_ends_sending_with_what_was_acknowledged() {
    let folder = Folder::new("signals");
    let node = Node::start(folder.path());
    for (stream, signal, code, output, expected) in [
        (
            "int",
            "INT",
            130,
            "table",
            "int: 2 acknowledged; go on from line 3",
        ),
        ("term", "TERM", 143, "json", r#""go_on_from_line":3"#),
    ] {
        let mut producing = program()
            .args(["produce", stream, "--create", "-o", output])
            .args(["--server", &node.server])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut input = producing.stdin.take().expect("piped");
        input.write_all(b"a\nb\n").expect("it reads");
        // The stream is there some time after the program has begun, and both records after that.
        while node.run(&["stream", "describe", stream]).code != Some(0) {
            std::thread::yield_now();
        }
        node.run(&["tail", stream, "-f", "-n", "2", "--from", "earliest"])
            .ok();
        let sent = Command::new("kill")
            .args(["-s", signal, &producing.id().to_string()])
            .status();
        assert!(sent.expect("kill is there").success());
        let ended = producing.wait_with_output().expect("it ends");
        drop(input);
        let said = String::from_utf8(ended.stderr).expect("text");
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_follower_says_when_its_node_is_gone() {
    let folder = Folder::new("gone");
    let node = Node::start(folder.path());
    node.run_with_input(&["produce", "live", "--create"], b"one\n")
        .ok();
    let mut follower = program()
        .args(["tail", "live", "-f", "--values", "--server", &node.server])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");
    let server = node.server.clone();
    drop(node);
    let mut said = BufReader::new(follower.stderr.take().expect("piped")).lines();
    assert_eq!(
        said.next().expect("a line").expect("text"),
        format!("tiderace: {server} does not answer; trying again")
    );
    follower.kill().expect("it still tries");
    follower.wait().expect("it ends");
}

#[test]
fn what_was_acknowledged_survives_kill_and_restart() {
    let folder = Folder::new("kill");
    let node = Node::start(folder.path());
    node.run_with_input(&["produce", "log", "--create"], b"kept\n")
        .ok();
    node.signal("KILL");
    assert_eq!(node.wait().0, None);
    let node = Node::start(folder.path());
    assert_eq!(node.run(&["tail", "log", "--values"]).ok(), "kept\n");
}

#[test]
fn a_signal_drains_and_the_admin_port_says_how_it_is() {
    let folder = Folder::new("drain");
    let node = Node::start(folder.path());
    assert_eq!(node.get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(node.get("/readyz"), (200, "ready\n".to_owned()));
    node.run_with_input(&["produce", "log", "--create"], b"a\nb\n")
        .ok();
    let (status, metrics) = node.get("/metrics");
    assert_eq!(status, 200);
    let appended: u64 = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("tiderace_shard_records_appended_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(appended, 2, "{metrics}");
    node.signal("TERM");
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"message\":\"stopped in order\""), "{log}");
}

#[test]
fn the_demo_loses_nothing() {
    let folder = Folder::new("demo");
    let dir = folder.join("data").display().to_string();
    let printed = run(&[
        "demo", "--once", "--json", "--dir", &dir, "--rate", "20000", "--fast", "20000",
    ])
    .ok();
    let object: serde_json::Value = serde_json::from_str(&printed).expect("one JSON object");
    for wrong in [
        "lost",
        "duplicated",
        "reordered",
        "changed",
        "offset_jumps",
        "misplaced",
    ] {
        assert_eq!(object[wrong], 0, "{printed}");
    }
    assert_eq!(object["events_sent"], 46_483);
    assert_eq!(
        (&object["events_acked"], &object["events_delivered"]),
        (&object["events_sent"], &object["events_sent"])
    );
    assert_eq!(object["durability"], "local");
    // The same directory again: the demo would count events of before.
    run(&["demo", "--once", "--dir", &dir]).refused(62);
}
