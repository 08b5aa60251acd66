//! The engine against a scripted zone, in memory and under a chosen clock: exact retries, link credit, redirects, and what
//! it says when a node breaks a promise.

mod scripted;

use scripted::world::{SECOND, World, expected};
use scripted::{Fate, Zone};
use tiderace_base::ids::{PartitionIndex, ProducerId};
use tiderace_base::limits;
use tiderace_base::prng::Prng;
use tiderace_client::core::engine::{ConsumerSettings, Event};
use tiderace_client::core::producer::PushError;
use tiderace_client::{
    AckedLost, ConsumeError, ErrorCode, Record, RequestError, SendError, Violation,
};
use tiderace_wire::credit::Amount;
use tiderace_wire::frame;

#[test]
fn dribbled_bytes_change_nothing() {
    for dribble in [1, 7, 100, 3000] {
        let mut world = World::new(Zone::new(1, 1));
        world.dribble = dribble;
        let key = world.producer(|_| {});
        for n in 0..50 {
            world.push(key, &n.to_string(), None).expect("credit");
            if n % 3 == 0 {
                world.settle();
            }
        }
        world.settle();
        assert!(world.log.iter().all(|settled| settled.result.is_ok()));
        let consumer = world.consumer(ConsumerSettings::default());
        assert_eq!(world.values(consumer), expected(50));
    }
}

#[test]
fn a_record_leaves_at_once_when_idle_and_gathers_while_one_is_under_way() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.zone.hold_acks = true;
    world.push(key, "0", None).expect("credit");
    world.settle();
    assert_eq!(world.zone.produced_frames, 1);
    for n in 1..100 {
        world.push(key, &n.to_string(), None).expect("credit");
    }
    world.settle();
    assert_eq!(world.zone.produced_frames, 1, "the others gather");
    world.zone.release([0]);
    world.settle();
    assert_eq!(world.zone.produced_frames, 2, "one batch of 99 follows");
    world.zone.release([0]);
    world.settle();
    assert_eq!(world.log.len(), 2);
    assert_eq!(world.log[1].records, 99);
}

#[test]
fn acknowledgements_may_come_in_any_order_across_partitions() {
    let mut world = World::new(Zone::new(1, 4));
    let key = world.producer(|_| {});
    world.zone.hold_acks = true;
    for partition in 0..4 {
        world
            .push(key, &partition.to_string(), Some(partition))
            .expect("credit");
    }
    world.settle();
    world.zone.release([2, 0, 3, 1]);
    world.settle();
    let order: Vec<u32> = world.log.iter().map(|s| s.partition.get()).collect();
    assert_eq!(order, [2, 0, 3, 1]);
    assert!(world.log.iter().all(|settled| settled.result.is_ok()));
    assert_eq!(world.engine.unsettled(key), 0);
}

#[test]
fn a_lost_answer_is_a_duplicate_and_counts_once() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.zone.fates.push_back(Fate::StoreAndDie);
    world.push(key, "once", None).expect("credit");
    world.run_ns(10 * SECOND);
    assert_eq!(world.log.len(), 1);
    assert!(world.log[0].result.expect("stored").duplicate);
    assert_eq!(world.zone.records(0), [b"once".to_vec()]);
}

