//! Consumers in the engine against a scripted zone: dense offsets, resumption, credit, and what is told when records are
//! not there, not sound, or not of this log.

mod scripted;

use scripted::Zone;
use scripted::world::{SECOND, World, expected};
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::{Epoch, Offset};
use tiderace_base::prng::Prng;
use tiderace_client::core::engine::ConsumerSettings;
use tiderace_client::{ConsumeError, From, Item};
use tiderace_wire::frame;

#[test]
fn a_consumer_never_holds_more_than_its_window_and_never_starves() {
    let mut world = World::new(Zone::new(1, 1));
    let producer = world.producer(|_| {});
    for n in 0..200 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    let consumer = world.consumer(ConsumerSettings {
        window_batches: 8,
        ..ConsumerSettings::default()
    });
    assert_eq!(
        world.engine.cursors(consumer).next().and_then(|c| c.next()),
        Some(Offset::new(8)),
        "no more than the window was received"
    );
    assert_eq!(world.values(consumer), expected(200));
}

#[test]
fn credit_by_hand_is_not_granted_by_itself() {
    let mut world = World::new(Zone::new(1, 1));
    let producer = world.producer(|_| {});
    for n in 0..20 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    let consumer = world.consumer(ConsumerSettings {
        window_batches: 5,
        automatic: false,
        ..ConsumerSettings::default()
    });
    assert_eq!(world.values(consumer).len(), 5);
    let now = world.now();
    world.engine.grant(now, consumer, 0, 3);
    world.settle();
    assert_eq!(world.values(consumer).len(), 3);
    assert_eq!(world.values(consumer).len(), 0);
}

#[test]
fn a_consumer_goes_on_after_reconnects_without_holes_or_repeats() {
    for seed in 0..20 {
        let mut world = World::new(Zone::new(2, 1));
        let mut prng = Prng::new(seed);
        let producer = world.producer(|_| {});
        let consumer = world.consumer(ConsumerSettings {
            window_batches: 4,
            ..ConsumerSettings::default()
        });
        let mut values = Vec::new();
        let mut sent = 0;
        for _ in 0..100 {
            if world.push(producer, &sent.to_string(), None).is_ok() {
                sent += 1;
            }
            match prng.below(8) {
                0 => world.zone.close_all(),
                1 => {
                    world.zone.logs[0].leader ^= 1;
                    world.zone.logs[0].epoch += 1;
                    world.zone.close_all();
                }
                _ => {}
            }
            world.run_ns(prng.below(SECOND / 5));
            values.extend(world.values(consumer));
        }
        world.run_ns(20 * SECOND);
        values.extend(world.values(consumer));
        assert_eq!(values, expected(sent), "seed {seed}");
    }
}

#[test]
fn a_batch_that_begins_before_the_wanted_offset_is_trimmed() {
    let mut world = World::new(Zone::new(1, 1));
    world.zone.hold_acks = true;
    let producer = world.producer(|_| {});
    for n in 0..10 {
        world.push(producer, &n.to_string(), None).expect("credit");
    }
    world.settle();
    world.zone.release([0]);
    world.settle();
    assert_eq!(world.zone.logs[0].batches.len(), 2);
    let consumer = world.consumer(ConsumerSettings {
        from: From::Offset(Offset::new(6)),
        ..ConsumerSettings::default()
    });
    let values = world.values(consumer);
    assert_eq!(values, expected(10)[6..]);
}

#[test]
fn a_gap_is_told_before_the_records_behind_it() {
    let mut world = World::new(Zone::new(1, 1));
    let producer = world.producer(|_| {});
    for n in 0..10 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    world.zone.logs[0].start = 4;
    world.zone.logs[0].batches.drain(..4);
    let consumer = world.consumer(ConsumerSettings {
        from: From::Offset(Offset::new(1)),
        ..ConsumerSettings::default()
    });
    let first = world.take(consumer).expect("an item").expect("no error");
    assert!(
        matches!(first, Item::Gap { from, to, reason: 1, .. } if from == Offset::new(1) && to == Offset::new(4))
    );
    assert_eq!(world.values(consumer), expected(10)[4..]);
}

