//! A node as an operator has it: a process with a configuration file, a log, ports and a data directory. It has an address in
//! 127.0.0.0/8 of its own, so that its fixed ports are free at every restart whatever the other tests connect to, and so
//! that a client of a dead node can never connect to itself.

use crate::program;
use crate::{HANG, scratch::Scratch};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// The line that says that a node has recovered and its threads run.
const RUNS: &str = "the node runs";

/// How a node is configured. Kept over its restarts.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where its configuration file goes.
    file: PathBuf,
    /// Where it keeps its events.
    pub data_dir: PathBuf,
    /// The address that its shards share.
    pub server: SocketAddr,
    /// The first shard's own address.
    pub first_shard: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    /// How many files it may have open; none: as many as the test.
    open_files: Option<u64>,
    /// Where it records its disk; none: it is the ordinary program.
    recording: Option<PathBuf>,
    /// Lines of its configuration file besides those.
    keys: Vec<(&'static str, String)>,
}

impl Setup {
    /// Two shards with small segments in `<scratch>/data`.
    #[must_use]
    pub fn new(scratch: &Scratch) -> Self {
        Self::at(scratch, scratch.join("data"))
    }

    /// The same with its events elsewhere.
    #[must_use]
    pub fn at(scratch: &Scratch, data_dir: PathBuf) -> Self {
        let [server, admin, first_shard] = free_addresses();
        let setup = Self {
            file: scratch.join(&format!("{}.toml", server.port())),
            data_dir,
            server,
            first_shard,
            admin,
            open_files: None,
            recording: None,
            keys: Vec::new(),
        };
        setup
            .with("shards", 2)
            .with("segment", "8MiB")
            .with("memory", "64MiB")
            .with("pin", false)
    }

    /// With this key, instead of what it was before.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.keys.retain(|(known, _)| *known != key);
        self.keys.push((key, value.to_string()));
        self
    }

    /// Without this key: its default counts.
    #[must_use]
    pub fn without(mut self, key: &'static str) -> Self {
        self.keys.retain(|(known, _)| *known != key);
        self
    }

    /// In a process that may never have more than `most` files open.
    #[must_use]
    pub fn with_open_files(mut self, most: u64) -> Self {
        self.open_files = Some(most);
        self
    }

    /// In a build that records its disk in this folder.
    #[must_use]
    pub fn recorded_in(mut self, folder: PathBuf) -> Self {
        self.recording = Some(folder);
        self
    }

    /// The address of one of its shards.
    #[must_use]
    pub fn shard(&self, shard: u16) -> SocketAddr {
        SocketAddr::new(self.first_shard.ip(), self.first_shard.port() + shard)
    }

    /// Writes the configuration file and says where.
    #[must_use]
    pub fn write(&self) -> &Path {
        let mut text = format!(
            "data_dir = {:?}\nlisten = \"{}\"\nshard_listen = \"{}\"\nadmin_listen = \"{}\"\n",
            self.data_dir, self.server, self.first_shard, self.admin
        );
        for (key, value) in &self.keys {
            writeln!(text, "{key} = {value:?}").expect("a string takes everything");
        }
        std::fs::write(&self.file, text).expect("a file in a test's directory");
        &self.file
    }
}

/// Three addresses of one host, with room for more shards above the last.
fn free_addresses() -> [SocketAddr; 3] {
    const ATTEMPTS: u32 = 64;
    const SHARDS_ABOVE: u16 = 16;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..ATTEMPTS {
        // 127.0.x.y is left to everybody else.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 61;
        let [_, b, c, d] = (number % 0x00fe_0000 + 0x0001_0000).to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(127, b, c, d.clamp(1, 254)));
        let Ok(found) = TcpListener::bind((ip, 0)) else {
            continue;
        };
        let first = found.local_addr().expect("bound").port();
        let Some(last) = first.checked_add(2 + SHARDS_ABOVE) else {
            continue;
        };
        if (first + 1..=last).all(|port| TcpListener::bind((ip, port)).is_ok()) {
            return [0, 1, 2].map(|above| SocketAddr::new(ip, first + above));
        }
    }
    panic!("no ports are free on {ATTEMPTS} loopback addresses");
}

/// What a process says, line by line.
#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    is_over: bool,
}

/// A process's output while it comes.
#[derive(Clone, Debug, Default)]
pub struct Output(Arc<(Mutex<Said>, Condvar)>);

