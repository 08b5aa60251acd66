//! The servers: one for each runtime, all with the same protocol, the same group commit and the same file. What they have
//! in common stands here and in `tasks`; what a runtime does in its own way stands in a file of its name. A server that
//! meets what must not happen (a short write, a frame out of order) ends its process, loudly.

mod epoll;
mod glommio;
mod ours;
mod tasks;
mod tokio_uring;

use clap::ValueEnum;
use rustix::fs::OFlags;
use serde::Serialize;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use tiderace_base::disk::JournalFile;

/// The file that every server writes to, by the name that our own driver knows it by.
pub(crate) const FILE: JournalFile = JournalFile::Segment(0);

/// What a server runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Runtime {
    /// Our own ring, `tiderace-io`.
    Ours,
    /// glommio.
    Glommio,
    /// tokio-uring.
    TokioUring,
    /// epoll and a blocking durable write: no io_uring at all.
    Epoll,
}

impl Runtime {
    /// All, our own first.
    pub(crate) const ALL: [Self; 4] = [Self::Ours, Self::Glommio, Self::TokioUring, Self::Epoll];
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "ours",
            Self::Glommio => "glommio",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// What a server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The folder of the file.
    pub(crate) dir: PathBuf,
    /// Bytes of the file, all of them written before.
    pub(crate) file_bytes: u64,
    /// Chunks in flight at once.
    pub(crate) writes_max: usize,
    /// The core that the process is pinned to already.
    pub(crate) cpu: usize,
    /// Whether the runtimes that cannot say `RWF_DSYNC` sync by a second operation, and not by `O_DSYNC`.
    pub(crate) fdatasync: bool,
}

impl Options {
    fn file(&self) -> PathBuf {
        self.dir.join(FILE.to_string())
    }

    /// How a runtime that cannot say `RWF_DSYNC` opens the file, besides its own ways to say `O_DIRECT`.
    fn peer_flags(&self) -> OFlags {
        if self.fdatasync {
            OFlags::empty()
        } else {
            OFlags::DSYNC
        }
    }
}

/// Runs a server until its process is ended from outside.
///
/// # Errors
/// The runtime cannot start here, with its reason.
pub(crate) fn run(runtime: Runtime, options: &Options) -> Result<(), String> {
    match runtime {
        Runtime::Ours => ours::run(options),
        Runtime::Glommio => glommio::run(options),
        Runtime::TokioUring => tokio_uring::run(options),
        Runtime::Epoll => epoll::run(options),
    }
}

/// Where servers listen: the kernel chooses the port.
fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Tells the parent that this server can be connected to.
fn announce(address: SocketAddr) {
    let mut out = std::io::stdout();
    let told = writeln!(out, "listening {address}").and_then(|()| out.flush());
    if told.is_err() {
        fatal("nobody wants to hear the address");
    }
}

/// Ends the process: what it would measure from here on means nothing.
fn fatal(why: impl fmt::Display) -> ! {
    eprintln!("{why}");
    std::process::exit(1);
}

/// A write must have written everything: what follows would be acknowledged without being on the disk.
fn written(result: std::io::Result<usize>, wanted: usize) {
    match result {
        Ok(written) if written == wanted => {}
        Ok(written) => fatal(format_args!("a short write: {written} of {wanted} bytes")),
        Err(error) => fatal(format_args!("a write of {wanted} bytes failed: {error}")),
    }
}

/// The same for a sync that follows a write.
fn synced<E: fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        fatal(format_args!("a sync failed: {error}"));
    }
}
