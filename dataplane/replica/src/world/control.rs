//! Control in the model world: one catalogue that changes by compare-and-set on the slot's generation, and two control
//! leaders that seal and choose by what they know of it. The second is deposed as often as not: it looks at old records.

use super::disk::Entry;
use super::node::Node;
use super::{CONTROLLERS, Damage, Message, NODES_MAX, World, index_of, node_id};
use crate::configuration::{Configuration, Generation, Member};
use crate::copy::SlotCopy;
use crate::election::{Choice, Winner, choose, choose_lossy};
use crate::planted::{Bug, is_planted};
use crate::seal::{SealAnswer, SealAsk};
use tiderace_base::ids::BootId;
use tiderace_base::position::Epoch;

/// The slot's record, with the boots that the catalogue has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) generation: Generation,
    pub(super) epoch: Epoch,
    pub(super) leader: Option<Member>,
    pub(super) wait_ns: u64,
    pub(super) configuration: Configuration,
    pub(super) next: Option<Configuration>,
    pub(super) boots: [BootId; NODES_MAX],
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    generation: Generation,
    epoch: Epoch,
    configuration: Configuration,
    next: Option<Configuration>,
    answers: Vec<SealAnswer>,
    turns: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) view: Record,
    pub(super) run: Option<Run>,
    /// The greatest promise that it heard of.
    pub(super) promised: Epoch,
}

pub(super) struct Control {
    pub(super) record: Record,
    pub(super) controllers: [Controller; 2],
    /// Somebody could not lead or follow: an election is due.
    pub(super) is_due: bool,
    is_healing: bool,
}

impl Control {
    pub(super) fn new(nodes: &[Node], members: usize, quorum: usize) -> Self {
        let mut boots = [BootId::new(0); NODES_MAX];
        for (boot, node) in boots.iter_mut().zip(nodes) {
            *boot = node.boot;
        }
        let members: Vec<Member> = nodes[..members].iter().map(Node::member).collect();
        let configuration =
            Configuration::new(Generation::new(1), &members, quorum).expect("sound");
        let record = Record {
            generation: Generation::new(1),
            epoch: Epoch::ZERO,
            leader: None,
            wait_ns: 0,
            configuration,
            next: None,
            boots,
        };
        let controller = Controller {
            view: record,
            run: None,
            promised: Epoch::ZERO,
        };
        Self {
            record,
            controllers: [controller.clone(), controller],
            is_due: true,
            is_healing: false,
        }
    }

    /// A node's start is committed: it leads nothing any more.
    pub(super) fn node_started(&mut self, index: usize, boot: BootId) {
        let node = node_id(index);
        self.record.boots[index] = boot;
        self.record.configuration.note_boot(node, boot);
        if let Some(next) = &mut self.record.next {
            next.note_boot(node, boot);
        }
        let led = self.record.leader.is_some_and(|leader| leader.node == node);
        if led && !is_planted(Bug::ResumeEpoch) {
            self.record.leader = None;
            self.turn_generation();
        }
    }

    /// An election is due, unless one runs: that one may be the remedy.
    pub(super) fn is_due(&mut self) {
        self.is_due |= self
            .controllers
            .iter()
            .all(|controller| controller.run.is_none());
    }

    /// The boot's death is committed. It may well be alive, out of reach.
    pub(super) fn declare_dead(&mut self, index: usize) {
        self.node_started(index, BootId::new(0));
        self.is_due();
    }

    fn turn_generation(&mut self) {
        let generation = self.record.generation.next();
        self.record.generation = generation;
        self.record.configuration = self.record.configuration.at(generation);
    }

    pub(super) fn heard(&mut self, controller: usize, answer: SealAnswer) {
        let controller = &mut self.controllers[controller];
        controller.promised = controller.promised.max(answer.epoch);
        let run = controller.run.as_mut();
        if let Some(run) = run.filter(|run| answer.epoch >= run.epoch) {
            run.answers.push(answer);
        }
    }