#[test]
fn retries_keep_order_and_store_each_record_once_under_random_faults() {
    for seed in 0..200 {
        let mut world = World::new(Zone::new(2, 3));
        let mut prng = Prng::new(seed);
        let key = world.producer(|settings| {
            settings.inflight_max = 4;
            settings.eager_inflight = 1 + (seed % 3) as usize;
        });
        let mut accepted = [0_u64; 3];
        for _ in 0..120 {
            let partition = prng.below(3) as u32;
            if prng.chance(1, 6) {
                world.zone.fates.push_back(match prng.below(5) {
                    0 => Fate::StoreAndDie,
                    1 => Fate::Die,
                    2 => Fate::Refuse(ErrorCode::Busy),
                    3 => Fate::Refuse(ErrorCode::FencedEpoch),
                    _ => Fate::Refuse(ErrorCode::ReadOnly),
                });
            }
            if prng.chance(1, 20) {
                let moved = prng.below(3) as usize;
                world.zone.logs[moved].leader ^= 1;
                world.zone.logs[moved].epoch += 1;
            }
            if prng.chance(1, 25) {
                world.zone.close_all();
            }
            let value = accepted[partition as usize].to_string();
            if world.push(key, &value, Some(partition)).is_ok() {
                accepted[partition as usize] += 1;
            }
            if prng.chance(1, 3) {
                world.settle();
            }
            if prng.chance(1, 8) {
                world.run_ns(prng.below(SECOND / 10));
            }
        }
        world.run_ns(20 * SECOND);
        assert_eq!(world.engine.unsettled(key), 0, "seed {seed}");
        assert!(!world.zone.overspent, "seed {seed}");
        for settled in &world.log {
            assert!(settled.result.is_ok(), "seed {seed}: {settled:?}");
        }
        for (partition, count) in accepted.iter().enumerate() {
            let wanted: Vec<Vec<u8>> = (0..*count).map(|n| n.to_string().into_bytes()).collect();
            assert_eq!(world.zone.records(partition), wanted, "seed {seed}");
        }
    }
}

#[test]
fn a_batch_refused_for_good_fails_alone() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|settings| settings.eager_inflight = 3);
    world
        .zone
        .fates
        .push_back(Fate::Refuse(ErrorCode::BatchBody));
    for value in ["bad", "good", "better"] {
        world.push(key, value, None).expect("credit");
    }
    world.run_ns(5 * SECOND);
    let failed: Vec<_> = world.log.iter().filter(|s| s.result.is_err()).collect();
    assert_eq!(failed.len(), 1);
    assert!(matches!(
        failed[0].result,
        Err(SendError::Refused(refusal)) if refusal.code == ErrorCode::BatchBody
    ));
    assert_eq!(
        world.zone.records(0),
        [b"good".to_vec(), b"better".to_vec()]
    );
}

#[test]
fn a_forgotten_idle_producer_goes_on_in_its_next_epoch() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.push(key, "before", None).expect("credit");
    world.settle();
    world.zone.logs[0].forget();
    world.push(key, "after", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert!(world.log.iter().all(|settled| settled.result.is_ok()));
    assert_eq!(
        world.zone.records(0),
        [b"before".to_vec(), b"after".to_vec()]
    );
    assert_eq!(world.zone.resumes, 1);
}

#[test]
fn a_forgotten_producer_with_a_lost_answer_is_never_sent_twice() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.push(key, "first", None).expect("credit");
    world.settle();
    world.zone.fates.push_back(Fate::StoreAndDie);
    world.push(key, "second", None).expect("credit");
    world.settle();
    world.zone.logs[0].forget();
    world.run_ns(5 * SECOND);
    assert_eq!(world.log[1].result, Err(SendError::OutcomeUnknown));
    assert_eq!(world.zone.records(0).len(), 2);
}

#[test]
fn acknowledged_batches_that_are_gone_are_named() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    for n in 0..5 {
        world.push(key, &n.to_string(), None).expect("credit");
        world.settle();
    }
    // A fail-over to a leader that has only the first two.
    let log = &mut world.zone.logs[0];
    log.batches.truncate(2);
    log.end = 2;
    log.epoch += 1;
    let window = log.windows.get_mut(&99).expect("known");
    window.next_seq = 2;
    window.batches.retain(|seq, _| *seq < 2);
    world.zone.close_all();
    world.push(key, "5", None).expect("credit");
    world.run_ns(5 * SECOND);
    let lost = AckedLost {
        partition: PartitionIndex::new(0),
        from_seq: 2,
        to_seq: 4,
    };
    let last = world.log.last().expect("settled");
    assert_eq!(last.result, Err(SendError::AckedLost(lost)));
    // The application has been told; what it sends next is stored.
    world.push(key, "again", None).expect("credit");
    world.run_ns(SECOND);
    assert!(world.log.last().expect("settled").result.is_ok());
}

