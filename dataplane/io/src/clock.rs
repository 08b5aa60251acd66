//! The clocks. Read once per turn by a driver and by nobody else in the product; machines get what was read.

use std::mem;
use tiderace_base::time::{Mono, Now, Wall};

/// Reads `CLOCK_MONOTONIC` and `CLOCK_REALTIME`, neither of which costs a syscall on Linux.
#[derive(Clone, Copy, Default, Debug)]
pub struct Clock;

impl Clock {
    /// Both clocks.
    #[must_use]
    pub fn now() -> Now {
        let wall = read(libc::CLOCK_REALTIME);
        Now {
            mono: Self::mono(),
            wall: Wall::from_us(wall / 1000),
        }
    }

    /// The monotonic clock alone.
    #[must_use]
    pub fn mono() -> Mono {
        Mono::from_ns(read(libc::CLOCK_MONOTONIC))
    }
}

/// Nanoseconds of a clock; zero for a wall clock set before 1970.
fn read(clock: libc::clockid_t) -> u64 {
    // SAFETY: all zeros is a valid `timespec`.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` is valid for writing; both clocks exist on every Linux.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "Linux always has this clock");
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let mut before = Clock::now().mono;
        for _ in 0..1000 {
            let after = Clock::mono();
            assert!(after >= before);
            before = after;
        }
        assert!(Clock::now().wall.as_us() > 1_600_000_000_000_000);
    }
}
