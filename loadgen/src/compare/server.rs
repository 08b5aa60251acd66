//! A server of either kind as a process with a directory of its own, which goes when the comparison does. In a comparison
//! both run on one core from the first round to the last, each idle while the other is measured.

use crate::session;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it accepts connections: it writes its files first.
const START_MAX: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Floor = 0,
    Tiderace = 1,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor",
            Self::Tiderace => "tiderace",
        })
    }
}

/// A directory that is removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn make(parent: &Path, name: &str) -> Result<Self, String> {
        let path = parent.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .and_then(|()| path.canonicalize())
            .map(Self)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program given, or the one of this name beside this program.
pub(crate) fn program(given: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .map_err(|error| error.to_string())?
            .with_file_name(name),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!(
            "there is no {}: build it (cargo build --release -p {name}) or name it with --{name}",
            path.display()
        ))
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Where `/metrics` is; the floor has none.
    admin: Option<SocketAddr>,
    data: PathBuf,
}

impl Server {
    pub(crate) fn start(
        kind: Kind,
        program: &Path,
        folder: &Folder,
        cpu: Option<usize>,
    ) -> Result<Self, String> {
        let data = folder.path().join(kind.to_string());
        let _ = std::fs::remove_dir_all(&data);
        let address = free_port()?;
        let log = std::fs::File::create(folder.path().join(format!("{kind}.log")))
            .map_err(|error| error.to_string())?;
        let mut admin = None;
        let mut command = Command::new(program);
        match kind {
            Kind::Floor => {
                command
                    .args(["--listen", &address.to_string()])
                    .arg("--dir")
                    .arg(&data)
                    .env("FLOOR_STOP_WITH_STDIN", "1");
            }
            Kind::Tiderace => {
                let config = folder.path().join("tiderace.toml");
                let admin_address = *admin.insert(free_port()?);
                std::fs::write(&config, configuration(&data, address, admin_address)?)
                    .map_err(|error| error.to_string())?;
                command.arg("serve").arg("--config").arg(&config);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        let child = spawn_on(cpu, command)
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let mut server = Self {
            child,
            address,
            admin,
            data,
        };
        server.wait_until_it_answers(kind, folder)?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self, kind: Kind, folder: &Folder) -> Result<(), String> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() || !session::answers(self.address) {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || begun.elapsed() > START_MAX {
                let mut text = String::new();
                if let Ok(mut log) = std::fs::File::open(folder.path().join(format!("{kind}.log")))
                {
                    let _ = log.read_to_string(&mut text);
                }
                return Err(format!("{kind} did not start: {}", text.trim()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The sum of a metric over all shards; none where there is no such metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(self.admin?).ok()?;
        stream.set_read_timeout(Some(START_MAX)).ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = rest.strip_prefix('{').map_or(rest, |labels| {
                labels.split_once('}').map_or("", |(_, value)| value)
            });
            rest.trim().parse::<f64>().ok()
        });
        values.reduce(|sum, value| sum + value)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// One shard, so that all of it runs on the one core.
fn configuration(data: &Path, listen: SocketAddr, admin: SocketAddr) -> Result<String, String> {
    Ok(format!(
        "data_dir = {data:?}\nshards = 1\nlisten = \"{listen}\"\nshard_listen = \"{}\"\nadmin_listen = \"{admin}\"\npin = false\nlog_level = \"warn\"\n",
        free_port()?
    ))
}

/// A child inherits the core of the thread that starts it. Without one it runs where we may.
pub(crate) fn spawn_on(cpu: Option<usize>, mut command: Command) -> std::io::Result<Child> {
    let thread = std::thread::spawn(move || {
        if let Some(cpu) = cpu {
            tiderace_io::pin::to(cpu)?;
        }
        command.spawn()
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the starting thread panicked")))
}

pub(crate) fn free_port() -> Result<SocketAddr, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_built_says_how_to_build_it() {
        let error = program(Some(Path::new("/nowhere/floor")), "floor").expect_err("absent");
        assert!(error.contains("cargo build --release -p floor"));
    }

    #[test]
    fn a_folder_is_gone_when_it_is_done() {
        let folder =
            Folder::make(&std::env::temp_dir(), "loadgen-test").expect("a temporary folder");
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
