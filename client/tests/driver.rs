//! The tokio driver over real sockets on loopback, against the scripted zone: on one thread and on many, with futures
//! dropped at any point, connections lost, and nobody awaiting. Nothing sleeps; every test waits for an event.

#![expect(
    clippy::disallowed_types,
    reason = "the scripted zone is shared by the tasks that serve its sockets"
)]

mod scripted;

use bytes::Bytes;
use scripted::{Fate, PATH, Zone};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tiderace_client::{
    AckFuture, Backoff, Client, Consumer, ErrorCode, From, Item, Options, PartitionIndex, Producer,
    ProducerOptions, Record, RequestError, SendError, StreamOptions, TrySendError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A zone behind sockets.
#[derive(Clone)]
struct Nodes {
    zone: Arc<Mutex<Zone>>,
    /// One for each session, told when it has something to send.
    output: Arc<Mutex<BTreeMap<u64, Arc<Notify>>>>,
    /// Told whenever the zone received something.
    received: Arc<Notify>,
}

impl Nodes {
    async fn start(nodes: usize, partitions: usize) -> Self {
        let started = Self {
            zone: Arc::new(Mutex::new(Zone::new(nodes, partitions))),
            output: Arc::default(),
            received: Arc::default(),
        };
        for node in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            started.zone.lock().expect("not poisoned").addresses[node] = address;
            let nodes = started.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(nodes.clone().serve(node, stream));
                }
            });
        }
        started
    }

    async fn serve(self, node: usize, mut stream: tokio::net::TcpStream) {
        let session = self.zone.lock().expect("not poisoned").accept(node);
        let notify = Arc::new(Notify::new());
        self.output
            .lock()
            .expect("not poisoned")
            .insert(session, notify.clone());
        let (mut reader, mut writer) = stream.split();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (out, closed) = {
                let mut zone = self.zone.lock().expect("not poisoned");
                let state = zone.sessions.get_mut(&session).expect("own session");
                (state.out.split().freeze(), state.closed)
            };
            if writer.write_all(&out).await.is_err() || closed {
                break;
            }
            tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(count) if count > 0 => {
                        let bytes = Bytes::copy_from_slice(&buffer[..count]);
                        self.zone.lock().expect("not poisoned").receive(session, bytes);
                        self.wake();
                    }
                    _ => break,
                },
                () = notify.notified() => {}
            }
        }
        self.zone
            .lock()
            .expect("not poisoned")
            .sessions
            .get_mut(&session)
            .expect("own session")
            .closed = true;
        self.wake();
    }

    fn wake(&self) {
        for notify in self.output.lock().expect("not poisoned").values() {
            notify.notify_one();
        }
        self.received.notify_one();
    }

    fn change<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        let result = change(&mut self.zone.lock().expect("not poisoned"));
        self.wake();
        result
    }

    /// Waits until the zone is as wanted.
    async fn until(&self, wanted: impl Fn(&Zone) -> bool) {
        while !wanted(&self.zone.lock().expect("not poisoned")) {
            self.received.notified().await;
        }
    }

    async fn client(&self) -> Client {
        let address = self.zone.lock().expect("not poisoned").addresses[0];
        let options = Options {
            backoff: Backoff {
                first_ns: 100_000,
                longest_ns: 5_000_000,
            },
            ..Options::default()
        };
        Client::connect(address, options).await.expect("a node")
    }
}

async fn values(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        match consumer.next().await.expect("open").expect("no error") {
            Item::Batch(batch) => values.extend(
                batch
                    .records()
                    .expect("a sound body")
                    .map(|record| String::from_utf8_lossy(record.value().expect("a value")).into()),
            ),
            other => panic!("{other:?}"),
        }
    }
    values
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn produce_and_consume() {
    let nodes = Nodes::start(2, 3).await;
    let client = nodes.client().await;
    let stream = client
        .create_stream(PATH, StreamOptions::default())
        .await
        .expect("created");
    assert_eq!(stream.partitions, 3);
    let producer = client.producer(PATH, ProducerOptions::default());
    for n in 0..20 {
        let ack = producer
            .enqueue_to(Record::new(n.to_string()), Some(PartitionIndex::new(1)))
            .await
            .expect("accepted")
            .await
            .expect("stored");
        assert_eq!(ack.offset.get(), n);
    }
    let mut consumer = client
        .subscribe(PATH, From::Earliest)
        .partition(PartitionIndex::new(1))
        .credits(4)
        .start();
    assert_eq!(values(&mut consumer, 20).await, numbers(20));
    let positions = consumer.positions();
    assert_eq!(positions.len(), 1);
    assert_eq!(positions[0].2.get(), 20);
    producer.close().await.expect("flushed");
}

