//! What goes wrong, and how often: each seed draws its own mixture. Two of the faults are aimed, because chance alone hardly ever
//! comes to what they do: at leases over a restart, and at acknowledgements of a log that is damaged afterwards.

use super::super::machine::Role;
use super::{Due, MS, World};
use std::collections::BTreeSet;
use tiderace_base::prng::Prng;

/// A mixture. The default: nothing.
#[derive(Clone, Default, Debug)]
pub(super) struct Faults {
    /// Messages in a thousand.
    lost: u64,
    doubled: u64,
    delayed: u64,
    /// Links that carry nothing, in one direction.
    cut: BTreeSet<(u64, u64)>,
    /// A leader to come, and who is not to hear it.
    unheard: Option<(u64, u64)>,
    /// Whose entries do not reach whom, though all else does.
    without_entries: Option<(u64, u64)>,
    slow_disk: Option<u64>,
    crashes: bool,
    pub(super) damages: bool,
    pub(super) changes_members: bool,
    partitions: bool,
}

impl Faults {
    pub(super) fn draw(prng: &mut Prng) -> Self {
        let mut some = |most: u64| match prng.below(3) {
            0 => 0,
            _ => prng.below(most),
        };
        Self {
            lost: some(150),
            doubled: some(100),
            delayed: some(100),
            cut: BTreeSet::new(),
            unheard: None,
            without_entries: None,
            slow_disk: Some(some(9)).filter(|node| (1..=5).contains(node)),
            crashes: some(4) > 0,
            damages: some(3) > 0,
            changes_members: some(2) > 0,
            partitions: some(4) > 0,
        }
    }

    pub(super) fn copies(&self, from: u64, to: u64, has_entries: bool, prng: &mut Prng) -> u32 {
        let roll = prng.below(1000);
        let is_lost = has_entries && self.without_entries == Some((from, to));
        if self.cut.contains(&(from, to)) || roll < self.lost || is_lost {
            0
        } else if roll < self.lost + self.doubled {
            2
        } else {
            1
        }
    }

    pub(super) fn delay_ns(&self, prng: &mut Prng) -> u64 {
        if prng.below(1000) < self.delayed {
            prng.range(MS, 120 * MS)
        } else {
            prng.range(50_000, 800_000)
        }
    }

    pub(super) fn disk_ns(&self, node: u64, prng: &mut Prng) -> u64 {
        if self.slow_disk == Some(node) {
            prng.range(5 * MS, 100 * MS)
        } else {
            prng.range(50_000, 2 * MS)
        }
    }
}

impl World {
    pub(super) fn fault(&mut self) {
        let gap = self.prng.range(20 * MS, 300 * MS);
        self.later(gap, Due::Fault);
        let node = self.prng.range(1, 6);
        match self.prng.below(8) {
            0 | 1 if self.faults.crashes => self.crash(node, false),
            2 if self.faults.damages => {
                // So many damaged at once as a majority can do without: one of three and more.
                let voters = self.voters();
                let is_alone = self.members.values().all(|it| !it.disk.is_damaged);
                if is_alone && voters >= 3 {
                    self.crash(node, true);
                }
            }
            3 if self.faults.partitions => {
                self.faults.cut.clear();
                for from in 1..=5 {
                    for to in 1..=5 {
                        if from != to && self.prng.chance(1, 4) {
                            self.faults.cut.insert((from, to));
                        }
                    }
                }
                self.count("partitioned");
            }
            4 if self.faults.partitions => {
                self.faults.cut.clear();
                for other in (1..=5).filter(|other| *other != node) {
                    self.faults.cut.insert((node, other));
                    self.faults.cut.insert((other, node));
                }
                self.count("isolated");
            }
            5 if self.faults.partitions && self.faults.crashes => self.cut_and_restart(),
            6 if self.faults.partitions && self.faults.damages => self.cut_and_damage(),
            _ => self.faults.cut.clear(),
        }
    }

    /// The leader and one other voter commit alone; then the leader is killed, and the log of the other one is damaged: what the
    /// two had promised is on the leader's disk only.
    fn cut_and_damage(&mut self) {
        let Some((leader, others)) = self.leader_and_others() else {
            return;
        };
        let is_whole = self.members.values().all(|it| !it.disk.is_damaged);
        if others.len() != 2 || !is_whole || self.voters() < 3 {
            return;
        }
        let deaf = others[self.prng.below(2) as usize];
        self.faults.cut.insert((leader, deaf));
        let later = self.prng.range(20 * MS, 120 * MS);
        for other in others.into_iter().filter(|other| *other != deaf) {
            self.later(
                later,
                Due::Damages {
                    leader,
                    node: other,
                    deaf,
                },
            );
        }
    }

