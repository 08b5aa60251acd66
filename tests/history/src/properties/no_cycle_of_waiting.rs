//! Nobody waits for ever: once faults have ended, every client reaches its goal within bounded simulated time. The bound
//! is the run's own: it reports at its end who still waits.
//!
//! An observation costs as much as it says.

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation};

/// Judges the run's end.
#[derive(Debug, Default)]
pub(crate) struct Checker;

impl Property for Checker {
    fn name(&self) -> &'static str {
        "no_cycle_of_waiting"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Finished]
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::Finished { waiting } if !waiting.is_empty() => Err(format!(
                "faults have ended long ago, and these still wait: {}",
                waiting.join("; ")
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::{assert_accepts, assert_refuses_the_last};
    use super::*;

    #[test]
    fn somebody_who_still_waits_is_noticed() {
        let waiting = vec!["actor0: an acknowledgement".to_owned()];
        assert_refuses_the_last(
            &mut Checker,
            &[Observation::Healed, Observation::Finished { waiting }],
        );
        let none = Observation::Finished {
            waiting: Vec::new(),
        };
        assert_accepts(&mut Checker, &[Observation::Healed, none]);
    }
}
