//! What the kernel lets a process have: open files for the test and for the node that it starts. Raises, never lowers, and
//! says what it got, so that a test can scale itself and tell.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises how many files this process, and those that it starts, may have open, up to `wanted`. Says how many it is then.
#[must_use]
pub fn raise_open_files(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None stands for no limit.
    let Some(now) = current.filter(|now| *now < wanted) else {
        return wanted;
    };
    let beyond = Rlimit {
        current: Some(wanted),
        maximum: Some(maximum.unwrap_or(wanted).max(wanted)),
    };
    if setrlimit(Resource::Nofile, beyond).is_ok() {
        return wanted;
    }
    let allowed = maximum.unwrap_or(wanted).min(wanted);
    let within = Rlimit {
        current: Some(allowed),
        maximum,
    };
    match setrlimit(Resource::Nofile, within) {
        Ok(()) => allowed,
        Err(_) => now,
    }
}
