//! Places for things that the kernel refers to by number. A place is reused, its number never: each occupant has a
//! generation that no earlier one had, so a completion that comes late finds nothing instead of somebody else.

/// Bits of a completion's user data that say which place.
pub(crate) const SLOT_BITS: u32 = 20;
/// Bits that say which occupant: a trillion of them, at a million a second twelve days, at a thousand 34 years.
pub(crate) const GENERATION_BITS: u32 = 40;
const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// Names an occupant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
}

impl Place {
    /// Slot and generation in the low 60 bits.
    pub(crate) fn pack(self) -> u64 {
        (self.generation << SLOT_BITS) | u64::from(self.slot)
    }

    /// The inverse of [`Place::pack`]; the upper 4 bits are somebody else's.
    pub(crate) fn unpack(raw: u64) -> Self {
        Self {
            slot: (raw & (SLOTS_MAX as u64 - 1)) as u32,
            generation: (raw >> SLOT_BITS) & ((1 << GENERATION_BITS) - 1),
        }
    }
}

/// A table of occupants.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<(u64, T)>>,
    free: Vec<u32>,
    generation: u64,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            generation: 0,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> Place {
        self.generation += 1;
        assert!(
            self.generation < 1 << GENERATION_BITS,
            "names of operations are spent: restart the node"
        );
        let slot = self.free.pop().unwrap_or_else(|| {
            assert!(
                self.entries.len() < SLOTS_MAX,
                "more operations in flight than can be named"
            );
            self.entries.push(None);
            (self.entries.len() - 1) as u32
        });
        self.entries[slot as usize] = Some((self.generation, value));
        self.len += 1;
        Place {
            slot,
            generation: self.generation,
        }
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        match self.entries.get_mut(place.slot as usize) {
            Some(Some((generation, value))) if *generation == place.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        self.get_mut(place)?;
        let (_, value) = self.entries[place.slot as usize].take()?;
        self.free.push(place.slot);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Place, &mut T)> {
        self.entries
            .iter_mut()
            .enumerate()
            .filter_map(|(slot, entry)| {
                entry.as_mut().map(|(generation, value)| {
                    (
                        Place {
                            slot: slot as u32,
                            generation: *generation,
                        },
                        value,
                    )
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_place_is_not_found_by_its_earlier_name() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(first.slot, second.slot);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn names_survive_user_data() {
        let place = Place {
            slot: (1 << SLOT_BITS) - 1,
            generation: (1 << GENERATION_BITS) - 1,
        };
        assert_eq!(Place::unpack(place.pack()), place);
        assert_eq!(Place::unpack(place.pack() | (0xf << 60)), place);
        assert_eq!(place.pack() >> 60, 0);
    }
}
