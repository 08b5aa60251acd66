//! The rounds: for each workload every runtime in turn, each measurement with a server of its own that was just started,
//! so that nothing of one is left when the next runs. The order turns with the rounds, so that none is always first after
//! a pause. A runtime that does not start is left out with its reason; one that fails under load ends up in the report as
//! failed, and the comparison fails with it.

use crate::CompareArguments;
use crate::commit::{AlignedVec, CHUNK_BYTES_MAX, Chunk};
use crate::environment::{Environment, cpu_seconds, thread_cpu_seconds};
use crate::load::{self, Usage, Workload};
use crate::report::{Measured, Report};
use crate::servers::{FILE, Runtime};
use rustix::fs::OFlags;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Our folder in the directory that was given.
const FOLDER: &str = "runtimes-compared";
/// A server that has not said its address by then does not start.
const START_WAIT: Duration = Duration::from_secs(30);
/// Not measured: connections, caches, the processor's clock.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a server said last is kept up to here.
const STDERR_BYTES_MAX: u64 = 16 * 1024;

/// Runs the comparison and prints its report.
///
/// # Errors
/// It cannot run here, or a runtime failed under load.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(), String> {
    let allowed = tiderace_io::pin::allowed().map_err(|error| format!("cores: {error}"))?;
    let server_cpu = arguments.server_cpu.or(allowed.first().copied());
    let client_cpu = arguments.client_cpu.or(allowed.get(1).copied());
    let (Some(server_cpu), Some(client_cpu)) = (server_cpu, client_cpu) else {
        return Err(
            "servers and client need a core each: this process may use only one".to_owned(),
        );
    };
    if !(0.1..=600.0).contains(&arguments.seconds) {
        return Err("--seconds takes 0.1 to 600".to_owned());
    }
    let folder = Folder::make(&arguments.dir, arguments.file_mib << 20)?;
    let environment = Environment::read(&folder.0);
    let bench = Bench {
        dir: folder.0.clone(),
        file_bytes: arguments.file_mib << 20,
        writes_max: arguments.writes_max,
        fdatasync: arguments.fdatasync,
        server_cpu,
        measured: Duration::from_secs_f64(arguments.seconds),
    };
    tiderace_io::pin::to(client_cpu).map_err(|error| format!("core {client_cpu}: {error}"))?;
    let mut report = Report::new(
        environment,
        arguments.seconds,
        arguments.writes_max,
        arguments.fdatasync,
    );
    let mut runtimes = Vec::new();
    for runtime in Runtime::ALL {
        // Our own is what the others are measured by.
        if runtime != Runtime::Ours && !arguments.runtimes.contains(&runtime) {
            continue;
        }
        match bench.start(runtime) {
            Ok(_) => runtimes.push(runtime),
            Err(reason) => {
                eprintln!("{runtime} is left out: {reason}");
                report.left_out(runtime, reason);
            }
        }
    }
    for round in 0..arguments.rounds as usize {
        for workload in Workload::ALL {
            for turn in 0..runtimes.len() {
                let runtime = runtimes[(round + turn) % runtimes.len()];
                if report.has_failed(runtime) {
                    continue;
                }
                match bench.measure(runtime, workload) {
                    Ok(measured) => {
                        eprintln!(
                            "round {} of {}: {workload}: {runtime}: {}",
                            round + 1,
                            arguments.rounds,
                            measured.line(workload)
                        );
                        report.measured(round, workload, runtime, measured);
                    }
                    Err(reason) => {
                        eprintln!("{runtime} failed in {workload}: {reason}");
                        report.failed(runtime, format!("in {workload}: {reason}"));
                    }
                }
            }
        }
    }
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        fs::write(path, report.json())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if report.any_failed() {
        return Err("a runtime failed under load; see above".to_owned());
    }
    Ok(())
}

struct Bench {
    dir: PathBuf,
    file_bytes: u64,
    writes_max: u8,
    fdatasync: bool,
    server_cpu: usize,
    measured: Duration,
}

impl Bench {
    fn start(&self, runtime: Runtime) -> Result<(Server, SocketAddr), String> {
        let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let name = clap::ValueEnum::to_possible_value(&runtime).ok_or("no such runtime")?;
        let mut child = Command::new(program)
            .args(["serve", "--runtime", name.get_name()])
            .args(["--file-bytes", &self.file_bytes.to_string()])
            .args(["--writes-max", &self.writes_max.to_string()])
            .args(["--cpu", &self.server_cpu.to_string()])
            .args(self.fdatasync.then_some("--fdatasync"))
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        let (says, said) = mpsc::channel();
        let out = child.stdout.take();
        thread::spawn(move || {
            let mut line = String::new();
            if let Some(out) = out {
                // An end without a line, or what is no address, is told as well.
                let _ = BufReader::new(out).read_line(&mut line);
            }
            let _ = says.send(line);
        });
        let mut server = Server(child);
        let line = said.recv_timeout(START_WAIT).unwrap_or_default();
        match line.trim().strip_prefix("listening ").map(str::parse) {
            Some(Ok(address)) => Ok((server, address)),
            Some(Err(_)) | None => Err(server.last_words()),
        }
    }

    fn measure(&self, runtime: Runtime, workload: Workload) -> Result<Measured, String> {
        let (mut server, address) = self.start(runtime)?;
        let pid = server.0.id();
        let usage = || Usage {
            server_cpu_seconds: cpu_seconds(pid).unwrap_or(f64::NAN),
            client_cpu_seconds: thread_cpu_seconds().unwrap_or(f64::NAN),
        };
        load::run(address, workload, WARM_UP, self.measured, usage)
            .map(|seen| Measured::of(&seen))
            .map_err(|reason| format!("{reason}; the server said: {}", server.last_words()))
    }
}

/// A server's process. It ends when this goes.
struct Server(Child);

impl Server {
    /// Ends it, and says what it said last, or how it ended.
    fn last_words(&mut self) -> String {
        let ended = self.0.try_wait().ok().flatten();
        self.end();
        let mut said = Vec::new();
        if let Some(err) = self.0.stderr.take() {
            let _ = err.take(STDERR_BYTES_MAX).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let said: Vec<&str> = said.split_whitespace().collect();
        match (said.is_empty(), ended) {
            (false, _) => said.join(" "),
            (true, Some(status)) => format!("nothing, and ended with {status}"),
            (true, None) => "nothing, and did not end".to_owned(),
        }
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Our folder and the file in it, every byte of it written: a write to a fresh extent would measure the file system.
struct Folder(PathBuf);

impl Folder {
    fn make(dir: &Path, file_bytes: u64) -> Result<Self, String> {
        let path = dir.join(FOLDER);
        let said = |error| format!("{}: {error}", path.display());
        fs::create_dir_all(&path).map_err(said)?;
        let folder = Self(path.clone());
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(path.join(FILE.to_string()))
            .map_err(|error| {
                format!(
                    "{}: no direct io ({error}): take a directory on a disk",
                    path.display()
                )
            })?;
        let mut zeros = AlignedVec::new();
        zeros.append(&vec![0; CHUNK_BYTES_MAX]);
        for _ in 0..file_bytes / CHUNK_BYTES_MAX as u64 {
            file.write_all(zeros.filled()).map_err(said)?;
        }
        file.sync_all().map_err(said)?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // By name: nothing that somebody else put there goes with it.
        for name in [FILE.to_string(), "lock".to_owned()] {
            let _ = fs::remove_file(self.0.join(name));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
