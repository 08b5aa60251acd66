//! Which parts make up the newest and the previous checkpoint, when the next must be a base, and which files nobody needs.
//! A part's file is given up only when no superblock that a start may read can need it; a number is given only when no file
//! can bear it and no superblock names it.

use super::part::{NO_PARENT, Part};
use super::{DELTA_SLACK_BYTES, PARTS_MAX};
use std::collections::BTreeSet;
use tiderace_base::position::Lsn;

/// The part to write next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// Its number.
    pub id: u64,
    /// What it builds on; [`NO_PARENT`] when it is a base and needs all live cells.
    pub parent: u64,
}

/// The checkpoints of one journal.
#[derive(Debug, Default)]
pub struct Chain {
    /// Base first; empty before the first checkpoint.
    newest: Vec<Part>,
    /// Base first; empty before the second checkpoint. Often all but the last of `newest`.
    previous: Vec<Part>,
    /// Every file that may exist and was not given up.
    files: BTreeSet<u64>,
    last_id: u64,
    /// The part that was begun and neither committed nor abandoned.
    open: Option<u64>,
}

impl Chain {
    /// What a start found: the chains that its superblock names as far as they are good, base first, and the numbers of
    /// all part files that are there, referenced or not, with those that the superblock names, there or not.
    ///
    /// # Panics
    /// When a chain is not linked base first: [`super::verify_chain`] gives them so.
    #[must_use]
    pub fn recovered(
        newest: Vec<Part>,
        previous: Vec<Part>,
        files: impl IntoIterator<Item = u64>,
    ) -> Self {
        for chain in [&newest, &previous] {
            assert!(
                chain.first().is_none_or(Part::is_base)
                    && chain.windows(2).all(|pair| pair[1].parent == pair[0].id),
                "a chain is linked base first"
            );
        }
        let mut files: BTreeSet<u64> = files.into_iter().collect();
        files.extend(newest.iter().chain(&previous).map(|part| part.id));
        // J-57: the numbers of half-written files and of damaged parts are spent as well.
        let last_id = files.last().copied().unwrap_or(NO_PARENT);
        Self {
            newest,
            previous,
            files,
            last_id,
            open: None,
        }
    }

    /// Whether the next part must be a base. J-55
    #[must_use]
    pub fn next_is_base(&self) -> bool {
        let Some((base, deltas)) = self.newest.split_first() else {
            return true;
        };
        let delta_bytes = deltas
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(part.body_bytes));
        let delta_bytes_max = base.body_bytes.saturating_add(DELTA_SLACK_BYTES);
        self.newest.len() >= PARTS_MAX || delta_bytes > delta_bytes_max
    }

    /// Spends a number on the next part, which is a base if it must be or is `wanted` to be.
    ///
    /// # Panics
    /// While another part is open, and when numbers run out: one a microsecond lasts 584,000 years.
    pub fn begin(&mut self, base_wanted: bool) -> Next {
        assert_eq!(self.open, None, "one part is written at a time");
        self.last_id = self
            .last_id
            .checked_add(1)
            .expect("there are more numbers than checkpoints");
        self.files.insert(self.last_id);
        self.open = Some(self.last_id);
        let parent = match self.newest.last() {
            Some(newest) if !base_wanted && !self.next_is_base() => newest.id,
            Some(_) | None => NO_PARENT,
        };
        Next {
            id: self.last_id,
            parent,
        }
    }

    /// The begun part is complete, and the superblock that names it as newest, and what was newest as previous, is durable.
    /// Returns the files to remove now. J-56
    ///
    /// # Panics
    /// When the part is not the open one, or a delta that does not build on the newest.
    pub fn commit(&mut self, part: Part) -> Vec<u64> {
        assert_eq!(self.open, Some(part.id), "the open part is committed");
        let chain = if part.is_base() {
            vec![part]
        } else {
            assert_eq!(
                self.newest.last().map(|newest| newest.id),
                Some(part.parent),
                "a delta builds on the newest part"
            );
            let mut chain = self.newest.clone();
            chain.push(part);
            chain
        };
        self.previous = core::mem::replace(&mut self.newest, chain);
        self.open = None;
        self.give_up()
    }

    /// The open part could not be written (no space): forgets it. Returns the files to remove now; its own may be absent.
    pub fn abandon(&mut self) -> Vec<u64> {
        self.open = None;
        self.give_up()
    }

    /// Gives up the files that neither checkpoint needs. For a start, once its superblock is durable; afterwards `commit` and
    /// `abandon` do it.
    pub fn give_up(&mut self) -> Vec<u64> {
        let needed: BTreeSet<u64> = self.needed().chain(self.open).collect();
        let gone: Vec<u64> = self.files.difference(&needed).copied().collect();
        for file in &gone {
            self.files.remove(file);
        }
        gone
    }

    /// The files that the newest or the previous checkpoint needs; some come twice.
    pub fn needed(&self) -> impl Iterator<Item = u64> + '_ {
        self.newest.iter().chain(&self.previous).map(|part| part.id)
    }

    /// The newest checkpoint's last part, for the superblock.
    #[must_use]
    pub fn newest(&self) -> Option<&Part> {
        self.newest.last()
    }

    /// The previous checkpoint's last part, for the superblock.
    #[must_use]
    pub fn previous(&self) -> Option<&Part> {
        self.previous.last()
    }

    /// The log below this is needed by neither checkpoint; `None` until there are two. J-58
    #[must_use]
    pub fn covered_by_both(&self) -> Option<Lsn> {
        let (newest, previous) = (self.newest()?, self.previous()?);
        Some(newest.covers.min(previous.covers))
    }

    /// How many parts the newest checkpoint has, and the bytes of their cells.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let bytes = self
            .newest
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(part.body_bytes));
        (self.newest.len(), bytes)
    }
}
