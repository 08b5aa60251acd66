//! Real processes of the real program, treated badly in thousands of seeded cycles: killed, stopped, filled up, refused what
//! they need, and started on files that somebody changed. What has to come of each cycle is known before it; anything else is a
//! violation, which ends the run, keeps the directory and names the seed and the cycle. `docs/torture.md` is the guide.
//!
//! - [`cycles`] is what all tortures share: seeds, progress, the summary, the violation.
//! - [`chronicle`] is what was seen, judged as it is seen; [`era`] is a load with a reader that goes on through everything.
//! - [`kill`] is `kill -9`, [`stop`] is SIGSTOP.
//!
//! Invariant: a seed and the number of a cycle decide every choice; when the kernel and the clients get their turn they do not.
//! A wait is for an event and has an end; the one delay there is is the drawn moment of a fault.

#![forbid(unsafe_code)]

pub mod chronicle;
pub mod cycles;
pub mod damage;
pub mod directory;
pub mod era;
pub mod full;
pub mod image;
pub mod kill;
pub mod oracle;
pub mod refuse;
pub mod served;
pub mod settled;
pub mod stop;