#[test]
fn a_loss_that_nobody_waits_for_is_told_to_the_next_record() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.push(key, "0", None).expect("credit");
    world.settle();
    let session = *world.zone.sessions.keys().next().expect("a session");
    let lost = frame::AckedLost {
        stream: scripted::STREAM,
        partition: PartitionIndex::new(0),
        producer_id: ProducerId::new(99),
        from_seq: tiderace_base::position::ProducerSeq::new(0),
        to_seq: tiderace_base::position::ProducerSeq::new(0),
    };
    world.zone.with(session, |out, id| lost.encode(out, id));
    world.settle();
    assert!(matches!(
        world.push(key, "1", None),
        Err(PushError::Invalid(SendError::AckedLost(lost))) if lost.to_seq == 0
    ));
    assert!(world.push(key, "1", None).is_ok());
}

#[test]
fn losses_that_nobody_waits_for_are_each_told_behind_the_failures() {
    let mut world = World::new(Zone::new(1, 2));
    let key = world.producer(|_| {});
    for partition in 0..2 {
        world.push(key, "0", Some(partition)).expect("credit");
    }
    world.settle();
    world
        .zone
        .fates
        .push_back(Fate::Refuse(ErrorCode::BatchBody));
    world.push(key, "bad", Some(0)).expect("credit");
    world.settle();
    let session = *world.zone.sessions.keys().next().expect("a session");
    for partition in 0..2 {
        let lost = frame::AckedLost {
            stream: scripted::STREAM,
            partition: PartitionIndex::new(partition),
            producer_id: ProducerId::new(99),
            from_seq: tiderace_base::position::ProducerSeq::new(0),
            to_seq: tiderace_base::position::ProducerSeq::new(0),
        };
        world.zone.with(session, |out, id| lost.encode(out, id));
    }
    world.settle();
    assert!(matches!(
        world.engine.take_failure(key),
        Some(SendError::Refused(_))
    ));
    for partition in 0..2 {
        assert!(matches!(
            world.engine.take_failure(key),
            Some(SendError::AckedLost(lost)) if lost.partition.get() == partition
        ));
    }
    assert_eq!(world.engine.take_failure(key), None);
}

#[test]
fn a_failure_is_owed_until_the_listener_of_each_record_or_a_flush_was_told() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    // More than are kept apart.
    for _ in 0..300 {
        world
            .zone
            .fates
            .push_back(Fate::Refuse(ErrorCode::BatchBody));
        world.push(key, "bad", None).expect("credit");
        world.settle();
    }
    let failures: Vec<_> = world.log.iter().map(|s| s.failure).collect();
    assert_eq!(failures.len(), 300);
    for failure in &failures[..299] {
        world.engine.told(key, failure.expect("refused"));
    }
    let last = failures[299].expect("refused");
    assert!(matches!(
        world.engine.take_failure(key),
        Some(SendError::Refused(_))
    ));
    assert_eq!(world.engine.take_failure(key), None);
    // Its listener hears it later: that is no failure of the flush's successors.
    world.engine.told(key, last);
    world
        .zone
        .fates
        .push_back(Fate::Refuse(ErrorCode::BatchBody));
    world.push(key, "bad", None).expect("credit");
    world.settle();
    let next = world.log[300].failure.expect("refused");
    world.engine.told(key, next);
    assert_eq!(world.engine.take_failure(key), None);
    assert_eq!(world.engine.unsettled(key), 0);
}

#[test]
fn a_full_buffer_has_no_credit_until_a_batch_settles() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|settings| settings.buffer_bytes_max = 1000);
    world.zone.hold_acks = true;
    let mut accepted = 0;
    while world.push(key, &"x".repeat(100), None).is_ok() {
        accepted += 1;
        assert!(accepted < 20);
    }
    let value = "x".repeat(100);
    assert_eq!(world.push(key, &value, None), Err(PushError::Full));
    world.settle();
    world.zone.release([0]);
    world.settle();
    assert!(world.push(key, &value, None).is_ok());
}

