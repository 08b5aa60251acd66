//! What an adapter to another system is made of: what it is told ([`Job`]), and the part that decides when its batches are
//! meant to be sent and what is said of them ([`Run`]). It is the same open loop and the same saturation as those that
//! drive Tiderace, with the same histograms, the same refusals of percentiles and the same report. It knows no socket
//! and no runtime: an adapter sends with its system's own client and says what became of each batch.

mod job;
mod run;

pub use crate::schedule::Arrivals;
pub use job::Job;
pub use run::{Finished, Run};

/// Nanoseconds of the clock that a [`Run`] is told.
#[must_use]
pub fn now_ns() -> u64 {
    tiderace_io::Clock::mono().as_ns()
}

/// Pins the calling thread to one core.
///
/// # Errors
/// A sentence for people: there is no such core, or it may not be used.
pub fn pin(cpu: usize) -> Result<(), String> {
    tiderace_io::pin::to(cpu).map_err(|error| format!("cannot run on core {cpu}: {error}"))
}
