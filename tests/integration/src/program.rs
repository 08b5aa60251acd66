//! The program under test. Built by the first test that needs it, in the profile and the target folder of the tests, so that
//! a fresh clone needs no other command and a stale program is never tested. Cargo's own lock keeps test binaries that do
//! this at once apart.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Names another program to test, such as one from a package.
const OTHER: &str = "INTEGRATION_PROGRAM";

/// The program's path.
#[must_use]
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let other = std::env::var_os(OTHER);
        other.map_or_else(|| build("tiderace", "tiderace", &[]), PathBuf::from)
    })
}

/// The load generator's path.
#[must_use]
pub fn loadgen() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("loadgen", "loadgen", &[]))
}

/// The path of the program in a build that records its disk. It lies beside the ordinary one, which stays as it is.
#[must_use]
pub fn recording() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let features = ["--features", "disk-recording"];
        build("tiderace", "tiderace-recording", &features)
    })
}

/// A command of the program that knows nothing of this process's configuration.
#[must_use]
pub fn command() -> Command {
    command_of(path())
}

/// The same of another build of it.
#[must_use]
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    forget_environment(&mut command);
    command.stdin(Stdio::null());
    command
}

/// The same for a process that may never have more than `most` files open.
#[must_use]
pub fn command_with_open_files(most: u64) -> Command {
    let mut command = Command::new("sh");
    forget_environment(&mut command);
    command
        .args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh"])
        .arg(most.to_string())
        .arg(path())
        .stdin(Stdio::null());
    command
}

/// How a command of the program ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub output: String,
    /// What it said besides.
    pub errors: String,
}

/// Runs a command of the program to its end.
#[must_use]
pub fn run(arguments: &[&str]) -> Run {
    let done = command().args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Run {
        code: done.status.code(),
        output: text(&done.stdout),
        errors: text(&done.stderr),
    }
}

/// Removes what would configure the program.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDERACE_") {
            command.env_remove(name);
        }
    }
}

/// Where the tests, or the tool that uses this, were built: `<target folder>[/<triple>]/<profile>`.
#[must_use]
pub fn profile_folder() -> PathBuf {
    let executable = std::env::current_exe().expect("a test has a path");
    let tests = executable
        .ancestors()
        .find(|folder| folder.ends_with("deps"));
    tests
        .unwrap_or(&executable)
        .parent()
        .expect("cargo puts tests into <profile>/deps and programs beside that")
        .to_owned()
}

/// Builds a program of a package.
fn build(package: &str, name: &str, more: &[&str]) -> PathBuf {
    let folder = profile_folder();
    let profile = match name_of(&folder) {
        "debug" => "dev",
        other => other,
    };
    let above = folder.parent().expect("a profile lies in a target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .args(["build", "--quiet", "--package", package, "--bin"])
        .args([name, "--profile", profile])
        .args(more);
    // Between the target folder and the profile there is a triple when one was asked for. Nothing that cargo leaves in
    // the target folder tells the two apart: its tag is missing when somebody else made the folder.
    if is_triple(name_of(above)) {
        let target = above.parent().expect("a triple lies in a target folder");
        build.arg("--target-dir").arg(target);
        build.args(["--target", name_of(above)]);
    } else {
        build.arg("--target-dir").arg(above);
    }
    let built = build.output().expect("cargo can be started");
    assert!(
        built.status.success(),
        "the program does not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let program = folder.join(name);
    assert!(program.exists(), "{} was built", program.display());
    program
}

/// Whether a folder's name is the triple that this test was built for.
fn is_triple(name: &str) -> bool {
    let rest = name.strip_prefix(std::env::consts::ARCH);
    rest.is_some_and(|rest| rest.starts_with('-') && rest.contains(std::env::consts::OS))
}

fn name_of(folder: &Path) -> &str {
    folder
        .file_name()
        .and_then(|name| name.to_str())
        .expect("cargo names its folders in UTF-8")
}