#[tokio::test]
async fn a_record_sent_is_a_record_read_on_one_thread() {
    produce_and_consume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_record_sent_is_a_record_read_on_many_threads() {
    produce_and_consume().await;
}

#[tokio::test]
async fn streams_are_described_listed_and_deleted() {
    let nodes = Nodes::start(2, 4).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    for partition in 0..4 {
        producer
            .enqueue_to(Record::new("x"), Some(PartitionIndex::new(partition)))
            .await
            .expect("accepted")
            .await
            .expect("stored");
    }
    let info = client.describe_stream(PATH).await.expect("described");
    let ends: Vec<u64> = info
        .partitions
        .iter()
        .map(|partition| partition.offsets.expect("asked of its leader").1.get())
        .collect();
    assert_eq!(ends, [1, 1, 1, 1]);
    let (streams, more) = client.list_streams("", 10).await.expect("listed");
    assert_eq!((streams.len(), more), (1, false));
    let (offset, time, _) = client
        .offset_by_time(PATH, PartitionIndex::new(2), 5)
        .await
        .expect("answered");
    assert_eq!((offset.get(), time), (1, None));
    client.delete_stream(info.stream.id).await.expect("deleted");
    assert!(matches!(
        client.metadata(PATH).await,
        Err(RequestError::Refused(refusal)) if refusal.code == ErrorCode::UnknownStream
    ));
    assert!(matches!(
        client.create_stream("no//path", StreamOptions::default()).await,
        Err(RequestError::Refused(refusal)) if refusal.code == ErrorCode::BadPath
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_one_client() {
    let nodes = Nodes::start(2, 4).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    let mut tasks = Vec::new();
    for task in 0..32 {
        let producer = producer.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..100 {
                let record = Record::new(format!("{task}:{n}")).key(format!("{task}"));
                producer.send(record).await.expect("stored");
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let stored: u64 = nodes.change(|zone| zone.logs.iter().map(|log| log.end).sum());
    assert_eq!(stored, 3200);
}

#[tokio::test]
async fn a_dropped_future_loses_no_bytes_and_passes_its_turn_on() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    for round in 0..200 {
        let dropped = producer.try_send(Record::new("a")).expect("credit");
        let kept = producer.enqueue(Record::new("b")).await.expect("accepted");
        let mut dropped = Box::pin(dropped);
        // It may take the turn and read a part before it is dropped.
        let _ = poll_once(dropped.as_mut());
        if round % 2 == 0 {
            tokio::task::yield_now().await;
            let _ = poll_once(dropped.as_mut());
        }
        drop(dropped);
        kept.await.expect("stored");
    }
    let mut consumer = client.subscribe(PATH, From::Earliest).start();
    for _ in 0..50 {
        let mut next = Box::pin(consumer.next());
        if let Poll::Ready(item) = poll_once(next.as_mut()) {
            panic!("nothing can be here before a turn of the node: {item:?}");
        }
        drop(next);
    }
    assert_eq!(values(&mut consumer, 401).await.len(), 401);
}

#[tokio::test]
async fn a_future_that_has_the_turn_and_is_not_polled_holds_up_nobody_for_long() {
    let nodes = Nodes::start(1, 2).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    nodes.change(|zone| zone.hold_acks = true);
    let to = |partition| Some(PartitionIndex::new(partition));
    let stuck = producer
        .try_send_to(Record::new("stuck"), to(0))
        .expect("credit");
    let waits = producer
        .try_send_to(Record::new("waits"), to(1))
        .expect("credit");
    let mut stuck = pin!(stuck);
    assert!(poll_once(stuck.as_mut()).is_pending());
    let waiting = tokio::spawn(waits);
    nodes.until(|zone| zone.held.len() == 2).await;
    nodes.change(|zone| zone.release([0, 1]));
    waiting.await.expect("no panic").expect("stored");
    stuck.await.expect("stored");
}

#[tokio::test]
async fn acknowledgements_arrive_although_nobody_awaits_them() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let options = ProducerOptions {
        buffer_bytes_max: 200,
        ..ProducerOptions::default()
    };
    let producer = client.producer(PATH, options);
    let mut accepted: Vec<AckFuture> = Vec::new();
    while accepted.len() < 50 {
        match producer.try_send(Record::new("x".repeat(50))) {
            Ok(ack) => accepted.push(ack),
            // Room can only come from acknowledgements that the keeper reads.
            Err(TrySendError::NoCredit(_)) => tokio::task::yield_now().await,
            Err(TrySendError::Refused(_, error)) => panic!("{error}"),
        }
    }
    for ack in accepted {
        ack.await.expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_are_not_seen_by_producers_and_consumers() {
    let nodes = Nodes::start(2, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    let mut consumer = client.subscribe(PATH, From::Earliest).credits(3).start();
    let reader = tokio::spawn(async move { values(&mut consumer, 60).await });
    for n in 0..60 {
        if n % 7 == 3 {
            nodes.change(|zone| zone.fates.push_back(Fate::StoreAndDie));
        }
        if n % 11 == 5 {
            nodes.change(Zone::close_all);
        }
        if n % 20 == 19 {
            nodes.change(|zone| {
                zone.logs[0].leader ^= 1;
                zone.logs[0].epoch += 1;
                zone.close_all();
            });
        }
        let ack = producer.send(Record::new(n.to_string())).await;
        assert_eq!(ack.expect("stored").offset.get(), n);
    }
    assert_eq!(reader.await.expect("no panic"), numbers(60));
}

#[tokio::test]
async fn a_sender_without_credit_waits_and_is_told_when_it_tries() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let options = ProducerOptions {
        buffer_bytes_max: 100,
        ..ProducerOptions::default()
    };
    let producer = client.producer(PATH, options);
    producer.send(Record::new("first")).await.expect("stored");
    nodes.change(|zone| zone.hold_acks = true);
    let first = producer
        .try_send(Record::new("x".repeat(60)))
        .expect("credit");
    let record = Record::new("y".repeat(60));
    let Err(TrySendError::NoCredit(record)) = producer.try_send(record) else {
        panic!("there is no credit");
    };
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(record).await }
    });
    nodes.until(|zone| zone.held.len() == 1).await;
    nodes.change(|zone| {
        zone.hold_acks = false;
        zone.release([0]);
    });
    first.await.expect("stored");
    sending.await.expect("no panic").expect("stored");
}

/// A producer of which one record was refused for good, long ago, and whose future was dropped. It may hold another.
async fn refused(nodes: &Nodes, client: &Client) -> Producer {
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    nodes.change(|zone| {
        zone.fates.push_back(Fate::Refuse(ErrorCode::BatchBody));
    });
    drop(producer.try_send(Record::new("bad")).expect("credit"));
    producer.send(Record::new("good")).await.expect("stored");
    producer
}

fn is_refused<T>(result: Result<T, SendError>) -> bool {
    matches!(result, Err(SendError::Refused(refusal)) if refusal.code == ErrorCode::BatchBody)
}

#[tokio::test]
async fn a_flush_tells_once_of_a_failure_before_it_whose_future_was_dropped() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = refused(&nodes, &client).await;
    assert!(is_refused(producer.flush().await));
    assert_eq!(producer.flush().await, Ok(()));
    producer.send(Record::new("on")).await.expect("stored");
    assert_eq!(producer.close().await, Ok(()));
}

#[tokio::test]
async fn a_flush_does_not_repeat_what_a_future_has_told() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    let refuse = |zone: &mut Zone| zone.fates.push_back(Fate::Refuse(ErrorCode::BatchBody));
    nodes.change(refuse);
    assert!(is_refused(producer.send(Record::new("bad")).await));
    assert_eq!(producer.flush().await, Ok(()));

    // Two records of one batch: one future tells of its own record only.
    nodes.change(|zone| zone.hold_acks = true);
    let ahead = producer.try_send(Record::new("ahead")).expect("credit");
    let told = producer.try_send(Record::new("told")).expect("credit");
    let untold = producer.try_send(Record::new("untold")).expect("credit");
    nodes.until(|zone| zone.held.len() == 1).await;
    nodes.change(|zone| {
        zone.hold_acks = false;
        refuse(zone);
        zone.release([0]);
    });
    ahead.await.expect("stored");
    assert!(is_refused(told.await));
    drop(untold);
    assert!(is_refused(producer.flush().await));
    assert_eq!(producer.flush().await, Ok(()));
}

#[tokio::test]
async fn a_flush_that_waited_for_a_failure_says_so_whoever_else_was_told() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    nodes.change(|zone| zone.hold_acks = true);
    drop(producer.try_send(Record::new("ahead")).expect("credit"));
    let held = producer.try_send(Record::new("bad")).expect("credit");
    nodes.until(|zone| zone.held.len() == 1).await;
    let (one, other) = (producer.clone(), producer.clone());
    let (mut one, mut other) = (pin!(one.flush()), pin!(other.flush()));
    assert!(poll_once(one.as_mut()).is_pending());
    assert!(poll_once(other.as_mut()).is_pending());
    nodes.change(|zone| {
        zone.hold_acks = false;
        zone.fates.push_back(Fate::Refuse(ErrorCode::BatchBody));
        zone.release([0]);
    });
    assert!(is_refused(held.await));
    assert!(is_refused(one.await));
    assert!(is_refused(other.await));
    assert_eq!(producer.flush().await, Ok(()));
}

