//! Real processes on real sockets and real disks: what a test needs to start a node, to torture it, and to know afterwards
//! that nothing was lost. The tests are beside this file, in `tests/`.
//!
//! Every test has a directory and an address of its own and ends only what it started. Nothing here sleeps: waiting is for
//! an event (a line, an acknowledgement, an answer, an end), and each wait has an end, so that a hang is a failure that
//! shows the node's log.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "a test that fails says where its directory is and what its node logged"
)]

pub mod authority;
pub mod batches;
pub mod disks;
pub mod files;
pub mod ledger;
pub mod limits;
pub mod node;
pub mod peer;
pub mod program;
pub mod scratch;
pub mod witness;
pub mod world;

use core::time::Duration;

/// How long anything may take before it counts as a hang. It decides nothing else: no test asserts a time.
pub const HANG: Duration = Duration::from_secs(120);

/// A runtime for the client, with two threads.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Waits for something that must come, and says what did not when it hangs.
pub async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, waiting).await {
        Ok(value) => value,
        Err(_) => panic!("hangs: {what}"),
    }
}
