//! The ledger: what was acknowledged, held against what can be read. Every event says who sent it and as which number, and
//! the rest of its bytes follow from these two, so that a lost, doubled, reordered, misplaced or altered event is told from
//! every other.

use crate::within;
use std::collections::BTreeMap;
use tiderace_client::{Ack, Client, Consumer, From, Item};

/// Bytes of an event's own words: sender and number.
pub const EVENT_BYTES_MIN: usize = 12;

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Event {
    /// Who sent it.
    pub sender: u32,
    /// Its number among the sender's, from 0.
    pub number: u64,
}

impl Event {
    /// Its value, of this many bytes.
    ///
    /// # Panics
    /// When it does not fit.
    #[must_use]
    pub fn value(self, bytes: usize) -> Vec<u8> {
        assert!(
            bytes >= EVENT_BYTES_MIN,
            "an event has room for its own words"
        );
        let mut value = Vec::with_capacity(bytes);
        value.extend_from_slice(&self.sender.to_le_bytes());
        value.extend_from_slice(&self.number.to_le_bytes());
        let (seed, left) = (
            self.number.wrapping_mul(31) + u64::from(self.sender),
            bytes - value.len(),
        );
        value.extend((0..left as u64).map(|at| (seed.wrapping_add(at) % 251) as u8));
        value
    }

    /// The event of a value.
    ///
    /// # Panics
    /// When no sender could have sent it.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        let (sender, rest) = value.split_first_chunk().expect("a sender");
        let (number, _) = rest.split_first_chunk().expect("a number");
        let event = Self {
            sender: u32::from_le_bytes(*sender),
            number: u64::from_le_bytes(*number),
        };
        assert!(
            event.value(value.len()) == value,
            "{event:?} is as it was sent"
        );
        event
    }
}

/// What one subscriber read: for each partition its events, whose places are their offsets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    partitions: BTreeMap<u32, Vec<Event>>,
    count: u64,
}

impl Reading {
    /// Reads on until exactly `count` events were read in all.
    pub async fn read(&mut self, consumer: &mut Consumer, count: u64) {
        self.read_at_least(consumer, count).await;
        assert_eq!(self.count, count, "no more was read than was sent");
    }

    /// Reads on until `count` events were read in all, and the rest of the last of their batches.
    pub async fn read_at_least(&mut self, consumer: &mut Consumer, count: u64) {
        while self.count < count {
            let item = within("a delivery", consumer.next()).await;
            match item.expect("the client is open").expect("nothing parts") {
                Item::Batch(batch) => {
                    let partition = batch.partition().get();
                    let events = self.partitions.entry(partition).or_default();
                    for record in batch.records().expect("a body that holds") {
                        assert_eq!(
                            record.offset().get(),
                            events.len() as u64,
                            "offsets of partition {partition} are dense"
                        );
                        events.push(Event::of(record.value().expect("a value")));
                        self.count += 1;
                    }
                }
                other => panic!("nothing was dropped or lost, but: {other:?}"),
            }
        }
    }

    /// Reads all that a stream holds.
    pub async fn of(client: &Client, path: &str) -> Self {
        let described = within("a description", client.describe_stream(path)).await;
        let ends = described.expect("the stream is there").partitions;
        let count = ends
            .iter()
            .map(|partition| {
                let (start, end) = partition.offsets.expect("every leader answers");
                assert_eq!(start.get(), 0, "nothing was dropped");
                end.get()
            })
            .sum();
        let mut reading = Self::default();
        let mut consumer = client.subscribe(path, From::Earliest).start();
        reading.read(&mut consumer, count).await;
        reading
    }

    /// How many events.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }
}

/// What was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    acked: BTreeMap<(u32, u64), Event>,
    /// Acknowledgements that answered a repeat.
    pub duplicates: u64,
}

impl Ledger {
    /// An event was acknowledged.
    ///
    /// # Panics
    /// When its place was another event's.
    pub fn acked(&mut self, event: Event, ack: &Ack) {
        let place = (ack.partition.get(), ack.offset.get());
        self.duplicates += u64::from(ack.duplicate);
        if let Some(other) = self.acked.insert(place, event) {
            panic!("{other:?} and {event:?} were acknowledged at {place:?}");
        }
    }

    /// How many events.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.acked.len() as u64
    }

    /// Takes another's entries.
    pub fn merge(&mut self, other: Self) {
        for (place, event) in other.acked {
            if let Some(known) = self.acked.insert(place, event) {
                panic!("{known:?} and {event:?} were acknowledged at {place:?}");
            }
        }
        self.duplicates += other.duplicates;
    }

    /// Holds the ledger against a reading: every acknowledged event at its place, each event once, a sender's events of a
    /// partition in their order, and nothing that nobody sent (`sent`: how many each sender did).
    ///
    /// # Panics
    /// When one of it does not hold.
    pub fn settle(&self, reading: &Reading, sent: &BTreeMap<u32, u64>) {
        for (&(partition, offset), event) in &self.acked {
            let at = usize::try_from(offset).expect("an offset of a test");
            let found = reading
                .partitions
                .get(&partition)
                .and_then(|events| events.get(at));
            assert_eq!(
                found,
                Some(event),
                "what was acknowledged at {offset} of partition {partition} stands there"
            );
        }
        let mut seen: BTreeMap<Event, (u32, u64)> = BTreeMap::new();
        for (&partition, events) in &reading.partitions {
            let mut last: BTreeMap<u32, u64> = BTreeMap::new();
            for (event, offset) in events.iter().zip(0..) {
                assert!(
                    sent.get(&event.sender)
                        .is_some_and(|sent| event.number < *sent),
                    "somebody sent {event:?} at {offset} of partition {partition}"
                );
                if let Some(first) = seen.insert(*event, (partition, offset)) {
                    panic!(
                        "{event:?} stands twice: {first:?} and {:?}",
                        (partition, offset)
                    );
                }
                if let Some(before) = last.insert(event.sender, event.number) {
                    assert!(
                        before < event.number,
                        "{event:?} at {offset} of partition {partition} follows number {before}"
                    );
                }
            }
        }
    }
}
