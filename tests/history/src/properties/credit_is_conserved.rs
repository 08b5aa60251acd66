//! Nobody spends what was not granted, nobody grants more than the window, a grant never shrinks, and what was spent
//! comes back: a sender whose every batch was answered can go on.
//!
//! An observation costs a search among the ledgers.

use std::collections::BTreeMap;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Credit, Kind, Ledger, Observation};

#[derive(Debug, Default)]
struct Account {
    window: Credit,
    granted: Credit,
    spent: Credit,
}

/// Every ledger that was opened.
#[derive(Debug, Default)]
pub(crate) struct Checker(BTreeMap<Ledger, Account>);

impl Account {
    fn check(&self, ledger: &Ledger) -> Result<(), String> {
        let sides = [
            (
                "bytes",
                self.granted.bytes,
                self.spent.bytes,
                self.window.bytes,
            ),
            (
                "batches",
                self.granted.batches,
                self.spent.batches,
                self.window.batches,
            ),
        ];
        for (unit, granted, spent, window) in sides {
            let Some(left) = granted.checked_sub(spent) else {
                return Err(format!(
                    "{ledger:?}: {spent} {unit} are spent and {granted} were granted"
                ));
            };
            if left > window {
                return Err(format!(
                    "{ledger:?}: {left} {unit} may be spent, more than the window of {window}"
                ));
            }
        }
        Ok(())
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "credit_is_conserved"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Granted, Kind::Spent, Kind::Settled]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::LedgerOpened]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::LedgerOpened { ledger, window } => {
                self.0.insert(
                    *ledger,
                    Account {
                        window: *window,
                        ..Account::default()
                    },
                );
                Ok(())
            }
            Observation::Granted { ledger, total } => {
                let account = self.0.entry(*ledger).or_default();
                if total.bytes < account.granted.bytes || total.batches < account.granted.batches {
                    return Err(format!(
                        "{ledger:?}: {total:?} is granted after {:?}",
                        account.granted
                    ));
                }
                account.granted = *total;
                account.check(ledger)
            }
            Observation::Spent { ledger, total } => {
                let account = self.0.entry(*ledger).or_default();
                account.spent = *total;
                account.check(ledger)
            }
            Observation::Settled { ledger, least } => {
                let account = self.0.entry(*ledger).or_default();
                let left = Credit {
                    bytes: account.granted.bytes - account.spent.bytes,
                    batches: account.granted.batches - account.spent.batches,
                };
                if left.bytes < least.bytes || left.batches < least.batches {
                    return Err(format!(
                        "{ledger:?}: everything was answered, and only {left:?} is left: {account:?}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;
    use crate::observation::Scope;

    const LEDGER: Ledger = Ledger {
        link: 1,
        scope: Scope::Deliver(1),
    };

    fn credit(bytes: u64, batches: u64) -> Credit {
        Credit { bytes, batches }
    }

    fn opened() -> Observation {
        Observation::LedgerOpened {
            ledger: LEDGER,
            window: credit(100, 4),
        }
    }

    fn granted(total: Credit) -> Observation {
        Observation::Granted {
            ledger: LEDGER,
            total,
        }
    }

    fn spent(total: Credit) -> Observation {
        Observation::Spent {
            ledger: LEDGER,
            total,
        }
    }

    #[test]
    fn overspending_is_noticed() {
        for total in [credit(101, 1), credit(50, 5)] {
            assert_refuses_the_last(
                &mut Checker::default(),
                &[opened(), granted(credit(100, 4)), spent(total)],
            );
        }
    }

    #[test]
    fn a_grant_beyond_the_window_and_one_that_shrinks_are_noticed() {
        assert_refuses_the_last(
            &mut Checker::default(),
            &[opened(), granted(credit(101, 4))],
        );
        assert_refuses_the_last(
            &mut Checker::default(),
            &[
                opened(),
                granted(credit(100, 4)),
                spent(credit(50, 1)),
                granted(credit(99, 4)),
            ],
        );
    }

    #[test]
    fn credit_that_does_not_come_back_is_noticed() {
        let settled = Observation::Settled {
            ledger: LEDGER,
            least: credit(80, 1),
        };
        let history = [
            opened(),
            granted(credit(100, 4)),
            spent(credit(50, 1)),
            settled,
        ];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn spending_what_was_granted_is_fine() {
        assert_accepts(
            &mut Checker::default(),
            &[
                opened(),
                granted(credit(100, 4)),
                spent(credit(100, 4)),
                granted(credit(200, 8)),
            ],
        );
    }
}