#[tokio::test]
async fn a_flush_that_is_dropped_forgets_no_failure() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = refused(&nodes, &client).await;
    nodes.change(|zone| zone.hold_acks = true);
    drop(producer.try_send(Record::new("held")).expect("credit"));
    {
        let mut flush = pin!(producer.flush());
        assert!(poll_once(flush.as_mut()).is_pending());
    }
    nodes.until(|zone| zone.held.len() == 1).await;
    nodes.change(|zone| zone.release([0]));
    assert!(is_refused(producer.flush().await));
}

#[tokio::test]
async fn closing_a_producer_tells_what_nobody_was_told_of() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = refused(&nodes, &client).await;
    let clone = producer.clone();
    assert!(is_refused(producer.close().await));
    assert_eq!(clone.flush().await, Ok(()));
    assert_eq!(
        clone.send(Record::new("late")).await,
        Err(SendError::Closed)
    );
}

#[tokio::test]
async fn what_a_clone_sends_while_a_producer_closes_fails_aloud() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    let clone = producer.clone();
    nodes.change(|zone| zone.hold_acks = true);
    drop(producer.try_send(Record::new("held")).expect("credit"));
    let mut closing = pin!(producer.close());
    assert!(poll_once(closing.as_mut()).is_pending());
    nodes.until(|zone| zone.held.len() == 1).await;
    // It gathers behind the first: the flush under way does not wait for it.
    drop(clone.try_send(Record::new("late")).expect("credit"));
    nodes.change(|zone| zone.release([0]));
    assert_eq!(closing.await, Err(SendError::Closed));
}