    /// `SlotLed`, by compare-and-set on the generation; the winner has to be alive in the boot that answered.
    fn propose_led(&mut self, run: &Run, winner: &Winner) -> bool {
        let index = index_of(winner.member.node);
        let is_current = run.generation == self.record.generation
            && run.epoch > self.record.epoch
            && self.record.boots[index] == winner.member.boot;
        if is_current {
            self.is_due = false;
            self.record.leader = Some(winner.member);
            self.record.epoch = run.epoch;
            self.record.wait_ns = winner.wait_ns;
            self.record.next = run.next;
            self.turn_generation();
            for at in 0..NODES_MAX {
                let boot = self.record.boots[at];
                if let Some(next) = &mut self.record.next {
                    next.note_boot(node_id(at), boot);
                }
            }
        }
        is_current
    }

    /// `SlotSet`, by compare-and-set on the generation.
    pub(super) fn propose_set(&mut self, from: Generation, epoch: Epoch, set: &Configuration) {
        let is_current = from == self.record.generation && epoch == self.record.epoch;
        if is_current && self.record.next.is_some_and(|next| next.is_same_set(set)) {
            self.record.configuration = self.record.next.expect("it is the same set");
            self.record.next = None;
            self.turn_generation();
        }
    }

    pub(super) fn mend(&mut self, is_due: bool) {
        self.is_healing = true;
        self.is_due |= is_due;
        for controller in &mut self.controllers {
            controller.view = self.record;
        }
    }
}

impl World {
    pub(super) fn control_turn(&mut self, at: usize) {
        let refresh = if at == 0 { 3 } else { 1 };
        if self.is_healing || self.prng.chance(refresh, 4) {
            self.control.controllers[at].view = self.control.record;
        }
        if self.control.controllers[at].run.is_some() {
            self.election_turn(at);
        } else if self.is_election_due(at) {
            self.begin_election(at);
        }
    }

    fn is_election_due(&mut self, at: usize) -> bool {
        let view = self.control.controllers[at].view;
        let elections = self.settings.elections;
        let is_led = view.leader.is_some_and(|leader| {
            let node = &self.nodes[index_of(leader.node)];
            node.is_up || self.is_healing
        });
        let is_due = self.control.is_due || self.is_change_needed(&view);
        !is_led || is_due || !self.is_healing && self.prng.chance(elections, 240)
    }

    /// While everything heals: members whose disk is gone are replaced.
    fn is_change_needed(&self, view: &Record) -> bool {
        let mut members = view.configuration.members().iter();
        self.is_healing
            && view.next.is_none()
            && members.any(|member| self.nodes[index_of(member.node)].disk.id != member.disk)
    }

    fn begin_election(&mut self, at: usize) {
        self.control.is_due = false;
        let controller = &self.control.controllers[at];
        let view = controller.view;
        let step = 1 + self.prng.below(3) as u32;
        let epoch = view.epoch.max(controller.promised).advance(step);
        let next = self.choose_next(&view);
        let is_unsealed = is_planted(Bug::ChangeSetUnsealed) && !self.is_healing;
        if let Some(next) = next.filter(|_| is_unsealed) {
            self.change_set_unsealed(next, epoch);
            return;
        }
        self.control.controllers[at].run = Some(Run {
            generation: view.generation,
            epoch,
            configuration: view.configuration,
            next,
            answers: Vec::new(),
            turns: 0,
        });
        self.ask_for_seals(at);
    }

    /// Another set, one member apart: with one more, one less, or one replaced.
    fn choose_next(&mut self, view: &Record) -> Option<Configuration> {
        let is_needed = self.is_change_needed(view);
        let is_lossy = self.settings.damage == Damage::Lossy;
        let set_changes = self.settings.set_changes;
        if !is_needed && (self.is_healing || is_lossy || !self.prng.chance(set_changes, 100)) {
            return None;
        }
        let mut members: Vec<Member> = view.configuration.members().to_vec();
        let is_gone = |world: &Self, member: &Member| {
            world.nodes[index_of(member.node)].disk.id != member.disk
        };
        let gone = members.iter().position(|member| is_gone(self, member));
        if let Some(gone) = gone {
            // The same node with its new disk.
            members[gone] = self.nodes[index_of(members[gone].node)].member();
        } else {
            let outside: Vec<Member> = (0..self.nodes.len())
                .filter(|index| !members.iter().any(|member| index_of(member.node) == *index))
                .map(|index| self.nodes[index].member())
                .collect();
            let pick = self.prng.below(4);
            let victim = self.prng.below(members.len() as u64) as usize;
            match (pick, outside.is_empty()) {
                (0, _) if members.len() > 1 => {
                    members.remove(victim);
                }
                (1, false) if members.len() > 1 => {
                    let fresh = self.prng.below(outside.len() as u64) as usize;
                    members[victim] = outside[fresh];
                }
                (_, false) => {
                    let fresh = self.prng.below(outside.len() as u64) as usize;
                    members.push(outside[fresh]);
                }
                (_, true) => return None,
            }
        }
        let quorum = members.len() / 2 + 1;
        let next = Configuration::new(view.generation, &members, quorum).ok()?;
        self.is_sound(&next).then_some(next)
    }

