//! What goes wrong, how often, and how often it did. A seed draws one mixture (swarm testing: most runs have a few kinds
//! of fault and many of them, not a little of everything), so that rare faults meet quiet stretches as well as each
//! other. Invariant: nothing fires after [`Faults::stop`].

use core::fmt;
use tiderace_base::prng::Prng;

use crate::world::disk::Losses;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Fault {
    /// A disk operation takes milliseconds instead of microseconds, and later ones overtake it.
    DiskSlow,
    /// A disk does nothing for seconds.
    DiskStall,
    /// A write fails with EIO; any part of it may be on the platter.
    WriteError,
    /// A sync fails with EIO; any part of what it was for may be gone for good.
    SyncError,
    /// A read fails with EIO. The next one of the same place does not, as with the two below: what fails again and again is
    /// damage, which `rot` is for.
    ReadError,
    /// A read returns one wrong bit.
    ReadFlip,
    /// A read returns the bytes of another place of its file.
    ReadElsewhere,
    /// A write or a sync says that it is durable and is not. A lone node cannot survive it: never drawn, and set only to
    /// show that it is noticed.
    LyingDisk,
    /// The disk is full for a while.
    DiskFull,
    /// No descriptor is left to read or make a file with, and waiting for one was in vain. Nothing happened on the disk.
    NotOpened,
    /// A connection is reset, with bytes on their way in both directions.
    Reset,
    /// The peer vanishes without a word.
    HalfOpen,
    /// Bytes arrive a few at a time.
    Dribble,
    /// The network carries nothing for a while.
    NetworkStall,
    /// The node loses power.
    PowerLoss,
    /// The node's process is killed; what it had handed to the kernel goes on.
    Kill,
    /// Power is lost in the middle of a recovery.
    PowerLossInRecovery,
    /// The process is killed in the middle of a recovery.
    KillInRecovery,
    /// A power loss leaves some sectors of a write that was in flight, and not the others.
    TornWrite,
    /// A power loss takes back a write that had completed without a sync, or a part of it.
    LostWrite,
    /// A power loss leaves a write and takes back an earlier one.
    ReorderedWrites,
    /// A power loss takes back the making of a file, or its removal.
    LostEntry,
    /// The node's process ends because it said `Fatal`.
    FatalExit,
    /// An operator asks for an orderly stop.
    OrderlyStop,
    /// A machine is not scheduled for a while.
    Pause,
    /// The wall clock jumps.
    WallJump,
    /// Receive buffers run out because the machine holds them.
    BuffersHeld,
    /// No descriptor is left to accept a connection with: it waits where the kernel keeps it.
    AcceptWaits,
    /// A client takes nothing out of its socket for a while.
    SlowConsumer,
    /// A connect to a node is answered by nobody, however long it is tried: a filter drops it.
    ConnectLost,
    /// A connect to a node is refused.
    ConnectRefused,
    /// A connect to a node takes long, perhaps longer than it may.
    ConnectSlow,
    /// The network between some nodes is cut, in both directions or in one.
    Partition,
}

impl Fault {
    /// Every kind, in the order of the summary.
    pub const ALL: [Self; 33] = [
        Self::DiskSlow,
        Self::DiskStall,
        Self::WriteError,
        Self::SyncError,
        Self::ReadError,
        Self::ReadFlip,
        Self::ReadElsewhere,
        Self::LyingDisk,
        Self::DiskFull,
        Self::NotOpened,
        Self::Reset,
        Self::HalfOpen,
        Self::Dribble,
        Self::NetworkStall,
        Self::PowerLoss,
        Self::Kill,
        Self::PowerLossInRecovery,
        Self::KillInRecovery,
        Self::TornWrite,
        Self::LostWrite,
        Self::ReorderedWrites,
        Self::LostEntry,
        Self::FatalExit,
        Self::OrderlyStop,
        Self::Pause,
        Self::WallJump,
        Self::BuffersHeld,
        Self::AcceptWaits,
        Self::SlowConsumer,
        Self::ConnectLost,
        Self::ConnectRefused,
        Self::ConnectSlow,
        Self::Partition,
    ];

