//! Whether a subscriber gets what producers sent: each producer numbers its batches of a partition densely from zero in
//! each of its epochs, so a number that is skipped is a batch that is missing, and one that comes back is a batch that came
//! again or too late. Holds one number for each producer of a partition.

use std::collections::BTreeMap;

/// What a number shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// It is the next one.
    InOrder,
    /// So many before it are missing.
    Skipped(u64),
    /// It, or a later one, was there before.
    Behind,
}

/// The numbers of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// By producer: its epoch and the next number in it.
    next: BTreeMap<u64, (u32, u64)>,
}

impl Order {
    /// Takes the number of a delivered batch.
    pub(super) fn take(&mut self, producer: u64, epoch: u32, seq: u64) -> Seen {
        let next = self.next.entry(producer).or_insert((epoch, 0));
        if epoch > next.0 {
            // What lacks at the end of the old epoch was refused, or is missed when acknowledgements are counted.
            *next = (epoch, 0);
        }
        if epoch < next.0 || seq < next.1 {
            return Seen::Behind;
        }
        let skipped = seq - next.1;
        next.1 = seq + 1;
        if skipped == 0 {
            Seen::InOrder
        } else {
            Seen::Skipped(skipped)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_or_comes_again_is_seen() {
        let mut order = Order::default();
        assert_eq!(order.take(1, 1, 0), Seen::InOrder);
        assert_eq!(order.take(2, 1, 0), Seen::InOrder);
        assert_eq!(order.take(1, 1, 1), Seen::InOrder);
        assert_eq!(order.take(1, 1, 1), Seen::Behind);
        assert_eq!(order.take(1, 1, 4), Seen::Skipped(2));
        assert_eq!(order.take(1, 1, 3), Seen::Behind);
        // A new epoch begins at zero, and the old one is over.
        assert_eq!(order.take(1, 2, 0), Seen::InOrder);
        assert_eq!(order.take(1, 1, 5), Seen::Behind);
        assert_eq!(order.take(3, 1, 2), Seen::Skipped(2));
    }
}
