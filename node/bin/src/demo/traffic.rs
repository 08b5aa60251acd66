//! The demo's load: one producer and one live subscriber on one thread, over sockets, in three phases.
//!
//! - *Warm-up*: connections are opened and caches filled. Verified, not timed.
//! - *Paced*: an open loop at a moderate rate. Each event has a time at which it is meant to be sent; latency counts from
//!   then, so that a stall shows in every event behind it. This phase gives the percentiles.
//! - *Fast*: as fast as credit lets it. This phase gives the throughput, until the last event is acknowledged and
//!   delivered; its latencies would only measure the queue that it builds.

use super::STREAM;
use super::data::DataSet;
use super::verify::{Place, Sighting, Verdict, Verifier};
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output::Progress;
use crate::{session, units};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiderace_client::{
    AckFuture, Client, Consumer, From, Item, Producer, ProducerOptions, Record, SendError,
    StreamOptions,
};
use tokio::time::timeout;

const WARM_UP_EVENTS: u64 = 500;
/// The paced phase ends here at the latest, however long the data set is.
const PACED_SECONDS_MAX: u64 = 6;
/// Acknowledgements outstanding in the fast phase; the producer's buffer bounds their bytes.
const ACKS_WAITING_MAX: usize = 64 * 1024;
/// Nothing arrives for so long: what is missing is lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// After the last event, what comes in this time would be a duplicate.
const LINGER: Duration = Duration::from_millis(200);
/// The header in which an event's number travels.
const NUMBER_HEADER: &[u8] = b"n";
/// Sends in a row before others on this thread get their turn.
const SENDS_PER_TURN: u64 = 64;

/// How many events each phase sends. Events are numbered through all phases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) warm_up: u64,
    pub(crate) paced: u64,
    pub(crate) fast: u64,
    pub(crate) rate: u64,
    pub(crate) partitions: u32,
}

impl Plan {
    /// The whole data set at least once: paced as far as that goes in a few seconds, the rest fast.
    pub(crate) fn of(data: &DataSet, command: &cli::Demo) -> Self {
        let len = data.events.len() as u64;
        let warm_up = WARM_UP_EVENTS.min(len);
        let paced = (len - warm_up).min(command.rate * PACED_SECONDS_MAX).max(1);
        let rest = len.saturating_sub(warm_up + paced);
        Self {
            warm_up,
            paced,
            fast: command.fast.max(rest),
            rate: command.rate,
            partitions: command.partitions,
        }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.warm_up + self.paced + self.fast
    }

    /// What will happen, for people.
    pub(crate) fn words(&self) -> String {
        format!(
            "{} to warm up, {} at {}/s to measure latency, then\n\
             {} as fast as they go to measure throughput ...",
            units::show_count(self.warm_up),
            units::show_count(self.paced),
            units::show_count(self.rate),
            units::show_count(self.fast)
        )
    }
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) verdict: Verdict,
    /// Nanoseconds from the intended time of sending, in the paced phase.
    pub(crate) ack_ns: Histogram<u64>,
    pub(crate) delivery_ns: Histogram<u64>,
    pub(crate) paced: Duration,
    pub(crate) fast: Duration,
    /// Keys and values of the fast phase.
    pub(crate) fast_bytes: u64,
    pub(crate) durability: &'static str,
    /// The first event that was not acknowledged, if any: why.
    pub(crate) first_error: Option<String>,
}

/// What the producing and the subscribing side share. One thread: no lock.
struct Shared {
    data: Arc<DataSet>,
    plan: Plan,
    verifier: RefCell<Verifier>,
    acked: RefCell<Vec<Option<Place>>>,
    acked_count: Cell<u64>,
    failed_count: Cell<u64>,
    first_error: RefCell<Option<String>>,
    ack_ns: RefCell<Histogram<u64>>,
    delivery_ns: RefCell<Histogram<u64>>,
    /// When the paced phase began.
    paced_begun: Cell<Option<Instant>>,
    delivered_last: Cell<Instant>,
    progress: RefCell<Progress>,
    /// What the live line is about now; `None` before the first timed phase.
    phase: Cell<Option<Phase>>,
}

/// A timed phase on the live line, which has a bar of its own: one bar over both would stand still for the paced seconds.
#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    /// Its first event, and how many it has.
    first: u64,
    count: u64,
}

