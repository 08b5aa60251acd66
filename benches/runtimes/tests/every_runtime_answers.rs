//! The whole program, once and briefly: every runtime serves every workload, or says why it does not start here. It writes
//! below cargo's own folder, needs two cores and a file system with direct io, and asserts no figure.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn every_runtime_serves_every_workload_or_says_why_not() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let json = dir.join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_runtimes"))
        .args(["--rounds", "1", "--seconds", "0.1", "--file-mib", "8"])
        .arg("--dir")
        .arg(dir)
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report = std::fs::read_to_string(&json).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let of = |list: &str, runtime: &str| {
        let all = report[list].as_array().expect("a list");
        all.iter().filter(|it| it["runtime"] == runtime).count()
    };
    for runtime in ["ours", "glommio", "tokio-uring", "epoll"] {
        let runs = of("runs", runtime);
        assert!(
            runs == 5 || of("left_out", runtime) == 1,
            "{runtime}: {runs} runs\n{said}"
        );
    }
    assert_eq!(of("runs", "ours"), 5, "{said}");
    assert!(report["runs"].as_array().is_some_and(|runs| {
        runs.iter()
            .all(|run| run["frames_per_second"].as_f64() > Some(0.0))
    }));
    let left: Vec<_> = std::fs::read_dir(dir.join("runtimes-compared"))
        .into_iter()
        .flatten()
        .collect();
    assert!(left.is_empty(), "files are left behind: {left:?}");
}
