//! What a stream promises to keep is kept: a start moves over a batch only when as many bytes stand from the start on as the
//! stream keeps, or when the batch is as old as it keeps. Without a bound no start moves. What nobody knows is on the node's
//! side: a batch that was sent and has no known place below the start may stand behind it, once for each sending when its
//! producer has no id; a batch is as old as its first sending; and a clock that was set may have made whatever was sent
//! before as old as it likes. Batches of a `memory` stream that a death may have taken say nothing.
//!
//! An observation costs a search among the batches of its partition, amortised; a death costs as much as there are partitions.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use super::Property;
use crate::knowledge::{Kept, Knowledge};
use crate::observation::{BatchName, Kind, Observation, Reader};

/// A batch that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    bytes: u64,
    at_ns: u64,
    /// Where it is known to stand first.
    at: Option<u64>,
}

#[derive(Debug, Default)]
struct Log {
    batches: Map<BatchName, Sent>,
    /// Known places at and above the start: bytes, and when they were first sent.
    placed: BTreeMap<u64, (u64, u64)>,
    /// Bytes that may stand in the partition, or may have.
    sent_bytes: u64,
    /// Of these, known to stand below the start.
    below_bytes: u64,
    /// The highest start that was told, when it was, and whether the bytes behind it were enough.
    start: u64,
    start_ns: u64,
    enough: bool,
}

/// What may stand in each partition.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    logs: BTreeMap<PartitionKey, Log>,
    readers: Map<Reader, PartitionKey>,
    /// When a clock was set last.
    set_ns: Option<u64>,
    /// A start has moved where something was promised.
    compares: bool,
}

/// Whether a batch below the start was old enough to go.
fn is_old(kept: Kept, sent_ns: u64, start_ns: u64, set_ns: Option<u64>) -> bool {
    kept.age_ns > 0
        && (set_ns.is_some_and(|set_ns| sent_ns <= set_ns)
            || start_ns.saturating_sub(sent_ns) >= kept.age_ns)
}

impl Checker {
    fn weigh(&mut self, batch: &BatchName, bytes: u64, at_ns: u64) {
        let log = self.logs.entry(batch.partition).or_default();
        let known = log.batches.insert(
            *batch,
            Sent {
                bytes,
                at_ns,
                at: None,
            },
        );
        match known {
            // It is sent again. Only one without a name may stand there again.
            Some(known) => {
                log.batches.insert(*batch, known);
                log.sent_bytes += if batch.is_nameless() { bytes } else { 0 };
            }
            None => log.sent_bytes += bytes,
        }
    }

    fn place(&mut self, batch: &BatchName, offset: u64, kept: Kept) -> Result<(), String> {
        let set_ns = self.set_ns;
        let log = self.logs.entry(batch.partition).or_default();
        let Some(sent) = log.batches.get_mut(batch) else {
            return Ok(());
        };
        // A copy that stands elsewhere is one of the sendings; where each stands is not told apart.
        if sent.at.is_some() {
            return Ok(());
        }
        sent.at = Some(offset);
        let (bytes, sent_ns) = (sent.bytes, sent.at_ns);
        if offset >= log.start {
            log.placed.insert(offset, (bytes, sent_ns));
            return Ok(());
        }
        log.below_bytes += bytes;
        if !log.enough && !is_old(kept, sent_ns, log.start_ns, set_ns) {
            return Err(format!(
                "{batch:?} stands at {offset}, below the start {}, and neither its age nor the bytes behind it allow that: \
                 {kept:?} is kept",
                log.start
            ));
        }
        Ok(())
    }

    fn moved(
        &mut self,
        partition: PartitionKey,
        start: u64,
        now_ns: u64,
        kept: Kept,
    ) -> Result<(), String> {
        let set_ns = self.set_ns;
        let log = self.logs.entry(partition).or_default();
        if start <= log.start {
            return Ok(());
        }
        self.compares = true;
        let stays = log.placed.split_off(&start);
        let below = std::mem::replace(&mut log.placed, stays);
        log.below_bytes += below.values().map(|(bytes, _)| bytes).sum::<u64>();
        let behind_bytes = log.sent_bytes - log.below_bytes;
        (log.start, log.start_ns) = (start, now_ns);
        log.enough = kept.bytes > 0 && behind_bytes >= kept.bytes;
        let young = below
            .iter()
            .find(|(_, (_, sent_ns))| !is_old(kept, *sent_ns, now_ns, set_ns));
        match young {
            Some((offset, (_, sent_ns))) if !log.enough => Err(format!(
                "{partition}: the start is {start} and has passed {offset}, which was first sent {} us ago; at most \
                 {behind_bytes} bytes stand behind it, and {kept:?} is kept",
                now_ns.saturating_sub(*sent_ns) / 1000
            )),
            _ if kept == Kept::EVERYTHING => Err(format!(
                "{partition}: the start is {start}, and everything is kept"
            )),
            _ => Ok(()),
        }
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "retention_never_drops_too_much"
    }

