//! The toy's clients: a producer that numbers its batches, keeps several on their way and sends again what was not
//! acknowledged when a connection is lost; and a reader that goes on where it stood. Both tell the history what they see.

use std::collections::BTreeMap;

use tiderace_base::catalogue::Durability;
use tiderace_base::prng::Prng;

use super::PARTITION;
use super::codec::{Assembler, Batch, Hear, Say};
use super::log::PRODUCE_WINDOW;
use crate::history::{self, BatchName, Credit, Ledger, Observation, Scope};
use crate::world::{Actor, ActorEvent, LinkId, MachineId, Port};

const RETRY_NS: u64 = 20_000_000;
/// A client gives up on a connection that says nothing for so long while it waits for something.
const PATIENCE_NS: u64 = 4_000_000_000;

fn name(batch: &Batch) -> BatchName {
    BatchName {
        partition: PARTITION,
        producer: u128::from(batch.producer),
        producer_epoch: 0,
        seq: batch.seq,
    }
}

fn batches(batches: u64) -> Credit {
    Credit { bytes: 0, batches }
}

#[derive(Debug)]
struct Session {
    link: LinkId,
    input: Assembler,
    heard_ns: u64,
    granted: u64,
    spent: u64,
}

impl Session {
    fn new(link: LinkId, now_ns: u64) -> Self {
        Self {
            link,
            input: Assembler::default(),
            heard_ns: now_ns,
            granted: 0,
            spent: 0,
        }
    }
}

/// Makes batches until it has made enough.
#[derive(Debug)]
pub(super) struct Producer {
    machine: MachineId,
    id: u64,
    session: Option<Session>,
    connecting: bool,
    next: u64,
    goal: u64,
    unacknowledged: BTreeMap<u64, Batch>,
    /// What is still to be sent on this connection.
    unsent: Vec<u64>,
    pace_ns: u64,
    introduced: bool,
}

impl Producer {
    pub(super) fn new(node: u16, prng: &mut Prng) -> Self {
        Self {
            machine: MachineId { node, machine: 0 },
            id: prng.next_u64(),
            session: None,
            connecting: false,
            next: 0,
            goal: prng.range(50, 500),
            unacknowledged: BTreeMap::new(),
            unsent: Vec::new(),
            pace_ns: prng.range(100_000, 10_000_000),
            introduced: false,
        }
    }

    fn pump(&mut self, port: &mut Port<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        let mut fresh = port.prng.below(4);
        while session.spent < session.granted {
            let batch = if self.unsent.is_empty() {
                if self.next == self.goal || fresh == 0 {
                    break;
                }
                fresh -= 1;
                let batch = Batch {
                    producer: self.id,
                    seq: self.next,
                    records: port.prng.range(1, 5),
                    digest: port.prng.next_u64(),
                };
                self.unacknowledged.insert(self.next, batch);
                self.next += 1;
                batch
            } else {
                self.unacknowledged[&self.unsent.remove(0)]
            };
            session.spent += 1;
            port.observe(Observation::Submitted {
                batch: name(&batch),
                epoch: 0,
                records: batch.records as u32,
                digest: batch.digest,
            });
            port.observe(Observation::Spent {
                ledger: Ledger {
                    link: session.link.0,
                    scope: Scope::Produce,
                },
                total: batches(session.spent),
            });
            port.send(session.link, Say::Append(batch).encode());
        }
    }

