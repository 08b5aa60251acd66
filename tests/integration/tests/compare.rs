//! `loadgen compare` from its command line to what it writes: against the real program, with an adapter that answers from a
//! file, so that no other system has to be here. A peer that is absent is skipped with its reason; one that refuses
//! anything fails the comparison, and what was measured of the others is still there.

use integration::program;
use integration::scratch::Scratch;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Those that docs/loadgen.md lists.
const WORKLOADS: usize = 5;

/// An adapter that drives everything and gives this report of every run.
fn adapter(scratch: &Scratch, report: &Value, code: i32) -> PathBuf {
    let written = scratch.join("written.json");
    fs::write(&written, report.to_string()).expect("a report");
    let path = scratch.join("adapter");
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = systems ]; then printf 'nats\\nkafka\\niggy\\n'; exit 0; fi\n\
         echo \"$*\" >>{:?}\n\
         for word in \"$@\"; do case \"$word\" in --json=*) cp {written:?} \"${{word#--json=}}\";; esac; done\n\
         exit {code}\n",
        scratch.join("asked")
    );
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may run");
    path
}

fn report(refused: Value) -> Value {
    serde_json::json!({
        "workload": { "batch_records": 1, "record_bytes": 1000 },
        "rates": { "records_per_s": 5000.0, "missed": false },
        "batches": { "acked": 5000, "refused": refused },
        "response_ns": { "p50": 200_000, "p99": 900_000, "p999": null },
        "generator": { "share": 0.5, "was_the_limit": false },
        "server": null,
        "warnings": [],
        "failed": false,
    })
}

/// The shortest comparison there is: one round on journals as they are, with a broker that only listens.
fn compare(scratch: &Scratch, adapter: &PathBuf, broker: &TcpListener) -> (Output, Value) {
    let json = scratch.join("compare.json");
    let broker = broker.local_addr().expect("it listens").to_string();
    let mut command = Command::new(program::loadgen());
    program::forget_environment(&mut command);
    let output = command
        .args([
            "compare",
            "--rounds",
            "1",
            "--duration",
            "0.3",
            "--warmup",
            "0.1",
        ])
        .args([
            "--rate",
            "200",
            "--settling-runs-max",
            "0",
            "--kafka",
            &broker,
        ])
        .args(["--nats-server", "/nowhere/nats-server"])
        .arg("--peers")
        .arg(adapter)
        .arg("--tiderace")
        .arg(program::path())
        .arg("--dir")
        .arg(scratch.path())
        .arg("--json")
        .arg(&json)
        .arg("--plot")
        .arg(scratch.join("compare.svg"))
        .output()
        .expect("it starts");
    let text = fs::read_to_string(&json)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output, serde_json::from_str(&text).expect("JSON"))
}

fn reason<'a>(comparison: &'a Value, system: &str) -> &'a str {
    let skipped = comparison["skipped"].as_array().expect("a list");
    let skipped = skipped.iter().find(|skipped| skipped["system"] == system);
    skipped.expect("it was skipped")["reason"]
        .as_str()
        .expect("a sentence")
}

#[test]
fn peers_that_are_there_are_measured_and_the_others_are_skipped_with_the_reason() {
    let scratch = Scratch::new("compare");
    let broker = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let adapter = adapter(&scratch, &report(serde_json::json!({})), 0);
    let (output, comparison) = compare(&scratch, &adapter, &broker);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(reason(&comparison, "nats").contains("/nowhere/nats-server"));
    assert!(reason(&comparison, "redis").contains("built without it"));
    assert!(reason(&comparison, "iggy").contains("--iggy"));
    assert!(said.contains("skipped"), "{said}");
    let rows = comparison["rows"].as_array().expect("rows");
    let of = |system: &str| rows.iter().filter(|row| row["system"] == system).count();
    assert_eq!((of("tiderace"), of("kafka")), (WORKLOADS, WORKLOADS));
    assert_eq!(rows.len(), 2 * WORKLOADS);
    for row in rows {
        let rate = row["median"]["records_per_s"].as_f64();
        assert!(rate.is_some_and(|rate| rate > 0.0), "{row}");
    }
    // Each run of the adapter was told its workload and the server.
    let asked = fs::read_to_string(scratch.join("asked")).expect("it was asked");
    let address = broker.local_addr().expect("it listens");
    assert_eq!(asked.lines().count(), WORKLOADS);
    assert!(asked.lines().all(|line| {
        line.starts_with("run --system=kafka") && line.contains(&format!("--server={address}"))
    }));
    assert_eq!(asked.matches("--rate=200").count(), 1);
    let svg = fs::read_to_string(scratch.join("compare.svg")).expect("a plot");
    assert!(svg.contains("Kafka protocol?") && svg.ends_with("</svg>\n"));
    // Nothing of it is left.
    let left: Vec<_> = fs::read_dir(scratch.path())
        .expect("a directory")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_peer_that_refuses_anything_fails_the_comparison_loudly() {
    let scratch = Scratch::new("compare-refused");
    let broker = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let refusing = report(serde_json::json!({ "the disk is full": 3 }));
    let adapter = adapter(&scratch, &refusing, 1);
    let (output, comparison) = compare(&scratch, &adapter, &broker);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAILED") && said.contains("3 refused"),
        "{said}"
    );
    let failures = comparison["failures"].as_array().map(Vec::len);
    assert_eq!(failures, Some(WORKLOADS));
    let rows = comparison["rows"].as_array().expect("rows");
    for row in rows {
        let measured = !row["median"].is_null();
        assert_eq!(measured, row["system"] == "tiderace", "{row}");
    }
}

#[test]
fn without_adapters_it_says_how_to_build_them() {
    let scratch = Scratch::new("compare-alone");
    let output = Command::new(program::loadgen())
        .args(["compare", "--peers", "/nowhere/peers", "--tiderace"])
        .arg(program::path())
        .arg("--dir")
        .arg(scratch.path())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("benches/peers/Cargo.toml"), "{said}");
}
