//! Aborted read: a batch whose every sending was refused for certain is nowhere. A sending without an answer is
//! indeterminate, and one such among a batch's sendings lets it be there for ever. Whether the reader or the refusal comes
//! first makes no difference.
//!
//! An observation costs constant time.

use tiderace_base::collections::Map;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{BatchName, Kind, Observation};

#[derive(Debug, Default)]
struct Sendings {
    /// Those without an answer that says that they were not appended.
    open: u32,
    /// A node said that it holds the batch.
    held: bool,
    delivered: bool,
}

impl Sendings {
    fn check(&self, batch: &BatchName) -> Result<(), String> {
        if self.delivered && self.open == 0 && !self.held {
            return Err(format!(
                "{batch:?} is visible, and each time that it was sent it was refused"
            ));
        }
        Ok(())
    }
}

/// How often each batch was sent and not refused.
#[derive(Debug, Default)]
pub(crate) struct Checker(Map<BatchName, Sendings>);

impl Property for Checker {
    fn name(&self) -> &'static str {
        "refused_is_never_visible"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Refused, Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Submitted, Kind::Acknowledged, Kind::Stored]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Submitted { batch, .. } => {
                self.0.entry(*batch).or_default().open += 1;
                Ok(())
            }
            Observation::Acknowledged { batch, .. } | Observation::Stored { batch } => {
                self.0.entry(*batch).or_default().held = true;
                Ok(())
            }
            Observation::Refused { batch } => {
                let Some(sendings) = self.0.get_mut(batch).filter(|sendings| sendings.open > 0)
                else {
                    return Err(format!("{batch:?} is refused more often than it was sent"));
                };
                sendings.open -= 1;
                sendings.check(batch)
            }
            Observation::Delivered {
                batch: Some(batch), ..
            } => match self.0.get_mut(batch) {
                Some(sendings) => {
                    sendings.delivered = true;
                    sendings.check(batch)
                }
                // Sent by somebody whom this history does not know.
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn a_refused_batch_that_is_visible_is_noticed() {
        let history = [submitted(0), refused(0), delivered(1, 0, 0, 1)];
        assert_refuses_the_last(&mut Checker::default(), &history);
        let history = [submitted(0), delivered(1, 0, 0, 1), refused(0)];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn one_sending_without_an_answer_lets_it_be_visible() {
        let history = [
            submitted(0),
            submitted(0),
            refused(0),
            delivered(1, 0, 0, 1),
        ];
        assert_accepts(&mut Checker::default(), &history);
        let gave_up = Observation::Indeterminate { batch: batch(0) };
        let history = [submitted(0), gave_up, delivered(1, 0, 0, 1)];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn what_is_sent_again_behind_a_refusal_may_be_accepted() {
        let history = [
            submitted(0),
            refused(0),
            submitted(0),
            acknowledged(0, 0, 1),
            delivered(1, 0, 0, 1),
        ];
        assert_accepts(&mut Checker::default(), &history);
    }

    #[test]
    fn two_answers_to_one_sending_are_noticed() {
        let history = [submitted(0), refused(0), refused(0)];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }
}