    /// Whether a lone node has to survive it: then it is drawn, or follows from what is.
    #[must_use]
    pub const fn is_survivable(self) -> bool {
        !matches!(self, Self::LyingDisk) && !self.is_between_nodes()
    }

    /// Whether it takes several nodes: drawn by [`Faults::draw_links`] alone.
    #[must_use]
    pub const fn is_between_nodes(self) -> bool {
        matches!(
            self,
            Self::ConnectLost | Self::ConnectRefused | Self::ConnectSlow | Self::Partition
        )
    }

    /// The kind's name in the summary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DiskSlow => "disk_slow",
            Self::DiskStall => "disk_stall",
            Self::WriteError => "write_error",
            Self::SyncError => "sync_error",
            Self::ReadError => "read_error",
            Self::ReadFlip => "read_flip",
            Self::ReadElsewhere => "read_elsewhere",
            Self::LyingDisk => "lying_disk",
            Self::DiskFull => "disk_full",
            Self::NotOpened => "not_opened",
            Self::Reset => "reset",
            Self::HalfOpen => "half_open",
            Self::Dribble => "dribble",
            Self::NetworkStall => "network_stall",
            Self::PowerLoss => "power_loss",
            Self::Kill => "kill",
            Self::PowerLossInRecovery => "power_loss_in_recovery",
            Self::KillInRecovery => "kill_in_recovery",
            Self::TornWrite => "torn_write",
            Self::LostWrite => "lost_write",
            Self::ReorderedWrites => "reordered_writes",
            Self::LostEntry => "lost_entry",
            Self::FatalExit => "fatal_exit",
            Self::OrderlyStop => "orderly_stop",
            Self::Pause => "pause",
            Self::WallJump => "wall_jump",
            Self::BuffersHeld => "buffers_held",
            Self::AcceptWaits => "accept_waits",
            Self::SlowConsumer => "slow_consumer",
            Self::ConnectLost => "connect_lost",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectSlow => "connect_slow",
            Self::Partition => "partition",
        }
    }
}

/// Kinds that are switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Without(u64);

impl Without {
    /// None is.
    pub const NONE: Self = Self(0);

    /// Switches off this one, too.
    pub fn add(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u64;
    }

    fn contains(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }
}

/// How often each kind fired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fired([u64; Fault::ALL.len()]);

