//! Places in sequences. Arithmetic is checked: a wrapped position is a lost record.

use core::fmt;

macro_rules! position {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The first place.
            pub const ZERO: Self = Self(0);
            /// The last place that can be named.
            pub const MAX: Self = Self(<$inner>::MAX);

            /// Wraps a raw number, as a codec does.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number, as it stands in a header.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The place `count` further on, or `None` where no such place can be named.
            #[must_use]
            pub const fn checked_add(self, count: $inner) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The place `count` further on.
            ///
            /// # Panics
            /// When no such place can be named: the caller has checked the bound.
            #[must_use]
            pub const fn advance(self, count: $inner) -> Self {
                match self.0.checked_add(count) {
                    Some(raw) => Self(raw),
                    None => panic!("position overflow"),
                }
            }

            /// How far `self` lies past `earlier`, or `None` when it lies before it.
            #[must_use]
            pub const fn distance_from(self, earlier: Self) -> Option<$inner> {
                self.0.checked_sub(earlier.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

position!(
    /// Dense number of a record within its partition.
    Offset(u64)
);
position!(
    /// A slot's fence. Only grows; whoever carries an older one is refused. A u32 lasts 136 years at one change a second.
    Epoch(u32)
);
position!(
    /// Dense number of an entry within its slot, given by the leader, the same on every replica. The first is 1.
    SlotSeq(u64)
);
position!(
    /// A place in one journal, in bytes since the journal began. Local to the node; never reused.
    Lsn(u64)
);
position!(
    /// Dense number of a batch within (producer, producer epoch, partition), from 0.
    ProducerSeq(u64)
);
position!(
    /// A producer's own fence: a higher one ends the sessions of the lower.
    ProducerEpoch(u32)
);
position!(
    /// Version of the catalogue: the number of changes applied to it.
    CatalogueVersion(u64)
);

position!(
    /// A leader's time in the zone's consensus. Only grows; a term has one leader at most.
    Term(u64)
);
position!(
    /// Dense number of an entry in the zone's consensus log. The first is 1.
    RaftIndex(u64)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_never_wrap() {
        assert_eq!(Offset::MAX.checked_add(1), None);
        assert_eq!(Offset::new(5).distance_from(Offset::new(6)), None);
        assert_eq!(Offset::new(6).distance_from(Offset::new(5)), Some(1));
    }
}