    fn hear(&mut self, hear: Hear, port: &mut Port<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        let ledger = Ledger {
            link: session.link.0,
            scope: Scope::Produce,
        };
        match hear {
            Hear::Grant { total } => {
                session.granted = total;
                port.observe(Observation::Granted {
                    ledger,
                    total: batches(total),
                });
                if self.goal > 0
                    && self.unacknowledged.is_empty()
                    && session.spent + PRODUCE_WINDOW > session.granted
                    && session.spent > 0
                {
                    // The grant for the last answer is on its way or here: half of the window must be.
                    port.observe(Observation::Settled {
                        ledger,
                        least: batches(PRODUCE_WINDOW / 2),
                    });
                }
            }
            Hear::Acked {
                seq,
                offset,
                epoch,
                duplicate,
            } => {
                self.unacknowledged.remove(&seq);
                port.observe(Observation::Acknowledged {
                    batch: BatchName {
                        partition: PARTITION,
                        producer: u128::from(self.id),
                        producer_epoch: 0,
                        seq,
                    },
                    offset,
                    epoch: epoch as u32,
                    duplicate,
                });
            }
            Hear::Refused { .. } => {
                // The log is full: what it refuses will never be taken.
                self.goal = 0;
                self.next = 0;
                self.unacknowledged.clear();
                self.unsent.clear();
            }
            Hear::Positioned { .. } | Hear::Record { .. } => {}
        }
    }
}

impl Actor for Producer {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                if !self.introduced {
                    self.introduced = true;
                    port.observe(Observation::StreamKnown {
                        stream: PARTITION.stream.get(),
                        durability: Durability::Local,
                        trims: false,
                    });
                }
                if let Some(session) = &self.session
                    && !self.unacknowledged.is_empty()
                    && session.heard_ns + PATIENCE_NS < port.now_ns
                {
                    port.abort(session.link);
                    self.session = None;
                }
                if self.session.is_none() && !self.connecting && self.waits() {
                    self.connecting = true;
                    port.connect(self.machine);
                }
                self.pump(port);
                let wait_ns = self.pace_ns + port.prng.below(self.pace_ns);
                port.wake_in(wait_ns);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                self.session = Some(Session::new(link, port.now_ns));
                self.unsent = self.unacknowledged.keys().copied().collect();
                port.observe(Observation::LedgerOpened {
                    ledger: Ledger {
                        link: link.0,
                        scope: Scope::Produce,
                    },
                    window: batches(PRODUCE_WINDOW),
                });
            }
            ActorEvent::Received(link, data) => {
                if let Some(session) = self.session.as_mut().filter(|session| session.link == link)
                {
                    session.heard_ns = port.now_ns;
                    session.input.push(&data);
                }
                while let Some(session) = &mut self.session
                    && session.link == link
                    && let Some((kind, words)) = session.input.next()
                {
                    self.hear(Hear::decode(kind, &words), port);
                }
                self.pump(port);
            }
            ActorEvent::Ended(link) | ActorEvent::Closed(link) => {
                if self
                    .session
                    .as_ref()
                    .is_none_or(|session| session.link == link)
                {
                    self.session = None;
                    self.connecting = false;
                    let wait_ns = port.prng.range(100_000, RETRY_NS);
                    port.wake_in(wait_ns);
                }
            }
        }
    }

    fn waits(&self) -> bool {
        self.next != self.goal || !self.unacknowledged.is_empty()
    }

    fn waits_for(&self) -> String {
        let waiting = self.unacknowledged.len();
        format!(
            "producer at {} of {}, {waiting} not acknowledged: {:?}",
            self.next, self.goal, self.session
        )
    }

    fn heal(&mut self, _port: &mut Port<'_>) {
        self.pace_ns = self.pace_ns.min(1_000_000);
    }
}

/// Reads on and on, or once through.
#[derive(Debug)]
pub(super) struct Reader {
    machine: MachineId,
    audits: bool,
    session: Option<Session>,
    connecting: bool,
    reader: history::Reader,
    next: u64,
    end: Option<u64>,
    window: u64,
    /// Grants only long after the last credit was spent: whoever delivers on credit that is yet to come is found out.
    lazy: bool,
    done: bool,
    positioned: bool,
}

impl Reader {
    pub(super) fn new(node: u16, audits: bool, prng: &mut Prng) -> Self {
        Self {
            machine: MachineId { node, machine: 0 },
            audits,
            session: None,
            connecting: false,
            reader: history::Reader(prng.next_u64()),
            next: 0,
            end: None,
            window: prng.range(1, 32),
            lazy: !audits && prng.chance(1, 2),
            done: false,
            positioned: false,
        }
    }

