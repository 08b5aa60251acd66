//! What a driver is made from, what it says about what it found, and why it may refuse to start. A refusal names the
//! cause and what to do about it, because nobody should have to read a kernel's source to start a node.

use crate::directory::JournalDirectory;
use crate::files::FILES_WRITTEN_MAX;
use crate::links::NodeLinks;
use crate::listener::Listener;
use crate::mesh::MeshEnd;
use crate::sockets::ACCEPTS_PER_LISTENER;
use std::fmt;
use std::io;
use tiderace_base::limits::{CONNECTIONS_PER_SHARD_MAX, KIB, PEER_DOOR_STRANGERS_MAX};

/// What a driver is made from.
#[derive(Debug)]
pub struct DriverConfig {
    /// The journal whose files the machine may name. None: it may name no file.
    pub journal: Option<JournalDirectory>,
    /// Sockets that clients are accepted from once the machine says so.
    pub listeners: Vec<Listener>,
    /// How it is linked to other nodes of the zone. None: it is not.
    pub links: Option<NodeLinks>,
    /// The thread's end of the node's mesh. None: the machine posts nothing.
    pub mesh: Option<MeshEnd>,
    /// The core that the thread is pinned to when it runs. None: the kernel chooses.
    pub cpu: Option<usize>,
    /// Receive buffers, rounded up to a power of two, 2 to 32768. A quarter of them is never lent to the machine.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: usize,
    /// Connections of clients open at once. One more is closed as soon as it was accepted, without an event.
    pub connections_max: usize,
    /// Files of the journal open at once, but for those that are written. A read of another one waits.
    pub files_open_max: usize,
    /// Operations submitted to the kernel at once, rounded up to a power of two. More are submitted in portions.
    pub submission_entries: u32,
    /// Completions that the queue holds, rounded up to a power of two, at least the submission entries. More are kept
    /// by the kernel, at a cost.
    pub completion_entries: u32,
    /// How long the thread looks for something to do before it sleeps. Nothing to find costs this much of its core each
    /// time; something found comes without the time that waking takes. 0: it sleeps at once.
    pub busy_poll_ns: u64,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            journal: None,
            listeners: Vec::new(),
            links: None,
            mesh: None,
            cpu: None,
            receive_buffers: 64,
            receive_buffer_bytes: 64 * KIB,
            // A few above what the machine serves, so that it can refuse them with a typed error.
            connections_max: CONNECTIONS_PER_SHARD_MAX + 64,
            files_open_max: 256,
            submission_entries: 512,
            completion_entries: 4096,
            busy_poll_ns: 0,
        }
    }
}

/// Descriptors that a driver with so many listeners may have open besides its connections and its journal's files, as far
/// as those are counted by [`DriverConfig`]: the journal's folder and its lock, the ring and its waker, the listeners, what
/// was accepted and not yet heard of, and the files that are written.
#[must_use]
pub const fn descriptors_besides(listeners: usize) -> usize {
    4 + listeners * (1 + ACCEPTS_PER_LISTENER) + FILES_WRITTEN_MAX
}

/// Descriptors that so many links to nodes may take besides: those being connected are among them; a peer door's listener,
/// what it accepted and has not heard of yet, and its strangers are not.
#[must_use]
pub const fn descriptors_of_links(links_max: usize) -> usize {
    links_max + 1 + ACCEPTS_PER_LISTENER + PEER_DOOR_STRANGERS_MAX
}

/// What a driver found at its start, for the node's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartReport {
    /// Whether the journal's files bypass the page cache. False without a journal.
    pub direct_io: bool,
    /// Why they do not, where direct io was asked for and the file system refused it.
    pub direct_io_refused: Option<String>,
    /// Operations that fit the submission queue.
    pub submission_entries: u32,
    /// Completions that fit the completion queue.
    pub completion_entries: u32,
    /// Receive buffers.
    pub receive_buffers: u16,
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "io_uring with {} submission and {} completion entries, {} receive buffers",
            self.submission_entries, self.completion_entries, self.receive_buffers
        )?;
        match (&self.direct_io_refused, self.direct_io) {
            (Some(why), _) => write!(
                f,
                "; direct io is refused ({why}): the journal goes through the page cache, each durable write is synced by itself"
            ),
            (None, true) => write!(f, "; direct io"),
            (None, false) => Ok(()),
        }
    }
}

/// Why a driver cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The kernel or a container refuses io_uring. The text says who does and what to do.
    RingRefused(String),
    /// The thread cannot be pinned to this core: take one of those allowed, or none.
    CpuRefused {
        /// The core asked for.
        cpu: usize,
        /// The cores that this process may use.
        allowed: Vec<usize>,
    },
    /// A resource that every driver needs could not be had (descriptors, memory).
    Resource(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RingRefused(text) => write!(f, "io_uring is refused here: {text}"),
            Self::CpuRefused { cpu, allowed } => write!(
                f,
                "core {cpu} is not one that this process may use; allowed are {allowed:?}"
            ),
            Self::Resource(error) => write!(
                f,
                "a resource of the driver could not be had ({error}): raise the limit on open files or memory"
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// Says why io_uring could not be had, and what to do.
pub(crate) fn ring_refused(what: &str, error: &io::Error) -> StartError {
    let errno = error.raw_os_error().unwrap_or(0);
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let advice = advice(errno, sysctl.as_deref().map(str::trim));
    StartError::RingRefused(format!(
        "{what} failed with errno {errno} ({error}); {advice}"
    ))
}

fn advice(errno: i32, sysctl: Option<&str>) -> &'static str {
    match (errno, sysctl) {
        (libc::EPERM | libc::EACCES, Some("2")) => {
            "the sysctl kernel.io_uring_disabled is 2, which forbids it to everyone: set it to 0"
        }
        (libc::EPERM | libc::EACCES, Some("1")) => {
            "the sysctl kernel.io_uring_disabled is 1, which allows it to the group of kernel.io_uring_group only: join that group or set it to 0"
        }
        (libc::EPERM | libc::EACCES, _) => {
            "the sysctl kernel.io_uring_disabled does not forbid it, so a seccomp filter or a security module does (containers by default): allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        (libc::ENOSYS, _) => {
            "the kernel has no io_uring, or a seccomp filter hides it: use Linux 6.1 or newer and allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        (libc::EINVAL, _) => {
            "the kernel is older than 6.1, the first that has all that is needed: upgrade it"
        }
        (libc::ENOMEM, _) => {
            "memory or the limit on locked memory is spent: raise memlock (ulimit -l), or take fewer entries and shards"
        }
        (libc::EMFILE | libc::ENFILE, _) => "no descriptor is left: raise nofile (ulimit -n)",
        _ => "this is not expected of any kernel since 6.1: see io_uring_setup(2)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_cause() {
        assert!(advice(libc::EPERM, Some("2")).contains("is 2"));
        assert!(advice(libc::EPERM, Some("1")).contains("io_uring_group"));
        assert!(advice(libc::EPERM, Some("0")).contains("seccomp"));
        assert!(advice(libc::EPERM, None).contains("seccomp"));
        assert!(advice(libc::ENOSYS, None).contains("6.1"));
        assert!(advice(libc::EINVAL, Some("0")).contains("older than 6.1"));
        assert!(advice(libc::ENOMEM, None).contains("memlock"));
        let text = ring_refused(
            "io_uring_setup",
            &io::Error::from_raw_os_error(libc::ENOSYS),
        )
        .to_string();
        assert!(
            text.contains("io_uring_setup failed with errno 38"),
            "{text}"
        );
    }
}
