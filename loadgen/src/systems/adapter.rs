//! The adapter: a program that runs one workload against one other system with that system's own client and writes the
//! report of it. It is a child of its own for each run, bounded in time and ended by its id. What it must understand:
//! `systems` prints the names of those that it can drive, one a line; `run` takes the flags of a [`Job`], writes its report
//! and ends with 0, or with 1 when anything was refused or lost.

use super::System;
use crate::compare::server::program;
use crate::peer::Job;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What an adapter may take besides its run: it deletes and makes streams.
const EXTRA_MAX: Duration = Duration::from_secs(60);
/// What it may take to say what it can drive.
const LIST_MAX: Duration = Duration::from_secs(20);
/// How often a child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of what a child said, in a message.
const SAID_CHARS_MAX: usize = 2000;

/// The program, or why there is none.
#[derive(Clone, Debug)]
pub(super) struct Adapter(Result<(PathBuf, Vec<String>), String>);

impl Adapter {
    /// The program given, or the one called `peers` beside this program.
    pub(super) fn find(given: Option<&Path>) -> Self {
        let found = program(given, "peers").map_err(|_| {
            "the adapters are not built: cargo build --release --manifest-path benches/peers/Cargo.toml \
             --target-dir target, or name them with --peers"
                .to_owned()
        });
        Self(found.and_then(|path| {
            let names = list(&path)?;
            Ok((path, names))
        }))
    }

    /// Whether it can drive a system.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn drives(&self, system: System) -> Result<(), String> {
        let (_, names) = self.0.as_ref().map_err(Clone::clone)?;
        if names.iter().any(|name| name == system.name()) {
            return Ok(());
        }
        Err(format!(
            "the adapters were built without it: add --features {system} to their cargo build"
        ))
    }

    /// Runs one job and gives its report.
    ///
    /// # Errors
    /// A sentence for people: it did not come to its end, or wrote no report.
    pub(super) fn run(&self, job: &Job) -> Result<serde_json::Value, String> {
        let (path, _) = self.0.as_ref().map_err(Clone::clone)?;
        let said = job.json.with_extension("log");
        let _ = std::fs::remove_file(&job.json);
        let log = File::create(&said).map_err(|error| error.to_string())?;
        let child = Command::new(path)
            .arg("run")
            .args(job.words())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", path.display()))?;
        let most = job.warmup + job.duration + job.patience * 2 + EXTRA_MAX;
        let ended = wait(child, most);
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        let tail: String = text.trim().chars().take(SAID_CHARS_MAX).collect();
        let code = ended.map_err(|error| format!("{error}: {tail}"))?;
        // A run with refusals ends with 1 and has a report that names them.
        let report = std::fs::read_to_string(&job.json)
            .map_err(|_| format!("the adapter wrote no report (exit code {code:?}): {tail}"))?;
        let mut report: serde_json::Value = serde_json::from_str(&report)
            .map_err(|error| format!("the adapter's report is no JSON: {error}"))?;
        if code != Some(0) && report["failed"] != serde_json::Value::Bool(true) {
            report["failed"] = true.into();
            report["warnings"] =
                serde_json::json!([format!("the adapter ended with {code:?}: {tail}")]);
        }
        Ok(report)
    }
}

fn list(path: &Path) -> Result<Vec<String>, String> {
    let wrong = |error: String| format!("{} does not say what it drives: {error}", path.display());
    let child = Command::new(path)
        .arg("systems")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| wrong(error.to_string()))?;
    let output = child.stdout.take();
    if wait(child, LIST_MAX).map_err(wrong)? != Some(0) {
        return Err(wrong("it failed".to_owned()));
    }
    // A few names: they fit the pipe, so it could end before they were read.
    let text = output.map(std::io::read_to_string).transpose();
    let text = text.map_err(|error| wrong(error.to_string()))?;
    let text = text.unwrap_or_default();
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// Waits for a child, so long at the most; then it is ended. Gives its exit code.
pub(super) fn wait(mut child: Child, most: Duration) -> Result<Option<i32>, String> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status.code());
        }
        if begun.elapsed() > most {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it was not done after {} s", most.as_secs()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_that_are_not_built_say_how_to_build_them() {
        let absent = Adapter::find(Some(Path::new("/nowhere/peers")));
        let reason = absent.drives(System::Nats).expect_err("absent");
        assert!(reason.contains("benches/peers/Cargo.toml"), "{reason}");
    }

    #[test]
    fn a_program_that_is_no_adapter_drives_nothing() {
        // It ends with 0 and names nothing.
        let silent = Adapter::find(Some(Path::new("/bin/true")));
        let reason = silent
            .drives(System::Kafka)
            .expect_err("it has no such name");
        assert!(reason.contains("--features kafka"), "{reason}");
        let failing = Adapter::find(Some(Path::new("/bin/false")));
        assert!(failing.drives(System::Kafka).is_err());
    }
}
