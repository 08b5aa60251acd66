//! A shard that was read and not begun: what its journal holds is rebuilt and judged, and nothing on the disk has changed. A
//! node reads all of its journals, has the catalogue say whether they belong together, and begins them only then: a refusal
//! must leave the evidence as it was, and must not count as a run.

use crate::replay::Rebuilt;
use crate::shard::{Shard, ShardConfig, ShardError};
use tiderace_base::disk::Disk;
use tiderace_base::ids::DiskId;
use tiderace_base::position::Epoch;
use tiderace_base::time::Now;
use tiderace_storage::{Recovery, Settings, StandIn};

/// A shard as its journal's directory has it.
#[derive(Debug)]
pub struct ShardRecovery {
    config: ShardConfig,
    rebuilt: Rebuilt,
    journal: Recovery,
}

impl ShardRecovery {
    /// Reads a journal's directory, which may be empty, and changes nothing. Blocking: before threads start.
    ///
    /// # Errors
    /// When the directory cannot be read, belongs to another node or a newer version, or holds damage that a lone node
    /// cannot repair.
    pub fn read<D: Disk>(
        disk: &mut D,
        config: ShardConfig,
        settings: Settings,
        now: Now,
    ) -> Result<Self, ShardError> {
        let mut rebuilt = Rebuilt::new(config.producers);
        let journal = tiderace_storage::recover(disk, settings, now, &mut rebuilt)
            .map_err(ShardError::Journal)?;
        let rebuilt = rebuilt.finish().map_err(ShardError::Contradiction)?;
        Ok(Self {
            config,
            rebuilt,
            journal,
        })
    }

    /// The identity of the disk that holds the journal.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.journal.disk()
    }

    /// How often the journal was begun, this run among them.
    #[must_use]
    pub fn boot_count(&self) -> u64 {
        self.journal.boot_count()
    }

    /// The greatest epoch of any entry that the journal holds; zero when it holds none.
    #[must_use]
    pub fn epoch_max(&self) -> Epoch {
        self.rebuilt
            .slots
            .iter()
            .map(|held| held.slot.last_epoch())
            .max()
            .unwrap_or_default()
    }

    /// What stands in for something in the journal that could not be read.
    #[must_use]
    pub fn stand_ins(&self) -> &[StandIn] {
        self.journal.stand_ins()
    }

    /// Counts this run and begins the journal's next segment. Blocking.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn begin<D: Disk>(self, disk: &mut D) -> Result<Shard, ShardError> {
        let journal = self.journal.begin(disk).map_err(ShardError::Journal)?;
        Ok(Shard::new(self.config, self.rebuilt, journal))
    }
}
