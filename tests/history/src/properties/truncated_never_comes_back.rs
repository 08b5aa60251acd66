//! Resurrection after truncation: when a reader is told that its past is another one, what it had read from there on is gone
//! for everybody and for ever. Offsets may be filled again, but in a newer epoch: epochs are never resumed, so nothing of the
//! epochs that the reader had seen stands there any more.
//!
//! An observation costs a search; each cut is kept once, those that a lower one covers not at all.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

/// By offset: from there on nothing of this epoch or an older one is left. Epochs grow with the offsets.
type Cuts = BTreeMap<u64, u32>;

/// What was cut, and the newest epoch that each reader has seen since it was told of another past.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    cuts: BTreeMap<PartitionKey, Cuts>,
    epochs: Map<Reader, u32>,
}

fn cut(cuts: &mut Cuts, from: u64, epoch: u32) {
    if cuts
        .range(..=from)
        .next_back()
        .is_some_and(|(_, other)| *other >= epoch)
    {
        return;
    }
    while let Some((at, _)) = cuts
        .range(from..)
        .next()
        .filter(|(_, other)| **other <= epoch)
    {
        let at = *at;
        cuts.remove(&at);
    }
    cuts.insert(from, epoch);
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "truncated_never_comes_back"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::Delivered]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::PastChanged]
    }

    fn is_blind(&self) -> bool {
        self.cuts.is_empty()
    }

    fn observe(&mut self, observation: &Observation, _: &Knowledge) -> Result<(), String> {
        match observation {
            Observation::PastChanged {
                reader,
                partition,
                from,
            } => {
                // Whoever has read nothing has lost nothing.
                if let Some(epoch) = self.epochs.remove(reader) {
                    cut(self.cuts.entry(*partition).or_default(), *from, epoch);
                }
            }
            Observation::Delivered {
                reader,
                partition,
                offset,
                epoch,
                ..
            } => {
                let cuts = self.cuts.get(partition);
                let cut = cuts.and_then(|cuts| cuts.range(..=offset).next_back());
                if let Some((from, gone)) = cut
                    && epoch <= gone
                {
                    return Err(format!(
                        "{partition}: {offset} of epoch {epoch} is delivered, and from {from} on everything up to epoch \
                         {gone} was said to be gone"
                    ));
                }
                let newest = self.epochs.entry(*reader).or_default();
                *newest = (*newest).max(*epoch);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    #[test]
    fn what_was_said_to_be_gone_and_comes_back_is_noticed() {
        let begun = [
            delivered(1, 0, 0, 3),
            delivered(1, 1, 2, 4),
            past_changed(1, 2),
        ];
        let history = |last| [&begun[..], &[last]].concat();
        for back in [delivered(2, 1, 2, 4), delivered(2, 5, 8, 4)] {
            assert_refuses_the_last(&mut Checker::default(), &history(back));
        }
        for fine in [delivered(2, 0, 0, 3), delivered(2, 9, 2, 5)] {
            assert_accepts(&mut Checker::default(), &history(fine));
        }
    }

    #[test]
    fn a_later_and_lower_cut_covers_an_earlier_one() {
        let history = [
            delivered(1, 1, 8, 4),
            past_changed(1, 8),
            delivered(1, 2, 8, 6),
            past_changed(1, 4),
            delivered(1, 3, 4, 7),
            delivered(2, 9, 8, 5),
        ];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }
}