impl Default for Fired {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Fired {
    /// How often this kind fired.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// The mixture of one run.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Chances per opportunity, in millionths.
    per_million: [u32; Fault::ALL.len()],
    fired: Fired,
    active: bool,
}

impl Faults {
    /// A run in which nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            per_million: [0; Fault::ALL.len()],
            fired: Fired::default(),
            active: true,
        }
    }

    /// A mixture. An opportunity is one operation for the disk's faults, one segment or one send for the network's, one
    /// turn for `Pause`, one start for what happens in a recovery, one connection for `AcceptWaits`, and one draw of the disturber, a few in each simulated
    /// second, for what happens to a whole node.
    #[must_use]
    pub fn draw(prng: &mut Prng) -> Self {
        let mut faults = Self::none();
        let mut maybe = |fault, numerator, highest| faults.maybe(fault, numerator, highest, prng);
        maybe(Fault::DiskSlow, 5, 200_000);
        maybe(Fault::DiskStall, 2, 2_000);
        maybe(Fault::WriteError, 1, 3_000);
        maybe(Fault::SyncError, 1, 20_000);
        maybe(Fault::DiskFull, 2, 100_000);
        maybe(Fault::Reset, 4, 5_000);
        maybe(Fault::HalfOpen, 3, 2_000);
        maybe(Fault::Dribble, 3, 300_000);
        maybe(Fault::NetworkStall, 3, 5_000);
        maybe(Fault::PowerLoss, 5, 600_000);
        maybe(Fault::Kill, 4, 600_000);
        maybe(Fault::PowerLossInRecovery, 4, 500_000);
        maybe(Fault::OrderlyStop, 2, 200_000);
        maybe(Fault::Pause, 3, 5_000);
        maybe(Fault::WallJump, 3, 300_000);
        maybe(Fault::NotOpened, 3, 200_000);
        maybe(Fault::ReadError, 2, 50_000);
        maybe(Fault::ReadFlip, 2, 50_000);
        maybe(Fault::ReadElsewhere, 2, 50_000);
        maybe(Fault::KillInRecovery, 3, 500_000);
        maybe(Fault::AcceptWaits, 2, 300_000);
        faults
    }

    /// Adds what happens between nodes: apart from the rest, so that what a lone node meets under a seed stays as it was. An
    /// opportunity is one connect, and for a partition a draw of the disturber.
    pub fn draw_links(&mut self, prng: &mut Prng) {
        self.maybe(Fault::ConnectLost, 4, 200_000, prng);
        self.maybe(Fault::ConnectRefused, 4, 200_000, prng);
        self.maybe(Fault::ConnectSlow, 4, 300_000, prng);
        self.maybe(Fault::Partition, 6, 400_000, prng);
    }

    fn maybe(&mut self, fault: Fault, numerator: u64, highest: u64, prng: &mut Prng) {
        if prng.chance(numerator, 8) {
            let rate = prng.range(highest / 20 + 1, highest + 2);
            self.set(fault, u32::try_from(rate).unwrap_or(u32::MAX));
        }
    }

    /// Switches kinds off that were drawn. What the others do does not shift.
    pub fn switch_off(&mut self, without: Without) {
        for fault in Fault::ALL
            .into_iter()
            .filter(|fault| without.contains(*fault))
        {
            self.set(fault, 0);
        }
    }

    /// Sets the chance of one kind, in millionths.
    pub fn set(&mut self, fault: Fault, per_million: u32) {
        self.per_million[fault as usize] = per_million;
    }

    /// Whether this opportunity is taken. Counts it.
    pub fn fires(&mut self, fault: Fault, prng: &mut Prng) -> bool {
        let fires = self.is_drawn(fault, prng);
        if fires {
            self.note(fault);
        }
        fires
    }

    /// Whether this opportunity is taken, for a fault that is counted by [`Faults::note`] once it has happened.
    pub fn is_drawn(&self, fault: Fault, prng: &mut Prng) -> bool {
        let chance = self.per_million[fault as usize];
        // A kind that is off draws nothing, so that switching one on does not shift what the others do.
        self.active && chance > 0 && prng.chance(u64::from(chance), 1_000_000)
    }

    /// Counts a fault that happened without being drawn.
    pub fn note(&mut self, fault: Fault) {
        self.fired.0[fault as usize] += 1;
    }

    /// Counts what a power loss did.
    pub fn note_losses(&mut self, losses: Losses) {
        let counts = [
            (Fault::TornWrite, losses.torn_writes),
            (Fault::LostWrite, losses.lost_writes),
            (Fault::ReorderedWrites, losses.reordered_writes),
            (Fault::LostEntry, losses.lost_entries),
        ];
        for (fault, count) in counts {
            self.fired.0[fault as usize] += count;
        }
    }

    /// The end of the safety phase: from now on nothing goes wrong.
    pub fn stop(&mut self) {
        self.active = false;
    }

    /// Whether faults may still fire.
    #[must_use]
    pub fn active(&self) -> bool {
        self.active
    }

    /// How often each kind fired so far.
    #[must_use]
    pub fn fired(&self) -> &Fired {
        &self.fired
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, chance) in Fault::ALL.into_iter().zip(self.per_million) {
            if chance > 0 {
                write!(f, "{} {chance} ", fault.name())?;
            }
        }
        write!(f, "in a million")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fires_after_the_stop() {
        let mut prng = Prng::new(1);
        let mut faults = Faults::none();
        faults.set(Fault::Reset, 1_000_000);
        assert!(faults.fires(Fault::Reset, &mut prng));
        faults.stop();
        assert!(!faults.fires(Fault::Reset, &mut prng));
        assert_eq!(faults.fired().count(Fault::Reset), 1);
    }

    #[test]
    fn every_kind_has_its_own_name_and_place() {
        for (place, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(place, fault as usize, "{}", fault.name());
            assert_eq!(
                Fault::ALL
                    .iter()
                    .filter(|other| other.name() == fault.name())
                    .count(),
                1
            );
        }
    }
}
