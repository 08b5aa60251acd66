//! The power supply of a node: one for all its disks, so that it fails for all of them at once, in the middle of an operation
//! of the blocking port, which is where a recovery is.

use std::cell::Cell;
use std::rc::Rc;

/// The power supply that all disks of a node share: it may fail in the middle of a recovery, for all of them at once.
#[derive(Clone, Debug, Default)]
pub struct Power(Rc<Cell<Supply>>);

#[derive(Clone, Copy, Debug, Default)]
struct Supply {
    /// How many more operations of the blocking port succeed before power is lost; `None`: it will not be.
    operations_left: Option<u64>,
    lost: bool,
}

impl Power {
    /// Power will be lost in the middle of the blocking port's operation after this many more; `None`: not at all.
    pub fn fail_after(&self, operations: Option<u64>) {
        self.0.set(Supply {
            operations_left: operations,
            lost: false,
        });
    }

    /// Whether it was lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.get().lost
    }

    /// One operation is done. False: power is lost in the middle of it.
    pub(super) fn spend(&self) -> bool {
        let mut supply = self.0.get();
        match &mut supply.operations_left {
            Some(0) => supply.lost = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.0.set(supply);
        !supply.lost
    }
}
