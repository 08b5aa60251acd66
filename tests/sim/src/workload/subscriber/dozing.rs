//! What a subscriber does besides that keeps ceasing to read: it limits its connection's credit, opens several subscriptions
//! to its partition. And how a subscriber asks in the end how far it must have read.

use bytes::Bytes;
use tiderace_base::ids::{PartitionIndex, SubscriptionId};
use tiderace_base::position::Epoch;
use tiderace_wire::frame::{
    Control, Credit as CreditFrame, CreditScope, StreamDescribe, Subscribe, SubscribeFrom,
};

use super::super::batch::check;
use super::{Goal, Phase, Subscriber};
use crate::history::{Credit, Ledger, Observation, Reader, Scope};
use crate::world::Port;

/// A subscriber that keeps ceasing to read and beginning again, and never gives up on its connection while it reads.
#[derive(Debug, Default)]
pub(super) struct Dozing {
    /// What it grants all of its connection at once.
    pub(super) link_window: Credit,
    pub(super) link_granted: Credit,
    pub(super) link_spent: Credit,
    /// More subscriptions of the same connection to the same partition, each from the start: several frames in one send.
    pub(super) others: Vec<Other>,
    pub(super) others_wanted: u64,
    pub(super) others_named: u32,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) name: u32,
    pub(super) request: u64,
    pub(super) reader: Reader,
    pub(super) next: Option<u64>,
    pub(super) granted: Credit,
    pub(super) spent: Credit,
}

/// Names of other subscriptions begin here.
const OTHERS: u32 = 1 << 30;

impl Subscriber {
    /// Grants the connection so much that its window is open.
    pub(super) fn grant_link(&mut self, port: &mut Port<'_>) {
        let (Some(dozing), Some(session)) = (&mut self.dozing, &mut self.session) else {
            return;
        };
        dozing.link_granted = Credit {
            bytes: dozing.link_spent.bytes + dozing.link_window.bytes,
            batches: dozing.link_spent.batches + dozing.link_window.batches,
        };
        let credit = CreditFrame {
            scope: CreditScope::Link,
            id: 0,
            bytes_total: dozing.link_granted.bytes,
            batches_total: dozing.link_granted.batches,
        };
        session.send(port, |out, id| credit.encode(out, id));
    }

    /// A batch arrived: the connection's credit must have covered it.
    pub(super) fn spend_link(&mut self, bytes: usize, port: &mut Port<'_>) {
        let Some(dozing) = &mut self.dozing else {
            return;
        };
        dozing.link_spent.bytes += bytes as u64;
        dozing.link_spent.batches += 1;
        let (spent, granted) = (dozing.link_spent, dozing.link_granted);
        if spent.bytes > granted.bytes || spent.batches > granted.batches {
            self.complain(
                port,
                format!("{spent:?} of the link's {granted:?} is spent"),
            );
        } else if 2 * (granted.bytes - spent.bytes) <= dozing.link_window.bytes
            || 2 * (granted.batches - spent.batches) <= dozing.link_window.batches
        {
            self.grant_link(port);
        }
    }

    /// Begins the other subscriptions.
    pub(super) fn subscribe_others(&mut self, port: &mut Port<'_>) {
        let key = self.key();
        let window = self.window;
        let (Some(dozing), Some(session)) = (&mut self.dozing, &mut self.session) else {
            return;
        };
        for _ in 0..dozing.others_wanted {
            dozing.others_named += 1;
            let name = OTHERS + dozing.others_named;
            let subscribe = Subscribe {
                subscription: SubscriptionId::new(name),
                partition: key.partition,
                stream: key.stream,
                from: SubscribeFrom::Earliest,
                epoch: Epoch::ZERO,
                position: 0,
                credit_bytes: window.bytes,
                credit_batches: window.batches,
            };
            let request = session
                .send(port, |out, id| subscribe.encode(out, id))
                .get();
            let reader = Reader(port.prng.next_u64());
            let ledger = Ledger {
                link: session.link.0,
                scope: Scope::Deliver(name),
            };
            port.observe(Observation::Asked {
                reader,
                partition: key,
            });
            port.observe(Observation::LedgerOpened { ledger, window });
            port.observe(Observation::Granted {
                ledger,
                total: window,
            });
            dozing.others.push(Other {
                name,
                request,
                reader,
                next: None,
                granted: window,
                spent: Credit::default(),
            });
        }
    }