#[test]
fn redirects_lead_to_the_leader() {
    let mut world = World::new(Zone::new(3, 3));
    let key = world.producer(|_| {});
    for partition in 0..3 {
        world.push(key, "a", Some(partition)).expect("credit");
    }
    world.settle();
    for log in &mut world.zone.logs {
        log.leader = (log.leader + 1) % 3;
        log.epoch += 1;
    }
    for partition in 0..3 {
        world.push(key, "b", Some(partition)).expect("credit");
    }
    world.run_ns(5 * SECOND);
    assert!(world.log.iter().all(|settled| settled.result.is_ok()));
    for partition in 0..3 {
        assert_eq!(
            world.zone.records(partition),
            [b"a".to_vec(), b"b".to_vec()]
        );
    }
}

#[test]
fn records_without_a_key_stay_with_the_reached_shard() {
    let mut world = World::new(Zone::new(4, 8));
    let key = world.producer(|_| {});
    for n in 0..500 {
        world.push(key, &n.to_string(), None).expect("credit");
        world.settle();
    }
    assert_eq!(world.wires.len(), 1, "no other shard was connected");
    let used: Vec<usize> = (0..8)
        .filter(|p| !world.zone.logs[*p].batches.is_empty())
        .collect();
    assert_eq!(used, [0, 4], "both partitions of that shard are used");
}

#[test]
fn keyed_records_go_where_the_pinned_hash_says() {
    let mut world = World::new(Zone::new(2, 8));
    let key = world.producer(|_| {});
    for n in 0..40 {
        let name = format!("k{n}");
        let record = Record::new(name.clone()).key(name.clone());
        let now = world.now();
        let ticket = world.engine.push(now, key, &record, None).expect("credit");
        assert_eq!(
            ticket.partition,
            tiderace_base::hash::partition_of_key(name.as_bytes(), 8)
        );
    }
    world.run_ns(SECOND);
    let stored: u64 = world.zone.logs.iter().map(|log| log.end).sum();
    assert_eq!(stored, 40);
}

#[test]
fn link_credit_is_never_overspent_and_always_used_up() {
    for seed in 0..30 {
        let mut zone = Zone::new(1, 4);
        zone.window = Amount {
            bytes: 4000,
            batches: 6,
        };
        zone.hold_credit = true;
        let mut world = World::new(zone);
        let mut prng = Prng::new(seed);
        let key = world.producer(|settings| settings.eager_inflight = 8);
        let mut owed = Vec::new();
        let mut seen = 0;
        let mut accepted = 0;
        for _ in 0..300 {
            let value = "v".repeat(prng.below(300) as usize);
            if world.push(key, &value, Some(prng.below(4) as u32)).is_ok() {
                accepted += 1;
            }
            world.settle();
            let session = *world.zone.sessions.keys().next().expect("a session");
            let ledger = &world.zone.sessions[&session].link;
            assert!(ledger.granted().covers(ledger.spent()), "seed {seed}");
            let spent = ledger.spent();
            while seen < spent.batches {
                owed.push(());
                seen += 1;
            }
            if prng.chance(1, 2) && ledger.outstanding().batches > 0 {
                let all = ledger.outstanding();
                world.zone.give_back(session, all);
                owed.clear();
                world.settle();
            }
        }
        for _ in 0..300 {
            let session = *world.zone.sessions.keys().next().expect("a session");
            let all = world.zone.sessions[&session].link.outstanding();
            if all.batches > 0 {
                world.zone.give_back(session, all);
            }
            world.settle();
        }
        assert!(!world.zone.overspent, "seed {seed}");
        assert_eq!(world.engine.unsettled(key), 0, "seed {seed}");
        let stored: u64 = world.zone.logs.iter().map(|log| log.end).sum();
        assert_eq!(stored, accepted, "seed {seed}");
    }
}

#[test]
fn garbage_is_a_typed_error_and_the_client_connects_again() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.push(key, "before", None).expect("credit");
    world.settle();
    let session = *world.zone.sessions.keys().next().expect("a session");
    world
        .zone
        .sessions
        .get_mut(&session)
        .expect("open")
        .out
        .extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n\r\nwhatever else stands here");
    world.settle();
    world.push(key, "after", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert_eq!(
        world.zone.records(0),
        [b"before".to_vec(), b"after".to_vec()]
    );
}

