//! Runs the program as people do: as a process, with arguments, an environment and exit codes. A node of a test has free
//! ports and a directory of its own, and ends with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A directory of one test, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("cargo's directory for tests can be written");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).expect("own directory");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The program without anything of the caller's environment that it would read.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiderace"));
    let ours =
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDERACE_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What one run did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program prints text");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The output of a run that must succeed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// The error of a run that must end with this code.
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self.err
    }
}

pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(
        program()
            .args(arguments)
            .output()
            .expect("the program runs"),
    )
}

/// Runs with something on standard input.
pub(crate) fn run_with_input(arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that refuses early does not read it.
    drop(stdin.write_all(input));
    drop(stdin);
    Ran::of(child.wait_with_output().expect("the program ends"))
}

/// Flags of a node that disturbs nobody, each with its value; those in `other` instead where they are there.
pub(crate) fn node_flags(dir: &Path, other: &[&str]) -> Vec<String> {
    let dir = dir.display().to_string();
    let usual = [
        ["--data-dir", &dir],
        ["--listen", "127.0.0.1:0"],
        ["--shard-listen", "127.0.0.1:0"],
        ["--admin-listen", "127.0.0.1:0"],
        ["--shards", "2"],
        ["--segment", "4MiB"],
        ["--memory", "96MiB"],
        ["--pin", "false"],
        ["--log-format", "json"],
    ];
    let kept = usual
        .iter()
        .filter(|[flag, _]| !other.contains(flag))
        .flatten();
    kept.chain(other).map(|text| (*text).to_owned()).collect()
}

/// A node that serves.
pub(crate) struct Node {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    pub(crate) server: String,
    pub(crate) admin: SocketAddr,
}

impl Node {
    /// Starts a node on `dir` and waits until it is ready.
    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = program()
            .arg("serve")
            .args(node_flags(dir, &[]))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // Whole from here on, so that a test that fails below leaves no process behind.
        let mut node = Self {
            child,
            log,
            server: String::new(),
            admin: nowhere,
        };
        let line = node.log_until("the node runs");
        let address = |name: &str| line[name].as_str().expect("an address").to_owned();
        node.server = address("server");
        node.admin = address("admin").parse().expect("an address");
        while node.get("/readyz").0 != 200 {
            std::thread::yield_now();
        }
        node
    }

    fn log_until(&mut self, message: &str) -> serde_json::Value {
        let mut said = String::new();
        loop {
            let begin = said.len();
            let read = self.log.read_line(&mut said).expect("the log is text");
            assert_ne!(read, 0, "the node ended: {said}");
            let line: serde_json::Value =
                serde_json::from_str(&said[begin..]).expect("one object per line");
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Asks the admin port.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin port listens");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .expect("a body");
        (status, body)
    }

    /// Runs a client command against this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--server", &self.server]].concat())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        run_with_input(&[arguments, &["--server", &self.server]].concat(), input)
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for the end: its code, and the rest of its log.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("the log is text");
        let status = self.child.wait().expect("the node ends");
        (status.code(), rest)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already, or the test has failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