    pub(super) fn other(&mut self, name: SubscriptionId) -> Option<&mut Other> {
        let others = &mut self.dozing.as_mut()?.others;
        others.iter_mut().find(|other| other.name == name.get())
    }

    /// Takes what concerns the other subscriptions; says whether it did.
    pub(super) fn take_of_others(
        &mut self,
        control: &Control<'_>,
        batches: &Bytes,
        port: &mut Port<'_>,
    ) -> bool {
        let partition = self.key();
        match control {
            Control::Subscribed(subscribed) => {
                let Some(other) = self.other(subscribed.subscription) else {
                    return false;
                };
                other.next = Some(subscribed.next.get());
                port.observe(Observation::Positioned {
                    reader: other.reader,
                    partition,
                    next: subscribed.next.get(),
                    start: subscribed.start.get(),
                    end: subscribed.end.get(),
                });
            }
            Control::Deliver(deliver) => {
                if self.other(deliver.subscription).is_none() {
                    return false;
                }
                self.deliver_other(deliver.subscription, batches, port);
            }
            Control::Gap(gap) => {
                let Some(other) = self.other(gap.subscription) else {
                    return false;
                };
                other.next = Some(gap.to.get());
                port.observe(Observation::GapTold {
                    reader: other.reader,
                    from: gap.from.get(),
                    to: gap.to.get(),
                });
            }
            Control::Error(error) => {
                let Some(dozing) = &mut self.dozing else {
                    return false;
                };
                let before = dozing.others.len();
                dozing
                    .others
                    .retain(|other| other.request != error.request.get());
                return dozing.others.len() < before;
            }
            _ => return false,
        }
        self.check_end(port);
        true
    }

    pub(super) fn deliver_other(
        &mut self,
        name: SubscriptionId,
        batches: &Bytes,
        port: &mut Port<'_>,
    ) {
        let partition = self.key();
        let window = self.window;
        let Some(stream) = self.stream.clone() else {
            return;
        };
        let mut rest = batches.clone();
        while !rest.is_empty() {
            let (batch, behind) = match check(&rest, &stream, partition) {
                Ok(checked) => checked,
                Err(what) => return self.complain(port, what),
            };
            rest = behind;
            self.spend_link(batch.bytes, port);
            let link = self.session.as_ref().map(|session| session.link);
            let (Some(other), Some(link)) = (self.other(name), link) else {
                return;
            };
            other.spent.bytes += batch.bytes as u64;
            other.spent.batches += 1;
            other.next = Some(batch.next);
            let ledger = Ledger {
                link: link.0,
                scope: Scope::Deliver(name.get()),
            };
            port.observe(Observation::Spent {
                ledger,
                total: other.spent,
            });
            port.observe(Observation::Delivered {
                reader: other.reader,
                partition,
                batch: Some(batch.name),
                offset: batch.offset,
                records: batch.records,
                digest: batch.digest,
                epoch: batch.epoch,
                append_time_us: batch.append_time_us,
            });
            if 2 * (other.granted.bytes - other.spent.bytes) <= window.bytes
                || 2 * (other.granted.batches - other.spent.batches) <= window.batches
            {
                other.granted = Credit {
                    bytes: other.spent.bytes + window.bytes,
                    batches: other.spent.batches + window.batches,
                };
                let credit = CreditFrame {
                    scope: CreditScope::Subscription,
                    id: name.get(),
                    bytes_total: other.granted.bytes,
                    batches_total: other.granted.batches,
                };
                port.observe(Observation::Granted {
                    ledger,
                    total: other.granted,
                });
                if let Some(session) = &mut self.session {
                    session.send(port, |out, id| credit.encode(out, id));
                }
            }
        }
    }

    /// Asks a shard where the partition ends, once nobody writes any more.
    pub(super) fn ask_end(&mut self, port: &mut Port<'_>) {
        if let Some(session) = &mut self.session
            && self.phase == Phase::Open
            && self.goal == Goal::Wanted
        {
            let ask = StreamDescribe {
                first_partition: PartitionIndex::new(self.partition),
                path: self.plan.path.clone(),
            };
            let id = session.send(port, |out, id| ask.encode(out, id));
            self.goal = Goal::Asked(id.get(), port.now_ns);
        }
    }
}
