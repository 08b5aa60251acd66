//! The rules of one slot, one by one, data in and data out: what each machine says to values that are laid before it.
//! Whether they hold together under loss, crashes and damage is the model world's to show.

mod choosing;
pub(crate) mod copying;
mod following;
pub(crate) mod leading;
pub(crate) mod sealing;

use crate::{Configuration, End, Follower, Generation, Given, Leader, Member, SlotCopy};
use tiderace_base::ids::{BootId, DiskId, NodeId};
use tiderace_base::position::{Epoch, SlotSeq};
use tiderace_base::time::Mono;

fn epoch(raw: u32) -> Epoch {
    Epoch::new(raw)
}

fn seq(raw: u64) -> SlotSeq {
    SlotSeq::new(raw)
}

fn end(raw_epoch: u32, raw_seq: u64) -> End {
    End {
        epoch: epoch(raw_epoch),
        seq: seq(raw_seq),
    }
}

fn at(ns: u64) -> Mono {
    Mono::from_ns(ns)
}

fn member(node: u64) -> Member {
    Member {
        node: NodeId::new(node),
        disk: DiskId::new(u128::from(node) + 100),
        boot: BootId::new(node + 200),
    }
}

fn set(nodes: &[u64], quorum: usize) -> Configuration {
    let members: Vec<Member> = nodes.iter().copied().map(member).collect();
    Configuration::new(Generation::new(3), &members, quorum).expect("sound")
}

/// A copy, all durable, whose epochs end at these sequences.
fn copy(ends: &[(u32, u64)]) -> SlotCopy {
    let mut copy = SlotCopy::default();
    for (of, until) in ends {
        while copy.end() < seq(*until) {
            copy.replay(epoch(*of), copy.end().advance(1));
        }
    }
    copy
}

fn given(of: u32, configuration: Configuration) -> Given {
    Given {
        epoch: epoch(of),
        leader: member(1),
        configuration,
        next: None,
        wait_ns: 0,
    }
}

/// Node 1 leads under an epoch, its epoch-start placed and durable here.
fn started(copy: &mut SlotCopy, given: &Given) -> Leader {
    let mut leader = Leader::chosen(copy, given, at(0)).expect("it may lead");
    let start = leader.start(copy).expect("it is not deposed");
    copy.became_durable(start.written);
    leader.became_durable(copy);
    leader
}

/// A follower on node 2 of node 1.
fn follower(copy: &mut SlotCopy, of: u32) -> Follower {
    Follower::follow(copy, epoch(of), member(1), member(2)).expect("it may follow")
}
