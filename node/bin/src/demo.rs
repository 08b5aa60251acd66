//! `demo`: the whole way of real events on one node, in numbers that can be believed. Starts a node in this process, sends
//! a data set through it over loopback sockets, verifies every record that a live subscriber gets, and prints what it
//! measured. Nothing is switched off for it: the same shards, the same journal, each batch synced before its
//! acknowledgement.

mod data;
mod report;
mod traffic;
mod verify;

use crate::cli;
use crate::config::{Config, FlagValues, LogFormat, Settings};
use crate::directory;
use crate::exit::{Exit, Failure};
use crate::node_command::{set, try_next};
use crate::output::{Format, Output};
use crate::serve::{self, Running};
use crate::{logging, session};
use data::DataSet;
use report::Report;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiderace_io::{entropy, pin};
use traffic::Plan;

/// Journal files of the demo: small, because a first start writes several of them full of zeros.
const SEGMENT: &str = "32MiB";
/// How long the demo waits for these files before it measures all the same.
const PREPARED_WITHIN: Duration = Duration::from_secs(15);

/// Where the demo's events go.
pub(crate) const STREAM: &str = "demo/departures";

pub(crate) fn run(command: &cli::Demo, format: Format) -> Result<(), Failure> {
    logging::begin_with("warn", LogFormat::Text);
    let data = Arc::new(match &command.file {
        Some(path) => DataSet::of_file(path)?,
        None => DataSet::embedded()?,
    });
    let folder = Folder::make(command.dir.as_deref())?;
    let node = serve::start(&config(command, &folder.path)?)?;
    node.wait_ready()?;
    node.wait_quiet(PREPARED_WITHIN)?;
    keep_off_the_shards(node.shards);
    let plan = Plan::of(&data, command);
    say(
        format,
        &format!("{}; key: the aircraft\n{}", data.name, plan.words()),
    );
    let measured = session::block_on(traffic::run(&data, plan, node.server))?;
    let report = Report::of(&measured, plan, &data, &node);
    let mut output = Output::new();
    match format {
        Format::Json => output.json(&report)?,
        Format::Table => report
            .lines()
            .iter()
            .try_for_each(|line| output.line(line))?,
    }
    output.flush()?;
    let verdict = report.failure();
    if command.once || verdict.is_some() {
        let keeps = verdict.is_some();
        node.stop();
        let ended = node.wait();
        if keeps {
            folder.keep();
        }
        return verdict.map_or(ended, Err);
    }
    leave_running(node, format, &folder)
}

/// Gives the clients, which spin in the paced phase, a core that no shard is pinned to. Where there is none they share.
fn keep_off_the_shards(shards: u16) {
    let cores = pin::allowed().unwrap_or_default();
    if let Some(core) = cores.get(usize::from(shards)..).and_then(<[usize]>::last) {
        // An optimisation of the measurement: without it the numbers are worse, not wrong.
        drop(pin::to(*core));
    }
}

/// Says what can be tried now, and waits for the node to be stopped.
fn leave_running(node: Running, format: Format, folder: &Folder) -> Result<(), Failure> {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "tiderace".to_owned());
    let kept = if folder.is_temporary {
        "is removed with it"
    } else {
        "stays"
    };
    say(
        format,
        &format!(
            "\nThe node still runs. Try, in another terminal:\n  \
             # the last events\n  \
             {program} tail {STREAM} -n 5 --server {server}\n  \
             {program} stream describe {STREAM} --server {server}\n{more}\n\
             Ctrl-C stops it; its data {kept}:\n  {dir}",
            server = node.server,
            more = try_next("shop/orders", node.server, node.admin, false),
            dir = folder.path.display(),
        ),
    );
    node.wait()
}

/// Tells a person how it goes. A program reads the one object on standard output and nothing else.
fn say(format: Format, words: &str) {
    let mut error = io::stderr();
    let written = match format {
        Format::Table => writeln!(io::stdout(), "{words}"),
        Format::Json => writeln!(error, "{words}"),
    };
    // A reader that went away does not stop a measurement.
    drop(written);
}

fn config(command: &cli::Demo, dir: &Path) -> Result<Config, Failure> {
    let cores = pin::allowed().map_or(1, |cores| cores.len());
    // The clients work on this host too: leave them half of it.
    let shards = command
        .shards
        .map_or_else(|| (cores / 2).clamp(1, 64), usize::from);
    let any_port = || Some("127.0.0.1:0".to_owned());
    let mut flags = FlagValues::default();
    set(&mut flags, "data_dir", Some(dir.display().to_string()));
    set(&mut flags, "shards", Some(shards.to_string()));
    set(&mut flags, "segment", Some(SEGMENT.to_owned()));
    set(&mut flags, "listen", any_port());
    set(&mut flags, "shard_listen", any_port());
    set(&mut flags, "admin_listen", any_port());
    Settings::resolve(&flags, |_| None, None).check()
}

/// The directory of one demo.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    /// The given directory, which must hold nothing, or a new one on a disk.
    fn make(given: Option<&Path>) -> Result<Self, Failure> {
        let unusable = |path: &Path, error: &io::Error| {
            Failure::new(
                Exit::DirectoryUnusable,
                format!(
                    "the demo cannot use the directory {}: {error}",
                    path.display()
                ),
            )
            .hint("name another one with --dir")
        };
        if let Some(path) = given {
            fs::create_dir_all(path).map_err(|error| unusable(path, &error))?;
            let mut entries = fs::read_dir(path).map_err(|error| unusable(path, &error))?;
            if entries.next().is_some() {
                let what = format!("the demo's directory {} is not empty", path.display());
                return Err(Failure::new(Exit::DirectoryUnusable, what).hint(
                    "the demo counts every event of its stream: name a new or an empty directory",
                ));
            }
            return Ok(Self {
                path: path.to_owned(),
                is_temporary: false,
            });
        }
        let parent = parent_on_disk([
            std::env::temp_dir(),
            PathBuf::from("/var/tmp"),
            PathBuf::from("."),
        ]);
        let path = parent.join(format!("tiderace-demo-{:016x}", entropy::random_u64()));
        fs::create_dir(&path).map_err(|error| unusable(&path, &error))?;
        Ok(Self {
            path,
            is_temporary: true,
        })
    }

    /// Leaves the directory where it is.
    fn keep(mut self) {
        self.is_temporary = false;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed is in the directory for temporary files and goes with them.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// The first that is no memory: a demo of durability wants a disk. The first at all when there is none; the report says
/// what it is.
fn parent_on_disk(candidates: [PathBuf; 3]) -> PathBuf {
    let is_disk = |path: &&PathBuf| {
        directory::file_system(path).is_some_and(|kind| !directory::is_memory(&kind))
    };
    candidates
        .iter()
        .find(is_disk)
        .unwrap_or(&candidates[0])
        .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_given_one_stays() {
        let temporary = Folder::make(None).expect("a writable disk");
        let path = temporary.path.clone();
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());
        let given = std::env::temp_dir().join(format!("tiderace-demo-test-{}", std::process::id()));
        drop(Folder::make(Some(&given)).expect("a new directory"));
        assert!(given.is_dir());
        fs::write(given.join("something"), "").expect("written");
        assert_eq!(
            Folder::make(Some(&given))
                .map(drop)
                .expect_err("not empty")
                .exit,
            Exit::DirectoryUnusable
        );
        fs::remove_dir_all(&given).expect("removed");
    }
}
