//! Time as a node sees it. The world has one time line, in nanoseconds since the run began; each node reads it through
//! clocks of its own: a monotonic one that starts anew when the machine loses power, and a wall clock that may jump in
//! either direction. Whoever stores a monotonic reading, or trusts the wall, is found out.

use tiderace_base::time::{Mono, Now, Wall};

/// 2026-01-01T00:00:00Z in microseconds: where the wall clock of every run begins.
const WALL_START_US: u64 = 1_767_225_600_000_000;

/// One machine's clocks over the world's time line.
#[derive(Clone, Debug)]
pub struct Clock {
    /// World time at which the monotonic clock read zero.
    mono_zero_ns: u64,
    /// How far the wall clock is off.
    wall_offset_us: i64,
}

impl Clock {
    /// Clocks of a machine that was switched on `age_ns` before the run began.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mono_zero_ns: 0,
            wall_offset_us: 0,
        }
    }

    /// What the clocks say at a point of world time.
    #[must_use]
    pub fn read(&self, world_ns: u64) -> Now {
        let wall = (WALL_START_US + world_ns / 1000).saturating_add_signed(self.wall_offset_us);
        Now {
            mono: Mono::from_ns(world_ns - self.mono_zero_ns),
            wall: Wall::from_us(wall),
        }
    }

    /// The world time at which the monotonic clock will show `mono`.
    #[must_use]
    pub fn world_ns(&self, mono: Mono) -> u64 {
        self.mono_zero_ns.saturating_add(mono.as_ns())
    }

    /// The machine was switched off and on: its monotonic clock starts again.
    pub fn power_cycled(&mut self, world_ns: u64) {
        self.mono_zero_ns = world_ns;
    }

    /// Somebody set the wall clock.
    pub fn jump(&mut self, by_us: i64) {
        self.wall_offset_us = self.wall_offset_us.saturating_add(by_us);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_jumps_and_the_monotonic_clock_does_not() {
        let mut clock = Clock::new();
        let before = clock.read(5_000_000);
        clock.jump(-3_600_000_000);
        let after = clock.read(5_000_001);
        assert!(after.mono > before.mono);
        assert!(after.wall < before.wall);
    }

    #[test]
    fn a_power_cycle_starts_the_monotonic_clock_again() {
        let mut clock = Clock::new();
        clock.power_cycled(1_000);
        assert_eq!(clock.read(1_500).mono.as_ns(), 500);
        assert_eq!(clock.world_ns(Mono::from_ns(500)), 1_500);
        assert!(clock.read(1_500).wall.as_us() >= WALL_START_US);
    }
}
