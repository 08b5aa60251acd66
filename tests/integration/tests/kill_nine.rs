//! `kill -9` under load, again and again, at any moment: while the node starts, while it recovers, and behind any
//! acknowledgement. Producers retry through the restarts and a subscriber stays; in the end nothing that was acknowledged
//! is lost, doubled or reordered, and offsets are dense.
//!
//! `KILL_NINE_CYCLES` says how many kills (100 when it is not set; 10,000 for a long night), `KILL_NINE_SEED` which moments.

use integration::ledger::{Event, Ledger, Reading};
use integration::node::{Node, Setup};
use integration::scratch::Scratch;
use integration::{files, runtime, within};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tiderace_base::prng::Prng;
use tiderace_client::{
    Backoff, Client, From, Options, Producer, ProducerOptions, Record, StreamOptions,
};
use tokio::sync::watch;

const PATH: &str = "torture/kill-nine";
const SENDERS: u32 = 4;
const PARTITIONS: u32 = 4;
/// Acknowledgements that one sender waits for at most.
const WAITING_MAX: usize = 64;
/// A kill comes at most this many acknowledgements after the node began to answer.
const ACKS_BEFORE_KILL_MAX: u64 = 1_500;
/// Far longer than the test: a record that is not acknowledged in the end is a failure.
const PATIENCE: Duration = Duration::from_secs(3_600);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn options(name: &str) -> Options {
    Options {
        name: name.to_owned(),
        request_timeout: PATIENCE,
        backoff: Backoff {
            first_ns: 1_000_000,
            longest_ns: 20_000_000,
        },
        ..Options::default()
    }
}

/// Sends until it is told to stop, then waits for every acknowledgement. How many it sent, and its ledger.
async fn send(
    sender: u32,
    producer: Producer,
    stop: Arc<AtomicBool>,
    progress: watch::Sender<u64>,
) -> (u64, Ledger) {
    let mut ledger = Ledger::default();
    let mut waiting = VecDeque::new();
    let mut prng = Prng::new(u64::from(sender));
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) || !waiting.is_empty() {
        if waiting.len() < WAITING_MAX && !stop.load(Ordering::Relaxed) {
            let event = Event {
                sender,
                number: sent,
            };
            let bytes = 16 + usize::try_from(prng.below(2_000)).expect("small");
            let key = format!("{sender}-{}", prng.below(7));
            let record = Record::new(event.value(bytes)).key(key);
            let ack = producer
                .enqueue(record)
                .await
                .expect("there is credit in the end");
            waiting.push_back((event, ack));
            sent += 1;
        } else if let Some((event, ack)) = waiting.pop_front() {
            let ack = ack.await.expect("every event is acknowledged in the end");
            ledger.acked(event, &ack);
            progress.send_modify(|acked| *acked += 1);
        }
    }
    (sent, ledger)
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kills() {
    let cycles = variable("KILL_NINE_CYCLES", 100);
    let seed = variable("KILL_NINE_SEED", 9);
    let scratch = Scratch::new("kill-nine");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let mut prng = Prng::new(seed);
    let mut node = Node::start(&setup);
    let runtime = runtime();
    let (progress, mut acked) = watch::channel(0_u64);
    let stop = Arc::new(AtomicBool::new(false));

    let (client, live, senders) = runtime.block_on(async {
        let client = Client::connect(setup.server, options("sender"))
            .await
            .expect("a node");
        let partitions = StreamOptions {
            partitions: PARTITIONS,
            ..StreamOptions::default()
        };
        client
            .create_stream(PATH, partitions)
            .await
            .expect("created");
        let reader = Client::connect(setup.server, options("reader"))
            .await
            .expect("a node");
        let live = reader.subscribe(PATH, From::Earliest).start();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let patient = ProducerOptions {
                    timeout: PATIENCE,
                    ..ProducerOptions::default()
                };
                let producer = client.producer(PATH, patient);
                let (stop, progress) = (Arc::clone(&stop), progress.clone());
                tokio::spawn(send(sender, producer, stop, progress))
            })
            .collect();
        (client, live, senders)
    });
    // The subscriber reads while nodes die. How much there is, it is told in the end.
    let (total, told) = watch::channel(u64::MAX);
    let live = runtime.spawn(async move {
        let (mut live, mut reading) = (live, Reading::default());
        while reading.count() < *told.borrow() {
            let more = reading.count() + 1;
            reading.read_at_least(&mut live, more).await;
        }
        reading
    });

    let mut starts_cut_short = 0;
    for cycle in 0..cycles {
        match prng.below(8) {
            // Right after it was started: before or while it recovers.
            0 => starts_cut_short += 1,
            // As soon as it says that it runs.
            1 => assert!(node.runs(), "cycle {cycle}:\n{}", node.log()),
            _ => {
                assert!(node.runs(), "cycle {cycle}:\n{}", node.log());
                let target = *acked.borrow() + prng.below(ACKS_BEFORE_KILL_MAX);
                let reached = acked.wait_for(|acked| *acked >= target);
                let what = format!("acknowledgements of cycle {cycle}");
                drop(
                    runtime
                        .block_on(within(&what, reached))
                        .expect("senders send"),
                );
            }
        }
        node.kill();
        node = Node::spawn(&setup);
    }
    assert!(node.runs(), "after the last kill:\n{}", node.log());

    stop.store(true, Ordering::Relaxed);
    let (mut ledger, mut sent) = (Ledger::default(), BTreeMap::new());
    for (sender, task) in (0..).zip(senders) {
        let (count, own) = runtime
            .block_on(within("the last acknowledgements", task))
            .expect("a sender ends well");
        assert_eq!(
            own.count(),
            count,
            "every event of sender {sender} is acknowledged"
        );
        sent.insert(sender, count);
        ledger.merge(own);
    }
    // One more, which the live subscriber waits for when it has all the others: it knows then how many there are.
    total.send_replace(ledger.count() + 1);
    let last = Event {
        sender: SENDERS,
        number: 0,
    };
    let farewell = client.producer(PATH, ProducerOptions::default());
    let farewell = farewell.send(Record::new(last.value(16)));
    let ack = runtime.block_on(within("the farewell", farewell));
    ledger.acked(last, &ack.expect("acknowledged"));
    sent.insert(SENDERS, 1);
    let all = runtime.block_on(Reading::of(&client, PATH));
    assert_eq!(
        all.count(),
        ledger.count(),
        "all that was sent can be read, once"
    );
    ledger.settle(&all, &sent);
    let live = runtime
        .block_on(within("the live subscriber", live))
        .expect("the subscriber ends well");
    assert!(live == all, "the live subscriber saw what everybody sees");

    // A node that dies often must not fill its disk with what every start leaves behind.
    let bytes = files::size_of(&setup.data_dir);
    println!(
        "{cycles} kills (seed {seed}; {starts_cut_short} during a start), {} events acknowledged, {} of them on a repeat; {} MiB on disk",
        ledger.count(),
        ledger.duplicates,
        bytes >> 20
    );
    node.stop();
}