#[test]
fn an_address_that_speaks_another_protocol_is_named_at_once() {
    let mut world = World::new(Zone::new(1, 1));
    let now = world.now();
    let request = world
        .engine
        .request(
            now,
            tiderace_client::core::engine::Request::Ping { nonce: 1 },
        )
        .expect("room");
    let Some(Event::Connect { link, .. }) = world.engine.next_event() else {
        panic!("a connection is wanted");
    };
    world.engine.connected(now, link);
    let hello = b"SSH-2.0-OpenSSH_9.9 and so on and so forth for a while".to_vec();
    world.engine.received(now, link, hello.into());
    world.settle();
    assert_eq!(
        world.answers,
        [(
            request,
            Err(RequestError::Violation(Violation::Frame(
                ErrorCode::BadMagic
            )))
        )]
    );
}

#[test]
fn random_bytes_never_panic() {
    for seed in 0..300 {
        let mut world = World::new(Zone::new(1, 2));
        let key = world.producer(|_| {});
        world.consumer(ConsumerSettings::default());
        world.push(key, "x", Some(0)).expect("credit");
        world.settle();
        let mut prng = Prng::new(seed);
        let session = *world.zone.sessions.keys().next().expect("a session");
        let out = &mut world.zone.sessions.get_mut(&session).expect("open").out;
        let mut noise = vec![0; 1 + prng.below(200) as usize];
        prng.fill(&mut noise);
        if seed % 2 == 0 {
            // A valid link header before a random control section reaches the decoders.
            let kinds = tiderace_wire::link::Kind::ALL;
            let kind = kinds[prng.below(kinds.len() as u64) as usize];
            let (min, max) = kind.control_bounds();
            noise.resize(min.max(noise.len()).min(max), 0);
            let (batch, _) = kind.batch_bounds();
            let header = tiderace_wire::link::LinkHeader::new(
                kind,
                tiderace_wire::link::Flags::NONE,
                tiderace_base::ids::MessageId::new(1_000_000),
                &noise,
                batch,
            );
            out.extend_from_slice(header.bytes());
            noise.resize(noise.len() + batch, 7);
        }
        out.extend_from_slice(&noise);
        world.run_ns(SECOND);
    }
}

#[test]
fn a_deadline_ends_every_wait() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|settings| settings.deadline_ns = SECOND);
    world.refuse_connections = true;
    world.zone.close_all();
    world.settle();
    world.push(key, "never sent", None).expect("credit");
    world.run_ns(3 * SECOND);
    assert_eq!(
        world.log.first().expect("settled").result,
        Err(SendError::Deadline {
            maybe_stored: false
        })
    );
    assert_eq!(world.engine.unsettled(key), 0);
    world.refuse_connections = false;
    world.push(key, "sent", None).expect("credit");
    world.run_ns(10 * SECOND);
    assert_eq!(world.zone.records(0), [b"sent".to_vec()]);
}

#[test]
fn an_unknown_stream_fails_its_producer_and_its_consumer() {
    let mut zone = Zone::new(1, 1);
    zone.exists = false;
    let mut world = World::new(zone);
    let key = world.producer(|_| {});
    let consumer = world.consumer(ConsumerSettings::default());
    assert!(matches!(
        world.push(key, "x", None),
        Err(PushError::Invalid(SendError::Stream(RequestError::Refused(refusal))))
            if refusal.code == ErrorCode::UnknownStream
    ));
    assert!(matches!(
        world.take(consumer),
        Some(Err(ConsumeError::Stream(RequestError::Refused(_))))
    ));
}

#[test]
fn a_record_larger_than_a_batch_is_refused() {
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    assert_eq!(
        world.push(key, &"x".repeat(limits::BODY_BYTES_MAX), None),
        Err(PushError::Invalid(SendError::TooLarge))
    );
    let largest = limits::BODY_BYTES_MAX - 200;
    assert!(world.push(key, &"x".repeat(largest), None).is_ok());
    world.run_ns(SECOND);
    assert_eq!(world.zone.records(0)[0].len(), largest);
}