    /// See [`World::cut_and_damage`]. Often the leader is to lead once more, for no longer than a message takes, unheard by the one
    /// that lacks what was committed.
    pub(super) fn damage_one(&mut self, leader: u64, node: u64, deaf: u64) {
        let is_whole = self.members.values().all(|it| !it.disk.is_damaged);
        if is_whole && self.voters() >= 3 {
            self.faults.cut.clear();
            self.crash(leader, false);
            self.crash(node, true);
            self.count("cut and damaged");
            self.faults.unheard = self.prng.chance(2, 3).then_some((leader, deaf));
        }
    }

    /// See [`World::damage_one`].
    pub(super) fn aim_at_new(&mut self, node: u64) {
        if let Some((leader, deaf)) = self.faults.unheard.take_if(|(leader, _)| *leader == node) {
            self.faults.without_entries = Some((leader, deaf));
            let later = self.prng.range(MS, 90 * MS);
            self.later(later, Due::Dies { node });
        }
    }

    pub(super) fn deafen(&mut self, node: u64) {
        if self.faults.partitions && self.prng.chance(2, 3) {
            for other in (1..=5).filter(|other| *other != node) {
                self.faults.cut.insert((other, node));
            }
        }
    }

    /// See [`World::damage_one`].
    pub(super) fn die(&mut self, node: u64) {
        self.faults.cut.clear();
        self.faults.without_entries = None;
        let member = self.members.get_mut(&node).expect("it is there");
        if member.raft.take().is_some() {
            member.disk.crash(&mut self.prng);
            let back = self.prng.range(300 * MS, 900 * MS);
            self.later(back, Due::Starts { node });
            self.count("led unheard");
        }
    }

    /// One voter no longer hears the leader, and another one, which does, is killed and back at once: what it granted must
    /// still hold.
    fn cut_and_restart(&mut self) {
        let Some((leader, others)) = self.leader_and_others() else {
            return;
        };
        if others.len() < 2 {
            return;
        }
        let deaf = others[self.prng.below(others.len() as u64) as usize];
        self.faults.cut.insert((leader, deaf));
        self.faults.cut.insert((deaf, leader));
        let later = self.prng.range(60 * MS, 140 * MS);
        for other in others.into_iter().filter(|other| *other != deaf) {
            let ns = later + self.prng.below(3 * MS);
            self.later(
                ns,
                Due::Restarts {
                    leader,
                    node: other,
                },
            );
        }
        self.count("cut and restarted");
    }

    fn leader_and_others(&self) -> Option<(u64, Vec<u64>)> {
        let leads = |it: &super::Member| {
            let raft = it.raft.as_ref()?;
            (raft.role() == Role::Leader).then(|| raft.members().voters.clone())
        };
        let mut members = self.members.iter();
        let (leader, voters) = members.find_map(|(node, it)| Some((*node, leads(it)?)))?;
        let others = voters.iter().map(|node| node.get());
        Some((leader, others.filter(|node| *node != leader).collect()))
    }

    /// A kill, and a start at once; often the leader is heard no more by then.
    pub(super) fn restart(&mut self, leader: u64, node: u64) {
        if self.prng.chance(2, 3) {
            self.faults.cut.insert((leader, node));
            self.faults.cut.insert((node, leader));
        }
        let member = self.members.get_mut(&node).expect("it is there");
        if member.raft.take().is_some() {
            member.disk.crash(&mut self.prng);
            self.start(node);
        }
    }

    /// The smallest number of voters that anybody counts with.
    fn voters(&self) -> usize {
        let known = self.members.values().filter_map(|it| it.raft.as_ref());
        let voters = known.flat_map(|raft| {
            let members = raft.members();
            [members.voters.len(), members.incoming.len()]
        });
        voters.filter(|count| *count > 0).min().unwrap_or(0)
    }

    fn crash(&mut self, node: u64, is_damaged: bool) {
        let member = self.members.get_mut(&node).expect("it is there");
        if member.raft.take().is_none() {
            return;
        }
        member.disk.crash(&mut self.prng);
        if is_damaged {
            member.disk.damage(&mut self.prng);
        }
        // Often so soon that what it granted would still hold.
        let most = if self.prng.chance(1, 2) { 5 } else { 200 };
        let back = self.prng.range(MS / 2, most * MS);
        self.later(back, Due::Starts { node });
        self.count(if is_damaged { "damaged" } else { "crashed" });
    }
}