impl Shared {
    /// When an event of the paced phase was meant to be sent; `None` for those of other phases.
    fn intended(&self, number: u64) -> Option<Instant> {
        let index = number
            .checked_sub(self.plan.warm_up)
            .filter(|index| *index < self.plan.paced)?;
        Some(self.paced_begun.get()? + offset_of(index, self.plan.rate))
    }

    fn settle(&self, number: u64, result: Result<tiderace_client::Ack, SendError>) {
        let now = Instant::now();
        match result {
            Ok(ack) => {
                let place = Place {
                    partition: ack.partition.get(),
                    offset: ack.offset.get(),
                };
                if let Some(slot) = usize::try_from(number).ok().and_then(|index| {
                    self.acked
                        .borrow_mut()
                        .get_mut(index)
                        .map(|slot| slot.replace(place))
                }) {
                    debug_assert!(slot.is_none(), "an event is acknowledged once");
                }
                self.acked_count.set(self.acked_count.get() + 1);
                if let Some(intended) = self.intended(number) {
                    record(&self.ack_ns, now, intended);
                }
            }
            Err(error) => self.fail(number, &error),
        }
    }

    fn fail(&self, number: u64, error: &SendError) {
        self.failed_count.set(self.failed_count.get() + 1);
        self.first_error
            .borrow_mut()
            .get_or_insert_with(|| format!("event {number}: {error}"));
    }

    fn settled_count(&self) -> u64 {
        self.acked_count.get() + self.failed_count.get()
    }

    fn record_of(&self, number: u64) -> Record {
        let event = self.data.event(number);
        Record::new(event.value.clone())
            .key(event.key.clone())
            .header(NUMBER_HEADER, number.to_le_bytes().to_vec())
    }

    fn begin(&self, phase: Phase) {
        self.phase.set(Some(phase));
        self.progress.borrow_mut().begin(Some(phase.count));
    }

    /// Says how far the phase is: by what the subscriber has verified, which comes last. Acknowledgements are heard in the
    /// order of sending, so their count lags behind what they say.
    fn tell(&self) {
        let Some(phase) = self.phase.get() else {
            return;
        };
        let verified = self.verifier.borrow().delivered();
        let verified = verified.saturating_sub(phase.first);
        self.progress.borrow_mut().at(verified, |_| {
            format!(
                "{}: {} delivered and verified",
                phase.name,
                units::show_count(verified)
            )
        });
    }
}

