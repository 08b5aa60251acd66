//! The systems that take part: which are there, how each is started, and what each has done when it acknowledges. Those
//! that we start have a directory and a port of their own, run on the servers' core from the first round to the last,
//! each idle while another is measured, and are ended by their id. Those that are given by their address are left as
//! they are; what they keep at an acknowledgement is then what their owner has configured.

use super::Skipped;
use super::System;
use super::adapter::{self, Adapter};
use crate::cli::SystemsArguments;
use crate::compare::server::{Folder, Kind, Server, free_port, spawn_on};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);
/// How long one that is somewhere else may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long a program may take to say its version or to check its configuration.
const ASK_MAX: Duration = Duration::from_secs(20);
/// Where servers are that are not in everybody's path.
const FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether an acknowledged record is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Durable {
    /// It is.
    Yes,
    /// It is not yet: a power cut may take it.
    No,
    /// Its owner knows.
    AsConfigured,
}

/// What a system is in this comparison.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Standing {
    pub(super) system: System,
    pub(super) version: String,
    /// Where an acknowledged record is.
    pub(super) acknowledged: String,
    pub(super) durable: Durable,
    /// How a batch is sent.
    pub(super) sends: &'static str,
    /// What drives it.
    pub(super) client: &'static str,
}

impl Standing {
    /// For people.
    pub(super) fn line(&self) -> String {
        format!(
            "{}; acknowledged: {}; a batch is {}; driven by {}",
            self.version, self.acknowledged, self.sends, self.client
        )
    }
}

/// Another system that runs.
#[derive(Debug)]
pub(super) struct Peer {
    standing: Standing,
    address: SocketAddr,
    pid: Option<u32>,
    child: Option<Child>,
}

impl Peer {
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) const fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All that take part, the product first.
#[derive(Debug)]
pub(super) struct Fleet {
    tiderace: Server,
    standing: Standing,
    peers: Vec<Peer>,
}

impl Fleet {
    /// Starts the product and whoever else is there and wanted. Names the others with the reason.
    ///
    /// # Errors
    /// A sentence for people: a server that is there does not start.
    pub(super) fn start(
        arguments: &SystemsArguments,
        tiderace: &Path,
        adapter: &Adapter,
        folder: &Folder,
        cpu: usize,
    ) -> Result<(Self, Vec<Skipped>), String> {
        let standing = Standing {
            system: System::Tiderace,
            version: version(tiderace).unwrap_or_else(|| "tiderace".to_owned()),
            acknowledged: "on the disk (O_DIRECT, RWF_DSYNC), durability local".to_owned(),
            durable: Durable::Yes,
            sends: "one batch",
            client: "this engine on the client's core",
        };
        let mut peers = Vec::new();
        let mut skipped = Vec::new();
        for system in System::PEERS {
            if !arguments.only.is_empty() && !arguments.only.contains(&system) {
                continue;
            }
            let candidate = adapter
                .drives(system)
                .and_then(|()| Candidate::find(system, arguments));
            match candidate {
                Ok(candidate) => peers.push(candidate.start(folder, cpu)?),
                Err(reason) => skipped.push(Skipped { system, reason }),
            }
        }
        let tiderace = Server::start(Kind::Tiderace, tiderace, folder, Some(cpu))?;
        let fleet = Self {
            tiderace,
            standing,
            peers,
        };
        Ok((fleet, skipped))
    }

    pub(super) const fn tiderace(&self) -> &Server {
        &self.tiderace
    }

    /// Another system.
    ///
    /// # Panics
    /// When it does not take part.
    pub(super) fn peer(&self, system: System) -> &Peer {
        let peer = self
            .peers
            .iter()
            .find(|peer| peer.standing.system == system);
        peer.expect("only those that take part are measured")
    }

