//! A set of offsets as ranges that neither touch nor overlap. Invariant: every operation costs one search in an ordered map,
//! amortised, because each range that an insertion swallows was inserted once.

use std::collections::BTreeMap;

/// A set of offsets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `from..until`.
    pub(crate) fn insert(&mut self, from: u64, until: u64) {
        if from >= until {
            return;
        }
        // Nearly always the last range grows, and nothing follows that it could meet.
        if let Some(mut last) = self.0.last_entry()
            && (*last.key()..=*last.get()).contains(&from)
        {
            let end = last.get_mut();
            *end = until.max(*end);
            return;
        }
        let (mut from, mut until) = (from, until);
        if let Some((start, end)) = self.0.range(..=from).next_back()
            && *end >= from
        {
            if *end >= until {
                return;
            }
            from = *start;
        }
        while let Some((start, end)) = self
            .0
            .range(from + 1..=until)
            .next()
            .map(|(start, end)| (*start, *end))
        {
            self.0.remove(&start);
            until = until.max(end);
        }
        self.0.insert(from, until);
    }

    /// The first part of `from..until` that is in the set.
    pub(crate) fn first_in(&self, from: u64, until: u64) -> Option<(u64, u64)> {
        let before = self
            .0
            .range(..=from)
            .next_back()
            .filter(|(_, end)| **end > from);
        let (start, end) = before.or_else(|| self.0.range(from..).next())?;
        let part = ((*start).max(from), (*end).min(until));
        (part.0 < part.1).then_some(part)
    }

    /// The first offset of `from..until` that is not in the set.
    pub(crate) fn first_missing(&self, from: u64, until: u64) -> Option<u64> {
        let covering = self.0.range(..=from).next_back();
        let reached = covering.map_or(from, |(_, end)| from.max(*end));
        (reached < until).then_some(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    #[test]
    fn it_agrees_with_a_plain_set() {
        for seed in 0..200 {
            let prng = &mut Prng::new(seed);
            let (mut ranges, mut plain) = (Ranges::default(), [false; 64]);
            for _ in 0..12 {
                let from = prng.below(60);
                let until = from + prng.below(6);
                ranges.insert(from, until);
                plain[from as usize..until as usize].fill(true);
                let (from, until) = (prng.below(64), prng.below(64));
                let inside = || from as usize..(until as usize).max(from as usize);
                let first_in = inside().find(|offset| plain[*offset]);
                let found = ranges
                    .first_in(from, until)
                    .map(|(start, _)| start as usize);
                assert_eq!(
                    found, first_in,
                    "seed {seed}: {from}..{until} of {ranges:?}"
                );
                let missing = inside().find(|offset| !plain[*offset]);
                let found = ranges
                    .first_missing(from, until)
                    .map(|offset| offset as usize);
                assert_eq!(found, missing, "seed {seed}: {from}..{until} of {ranges:?}");
            }
            let touch = ranges.0.iter().zip(ranges.0.keys().skip(1));
            for ((_, end), next) in touch {
                assert!(end < next, "seed {seed}: {ranges:?}");
            }
        }
    }
}
