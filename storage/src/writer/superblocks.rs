//! The superblock while the journal serves: what the next one will say, which is being written, and which changes are
//! durable. One is written at a time, to the copy that is not the newest, so that one is always whole. J-1

use crate::format::superblock::{Superblock, copy_at};

/// See the module.
#[derive(Debug)]
pub(crate) struct Superblocks {
    /// What the next one will say, but for what is filled in when it is written.
    pub(crate) next: Superblock,
    /// Counts changes.
    version: u64,
    durable: u64,
    writing: bool,
    asked: bool,
    /// Another one follows the one that is asked for.
    again: bool,
    /// The next one goes where the one behind it would.
    skips: bool,
}

impl Superblocks {
    /// After recovery wrote `superblock`.
    pub(crate) fn new(superblock: Superblock) -> Self {
        Self {
            next: superblock,
            version: 0,
            durable: 0,
            writing: false,
            asked: false,
            again: false,
            skips: false,
        }
    }

    /// `next` was changed: write it as soon as may be. Gives the version to wait for.
    pub(crate) fn ask(&mut self) -> u64 {
        self.version += 1;
        self.asked = true;
        self.version
    }

    /// The copy was found damaged, and the other one is whole: both are to be written anew, the damaged one first.
    pub(crate) fn repair(&mut self, copy: u64) {
        self.ask();
        self.again = true;
        self.skips = copy_at(self.next.generation + 1) != copy_at(copy);
    }

    pub(crate) fn is_durable(&self, version: u64) -> bool {
        self.durable >= version
    }

    /// The version to write now, if one is asked for and none is on its way.
    pub(crate) fn start(&mut self) -> Option<u64> {
        if !self.asked || self.writing {
            return None;
        }
        self.asked = core::mem::take(&mut self.again);
        self.writing = true;
        self.next.generation += 1 + u64::from(core::mem::take(&mut self.skips));
        Some(self.version)
    }

    pub(crate) fn written(&mut self, version: u64) {
        assert!(self.writing, "one superblock is written at a time");
        self.writing = false;
        self.durable = version;
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.writing && !self.asked
    }
}
