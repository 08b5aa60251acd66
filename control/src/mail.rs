//! What a control machine hears from those of other nodes, and what it tells them beside consensus' own: who wants to be let in,
//! changes and their outcomes, what was dropped, and whole states for nodes that lack what the log no longer has.

use crate::checkpoint::{put_state, read_state};
use crate::control::{Control, Phase};
use crate::desk::{Asker, Desk};
use crate::letter::{Letter, STATE_PART_BYTES_MAX};
use crate::links::Heard;
use crate::raft::Position;
use bytes::Bytes;
use tiderace_base::catalogue::Refusal;
use tiderace_base::ids::NodeId;
use tiderace_base::operation::Effects;
use tiderace_base::position::CatalogueVersion;
use tiderace_base::time::{Mono, Now};

/// How long a state may take to be said in part, and then to come to something, before it is said anew.
const STATE_NS_MAX: u64 = 5_000_000_000;

/// A state on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    base: Position,
    /// Empty once all of it is said.
    bytes: Bytes,
    next: u32,
    /// Until then it may still come to something.
    until: Mono,
}

impl Control {
    pub(crate) fn hear(&mut self, now: Now, effects: &mut Effects) {
        while let Some(heard) = self.links.take_heard() {
            match heard {
                Heard::Hello(hello) => {
                    self.dropped_told = None;
                    self.raft.link_is_new(hello.node, hello.boot, now.mono);
                }
                Heard::Lost(node) => {
                    self.dropped_told = None;
                    self.raft.link_lost(node, now.mono);
                    self.sending.remove(&node);
                    self.desk.lost(node, effects);
                }
                Heard::Letter(node, letter) => self.take_letter(node, letter, now, effects),
            }
            if self.phase == Phase::Failed {
                return;
            }
            self.drain_raft(effects);
        }
    }

    fn take_letter(&mut self, node: NodeId, letter: Letter, now: Now, effects: &mut Effects) {
        match letter {
            Letter::Raft(message) => self.raft.receive(node, message, now.mono),
            Letter::Join { disks } => self.asked_to_join(node, &disks, now),
            Letter::Boot(fact) => self.told_of_boot(node, &fact, now),
            Letter::Refused(why) => self.refused(why, effects),
            Letter::Leader { node, address } => {
                self.links.learn(node, address);
                self.asked.insert(node);
            }
            Letter::Forward { ticket, change } => {
                let asker = Asker::There { node, ticket };
                if self.leads() {
                    self.ask(asker, change, effects);
                } else {
                    let outcome = Err(Refusal::Unavailable);
                    let version = CatalogueVersion::ZERO;
                    Desk::tell(asker, version, outcome, &mut self.links, effects);
                }
            }
            Letter::Outcome {
                ticket,
                version,
                outcome,
            } => self.desk.answered(node, ticket, version, outcome),
            Letter::Dropped { boot, version } => {
                self.dropped.insert(node, (boot, version));
            }
            Letter::State {
                base,
                part,
                parts,
                bytes,
            } => self.take_state(base, part, parts, &bytes),
            // The links keep these to themselves.
            Letter::Hello(_) | Letter::Ping => {}
        }
    }

    /// Tells the leader what no shard of this node holds any more.
    pub(crate) fn say_dropped(&mut self) {
        let leader = self.raft.leader().filter(|leader| *leader != self.node);
        let Some(leader) = leader.filter(|_| self.is_booted) else {
            return;
        };
        let version = self.shards.dropped();
        if self.dropped_told == Some((leader, version)) {
            return;
        }
        let letter = Letter::Dropped {
            boot: self.boot_id,
            version,
        };
        if self.links.say(leader, &letter, false) {
            self.dropped_told = Some((leader, version));
        }
    }

    // --- States -----------------------------------------------------------------------------------------------------

    /// A node lacks what the log no longer has.
    fn send_state(&mut self, to: NodeId, now: Now) {
        // Consensus asks again and again for what takes its time.
        if self.sending.get(&to).is_some_and(|it| now.mono < it.until) {
            return;
        }
        let Some((base, members)) = self.raft.members_at(self.applied_at) else {
            return;
        };
        let sending = Sending {
            base,
            bytes: put_state(&members, &self.applied),
            next: 0,
            until: now.mono.after_ns(STATE_NS_MAX),
        };
        self.sending.insert(to, sending);
    }

    /// Says more of the states that are on their way, where there is room.
    pub(crate) fn say_states(&mut self, now: Now) {
        for to in core::mem::take(&mut self.states_wanted) {
            if self.leads() {
                self.send_state(to, now);
            }
        }
        let links = &mut self.links;
        self.sending.retain(|to, sending| {
            let parts = sending.bytes.len().div_ceil(STATE_PART_BYTES_MAX) as u32;
            while sending.next < parts && links.has_room(*to) {
                let from = sending.next as usize * STATE_PART_BYTES_MAX;
                let until = (from + STATE_PART_BYTES_MAX).min(sending.bytes.len());
                let letter = Letter::State {
                    base: sending.base,
                    part: sending.next,
                    parts,
                    bytes: sending.bytes.slice(from..until),
                };
                if !links.say(*to, &letter, false) {
                    return false;
                }
                sending.next += 1;
                sending.until = now.mono.after_ns(STATE_NS_MAX);
            }
            if sending.next >= parts {
                sending.bytes = Bytes::new();
            }
            now.mono < sending.until
        });
    }

    fn take_state(&mut self, base: Position, part: u32, parts: u32, bytes: &Bytes) {
        let Some(whole) = self.coming.take(base, part, parts, bytes) else {
            return;
        };
        if base.index <= self.applied_at || self.installing.is_some() {
            return;
        }
        // What cannot be read is asked for again.
        let Ok((members, catalogue)) = read_state(&whole) else {
            return;
        };
        let part_bytes_max = self.entry_body_bytes_max / 2;
        self.log.state(base, &whole.into(), part_bytes_max);
        self.installing = Some((base, members, catalogue));
    }

    /// The state of a leader is on the disk.
    pub(crate) fn install(&mut self, base: Position, now: Now) {
        let Some((_, members, catalogue)) = self.installing.take_if(|it| it.0 == base) else {
            return;
        };
        if base.index <= self.applied_at {
            return;
        }
        self.raft.install(base, &members, now.mono);
        if self.raft.committed() >= base.index && self.raft.position(base.index) == Some(base) {
            self.checkpoint.note_all(&self.applied, &catalogue);
            self.applied = catalogue;
            self.applied_at = base.index;
            self.learn_addresses();
            self.notice_boot();
        }
    }
}