    fn judges(&self) -> &'static [Kind] {
        &[
            Kind::Positioned,
            Kind::GapTold,
            Kind::Acknowledged,
            Kind::Delivered,
        ]
    }

    fn follows(&self) -> &'static [Kind] {
        &[
            Kind::BatchWeighed,
            Kind::ClockSet,
            Kind::NodeDied,
            Kind::LinkLost,
        ]
    }

    fn is_blind(&self) -> bool {
        !self.compares
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        let now_ns = knowledge.at_ns();
        match observation {
            Observation::BatchWeighed { batch, bytes } => {
                self.weigh(batch, *bytes, now_ns);
                Ok(())
            }
            Observation::ClockSet { .. } => {
                self.set_ns = Some(now_ns);
                Ok(())
            }
            Observation::Acknowledged { batch, offset, .. }
            | Observation::Delivered {
                batch: Some(batch),
                offset,
                ..
            } => match knowledge.kept(batch.partition) {
                Some(kept) => self.place(batch, *offset, kept),
                None => Ok(()),
            },
            Observation::Positioned {
                reader,
                partition,
                start,
                ..
            } => {
                self.readers.insert(*reader, *partition);
                match knowledge.kept(*partition) {
                    Some(kept) => self.moved(*partition, *start, now_ns, kept),
                    None => Ok(()),
                }
            }
            Observation::GapTold { reader, to, .. } => {
                let partition = self.readers.get(reader).copied();
                let kept = partition.and_then(|partition| knowledge.kept(partition));
                match partition.zip(kept) {
                    Some((partition, kept)) => self.moved(partition, *to, now_ns, kept),
                    None => Ok(()),
                }
            }
            Observation::NodeDied { .. } | Observation::LinkLost { .. } => {
                let volatile = self.logs.iter_mut();
                for (_, log) in volatile.filter(|(key, _)| knowledge.is_volatile(**key)) {
                    // Its offsets may be given again: what stood where is not known any more, and may stand there still.
                    log.placed.clear();
                    log.below_bytes = 0;
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
    use tiderace_base::catalogue::Durability;

    const KEPT_BYTES: u64 = 250;

    /// Declares what is kept, and sends three batches of 100 bytes that stand at 0, 2 and 4.
    fn begun(durability: Durability, bytes: u64, age_ms: u64) -> Vec<Observation> {
        let mut history = vec![
            known(durability, bytes + age_ms > 0),
            Observation::RetentionDeclared {
                stream: PARTITION.stream.get(),
                bytes,
                age_ms,
            },
        ];
        for seq in 0..3 {
            history.push(Observation::BatchWeighed {
                batch: batch(seq),
                bytes: 100,
            });
            history.push(submitted(seq));
            history.push(acknowledged(seq, 2 * seq, 1));
        }
        history
    }

    fn starts_at(start: u64) -> Observation {
        Observation::Positioned {
            reader: Reader(1),
            partition: PARTITION,
            next: start,
            start,
            end: 6,
        }
    }

    fn checked(history: &[Observation], last: Observation, is_refused: bool) {
        let history = [history, &[last]].concat();
        if is_refused {
            assert_refuses_the_last(&mut Checker::default(), &history);
        } else {
            assert_accepts(&mut Checker::default(), &history);
        }
    }

    #[test]
    fn a_start_that_leaves_too_few_bytes_is_noticed() {
        let history = begun(Durability::Local, KEPT_BYTES, 0);
        checked(&history, starts_at(2), true);
        checked(&history, starts_at(0), false);
        let history = begun(Durability::Local, 200, 0);
        checked(&history, starts_at(2), false);
        checked(&history, starts_at(4), true);
    }

    #[test]
    fn a_gap_says_where_the_start_is_too() {
        let mut history = begun(Durability::Local, 200, 0);
        history.push(starts_at(0));
        checked(&history, gap(1, 0, 2), false);
        checked(&history, gap(1, 0, 4), true);
    }

    #[test]
    fn what_may_stand_behind_the_start_counts_for_the_node() {
        let mut history = begun(Durability::Local, KEPT_BYTES, 0);
        history.push(Observation::BatchWeighed {
            batch: batch(3),
            bytes: 100,
        });
        checked(&history, starts_at(2), false);
        checked(&history, starts_at(4), true);
    }

    #[test]
    fn what_is_younger_than_is_kept_is_noticed_and_a_clock_that_was_set_excuses_it() {
        // A nanosecond passes between two observations.
        let mut history = begun(Durability::Local, 0, 1);
        checked(&history, starts_at(2), true);
        history.push(Observation::ClockSet { node: 0 });
        checked(&history, starts_at(2), false);
    }

    #[test]
    fn an_acknowledgement_below_a_start_that_was_told_before_is_noticed() {
        // Only the first batch is sent, and nobody knows yet where it stands.
        let history = |bytes| {
            let mut history = begun(Durability::Local, bytes, 0);
            history.truncate(4);
            history.push(starts_at(2));
            history
        };
        checked(&history(KEPT_BYTES), acknowledged(0, 0, 1), true);
        checked(&history(KEPT_BYTES), acknowledged(0, 2, 1), false);
        checked(&history(100), acknowledged(0, 0, 1), false);
    }

    #[test]
    fn where_everything_is_kept_no_start_moves() {
        checked(&begun(Durability::Local, 0, 0), starts_at(2), true);
        checked(&begun(Durability::Local, 0, 0), starts_at(0), false);
    }

    #[test]
    fn what_a_death_took_of_a_memory_stream_says_nothing() {
        let mut history = begun(Durability::Memory, 200, 0);
        history.push(starts_at(2));
        history.push(died());
        checked(&history, starts_at(4), false);
    }
}