#[test]
fn what_was_dropped_while_a_consumer_was_away_is_a_gap_and_elsewhere_an_error() {
    let mut world = World::new(Zone::new(1, 1));
    world.zone.strict_start = true;
    let producer = world.producer(|_| {});
    let consumer = world.consumer(ConsumerSettings {
        window_batches: 2,
        ..ConsumerSettings::default()
    });
    for n in 0..10 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    world.zone.logs[0].start = 6;
    world.zone.logs[0].batches.drain(..6);
    world.zone.close_all();
    world.run_ns(5 * SECOND);
    let mut gaps = Vec::new();
    let mut offsets = Vec::new();
    while let Some(item) = world.take(consumer) {
        match item.expect("no error") {
            Item::Batch(batch) => offsets.push(batch.first_offset().get()),
            Item::Gap { from, to, .. } => gaps.push((from.get(), to.get())),
            Item::Loss { .. } => panic!("nothing was lost"),
        }
        world.run_ns(SECOND);
    }
    assert_eq!(gaps, [(2, 6)]);
    assert_eq!(offsets, [0, 1, 6, 7, 8, 9]);
    let other = world.consumer(ConsumerSettings {
        from: From::Offset(Offset::new(1)),
        ..ConsumerSettings::default()
    });
    assert!(matches!(
        world.take(other),
        Some(Err(ConsumeError::OutOfRange { refusal, .. })) if refusal.detail_a == 6
    ));
}

#[test]
fn skipped_offsets_without_a_gap_halt_the_partition_until_a_seek() {
    let mut world = World::new(Zone::new(1, 1));
    let producer = world.producer(|_| {});
    for n in 0..4 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    let removed = world.zone.logs[0].batches.remove(1);
    let consumer = world.consumer(ConsumerSettings::default());
    assert!(world.take(consumer).expect("an item").is_ok());
    assert_eq!(
        world.take(consumer).expect("an item").expect_err("a hole"),
        ConsumeError::Jump {
            partition: PartitionIndex::new(0),
            expected: Offset::new(1),
            found: Offset::new(2),
        }
    );
    assert!(world.take(consumer).is_none(), "nothing behind the hole");
    world.zone.logs[0].batches.insert(1, removed);
    let now = world.now();
    world.engine.seek(
        now,
        consumer,
        PartitionIndex::new(0),
        From::Offset(Offset::new(1)),
    );
    world.settle();
    assert_eq!(world.values(consumer), expected(4)[1..]);
}

#[test]
fn a_flipped_bit_is_never_handed_out() {
    for at in [0, 30, 77, 90, 126, 129, 150] {
        let mut world = World::new(Zone::new(1, 1));
        let producer = world.producer(|_| {});
        world
            .push(producer, "a value that is long enough", None)
            .expect("credit");
        world.settle();
        let mut bytes = world.zone.logs[0].batches[0].to_vec();
        let consumer = world.consumer(ConsumerSettings {
            from: From::Latest,
            ..ConsumerSettings::default()
        });
        let session = *world.zone.sessions.keys().next().expect("a session");
        bytes[at] ^= 4;
        let deliver = frame::Deliver {
            subscription: tiderace_base::ids::SubscriptionId::new(1),
            epoch: Epoch::new(3),
            end_offset: Offset::new(2),
        };
        world.zone.with(session, |out, id| {
            deliver.encode(out, id, tiderace_wire::link::Flags::NONE, bytes.len());
            out.extend_from_slice(&bytes);
        });
        world.settle();
        let item = world.take(consumer);
        assert!(
            matches!(item, None | Some(Err(ConsumeError::Damaged { .. }))),
            "byte {at}: {item:?}"
        );
    }
}

#[test]
fn a_cursor_that_is_not_in_the_log_any_more_is_told_where_they_part() {
    let mut world = World::new(Zone::new(1, 1));
    let producer = world.producer(|_| {});
    let consumer = world.consumer(ConsumerSettings::default());
    for n in 0..6 {
        world.push(producer, &n.to_string(), None).expect("credit");
        world.settle();
    }
    assert_eq!(world.values(consumer).len(), 6);
    let log = &mut world.zone.logs[0];
    log.batches.truncate(3);
    log.end = 3;
    log.epoch = 4;
    world.zone.close_all();
    world.run_ns(5 * SECOND);
    assert_eq!(
        world
            .take(consumer)
            .expect("an item")
            .expect_err("diverged"),
        ConsumeError::Diverged {
            partition: PartitionIndex::new(0),
            epoch: Epoch::new(4),
            end: Offset::new(3),
        }
    );
    let now = world.now();
    world.engine.seek(
        now,
        consumer,
        PartitionIndex::new(0),
        From::Offset(Offset::new(3)),
    );
    world.settle();
    assert!(world.take(consumer).is_none());
}