#[tokio::test]
async fn closing_the_client_ends_every_wait() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("first")).await.expect("stored");
    nodes.change(|zone| zone.hold_acks = true);
    let waits = tokio::spawn(producer.try_send(Record::new("x")).expect("credit"));
    let mut consumer = client.subscribe(PATH, From::Latest).start();
    let reads = tokio::spawn(async move { consumer.next().await.is_none() });
    nodes.until(|zone| zone.held.len() == 1).await;
    client.close();
    assert_eq!(waits.await.expect("no panic"), Err(SendError::Closed));
    assert!(reads.await.expect("no panic"));
    assert_eq!(client.ping().await, Err(RequestError::Closed));
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let options = Options {
        request_timeout: std::time::Duration::from_millis(50),
        ..Options::default()
    };
    assert_eq!(
        Client::connect(address, options).await.map(|_| ()),
        Err(RequestError::Unreachable)
    );
}

#[tokio::test]
async fn what_was_accepted_is_sent_although_its_producer_is_dropped() {
    let nodes = Nodes::start(1, 1).await;
    let client = nodes.client().await;
    let producer = client.producer(PATH, ProducerOptions::default());
    producer.send(Record::new("0")).await.expect("stored");
    for n in 1..10 {
        drop(
            producer
                .try_send(Record::new(n.to_string()))
                .expect("credit"),
        );
    }
    drop(producer);
    nodes.until(|zone| zone.logs[0].end == 10).await;
}