fn offset_of(index: u64, rate: u64) -> Duration {
    let ns = u128::from(index) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

fn record(histogram: &RefCell<Histogram<u64>>, now: Instant, since: Instant) {
    let ns = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
    histogram.borrow_mut().saturating_record(ns);
}

fn histogram() -> Result<RefCell<Histogram<u64>>, Failure> {
    // A microsecond to a minute, to a thousandth.
    const LEAST_NS: u64 = 1_000;
    const MOST_NS: u64 = 60_000_000_000;
    Histogram::new_with_bounds(LEAST_NS, MOST_NS, 3)
        .map(RefCell::new)
        .map_err(|error| Failure::new(Exit::Failed, format!("no histogram can be made: {error}")))
}

/// Sends, receives and verifies everything.
pub(crate) async fn run(
    data: &Arc<DataSet>,
    plan: Plan,
    server: SocketAddr,
) -> Result<Measured, Failure> {
    let client = session::connect_to(&[server], None).await?;
    let options = StreamOptions {
        partitions: plan.partitions,
        ..StreamOptions::default()
    };
    let stream = client
        .create_stream(STREAM, options)
        .await
        .map_err(|error| session::request_failure(STREAM, &error))?;
    let total = plan.total();
    let shared = Rc::new(Shared {
        data: Arc::clone(data),
        plan,
        verifier: RefCell::new(Verifier::new(Arc::clone(data), plan.partitions, total)),
        acked: RefCell::new(vec![None; usize::try_from(total).unwrap_or(usize::MAX)]),
        acked_count: Cell::new(0),
        failed_count: Cell::new(0),
        first_error: RefCell::new(None),
        ack_ns: histogram()?,
        delivery_ns: histogram()?,
        paced_begun: Cell::new(None),
        delivered_last: Cell::new(Instant::now()),
        progress: RefCell::new(Progress::new(None)),
        phase: Cell::new(None),
    });
    // The subscriber has connections of its own, as another program would.
    let reader = session::connect_to(&[server], None).await?;
    let consumer = reader.subscribe(STREAM, From::Earliest).start();
    let tasks = tokio::task::LocalSet::new();
    let subscribing = tasks.spawn_local(subscribe(consumer, Rc::clone(&shared)));
    let (paced, fast) = tasks
        .run_until(produce(&client, Rc::clone(&shared)))
        .await?;
    let subscribed = tasks.run_until(subscribing).await;
    subscribed.map_err(|error| {
        Failure::new(Exit::Failed, format!("the subscriber ended early: {error}"))
    })??;
    shared.progress.borrow_mut().clear();
    let (paced_begun, fast_begun) = (paced, fast.begun);
    let last = shared.delivered_last.get().max(fast.acked);
    let Ok(shared) = Rc::try_unwrap(shared) else {
        return Err(Failure::new(Exit::Failed, "a task of the demo did not end"));
    };
    let fast_events = plan.warm_up + plan.paced..total;
    let acked = shared.acked.into_inner();
    Ok(Measured {
        sent: total,
        acked: shared.acked_count.get(),
        verdict: shared.verifier.into_inner().finish(&acked),
        ack_ns: shared.ack_ns.into_inner(),
        delivery_ns: shared.delivery_ns.into_inner(),
        paced: paced_begun,
        fast: last.saturating_duration_since(fast_begun),
        fast_bytes: fast_events
            .map(|number| data.event(number))
            .map(|event| (event.key.len() + event.value.len()) as u64)
            .sum(),
        durability: stream.durability.name(),
        first_error: shared.first_error.into_inner(),
    })
}

/// When the fast phase began, and when its last acknowledgement came.
#[derive(Clone, Copy)]
struct Fast {
    begun: Instant,
    acked: Instant,
}

/// Runs the phases one after the other; how long the paced one took, and the times of the fast one.
async fn produce(client: &Client, shared: Rc<Shared>) -> Result<(Duration, Fast), Failure> {
    let producer = client.producer(STREAM, ProducerOptions::default());
    let plan = shared.plan;
    for number in 0..plan.warm_up {
        let result = producer.send(shared.record_of(number)).await;
        shared.settle(number, result);
    }
    await_delivered(&shared, plan.warm_up).await;
    let begun = Instant::now();
    shared.paced_begun.set(Some(begun));
    shared.begin(Phase {
        name: "latency",
        first: plan.warm_up,
        count: plan.paced,
    });
    pace(&producer, &shared).await;
    await_settled(&shared, plan.warm_up + plan.paced).await;
    await_delivered(&shared, plan.warm_up + plan.paced).await;
    let paced = begun.elapsed();
    shared.begin(Phase {
        name: "throughput",
        first: plan.warm_up + plan.paced,
        count: plan.fast,
    });
    let begun = Instant::now();
    hurry(&producer, &shared).await;
    let fast = Fast {
        begun,
        acked: Instant::now(),
    };
    producer
        .close()
        .await
        .map_err(|error| session::send_failure(STREAM, &error))?;
    Ok((paced, fast))
}

/// The paced phase: every event at its time, whatever became of those before it. Spins between two, because a timer of
/// this runtime is a millisecond coarse; each spin lets the sockets be read.
async fn pace(producer: &Producer, shared: &Rc<Shared>) {
    let plan = shared.plan;
    for number in plan.warm_up..plan.warm_up + plan.paced {
        let intended = shared.intended(number).unwrap_or_else(Instant::now);
        loop {
            tokio::task::yield_now().await;
            if Instant::now() >= intended {
                break;
            }
            // A thread that only turns its core round must leave it to whoever waits for it: the kernel completes durable
            // writes there, on a machine whose disk interrupts it.
            std::thread::yield_now();
        }
        match producer.enqueue(shared.record_of(number)).await {
            // A task for each, so that one acknowledgement does not wait to be heard behind another.
            Ok(ack) => {
                let shared = Rc::clone(shared);
                tokio::task::spawn_local(async move {
                    let result = ack.await;
                    shared.settle(number, result);
                });
            }
            Err(error) => shared.fail(number, &error),
        }
        shared.tell();
    }
}

/// The fast phase: as many at once as credit allows.
async fn hurry(producer: &Producer, shared: &Rc<Shared>) {
    let plan = shared.plan;
    let mut waiting: VecDeque<(u64, AckFuture)> = VecDeque::new();
    for number in plan.warm_up + plan.paced..plan.total() {
        match producer.enqueue(shared.record_of(number)).await {
            Ok(ack) => waiting.push_back((number, ack)),
            Err(error) => shared.fail(number, &error),
        }
        if waiting.len() > ACKS_WAITING_MAX
            && let Some((number, ack)) = waiting.pop_front()
        {
            shared.settle(number, ack.await);
        }
        if number.is_multiple_of(SENDS_PER_TURN) {
            tokio::task::yield_now().await;
            shared.tell();
        }
    }
    for (number, ack) in waiting {
        shared.settle(number, ack.await);
    }
}

/// Waits until so many events are acknowledged or failed. Each has a deadline in the SDK, so this ends.
async fn await_settled(shared: &Shared, count: u64) {
    while shared.settled_count() < count {
        tokio::task::yield_now().await;
    }
}

/// Waits until so many events are delivered, or none comes any more.
async fn await_delivered(shared: &Shared, count: u64) {
    let begun = Instant::now();
    while shared.verifier.borrow().delivered() < count {
        let last = shared.delivered_last.get().max(begun);
        if last.elapsed() > SILENCE_MAX {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// The live subscriber: looks at every record until all are there and a little longer.
async fn subscribe(mut consumer: Consumer, shared: Rc<Shared>) -> Result<(), Failure> {
    let total = shared.plan.total();
    loop {
        let is_complete = shared.verifier.borrow().delivered() >= total;
        let patience = if is_complete { LINGER } else { SILENCE_MAX };
        let item = match timeout(patience, consumer.next()).await {
            // Silence ends it only once everything was acknowledged: before that the producer may just be slow.
            Err(_) if is_complete || shared.settled_count() >= total => return Ok(()),
            Err(_) => continue,
            Ok(None) => return Ok(()),
            Ok(Some(item)) => item.map_err(|error| session::consume_failure(STREAM, &error))?,
        };
        let Item::Batch(batch) = item else {
            // A gap or a loss in a stream without retention: the verifier counts what is missing.
            continue;
        };
        let now = Instant::now();
        let partition = batch.partition().get();
        let records = batch.records().map_err(|error| {
            Failure::new(
                Exit::Verification,
                format!("a delivered batch is no archive: {error}"),
            )
        })?;
        let mut verifier = shared.verifier.borrow_mut();
        for record in records {
            let number = record
                .headers()
                .find(|(name, _)| *name == NUMBER_HEADER)
                .and_then(|(_, value)| value.try_into().ok());
            let number = number.map(u64::from_le_bytes);
            let place = Place {
                partition,
                offset: record.offset().get(),
            };
            let is_new = verifier.see(Sighting {
                place,
                number,
                key: record.key(),
                value: record.value(),
            });
            let intended = number
                .filter(|_| is_new)
                .and_then(|number| shared.intended(number));
            if let Some(intended) = intended {
                self::record(&shared.delivery_ns, now, intended);
            }
        }
        drop(verifier);
        shared.delivered_last.set(now);
        shared.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(flags: &[&str]) -> Plan {
        let cli =
            cli::Cli::try_parse_from(["tiderace", "demo"].iter().chain(flags)).expect("parses");
        let cli::Run::Demo(demo) = cli.run else {
            panic!("a demo")
        };
        Plan::of(&DataSet::embedded().expect("embedded"), &demo)
    }

    #[test]
    fn every_event_of_the_data_set_is_sent() {
        for flags in [
            &[][..],
            &["--rate", "1"],
            &["--fast", "1"],
            &["--rate", "1000000"],
        ] {
            assert!(plan(flags).total() >= 26_483, "{flags:?}");
        }
        let usual = plan(&[]);
        assert_eq!(
            (usual.warm_up, usual.paced, usual.fast),
            (500, 25_983, 500_000)
        );
    }

    #[test]
    fn events_are_meant_to_be_sent_at_an_even_rate() {
        assert_eq!(offset_of(0, 5_000), Duration::ZERO);
        assert_eq!(offset_of(5_000, 5_000), Duration::from_secs(1));
        assert_eq!(offset_of(1, 1_000_000), Duration::from_micros(1));
    }
}