    /// All, the product first.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let peers = self.peers.iter().map(|peer| &peer.standing);
        std::iter::once(&self.standing)
            .chain(peers)
            .cloned()
            .collect()
    }

    /// The same.
    pub(super) fn systems(&self) -> Vec<System> {
        self.standings()
            .iter()
            .map(|standing| standing.system)
            .collect()
    }

    /// Lets the kernel count a server's peak of memory anew, so that it is that of the run to come. Where that is not
    /// allowed the peak stays that of its life, which flatters nobody.
    pub(super) fn forget_peak(&self, system: System) {
        let pid = if system == System::Tiderace {
            Some(self.tiderace.pid())
        } else {
            self.peer(system).pid
        };
        if let Some(pid) = pid {
            let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

/// A system that is there.
#[derive(Debug)]
enum Candidate {
    Nats(PathBuf),
    Redis(PathBuf),
    Elsewhere(System, SocketAddr, Option<u32>),
}

impl Candidate {
    fn find(system: System, arguments: &SystemsArguments) -> Result<Self, String> {
        match system {
            System::Tiderace => Err("it is the product".to_owned()),
            System::Nats => {
                installed(arguments.nats_server.as_deref(), "nats-server").map(Self::Nats)
            }
            System::Redis => {
                installed(arguments.redis_server.as_deref(), "redis-server").map(Self::Redis)
            }
            System::Kafka => reachable(system, arguments.kafka, "a broker", arguments.kafka_pid),
            System::Iggy => reachable(system, arguments.iggy, "a server", arguments.iggy_pid),
        }
    }

    fn start(self, folder: &Folder, cpu: usize) -> Result<Peer, String> {
        match self {
            Self::Nats(program) => nats(&program, folder, cpu),
            Self::Redis(program) => redis(&program, folder, cpu),
            Self::Elsewhere(system, address, pid) => Ok(elsewhere(system, address, pid)),
        }
    }
}

/// The program given, or the one of this name in the path.
fn installed(given: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let found = match given {
        Some(path) => Some(path.to_owned()).filter(|path| path.is_file()),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .chain(FOLDERS.map(PathBuf::from))
                .map(|folder| folder.join(name))
                .find(|path| path.is_file())
        }
    };
    found.ok_or_else(|| match given {
        Some(path) => format!("there is no {}", path.display()),
        None => format!("{name} is not installed: install it, or name it with --{name}"),
    })
}

fn reachable(
    system: System,
    given: Option<SocketAddr>,
    what: &str,
    pid: Option<u32>,
) -> Result<Candidate, String> {
    let Some(address) = given else {
        return Err(format!(
            "the address of {what} was not given: start one and name it with --{system}"
        ));
    };
    TcpStream::connect_timeout(&address, CONNECT_MAX)
        .map(|_| Candidate::Elsewhere(system, address, pid))
        .map_err(|error| format!("nobody answers at {address}: {error}"))
}

fn elsewhere(system: System, address: SocketAddr, pid: Option<u32>) -> Peer {
    let (acknowledged, durable, sends, client) = if system == System::Iggy {
        (
            "on stable storage: the topic is made with durability persisted",
            // A server that does not know this option refuses to make the topic.
            Durable::Yes,
            "one batch of messages",
            "the crate iggy",
        )
    } else {
        (
            "acks=all, then as the broker is configured: on the disk where flush.messages is 1, else in the page cache",
            Durable::AsConfigured,
            "one record batch",
            "the crate rskafka",
        )
    };
    Peer {
        standing: Standing {
            system,
            version: format!("at {address}"),
            acknowledged: acknowledged.to_owned(),
            durable,
            sends,
            client,
        },
        address,
        pid,
        child: None,
    }
}

fn nats(program: &Path, folder: &Folder, cpu: usize) -> Result<Peer, String> {
    let address = free_port()?;
    let data = folder.path().join("nats");
    let config = folder.path().join("nats.conf");
    let write = |sync: &str| {
        let text = format!(
            "listen: \"{address}\"\njetstream {{\n  store_dir: {data:?}\n  max_file_store: 64GB\n{sync}}}\n"
        );
        std::fs::write(&config, text).map_err(|error| error.to_string())
    };
    write("  sync_interval: always\n")?;
    let mut check = Command::new(program);
    check.arg("-t").arg("-c").arg(&config);
    let syncs = said(check).is_some();
    if !syncs {
        write("")?;
    }
    let mut command = Command::new(program);
    command.arg("-c").arg(&config);
    let standing = Standing {
        system: System::Nats,
        version: version(program).unwrap_or_else(|| "nats-server".to_owned()),
        acknowledged: if syncs {
            "on the disk: each message is written and synced (sync_interval: always)"
        } else {
            "in the page cache: this release does not know sync_interval: always, and syncs every 2 min. A power cut \
             takes acknowledged messages"
        }
        .to_owned(),
        durable: if syncs { Durable::Yes } else { Durable::No },
        sends: "as many messages in a row; acknowledged when the last one is",
        client: "the crate async-nats",
    };
    // It greets whoever connects.
    launch(standing, command, address, folder, cpu, b"", b"INFO ")
}

fn redis(program: &Path, folder: &Folder, cpu: usize) -> Result<Peer, String> {
    let address = free_port()?;
    let data = folder.path().join("redis");
    std::fs::create_dir_all(&data).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command
        .args(["--bind", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .arg("--dir")
        .arg(&data)
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", "", "--daemonize", "no"]);
    let standing = Standing {
        system: System::Redis,
        version: version(program).unwrap_or_else(|| "redis-server".to_owned()),
        acknowledged: "on the disk: the append-only file is synced before the turn's answers (appendfsync always)"
            .to_owned(),
        durable: Durable::Yes,
        sends: "as many XADD in one pipeline",
        client: "the crate redis",
    };
    launch(
        standing,
        command,
        address,
        folder,
        cpu,
        b"PING\r\n",
        b"+PONG",
    )
}

/// Starts a server on the core and waits until it answers `says` with `hears`.
fn launch(
    standing: Standing,
    mut command: Command,
    address: SocketAddr,
    folder: &Folder,
    cpu: usize,
    says: &[u8],
    hears: &[u8],
) -> Result<Peer, String> {
    let system = standing.system;
    let said = folder.path().join(format!("{system}.log"));
    let log = std::fs::File::create(&said).map_err(|error| error.to_string())?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        .stderr(Stdio::from(errors));
    let child = spawn_on(Some(cpu), command)
        .map_err(|error| format!("cannot start {}: {error}", system.title()))?;
    let pid = child.id();
    let mut peer = Peer {
        standing,
        address,
        pid: Some(pid),
        child: Some(child),
    };
    let begun = Instant::now();
    while !answers(address, says, hears) {
        let child = peer.child.as_mut().expect("it was just started");
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || begun.elapsed() > START_MAX {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            return Err(format!("{} did not start: {}", system.title(), text.trim()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

fn answers(address: SocketAddr, says: &[u8], hears: &[u8]) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
        stream.set_read_timeout(Some(CONNECT_MAX))?;
        stream.write_all(says)?;
        let mut heard = vec![0; hears.len()];
        stream.read_exact(&mut heard)?;
        Ok(heard == hears)
    };
    ask().unwrap_or(false)
}

/// What a program prints, when it ends well and in time.
fn said(mut command: Command) -> Option<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    // A line or two: they fit the pipe, so it could end before they were read.
    let output = child.stdout.take();
    if adapter::wait(child, ASK_MAX).ok()? != Some(0) {
        return None;
    }
    std::io::read_to_string(output?).ok()
}

/// The first line of what a program says of its version, without what only its makers read.
fn version(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let text = said(command)?;
    let line = text.lines().next()?.split(" sha=").next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_there_says_how_to_name_it() {
        let reason = installed(None, "no-such-server").expect_err("absent");
        assert!(reason.contains("--no-such-server"), "{reason}");
        let reason = installed(Some(Path::new("/nowhere/redis")), "redis-server");
        assert!(reason.expect_err("absent").contains("/nowhere/redis"));
        let reason = reachable(System::Kafka, None, "a broker", None).expect_err("not given");
        assert!(reason.contains("--kafka"), "{reason}");
        let closed = free_port().expect("a port");
        let reason = reachable(System::Iggy, Some(closed), "a server", None).expect_err("closed");
        assert!(reason.contains(&closed.to_string()), "{reason}");
    }
}
