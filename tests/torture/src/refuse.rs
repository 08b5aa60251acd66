//! What a node needs and does not get: a directory that it may write, a kernel that lets it have a ring, enough descriptors, a
//! directory that nobody else has. Each is refused with an exit code of its own and a sentence that names what is missing,
//! nothing that is kept is changed, and with what it needs the node starts and serves everything.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded};
use crate::directory::Directory;
use crate::settled::{self, Settled};
use integration::disks::ReadOnlyView;
use integration::node::{Ended, Node, Setup};
use integration::program;
use integration::scratch::Scratch;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends with this when it cannot take a system call away from itself.
const UNABLE: i32 = 99;

/// A filter that answers `io_uring_setup` (425 on every architecture) with EPERM, and lets everything else pass, then the
/// program: what a container's profile does. Loads the number of the call; jumps; refuses; allows.
const WITHOUT_RING: &str = r"
import ctypes, os, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *step) for step in steps))
program = struct.pack('<HxxxxxxQ', len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program, 0, 0) != 0:
    sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
";

/// Runs it.
///
/// # Errors
/// What must not have come, and what this machine cannot refuse.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let progress = Progress::new("refuse", tell);
    let mut summary = Summary::default();
    let at = AtomicU64::new(0);
    let made = guarded(&at, || settled::make(&mut plan.choices(u64::MAX)));
    let settled = made.map_err(Failure::Violated)?;
    let mut missing = Vec::new();
    for cycle in plan.numbers() {
        at.store(cycle, Ordering::Relaxed);
        let ran = guarded(&at, || one(&settled, &mut summary));
        missing = ran.map_err(Failure::Violated)?;
        summary.cycles += 1;
        progress.step(&summary);
    }
    if missing.is_empty() {
        Ok(summary)
    } else {
        Err(Failure::Unavailable(format!(
            "{}; what can be refused here was: {summary}",
            missing.join("; ")
        )))
    }
}

/// One of each. Says what this machine cannot refuse.
fn one(settled: &Settled, summary: &mut Summary) -> Vec<String> {
    let scratch = Scratch::new("torture-refuse");
    let data_dir = scratch.join("data");
    let kept = &settled.last().directory;
    kept.write(&data_dir);
    let setup = settled::setup(&scratch, &data_dir);
    let mut missing = Vec::new();

    let mut refused = |what: &str, ended: &Ended, code: i32, words: &[&str]| {
        ended.expect(code, words);
        assert!(
            Directory::read(&data_dir, Some(kept)) == *kept,
            "a start without {what} changed what is kept:\n{}",
            ended.log
        );
        summary.add(format!("refused: {what}"), 1);
    };
    match ReadOnlyView::new(&data_dir, scratch.join("view")) {
        Some(view) => {
            let at = settled::setup(&scratch, view.path());
            let words = ["cannot be used", "read-only"];
            refused(
                "a directory that can be written",
                &Node::refused(&at),
                62,
                &words,
            );
        }
        None => missing.push("a read-only view cannot be mounted: it needs root".to_owned()),
    }
    match without_ring(&setup) {
        Some(ended) => refused("io_uring", &ended, 74, &["io_uring"]),
        None => missing.push(
            "io_uring cannot be taken away from a process: it needs python3 and seccomp".to_owned(),
        ),
    }
    let few = setup.clone().with_open_files(16);
    refused("descriptors", &Node::refused(&few), 68, &["open files"]);

    let node = Node::start(&setup);
    let second = settled::setup(&scratch, &data_dir);
    Node::refused(&second).expect(61, &["is in use by another process"]);
    summary.add("refused: a directory of its own", 1);
    node.stop();

    // A file where the directory should be is left as it is.
    let file = scratch.join("file");
    fs::write(&file, "no directory").expect("a file of ours");
    for at in [file.clone(), file.join("data")] {
        let at = settled::setup(&scratch, &at);
        Node::refused(&at).expect(62, &["cannot be used", "no directory"]);
    }
    assert_eq!(fs::read(&file).expect("still there"), b"no directory");
    summary.add("refused: a directory", 1);
    missing
}

/// A start in a process that may not set up a ring. None: none can be made.
fn without_ring(setup: &Setup) -> Option<Ended> {
    let mut command = Command::new("python3");
    program::forget_environment(&mut command);
    let done = command
        .args(["-c", WITHOUT_RING])
        .arg(program::path())
        .args(["serve", "--config"])
        .arg::<&Path>(setup.write())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    (done.status.code() != Some(UNABLE)).then(|| Ended {
        status: done.status,
        log: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}
