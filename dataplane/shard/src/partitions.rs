//! Every partition of a shard, by key and by a dense index that stays the same while the partition lives. Freed indexes
//! are used again; whoever keeps one across a drop compares the key.

use crate::partition::Partition;
use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;
use tiderace_base::position::Offset;
use tiderace_storage::Starts;

/// A partition's place in its shard's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Index(u32);

impl Index {
    /// The first place.
    pub(crate) const FIRST: Self = Self(0);

    /// The place after this one.
    pub(crate) const fn after(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    by_key: Map<PartitionKey, Index>,
    table: Vec<Option<Box<Partition>>>,
    free: Vec<Index>,
}

impl Partitions {
    /// How many there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Where a partition is.
    #[must_use]
    pub(crate) fn find(&self, key: PartitionKey) -> Option<Index> {
        self.by_key.get(&key).copied()
    }

    /// One partition, if the index still names one.
    #[must_use]
    pub(crate) fn get(&self, index: Index) -> Option<&Partition> {
        self.table.get(index.0 as usize)?.as_deref()
    }

    /// One partition to change, if the index still names one.
    pub(crate) fn get_mut(&mut self, index: Index) -> Option<&mut Partition> {
        self.table.get_mut(index.0 as usize)?.as_deref_mut()
    }

    /// One partition to change.
    ///
    /// # Panics
    /// When the index names none: indexes of live partitions only are kept.
    pub(crate) fn at(&mut self, index: Index) -> &mut Partition {
        self.table[index.0 as usize]
            .as_deref_mut()
            .expect("the index of a live partition")
    }

    /// Adds a partition that is not there yet.
    ///
    /// # Panics
    /// When it is there.
    pub(crate) fn insert(&mut self, partition: Partition) -> Index {
        let key = partition.key;
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            Index(u32::try_from(self.table.len() - 1).expect("fewer partitions than a u32 counts"))
        });
        self.table[index.0 as usize] = Some(Box::new(partition));
        assert!(
            self.by_key.insert(key, index).is_none(),
            "a partition is added once"
        );
        index
    }

    /// Removes a partition.
    pub(crate) fn remove(&mut self, key: PartitionKey) -> Option<Box<Partition>> {
        let index = self.by_key.remove(&key)?;
        self.free.push(index);
        self.table[index.0 as usize].take()
    }

    /// Every partition, in the order of the table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Index, &Partition)> {
        self.table
            .iter()
            .enumerate()
            .filter_map(|(index, partition)| Some((Index(index as u32), partition.as_deref()?)))
    }
}

impl Starts for Partitions {
    fn start_of(&self, key: PartitionKey) -> Option<Offset> {
        self.find(key)
            .and_then(|index| self.get(index))
            .map(|partition| partition.durable.start)
    }
}