    fn hear(&mut self, hear: Hear, port: &mut Port<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        let ledger = Ledger {
            link: session.link.0,
            scope: Scope::Deliver(0),
        };
        match hear {
            Hear::Positioned { next, end } => {
                self.end = Some(end);
                if !self.positioned || !self.audits {
                    port.observe(Observation::Positioned {
                        reader: self.reader,
                        partition: PARTITION,
                        next,
                        start: 0,
                        end,
                    });
                }
                self.positioned = true;
                self.check_end(port);
            }
            Hear::Record {
                offset,
                epoch,
                time_us,
                batch,
            } => {
                session.spent += 1;
                port.observe(Observation::Spent {
                    ledger,
                    total: batches(session.spent),
                });
                port.observe(Observation::Delivered {
                    reader: self.reader,
                    partition: PARTITION,
                    batch: Some(name(&batch)),
                    offset,
                    records: batch.records as u32,
                    digest: batch.digest,
                    epoch: epoch as u32,
                    append_time_us: time_us,
                });
                self.next = offset + batch.records;
                if !self.lazy && session.granted <= session.spent + self.window / 2 {
                    self.grant(port);
                }
                self.check_end(port);
            }
            Hear::Grant { .. } | Hear::Acked { .. } | Hear::Refused { .. } => {}
        }
    }

    fn grant(&mut self, port: &mut Port<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.granted = session.spent + self.window;
        let total = session.granted;
        port.observe(Observation::Granted {
            ledger: Ledger {
                link: session.link.0,
                scope: Scope::Deliver(0),
            },
            total: batches(total),
        });
        port.send(session.link, Say::Grant { total }.encode());
    }

    fn check_end(&mut self, port: &mut Port<'_>) {
        if self.audits && !self.done && self.end.is_some_and(|end| self.next >= end) {
            self.done = true;
            port.observe(Observation::ReadThrough {
                reader: self.reader,
                partition: PARTITION,
                end: self.next,
            });
        }
    }
}

impl Actor for Reader {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                if self.session.is_none() && !self.connecting {
                    self.connecting = true;
                    port.connect(self.machine);
                }
                if self
                    .session
                    .as_ref()
                    .is_some_and(|session| session.spent == session.granted)
                {
                    self.grant(port);
                }
                port.wake_in(RETRY_NS);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                let mut session = Session::new(link, port.now_ns);
                session.granted = self.window;
                self.session = Some(session);
                let ledger = Ledger {
                    link: link.0,
                    scope: Scope::Deliver(0),
                };
                port.observe(Observation::LedgerOpened {
                    ledger,
                    window: batches(self.window),
                });
                port.observe(Observation::Granted {
                    ledger,
                    total: batches(self.window),
                });
                port.observe(Observation::Asked {
                    reader: self.reader,
                    partition: PARTITION,
                });
                let read = Say::Read {
                    from: self.next,
                    credit: self.window,
                };
                port.send(link, read.encode());
            }
            ActorEvent::Received(link, data) => {
                if let Some(session) = self.session.as_mut().filter(|session| session.link == link)
                {
                    session.input.push(&data);
                }
                while let Some(session) = &mut self.session
                    && session.link == link
                    && let Some((kind, words)) = session.input.next()
                {
                    self.hear(Hear::decode(kind, &words), port);
                }
            }
            ActorEvent::Ended(_) | ActorEvent::Closed(_) => {
                self.session = None;
                self.connecting = false;
                let wait_ns = port.prng.range(100_000, RETRY_NS);
                port.wake_in(wait_ns);
            }
        }
    }

    fn waits(&self) -> bool {
        self.audits && !self.done
    }

    fn waits_for(&self) -> String {
        format!("auditor at {} of {:?}", self.next, self.end)
    }

    fn heal(&mut self, _port: &mut Port<'_>) {}
}
