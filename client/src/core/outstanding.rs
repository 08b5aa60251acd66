//! What this side asked and the node has not answered, by message id. A table whose cell is the id itself modulo its size:
//! ids are consecutive, so requests in flight fill consecutive cells and every insert or removal touches one. A request
//! that stays so long that a later one wants its cell gives way to it and moves to a small map beside the table; one that
//! is never answered costs one place there, however many others pass it. Allocates only to grow; its size is bounded by
//! the link's window, because nothing is sent without credit.

use std::collections::BTreeMap;

/// Why a request is remembered and for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked<K> {
    /// The frame's message id; zero is an empty cell.
    id: u64,
    /// What was asked.
    pub(crate) kind: K,
    /// The asker's own name for it.
    pub(crate) token: u64,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Outstanding<K> {
    cells: Vec<Option<Asked<K>>>,
    /// Requests whose cell a later one took.
    late: BTreeMap<u64, Asked<K>>,
    len: usize,
}

impl<K: Copy> Outstanding<K> {
    pub(crate) fn new(expected: usize) -> Self {
        Self {
            cells: vec![None; (expected * 2).next_power_of_two().max(16)],
            late: BTreeMap::new(),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    fn cell(&self, id: u64) -> usize {
        // The size is a power of two.
        id as usize & (self.cells.len() - 1)
    }

    /// Remembers a request. `id` must be new and not zero.
    pub(crate) fn insert(&mut self, id: u64, kind: K, token: u64) {
        assert!(id != 0, "message ids count from one");
        if self.len * 2 >= self.cells.len() {
            self.grow();
        }
        let at = self.cell(id);
        if let Some(late) = self.cells[at].replace(Asked { id, kind, token }) {
            assert!(late.id < id, "message ids grow");
            self.late.insert(late.id, late);
        }
        self.len += 1;
    }

    fn grow(&mut self) {
        let cells = vec![None; self.cells.len() * 2];
        let old = core::mem::replace(&mut self.cells, cells);
        // What had a cell of its own has one in twice as many.
        for asked in old.into_iter().flatten() {
            let at = self.cell(asked.id);
            self.cells[at] = Some(asked);
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Asked<K>> {
        match self.cells[self.cell(id)] {
            Some(asked) if asked.id == id => Some(asked),
            Some(_) | None => self.late.get(&id).copied(),
        }
    }

    /// Forgets a request and says what it was; `None` when no such request is outstanding.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Asked<K>> {
        let at = self.cell(id);
        let removed = match self.cells[at] {
            Some(asked) if asked.id == id => self.cells[at].take(),
            Some(_) | None => self.late.remove(&id),
        };
        self.len -= usize::from(removed.is_some());
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tiderace_base::prng::Prng;

    #[test]
    fn agrees_with_a_map_while_an_old_request_stays() {
        let mut prng = Prng::new(11);
        let mut table = Outstanding::new(4);
        let mut model = BTreeMap::new();
        table.insert(1, 0_u8, 1000);
        for id in 2..20_000_u64 {
            table.insert(id, 1, id * 3);
            model.insert(id, id * 3);
            while model.len() > prng.below(60) as usize {
                let nth = prng.below(model.len() as u64) as usize;
                let victim = *model.keys().nth(nth).expect("there is an nth");
                let token = model.remove(&victim);
                assert_eq!(table.remove(victim).map(|asked| asked.token), token);
                assert!(table.remove(victim).is_none());
            }
            assert_eq!(table.len(), model.len() + 1);
        }
        for (id, token) in &model {
            assert_eq!(table.get(*id).map(|asked| asked.token), Some(*token));
        }
        assert!(table.cells.len() <= 256, "an old request costs one place");
        assert_eq!(table.remove(1).map(|asked| asked.token), Some(1000));
    }
}
