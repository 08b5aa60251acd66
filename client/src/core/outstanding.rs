//! What this side asked and the node has not answered, by message id. An open-addressed table whose hash is the id
//! itself: ids are consecutive, so requests in flight fill consecutive cells and the usual insert or removal touches one.
//! One request that is never answered costs one cell, however many others pass it. Allocates only to grow; its size is
//! bounded by the link's window, because nothing is sent without credit.

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
    len: usize,
}

impl<K: Copy> Outstanding<K> {
    pub(crate) fn new(expected: usize) -> Self {
        Self {
            cells: vec![None; (expected * 2).next_power_of_two().max(16)],
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    fn mask(&self) -> usize {
        self.cells.len() - 1
    }

    /// Remembers a request. `id` must be new and not zero.
    pub(crate) fn insert(&mut self, id: u64, kind: K, token: u64) {
        assert!(id != 0, "message ids count from one");
        if (self.len + 1) * 2 > self.cells.len() {
            self.grow();
        }
        let mask = self.mask();
        let mut at = id as usize & mask;
        while let Some(cell) = &self.cells[at] {
            assert!(cell.id != id, "a message id is used once");
            at = (at + 1) & mask;
        }
        self.cells[at] = Some(Asked { id, kind, token });
        self.len += 1;
    }

    fn grow(&mut self) {
        let cells = vec![None; self.cells.len() * 2];
        let old = core::mem::replace(&mut self.cells, cells);
        let mask = self.mask();
        for cell in old.into_iter().flatten() {
            let mut at = cell.id as usize & mask;
            while self.cells[at].is_some() {
                at = (at + 1) & mask;
            }
            self.cells[at] = Some(cell);
        }
    }

    fn find(&self, id: u64) -> Option<usize> {
        if id == 0 {
            return None;
        }
        let mask = self.mask();
        let mut at = id as usize & mask;
        while let Some(cell) = &self.cells[at] {
            if cell.id == id {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }

    pub(crate) fn get(&self, id: u64) -> Option<Asked<K>> {
        self.find(id).and_then(|at| self.cells[at])
    }

    /// Forgets a request and says what it was; `None` when no such request is outstanding.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Asked<K>> {
        let mut hole = self.find(id)?;
        let mask = self.mask();
        let removed = self.cells[hole].take();
        self.len -= 1;
        // Later cells of the same run move up into the hole, or they could no longer be found.
        let mut at = (hole + 1) & mask;
        while let Some(cell) = self.cells[at] {
            let home = cell.id as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = self.cells[at].take();
                hole = at;
            }
            at = (at + 1) & mask;
        }
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
        assert!(table.cells.len() <= 256, "an old request costs one cell");
        assert_eq!(table.remove(1).map(|asked| asked.token), Some(1000));
    }
}
