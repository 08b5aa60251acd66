//! The credit ledger: what one side granted the other on one level of one link, in bytes and in batches, as totals since
//! the session began. Never allocates. Invariants: spent <= granted, and granted - spent <= window, on both sides; a
//! total never goes down. Totals make a repeated or late grant harmless: the greater one holds.

use crate::error::ErrorCode;
use tiderace_base::planted::{Bug, is_planted};

/// An amount of both units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Amount {
    /// Bytes of batches, headers included.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self {
        bytes: 0,
        batches: 0,
    };

    /// One batch of this size.
    #[must_use]
    pub const fn batch(bytes: u64) -> Self {
        Self { bytes, batches: 1 }
    }

    /// Both, or `None` where a total cannot be named: at 10 GB/s bytes last 58 years.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match (
            self.bytes.checked_add(other.bytes),
            self.batches.checked_add(other.batches),
        ) {
            (Some(bytes), Some(batches)) => Some(Self { bytes, batches }),
            (Some(_) | None, Some(_) | None) => None,
        }
    }

    /// What is left, or `None` when either unit would go below zero.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match (
            self.bytes.checked_sub(other.bytes),
            self.batches.checked_sub(other.batches),
        ) {
            (Some(bytes), Some(batches)) => Some(Self { bytes, batches }),
            (Some(_) | None, Some(_) | None) => None,
        }
    }

    /// The greater of each unit.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            batches: self.batches.max(other.batches),
        }
    }

    /// Whether both units of `other` fit.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.bytes >= other.bytes && self.batches >= other.batches
    }
}

/// The side that has room and grants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granter {
    window: Amount,
    granted: Amount,
    spent: Amount,
    returned: Amount,
}

impl Granter {
    /// A ledger that grants up to `window` at once; its first grant is the whole window.
    #[must_use]
    pub const fn new(window: Amount) -> Self {
        Self {
            window,
            granted: window,
            spent: Amount::ZERO,
            returned: Amount::ZERO,
        }
    }

    /// The other side spent this.
    ///
    /// # Errors
    /// [`ErrorCode::NoCredit`]: it spent more than it was granted. Nothing has changed then.
    pub fn spend(&mut self, amount: Amount) -> Result<(), ErrorCode> {
        // P-40
        match self.spent.checked_add(amount) {
            Some(spent) if self.granted.covers(spent) => {
                self.spent = spent;
                self.check();
                Ok(())
            }
            Some(_) | None => Err(ErrorCode::NoCredit),
        }
    }

    /// What was spent before no longer takes room here: it may be granted again.
    ///
    /// # Panics
    /// When more comes back than was spent.
    pub fn give_back(&mut self, amount: Amount) {
        if is_planted(Bug::LeakCredit) && self.returned.batches % 4 == 3 {
            return;
        }
        let returned = self.returned.checked_add(amount);
        self.returned = returned
            .filter(|returned| self.spent.covers(*returned))
            .expect("only what was spent comes back");
        self.check();
    }

    /// The new totals to send, once what can be granted reaches half of the window in either unit; else `None`. Small
    /// steps are not worth their frames.
    pub fn grant(&mut self) -> Option<Amount> {
        let next = self.next_total()?;
        let step = next.checked_sub(self.granted)?;
        let is_worth_it = step.bytes.saturating_mul(2) >= self.window.bytes.max(1)
            || step.batches.saturating_mul(2) >= self.window.batches.max(1);
        is_worth_it.then(|| self.take(next))
    }

    /// The new totals to send, if anything can be granted at all.
    pub fn grant_all(&mut self) -> Option<Amount> {
        let next = self.next_total()?;
        (next != self.granted).then(|| self.take(next))
    }

    /// What may be outstanding from now on. What has been granted stays granted.
    pub fn set_window(&mut self, window: Amount) {
        // P-41: a total never goes down; a smaller window shows once enough has come back.
        self.window = window;
    }

    /// Totals granted since the start.
    #[must_use]
    pub const fn granted(&self) -> Amount {
        self.granted
    }

    /// Totals spent since the start.
    #[must_use]
    pub const fn spent(&self) -> Amount {
        self.spent
    }

    /// What was spent and takes room here.
    #[must_use]
    pub fn outstanding(&self) -> Amount {
        self.spent
            .checked_sub(self.returned)
            .expect("only what was spent comes back")
    }

    fn next_total(&self) -> Option<Amount> {
        Some(self.returned.checked_add(self.window)?.max(self.granted))
    }

    fn take(&mut self, next: Amount) -> Amount {
        self.granted = next;
        self.check();
        next
    }

    fn check(&self) {
        assert!(
            self.granted.covers(self.spent),
            "nobody spends what was not granted"
        );
        assert!(
            self.spent.covers(self.returned),
            "only what was spent comes back"
        );
    }
}

/// The side that was granted credit and spends it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spender {
    granted: Amount,
    spent: Amount,
}

impl Spender {
    /// A ledger whose first grant is this.
    #[must_use]
    pub const fn new(granted: Amount) -> Self {
        Self {
            granted,
            spent: Amount::ZERO,
        }
    }

    /// A ledger of which this much is spent already, and no more than that granted.
    #[must_use]
    pub const fn resumed(spent: Amount) -> Self {
        Self {
            granted: spent,
            spent,
        }
    }

    /// Totals arrived. Lower ones than before are old news. Says whether there is more credit now.
    pub fn granted_to(&mut self, total: Amount) -> bool {
        // P-41
        let next = self.granted.max(total);
        let grew = next != self.granted;
        self.granted = next;
        grew
    }

    /// Spends, if there is enough of both units; says whether it did.
    #[must_use]
    pub fn try_spend(&mut self, amount: Amount) -> bool {
        // P-40
        match self.spent.checked_add(amount) {
            Some(spent) if self.granted.covers(spent) => {
                self.spent = spent;
                true
            }
            Some(_) | None => false,
        }
    }

    /// What was spent was not sent after all: it can be spent again.
    ///
    /// # Panics
    /// When more is taken back than was spent.
    pub fn take_back(&mut self, amount: Amount) {
        self.spent = self
            .spent
            .checked_sub(amount)
            .expect("only what was spent is taken back");
    }

    /// What can be spent now.
    #[must_use]
    pub fn available(&self) -> Amount {
        self.granted
            .checked_sub(self.spent)
            .expect("nobody spends what was not granted")
    }

    /// Totals granted since the start.
    #[must_use]
    pub const fn granted(&self) -> Amount {
        self.granted
    }

    /// Totals spent since the start.
    #[must_use]
    pub const fn spent(&self) -> Amount {
        self.spent
    }
}
