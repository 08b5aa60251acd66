//! A lane over its epochs: who takes over from whom, what is never stored twice though the partition has forgotten its
//! producers, and that nothing is held or counted longer than it lasts.

mod scripted;

use scripted::world::{SECOND, World};
use scripted::{Fate, Zone};
use tiderace_base::ids::{PartitionIndex, ProducerId, StreamId};
use tiderace_base::position::{Epoch, Offset, ProducerSeq};
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_client::core::producer::{
    Dispatch, Placed, Producer, PushError, Reached, SessionEpoch, Settings, Want,
};
use tiderace_client::{AckedLost, ErrorCode, Record, Refusal, SendError};
use tiderace_wire::frame;

fn refused(code: ErrorCode) -> Refusal {
    Refusal {
        code,
        detail_a: 0,
        detail_b: 0,
    }
}

#[test]
fn a_session_that_takes_over_meets_no_epoch_of_the_older_one() {
    let mut world = World::new(Zone::new(1, 1));
    let older = world.producer(|_| {});
    world.push(older, "first", None).expect("credit");
    world.settle();
    // Each is followed by a new epoch of the lane, which the application does not see.
    world.zone.logs[0].forget();
    world.push(older, "second", None).expect("credit");
    world.run_ns(5 * SECOND);
    world
        .zone
        .fates
        .push_back(Fate::Refuse(ErrorCode::BatchBody));
    world.push(older, "bad", None).expect("credit");
    world.run_ns(SECOND);
    world.push(older, "third", None).expect("credit");
    world.run_ns(SECOND);
    let newer = world.producer(|settings| settings.session = SessionEpoch::new(2));
    world.push(newer, "fourth", None).expect("credit");
    world.run_ns(5 * SECOND);
    let placed = world.log.last().expect("settled").result.expect("stored");
    assert!(!placed.duplicate);
    let stored = ["first", "second", "third", "fourth"].map(|value| value.as_bytes().to_vec());
    assert_eq!(world.zone.records(0), stored);
    world.push(older, "late", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert_eq!(
        world.log.last().expect("settled").result,
        Err(SendError::Fenced)
    );
    assert_eq!(world.zone.records(0), stored);
}

#[test]
fn who_shares_an_id_and_a_session_with_another_is_told_so_and_stops() {
    // P-18
    let mut world = World::new(Zone::new(1, 1));
    let one = world.producer(|_| {});
    let other = world.producer(|settings| settings.eager_inflight = 3);
    world.push(one, "its", None).expect("credit");
    world.settle();
    for value in ["not", "the", "same"] {
        world.push(other, value, None).expect("credit");
    }
    world.run_ns(5 * SECOND);
    let reused =
        |error| matches!(error, SendError::Refused(r) if r.code == ErrorCode::SequenceReused);
    assert!(world.log[1].result.is_err_and(reused), "{:?}", world.log[1]);
    assert_eq!(world.log.len(), 4, "each has an outcome");
    for settled in &world.log[1..] {
        assert!(settled.result.is_err());
    }
    assert!(matches!(
        world.push(other, "more", None),
        Err(PushError::Invalid(error)) if reused(error)
    ));
}

#[test]
fn a_first_batch_whose_answer_was_lost_is_not_stored_again_where_its_producer_was_forgotten() {
    // P-19
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.zone.fates.push_back(Fate::StoreAndDie);
    world.push(key, "once", None).expect("credit");
    world.settle();
    world.zone.logs[0].forget();
    world.run_ns(5 * SECOND);
    assert_eq!(world.log[0].result, Err(SendError::OutcomeUnknown));
    world.push(key, "next", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert!(world.log[1].result.is_ok());
    assert_eq!(world.zone.records(0), [b"once".to_vec(), b"next".to_vec()]);
}

#[test]
fn a_first_batch_that_arrives_late_over_a_dead_connection_is_not_stored_again() {
    // P-19
    let mut world = World::new(Zone::new(1, 1));
    let key = world.producer(|_| {});
    world.zone.fates.push_back(Fate::DieAndArriveLate);
    world.push(key, "once", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert!(world.log[0].result.is_ok());
    world.zone.logs[0].forget();
    let late = world.zone.arrive_late();
    assert_eq!(late[0].code, Some(ErrorCode::ProducerUnknown));
    assert_eq!(world.zone.records(0), [b"once".to_vec()]);
}

#[test]
fn a_new_producer_begins_where_others_were_forgotten() {
    let mut world = World::new(Zone::new(1, 1));
    let gone = world.producer(|settings| settings.id = ProducerId::new(98));
    world.push(gone, "before", None).expect("credit");
    world.settle();
    world.zone.logs[0].forget();
    let key = world.producer(|settings| settings.eager_inflight = 3);
    for value in ["a", "b", "c"] {
        world.push(key, value, None).expect("credit");
    }
    world.run_ns(5 * SECOND);
    assert!(world.log.iter().all(|settled| settled.result.is_ok()));
    assert_eq!(
        world.zone.records(0)[1..],
        ["a", "b", "c"].map(|v| v.as_bytes().to_vec())
    );
    assert_eq!(world.zone.resumes, 1);
    // What it knows of the partition now is enough for the epochs that follow.
    world
        .zone
        .fates
        .push_back(Fate::Refuse(ErrorCode::BatchBody));
    world.push(key, "bad", None).expect("credit");
    world.settle();
    world.push(key, "d", None).expect("credit");
    world.run_ns(5 * SECOND);
    assert!(world.log.last().expect("settled").result.is_ok());
    assert_eq!(world.zone.resumes, 1);
}

#[test]
fn what_was_known_of_an_older_epoch_is_not_said_in_a_newer_one() {
    let reached = Reached {
        epoch: Epoch::new(3),
        offset: Offset::new(40),
    };
    assert_eq!(reached.within(Epoch::new(3)), Offset::new(40));
    assert_eq!(reached.within(Epoch::new(4)), Offset::ZERO);
    assert_eq!(reached.within(Epoch::ZERO), Offset::ZERO);
}

#[test]
fn a_lane_follows_its_partition_though_answers_came_after_the_loss_that_they_were_part_of() {
    let mut world = World::new(Zone::new(2, 3));
    let key = world.producer(|_| {});
    world.zone.hold_acks = true;
    world.push(key, "lost", Some(0)).expect("credit");
    world.settle();
    let session = *world.zone.sessions.keys().next().expect("a session");
    let lost = frame::AckedLost {
        stream: scripted::STREAM,
        partition: PartitionIndex::new(0),
        producer_id: ProducerId::new(99),
        from_seq: ProducerSeq::new(0),
        to_seq: ProducerSeq::new(0),
    };
    world.zone.with(session, |out, id| lost.encode(out, id));
    world.settle();
    assert!(matches!(
        world.log[0].result,
        Err(SendError::AckedLost(AckedLost { .. }))
    ));
    world.zone.hold_acks = false;
    world.zone.release([0]);
    world.settle();
    // Both partitions of this node move, and the other lane learns it.
    for partition in [0, 2] {
        world.zone.logs[partition].leader = 1;
        world.zone.logs[partition].epoch += 1;
    }
    world.push(key, "b", Some(2)).expect("credit");
    world.run_ns(5 * SECOND);
    assert!(world.log.last().expect("settled").result.is_ok());
    let before = world.zone.produced_frames;
    world.push(key, "c", Some(0)).expect("credit");
    world.run_ns(5 * SECOND);
    assert_eq!(world.log.len(), 3);
    assert!(world.log[2].result.is_ok());
    assert_eq!(world.zone.records(0), [b"lost".to_vec(), b"c".to_vec()]);
    assert_eq!(
        world.zone.produced_frames - before,
        1,
        "it is sent to where the partition is led, and nowhere else before"
    );
}

fn now() -> Now {
    Now {
        mono: Mono::from_ns(1),
        wall: Wall::from_us(1),
    }
}

const ONLY: PartitionIndex = PartitionIndex::new(0);

/// Accepts a record and hands out its batch.
fn send(producer: &mut Producer) -> Dispatch {
    producer
        .push(now(), &Record::new("x"), None)
        .expect("credit");
    let Want::Send { batch } = producer.wants(ONLY) else {
        panic!("an idle lane sends at once");
    };
    let dispatch = producer.dispatch(batch);
    producer.sent(ONLY);
    dispatch
}

#[test]
fn a_batch_whose_number_is_forgotten_gives_its_room_back() {
    let mut producer = Producer::new(StreamId::new(7), 1, Settings::new(ProducerId::new(99)));
    let dispatch = send(&mut producer);
    producer.refused(dispatch.token, refused(ErrorCode::DuplicateForgotten));
    assert_eq!(producer.unsettled(), 0);
    assert_eq!(producer.buffered_bytes(), 0);
    assert_eq!(producer.under_way(ONLY), 0);
    // It had its place in the sequence: the next number follows it.
    assert_eq!(producer.wants(ONLY), Want::Resume);
    producer.resuming(ONLY);
    producer.resumed(ONLY, Some(ProducerSeq::ZERO), Reached::default());
    let dispatch = send(&mut producer);
    let header = tiderace_wire::batch::BatchHeader::parse(&dispatch.bytes).expect("a batch");
    assert_eq!(header.producer_seq(), ProducerSeq::new(1));
}

#[test]
fn a_lane_that_began_again_as_often_as_it_may_ends_with_an_error() {
    let session = SessionEpoch::new(5);
    let mut producer = Producer::new(
        StreamId::new(7),
        1,
        Settings {
            session,
            ..Settings::new(ProducerId::new(99))
        },
    );
    let epoch_of = |dispatch: &Dispatch| {
        let header = tiderace_wire::batch::BatchHeader::parse(&dispatch.bytes).expect("a batch");
        header.producer_epoch().get()
    };
    for restart in 0..=u32::from(u16::MAX) {
        let dispatch = send(&mut producer);
        assert_eq!(epoch_of(&dispatch), (5 << 16) + restart);
        if restart == u32::from(u16::MAX) {
            // The last epoch serves as well as any other.
            producer.acked(
                dispatch.token,
                Placed {
                    base_offset: Offset::new(8),
                    epoch: Epoch::new(3),
                    append_time_us: 1,
                    duplicate: false,
                },
            );
            let settled = producer.next_settled().expect("it is stored");
            assert!(settled.result.is_ok());
        } else {
            producer.refused(dispatch.token, refused(ErrorCode::BatchBody));
            let settled = producer.next_settled().expect("it is refused");
            assert!(matches!(settled.result, Err(SendError::Refused(_))));
        }
    }
    let dispatch = send(&mut producer);
    producer
        .push(now(), &Record::new("gathers"), None)
        .expect("credit");
    producer.refused(dispatch.token, refused(ErrorCode::BatchBody));
    let outcomes: Vec<_> = core::iter::from_fn(|| producer.next_settled())
        .map(|settled| settled.result)
        .collect();
    assert_eq!(
        outcomes,
        [
            Err(SendError::Refused(refused(ErrorCode::BatchBody))),
            Err(SendError::RestartsSpent)
        ]
    );
    assert_eq!(
        producer.push(now(), &Record::new("more"), None),
        Err(PushError::Invalid(SendError::RestartsSpent))
    );
    assert_eq!((producer.unsettled(), producer.buffered_bytes()), (0, 0));
    assert_eq!(producer.wants(ONLY), Want::Nothing);
}