    fn change_set_unsealed(&mut self, next: Configuration, epoch: Epoch) {
        let record = &mut self.control.record;
        let at = self.prng.below(next.members().len() as u64) as usize;
        record.configuration = next;
        record.next = None;
        record.leader = Some(next.members()[at]);
        record.epoch = record.epoch.max(epoch).advance(1);
        record.wait_ns = 0;
        self.control.turn_generation();
    }

    fn ask_for_seals(&mut self, at: usize) {
        let run = self.control.controllers[at].run.as_ref().expect("it runs");
        let ask = SealAsk {
            generation: run.generation,
            epoch: run.epoch,
        };
        let answers = &run.answers;
        let missing: Vec<usize> = run
            .configuration
            .members()
            .iter()
            .filter(|member| !answers.iter().any(|answer| answer.member == **member))
            .map(|member| index_of(member.node))
            .collect();
        for node in missing {
            self.send(CONTROLLERS, node, Message::Seal(ask, at));
        }
    }

    fn election_turn(&mut self, at: usize) {
        self.ask_for_seals(at);
        let is_lossy = self.settings.damage == Damage::Lossy;
        let controller = &mut self.control.controllers[at];
        let run = controller.run.as_mut().expect("it runs");
        run.turns += 1;
        // The boots are those that it began with. What was answered in an earlier one stays good: it was durable.
        let run = run.clone();
        let winner = match choose(&run.configuration, run.epoch, &run.answers) {
            Choice::Winner(winner) => winner,
            Choice::Outrun { promised } => {
                controller.promised = controller.promised.max(promised);
                controller.run = None;
                self.control.is_due();
                return;
            }
            Choice::NeedsMore { .. } | Choice::NeedsAll { .. } | Choice::LossyOnly => {
                let lossy = choose_lossy(&run.configuration, run.epoch, &run.answers);
                // Only what is committed to be dead is done without.
                let is_dead = |member: &Member| {
                    self.control.record.boots[index_of(member.node)] == BootId::new(0)
                };
                let are_dead = run.configuration.members().iter().all(|member| {
                    let mut answers = run.answers.iter();
                    answers.any(|answer| answer.member == *member) || is_dead(member)
                });
                match lossy.filter(|_| is_lossy && run.turns > 3 && are_dead) {
                    Some(winner) => {
                        self.checker.is_lossy = true;
                        winner
                    }
                    None => {
                        if run.turns > 12 {
                            self.control.controllers[at].run = None;
                            self.control.is_due();
                        }
                        return;
                    }
                }
            }
        };
        let is_in_next = run
            .next
            .is_none_or(|next| next.has_disk(winner.member.node, winner.member.disk));
        self.control.controllers[at].run = None;
        let is_sound = run.next.is_none_or(|next| self.is_sound(&next));
        let is_led = is_in_next && is_sound && self.control.propose_led(&run, &winner);
        if !is_led && self.control.record.leader.is_none() {
            self.control.is_due();
        }
    }

    /// Under which epoch a start puts the marks of its disk: the slot's at that moment.
    pub(super) fn epoch_at_start(&self) -> Epoch {
        self.control.record.epoch
    }

    /// What a disk that nobody runs would be found to hold.
    pub(super) fn stored(&self, member: &Member) -> Option<(SlotCopy, Vec<Entry>)> {
        let node = &self.nodes[index_of(member.node)];
        let disks = [Some(&node.disk), node.spare.as_ref()];
        let disk = disks
            .into_iter()
            .flatten()
            .find(|disk| disk.id == member.disk)?;
        Some(disk.recover())
    }
}