impl Output {
    /// Collects what comes from `source` on a thread of its own, which ends with it.
    #[must_use]
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let collector = output.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source
                .read_until(b'\n', &mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                collector.note(|said| said.lines.push(text));
                line.clear();
            }
            collector.note(|said| said.is_over = true);
        });
        output
    }

    fn note(&self, change: impl FnOnce(&mut Said)) {
        let (said, changed) = &*self.0;
        change(&mut said.lock().expect("nobody panics in here"));
        changed.notify_all();
    }

    /// Waits for a line that holds `text`, or for the end. The line, if it came.
    #[must_use]
    pub fn wait_for(&self, text: &str) -> Option<String> {
        self.wait_until(text, |said| {
            let line = said.lines.iter().find(|line| line.contains(text));
            line.map(|line| Some(line.clone()))
                .or_else(|| said.is_over.then_some(None))
        })
    }

    /// Waits for the end and says everything.
    #[must_use]
    pub fn whole(&self) -> String {
        self.wait_until("the end", |said| said.is_over.then_some(()));
        self.so_far()
    }

    /// What was said until now.
    #[must_use]
    pub fn so_far(&self) -> String {
        // Also after a wait that hung: what was said is then wanted most.
        let said = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.lines.join("\n")
    }

    fn wait_until<T>(&self, what: &str, look: impl Fn(&Said) -> Option<T>) -> T {
        let (said, changed) = &*self.0;
        let begun = Instant::now();
        let mut said = said.lock().expect("nobody panics in here");
        loop {
            if let Some(found) = look(&said) {
                return found;
            }
            let left = HANG.saturating_sub(begun.elapsed());
            assert!(
                !left.is_zero(),
                "hangs: waits for {what:?} and has only\n{}",
                said.lines.join("\n")
            );
            said = changed
                .wait_timeout(said, left)
                .expect("nobody panics in here")
                .0;
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub log: String,
}

impl Ended {
    /// Asserts the exit code and that the log holds each of `words`.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{}", self.log);
        for word in words {
            assert!(self.log.contains(word), "{word:?} is in: {}", self.log);
        }
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// Its configuration.
    pub setup: Setup,
    child: Child,
    log: Output,
}

impl Node {
    /// Starts a node and waits until it has recovered.
    #[track_caller]
    #[must_use]
    pub fn start(setup: &Setup) -> Self {
        let node = Self::spawn(setup);
        assert!(
            node.log.wait_for(RUNS).is_some(),
            "the node does not start:\n{}",
            node.log.so_far()
        );
        node
    }

    /// Starts a process and waits for nothing.
    #[must_use]
    pub fn spawn(setup: &Setup) -> Self {
        let mut command = match (setup.open_files, &setup.recording) {
            (Some(most), _) => program::command_with_open_files(most),
            (None, Some(folder)) => {
                let mut command = program::command_of(program::recording());
                command.env("DISK_RECORDING", folder);
                command
            }
            (None, None) => program::command(),
        };
        let mut child = command
            .args(["serve", "--config"])
            .arg(setup.write())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Output::of(child.stderr.take().expect("piped"));
        Self {
            setup: setup.clone(),
            child,
            log,
        }
    }

    /// Starts a node that must refuse to run, and waits for its end.
    #[must_use]
    pub fn refused(setup: &Setup) -> Ended {
        Self::spawn(setup).wait()
    }

    /// Waits until it has recovered. False: it ended before.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.log.wait_for(RUNS).is_some()
    }

    /// Whether it has said so already.
    #[must_use]
    pub fn has_said_that_it_runs(&self) -> bool {
        self.log.so_far().contains(RUNS)
    }

    /// Waits for a line of its log that holds `text`. False: it ended before.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        self.log.wait_for(text).is_some()
    }

    /// `kill -9`, and its funeral.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is ours");
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        id.expect("a process has an id")
    }

    /// Waits for its end.
    #[must_use]
    pub fn wait(mut self) -> Ended {
        // The log ends with the process, and waiting for it has a bound.
        let log = self.log.whole();
        let status = self.child.wait().expect("it is ours");
        Ended { status, log }
    }

    /// Asks for an orderly end and waits for it.
    #[track_caller]
    pub fn stop(self) {
        self.terminate();
        self.wait().expect(0, &["stopped in order"]);
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.so_far()
    }

    /// Its memory in RAM, now and at most so far, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> (u64, u64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
            number
                .and_then(|number| number.parse().ok())
                .expect("a number of kB")
        };
        (kib("VmRSS:") * 1024, kib("VmHWM:") * 1024)
    }

    /// A value on its metrics page, summed over its shards.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let (_, page) = get(self.setup.admin, "/metrics");
        page.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the node's log:\n{}", self.log.so_far());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One HTTP request. The status and the body.
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(HANG)).expect("a socket");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}
