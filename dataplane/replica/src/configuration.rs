//! Who holds a slot: members by node, disk and boot, how many of them make a quorum, and the generation of the slot's
//! record that says so. A plain value without allocation, so that a leader can keep it and count over it on its hot path.
//! Invariants: at least one member and at most [`SLOT_MEMBERS_MAX`]; no node twice, no disk twice; 1 <= W <= N.

use tiderace_base::ids::{BootId, DiskId, NodeId};
use tiderace_base::limits::SLOT_MEMBERS_MAX;

/// Version of a slot's record in the catalogue. Every change names the one that it was made from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(u64);

impl Generation {
    /// Wraps a raw number, as a codec does.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The generation that a change made from this one has.
    ///
    /// # Panics
    /// When no such generation can be named.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(raw) => Self(raw),
            None => panic!("generation overflow"),
        }
    }
}

/// One copy's identity: the disk is what promises, the boot is what was heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The disk that holds the copy. A wiped disk, or an old image of one, is another.
    pub disk: DiskId,
    /// The run of the node that the catalogue has.
    pub boot: BootId,
}

/// Why members make no configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigurationError {
    /// There is none, or there are more than a slot may have: name between one and [`SLOT_MEMBERS_MAX`].
    Size,
    /// A node or a disk stands in it twice: two copies that fail together are one.
    Twice,
    /// The quorum is not between one and the number of members.
    Quorum,
}

/// The members of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration {
    generation: Generation,
    members: [Member; SLOT_MEMBERS_MAX],
    count: u8,
    quorum: u8,
}

impl Configuration {
    /// A configuration of these members, `quorum` of whom commit.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn new(
        generation: Generation,
        members: &[Member],
        quorum: usize,
    ) -> Result<Self, ConfigurationError> {
        if members.is_empty() || members.len() > SLOT_MEMBERS_MAX {
            return Err(ConfigurationError::Size);
        }
        for (at, member) in members.iter().enumerate() {
            let is_twice = |other: &Member| other.node == member.node || other.disk == member.disk;
            if members[..at].iter().any(is_twice) {
                return Err(ConfigurationError::Twice);
            }
        }
        if quorum == 0 || quorum > members.len() {
            return Err(ConfigurationError::Quorum);
        }
        let mut all = [Member::default(); SLOT_MEMBERS_MAX];
        all[..members.len()].copy_from_slice(members);
        Ok(Self {
            generation,
            members: all,
            count: u8::try_from(members.len()).expect("a slot has few members"),
            quorum: u8::try_from(quorum).expect("no more than the members"),
        })
    }

    /// The generation of the slot's record that this was read from.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The same members in another generation of the record.
    #[must_use]
    pub fn at(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// Its members. N is their number.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members[..usize::from(self.count)]
    }

    /// W: on how many members an entry is committed.
    #[must_use]
    pub fn quorum(&self) -> usize {
        usize::from(self.quorum)
    }

    /// R = N - W + 1: so many members meet every quorum in at least one.
    #[must_use]
    pub fn sealing(&self) -> usize {
        let sealing = usize::from(self.count) - usize::from(self.quorum) + 1;
        assert!(
            sealing + self.quorum() > self.members().len(),
            "two sets that need not meet protect nothing"
        );
        sealing
    }

    /// Which member a node is, whatever its disk and boot.
    #[must_use]
    pub fn index_of_node(&self, node: NodeId) -> Option<usize> {
        self.members().iter().position(|member| member.node == node)
    }

    /// Which member this is, disk and boot included.
    #[must_use]
    pub fn index_of(&self, member: &Member) -> Option<usize> {
        self.members().iter().position(|other| other == member)
    }

    /// Whether this node holds the slot on this disk, whatever its boot.
    #[must_use]
    pub fn has_disk(&self, node: NodeId, disk: DiskId) -> bool {
        let mut members = self.members().iter();
        members.any(|member| member.node == node && member.disk == disk)
    }

    /// Whether both name the same disks and the same quorum, whatever the boots and the generation.
    #[must_use]
    pub fn is_same_set(&self, other: &Self) -> bool {
        self.count == other.count
            && self.quorum == other.quorum
            && self
                .members()
                .iter()
                .all(|member| other.has_disk(member.node, member.disk))
    }

    /// The catalogue has another boot for a node. Says whether that node is a member and the boot was another.
    pub fn note_boot(&mut self, node: NodeId, boot: BootId) -> bool {
        let count = usize::from(self.count);
        let mut members = self.members[..count].iter_mut();
        match members.find(|member| member.node == node && member.boot != boot) {
            Some(member) => {
                member.boot = boot;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64) -> Member {
        Member {
            node: NodeId::new(node),
            disk: DiskId::new(u128::from(node) + 100),
            boot: BootId::new(node + 200),
        }
    }

    fn of(nodes: &[u64], quorum: usize) -> Result<Configuration, ConfigurationError> {
        let members: Vec<Member> = nodes.iter().copied().map(member).collect();
        Configuration::new(Generation::new(3), &members, quorum)
    }

    #[test]
    fn a_configuration_that_contradicts_itself_is_refused() {
        assert_eq!(of(&[], 1), Err(ConfigurationError::Size));
        assert_eq!(
            of(&[1, 2, 3, 4, 5, 6, 7, 8], 4),
            Err(ConfigurationError::Size)
        );
        assert_eq!(of(&[1, 2, 1], 2), Err(ConfigurationError::Twice));
        assert_eq!(of(&[1, 2], 0), Err(ConfigurationError::Quorum));
        assert_eq!(of(&[1, 2], 3), Err(ConfigurationError::Quorum));
        let shared = [
            member(1),
            Member {
                disk: member(1).disk,
                ..member(2)
            },
        ];
        assert_eq!(
            Configuration::new(Generation::new(1), &shared, 1),
            Err(ConfigurationError::Twice)
        );
    }

    #[test]
    fn whoever_seals_meets_whoever_commits() {
        for count in 1..=7 {
            let nodes: Vec<u64> = (1..=count).collect();
            for quorum in 1..=nodes.len() {
                let configuration = of(&nodes, quorum).expect("sound");
                assert_eq!(configuration.sealing(), nodes.len() - quorum + 1);
            }
        }
    }

    #[test]
    fn a_member_is_its_disk_and_its_boot() {
        let mut configuration = of(&[1, 2, 3], 2).expect("sound");
        assert_eq!(configuration.index_of(&member(2)), Some(1));
        let wiped = Member {
            disk: DiskId::new(9),
            ..member(2)
        };
        assert_eq!(configuration.index_of(&wiped), None);
        let restarted = Member {
            boot: BootId::new(9),
            ..member(2)
        };
        assert_eq!(configuration.index_of(&restarted), None);
        assert!(configuration.has_disk(restarted.node, restarted.disk));
        assert!(configuration.note_boot(restarted.node, restarted.boot));
        assert!(
            !configuration.note_boot(restarted.node, restarted.boot),
            "known"
        );
        assert!(
            !configuration.note_boot(NodeId::new(77), BootId::new(1)),
            "no member"
        );
        assert_eq!(configuration.index_of(&restarted), Some(1));
        assert!(configuration.is_same_set(&of(&[3, 2, 1], 2).expect("sound")));
        assert!(!configuration.is_same_set(&of(&[3, 2, 1], 3).expect("sound")));
        assert!(!configuration.is_same_set(&of(&[3, 2, 4], 2).expect("sound")));
    }
}
