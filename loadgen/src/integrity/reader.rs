//! Reads a stream from its beginning and books every record of ours. What a log may never say, a gap or a loss or a
//! damaged batch in a stream without retention, is a violation by itself.

use super::history::{HistoryFile, Origin};
use super::ledger::Ledger;
use super::record::{self, Read};
use tiderace_base::time::Now;
use tiderace_client::core::consumer::{From, Item};
use tiderace_client::core::engine::{ConsumerKey, ConsumerSettings, Engine};
use tiderace_client::error::ConsumeError;

/// Violations that are told in words; more are only counted.
const TOLD_MAX: usize = 20;

/// A consumer with its books.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) ledger: Ledger,
    pub(crate) damaged: u64,
    pub(crate) violations: Vec<String>,
    /// Why it cannot go on.
    pub(crate) failed: Option<String>,
    key: Option<ConsumerKey>,
}

impl Reader {
    pub(crate) fn begin(&mut self, now: Now, engine: &mut Engine, path: &str) {
        let settings = ConsumerSettings {
            from: From::Earliest,
            ..ConsumerSettings::default()
        };
        self.key = Some(engine.consumer(now, path, settings));
    }

    /// Takes what has arrived, and writes it down where there is a history. True: there was something.
    pub(crate) fn take(
        &mut self,
        now: Now,
        engine: &mut Engine,
        ours: impl Fn(u64) -> bool,
        mut history: Option<&mut HistoryFile>,
    ) -> bool {
        let Some(key) = self.key else {
            return false;
        };
        let mut any = false;
        while self.failed.is_none()
            && let Some(taken) = engine.take(now, key)
        {
            any = true;
            if let Some(history) = history.as_deref_mut() {
                note(history, engine, key, &taken, &ours);
            }
            match taken {
                Ok(Item::Batch(batch)) => match batch.records() {
                    Ok(records) => {
                        for record in records {
                            match record::read(record.value().unwrap_or_default()) {
                                Read::Whole(name) if ours(name.lane.run) => {
                                    let partition = batch.partition().get();
                                    if name.lane.partition != partition {
                                        self.violate(format!(
                                            "{name:?} was delivered in partition {partition}"
                                        ));
                                    }
                                    self.ledger.delivered(name, record.offset().get());
                                }
                                Read::Damaged => self.damaged += 1,
                                Read::Whole(_) | Read::Foreign => {}
                            }
                        }
                    }
                    Err(error) => {
                        self.damaged += 1;
                        self.violate(format!("a batch's body is damaged: {error:?}"));
                    }
                },
                Ok(Item::Gap {
                    partition,
                    from,
                    to,
                    ..
                }) => self.violate(format!("{partition} has a gap from {from} to {to}")),
                Ok(Item::Loss {
                    partition, from, ..
                }) => self.violate(format!(
                    "{partition} says that it lost what is behind {from}"
                )),
                Err(
                    error @ (ConsumeError::Diverged { .. }
                    | ConsumeError::Jump { .. }
                    | ConsumeError::Damaged { .. }),
                ) => {
                    self.violate(error.to_string());
                    self.failed = Some(error.to_string());
                }
                Err(error) => self.failed = Some(error.to_string()),
            }
        }
        any
    }

    pub(crate) fn violate(&mut self, what: String) {
        if self.violations.len() < TOLD_MAX {
            self.violations.push(what);
        }
    }

    /// Writes down that every partition has been read to its visible end.
    pub(crate) fn read_through(&self, engine: &Engine, history: &mut HistoryFile) {
        let cursors = self.key.into_iter().flat_map(|key| engine.cursors(key));
        cursors.for_each(|cursor| history.read_through(cursor));
    }

    /// Whether every partition has been read to its visible end.
    pub(crate) fn at_end(&self, engine: &Engine) -> bool {
        self.key.is_some_and(|key| {
            let mut cursors = engine.cursors(key).peekable();
            cursors.peek().is_some()
                && cursors.all(|cursor| cursor.next().is_some_and(|next| next >= cursor.end()))
        })
    }
}

/// Writes down what a consumer was given.
fn note(
    history: &mut HistoryFile,
    engine: &Engine,
    key: ConsumerKey,
    taken: &Result<Item, ConsumeError>,
    ours: impl Fn(u64) -> bool,
) {
    let end = |partition: u32| {
        let mut cursors = engine.cursors(key);
        let cursor = cursors.find(|cursor| cursor.key().partition.get() == partition);
        cursor.map_or(0, |cursor| cursor.end().get())
    };
    match taken {
        Ok(Item::Batch(batch)) => {
            let from = Origin {
                partition: batch.partition().get(),
                epoch: batch.epoch().get(),
                append_time_us: batch.append_time_us(),
            };
            history.positioned(
                from.partition,
                batch.first_offset().get(),
                end(from.partition),
            );
            let Ok(records) = batch.records() else {
                history.broken("a batch's body is damaged");
                return;
            };
            for record in records {
                let value = record.value().unwrap_or_default();
                let name = match record::read(value) {
                    Read::Whole(name) if ours(name.lane.run) => Some(name),
                    Read::Whole(_) | Read::Foreign => None,
                    Read::Damaged => {
                        history.broken("a record is damaged");
                        None
                    }
                };
                history.delivered(from, name, record.offset().get(), value);
            }
        }
        Ok(Item::Gap {
            partition,
            from,
            to,
            ..
        }) => {
            let partition = partition.partition.get();
            history.positioned(partition, from.get(), end(partition));
            history.gap(partition, from.get(), to.get());
        }
        Ok(Item::Loss {
            partition, from, ..
        }) => history.past_changed(partition.partition.get(), from.get()),
        Err(ConsumeError::Diverged { partition, end, .. }) => {
            history.past_changed(partition.get(), end.get());
        }
        Err(error @ (ConsumeError::Jump { .. } | ConsumeError::Damaged { .. })) => {
            history.broken(&error.to_string());
        }
        // It says that the reading ended, not that something is wrong.
        Err(_) => {}
    }
}
