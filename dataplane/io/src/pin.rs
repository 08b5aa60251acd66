//! What a process asks of its kernel before it serves: cores for its threads, and room for its files.
//!
//! Pinning threads to cores. A shard is a pinned thread; which cores exist for this process is the operator's choice
//! (cpusets, `taskset`), so cores are taken from the list of those allowed and never guessed from a count.

use crate::syscall::check;
use std::io;
use std::mem;

/// Cores that this thread may run on, ascending.
///
/// # Errors
/// What the kernel said.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = allowed_set()?;
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index lies below `CPU_SETSIZE`, which is the size of the set.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Pins the calling thread to one core.
///
/// # Errors
/// `EINVAL` for a core that is not allowed or not there.
pub fn to(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index was checked against the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the length describe `set`; zero means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

/// Raises the soft limit of open files to the hard one, and says how many may be open then. A connection is a file: the
/// usual soft limit of 1,024 is far below what a shard takes. Where raising is refused it is the limit as it was.
///
/// # Errors
/// The kernel does not say the limit.
pub fn raise_open_files() -> io::Result<u64> {
    let before = open_files()?;
    let raised = libc::rlimit {
        rlim_cur: before.rlim_max,
        rlim_max: before.rlim_max,
    };
    // SAFETY: the pointer describes `raised`. What it reached is asked for, so its result says nothing more.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    open_files().map(|limit| limit.rlim_cur)
}

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer describes `limit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit)
}

/// The same cores as a set, for the ring's own workers.
pub(crate) fn allowed_set() -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the length describe `set`; zero means the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_on_its_core_only() {
        std::thread::spawn(|| {
            let last = *allowed()
                .expect("every thread has cores")
                .last()
                .expect("at least one");
            to(last).expect("an allowed core");
            assert_eq!(allowed().expect("every thread has cores"), [last]);
        })
        .join()
        .expect("the thread checks itself");
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(to(100_000).is_err());
    }
}
