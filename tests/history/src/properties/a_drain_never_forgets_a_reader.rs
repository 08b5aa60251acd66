//! A node that ends in order before its patience with slow readers is over has delivered everything that it acknowledged
//! to every subscriber that stayed: P-52. One that takes longer may cut them off, and one that is killed meanwhile too.
//!
//! An observation costs a search; a death costs as much as there are partitions.

use std::collections::BTreeMap;

use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::DRAIN_NS_MAX;

use super::Property;
use crate::knowledge::Knowledge;
use crate::observation::{Kind, Observation, Reader};

type Ends = BTreeMap<PartitionKey, u64>;

/// One run of the node's process.
#[derive(Debug, Default)]
struct Run {
    stop_asked_ns: Option<u64>,
    /// Whether it ended in order, and what was acknowledged by then.
    over: Option<(bool, Ends)>,
    /// Where its readers stood when it ended their connections in time.
    drained: Vec<(Reader, PartitionKey, u64)>,
}

/// Whether a reader has everything that was acknowledged.
fn check(
    reader: Reader,
    partition: PartitionKey,
    next: u64,
    acknowledged: &Ends,
) -> Result<(), String> {
    let end = acknowledged.get(&partition).copied().unwrap_or(0);
    if next < end {
        return Err(format!(
            "{partition}: {reader:?} stands at {next} when the node has ended its side, and {end} was acknowledged"
        ));
    }
    Ok(())
}

/// What was acknowledged, and how each run of the node ended.
#[derive(Debug)]
pub(crate) struct Checker {
    acknowledged: Ends,
    runs: Vec<Run>,
    /// The run in which a reader asked for its subscription.
    asked: Map<Reader, usize>,
}

impl Default for Checker {
    fn default() -> Self {
        Self {
            acknowledged: Ends::default(),
            runs: vec![Run::default()],
            asked: Map::default(),
        }
    }
}

impl Property for Checker {
    fn name(&self) -> &'static str {
        "a_drain_never_forgets_a_reader"
    }

    fn judges(&self) -> &'static [Kind] {
        &[Kind::DrainedTo, Kind::NodeDied]
    }

    fn follows(&self) -> &'static [Kind] {
        &[Kind::Acknowledged, Kind::Asked, Kind::StopAsked]
    }

    fn observe(&mut self, observation: &Observation, knowledge: &Knowledge) -> Result<(), String> {
        let last = self.runs.len() - 1;
        match observation {
            Observation::Acknowledged { batch, offset, .. } => {
                // Its records are dense behind it; the first is enough to find out that one is missing.
                let end = self.acknowledged.entry(batch.partition).or_default();
                *end = (*end).max(offset + 1);
            }
            Observation::Asked { reader, .. } => {
                self.asked.insert(*reader, last);
            }
            Observation::StopAsked { at_ns, .. } => {
                self.runs[last].stop_asked_ns.get_or_insert(*at_ns);
            }
            Observation::NodeDied { stopped, .. } => {
                let run = &mut self.runs[last];
                if *stopped {
                    // What was still on its way to the disk then has been acknowledged since.
                    for (reader, partition, next) in run.drained.drain(..) {
                        check(reader, partition, next, &self.acknowledged)?;
                    }
                }
                run.over = Some((*stopped, self.acknowledged.clone()));
                self.runs.push(Run::default());
                self.acknowledged
                    .retain(|partition, _| !knowledge.is_volatile(*partition));
            }
            Observation::DrainedTo {
                reader,
                partition,
                next,
                at_ns,
                in_order: true,
            } => {
                let Some(run) = self.asked.get(reader).map(|run| &mut self.runs[*run]) else {
                    return Ok(());
                };
                let in_time = run
                    .stop_asked_ns
                    .is_some_and(|asked_ns| *at_ns < asked_ns + DRAIN_NS_MAX);
                match &run.over {
                    Some((true, acknowledged)) if in_time => {
                        check(*reader, *partition, *next, acknowledged)?;
                    }
                    None if in_time => {
                        check(*reader, *partition, *next, &self.acknowledged)?;
                        run.drained.push((*reader, *partition, *next));
                    }
                    Some(_) | None => {}
                }
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

    fn stop_asked(at_ns: u64) -> Observation {
        Observation::StopAsked { node: 0, at_ns }
    }

    fn drained(next: u64, at_ns: u64) -> Observation {
        Observation::DrainedTo {
            reader: Reader(1),
            partition: PARTITION,
            next,
            at_ns,
            in_order: true,
        }
    }

    fn stopped() -> Observation {
        Observation::NodeDied {
            node: 0,
            power: false,
            stopped: true,
        }
    }

    #[test]
    fn a_reader_that_is_let_go_before_its_time_is_noticed() {
        let begun = [
            asked(1),
            acknowledged(0, 0, 1),
            acknowledged(1, 2, 1),
            stop_asked(5),
        ];
        for end in [vec![], vec![stopped(), acknowledged(2, 4, 1)]] {
            let history = [&begun[..], &end[..], &[drained(2, 9)]].concat();
            assert_refuses_the_last(&mut Checker::default(), &history);
        }
    }

    #[test]
    fn what_is_acknowledged_behind_a_reader_before_the_node_ends_is_noticed() {
        let history = [
            asked(1),
            stop_asked(5),
            drained(2, 9),
            acknowledged(1, 2, 1),
            stopped(),
        ];
        assert_refuses_the_last(&mut Checker::default(), &history);
    }

    #[test]
    fn what_comes_late_or_after_a_kill_or_of_another_run_is_fine() {
        let begun = [
            asked(1),
            acknowledged(0, 0, 1),
            acknowledged(1, 2, 1),
            stop_asked(5),
        ];
        let ends = [
            vec![drained(4, 9)],
            vec![drained(2, 5 + DRAIN_NS_MAX)],
            vec![died(), drained(2, 9)],
            vec![
                stopped(),
                acknowledged(2, 4, 2),
                stop_asked(7),
                drained(4, 9),
            ],
        ];
        for end in ends {
            assert_accepts(&mut Checker::default(), &[&begun[..], &end[..]].concat());
        }
    }
}
