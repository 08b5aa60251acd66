//! The catalogue against a model that a reader can check by eye, under random changes from a seed, and the replay of its
//! own events: the same events give the same bytes, whatever produced them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Outcome, Refusal, Retention};
use tiderace_base::ids::{BootId, DiskId, NodeId, ShardId, StreamId, TenantId, ZoneId};
use tiderace_base::limits;
use tiderace_base::position::{CatalogueVersion, Epoch};
use tiderace_base::prng::Prng;
use tiderace_base::time::Wall;
use tiderace_control::{ApplyError, Catalogue, CatalogueEvent, Fact, Proposal, ShardBoot};

const NODE: NodeId = NodeId::new(7);
const SHARDS: usize = 3;

fn boot(number: u64, step: u8) -> Fact {
    Fact::NodeBooted {
        node: NODE,
        boot: BootId::new(number),
        boot_number: number,
        epoch_step: step.try_into().expect("not zero"),
        shared: ([127, 0, 0, 1], 7000).into(),
        control: None,
        shards: (0..SHARDS)
            .map(|shard| ShardBoot {
                disk: DiskId::new(shard as u128),
                boot_count: number,
                address: ([127, 0, 0, 1], 7001 + shard as u16).into(),
            })
            .collect(),
    }
}

/// A zone with one node, and the events that made it.
fn zone() -> (Catalogue, Vec<CatalogueEvent>) {
    let mut catalogue = Catalogue::new();
    let mut events = Vec::new();
    for fact in [
        Fact::ZoneCreated {
            zone: ZoneId::new(1),
            slots: limits::SLOTS,
        },
        Fact::NodeJoined {
            node: NODE,
            disks: (0..SHARDS as u128).map(DiskId::new).collect(),
        },
        boot(1, 10),
    ] {
        apply(&mut catalogue, fact, &mut events);
    }
    (catalogue, events)
}

fn apply(catalogue: &mut Catalogue, fact: Fact, events: &mut Vec<CatalogueEvent>) {
    let event = catalogue.event(fact);
    catalogue.apply(&event).expect("a good history");
    events.push(event);
}

fn create(path: &str, partitions: u32, durability: Option<Durability>) -> Change {
    Change::CreateStream {
        path: path.into(),
        tenant: TenantId::new(1),
        partitions,
        durability,
        retention: Retention::default(),
    }
}

fn propose(catalogue: &Catalogue, change: &Change) -> Result<Proposal, Refusal> {
    catalogue.propose(change, Durability::Local, Wall::from_us(5))
}

#[derive(Default)]
struct Model {
    live: BTreeMap<String, (u64, u32, Durability)>,
    given: BTreeSet<u64>,
}

impl Model {
    fn is_live(&self, id: u64) -> bool {
        self.live.values().any(|(live, ..)| *live == id)
    }

    fn check_create(
        &mut self,
        path: &str,
        partitions: u32,
        asked: Option<Durability>,
        got: &Result<Proposal, Refusal>,
    ) {
        match (self.live.get(path), got) {
            (None, Ok(Proposal::Conclude(Fact::StreamCreated(stream), _))) => {
                assert!(self.given.insert(stream.id.get()), "an id is given once");
                let durability = asked.unwrap_or(Durability::Local);
                assert_eq!(stream.durability, durability);
                self.live
                    .insert(path.into(), (stream.id.get(), partitions, durability));
            }
            (
                Some((id, same_partitions, durability)),
                Ok(Proposal::Already(Outcome::Created(stream))),
            ) => {
                assert_eq!(stream.id.get(), *id);
                assert_eq!(*same_partitions, partitions);
                assert!(asked.is_none_or(|asked| asked == *durability));
            }
            (Some((_, other, durability)), Err(Refusal::Exists)) => {
                assert!(*other != partitions || asked.is_some_and(|asked| asked != *durability));
            }
            (expected, got) => panic!("create {path}: {expected:?} but {got:?}"),
        }
    }

    fn check_delete(&mut self, id: u64, got: &Result<Proposal, Refusal>) {
        match got {
            Ok(Proposal::Conclude(Fact::StreamDeleted { stream }, _)) => {
                assert_eq!(stream.get(), id);
                assert!(self.is_live(id));
                self.live.retain(|_, (live, ..)| *live != id);
            }
            Ok(Proposal::Already(Outcome::Deleted(stream))) => {
                assert_eq!(stream.get(), id);
                assert!(!self.is_live(id) && self.given.contains(&id));
            }
            Err(Refusal::Absent) => assert!(!self.given.contains(&id)),
            got => panic!("delete {id}: {got:?}"),
        }
    }
}

#[test]
fn random_changes_agree_with_the_model_and_their_events_replay_to_the_same_bytes() {
    for seed in 0..60 {
        let mut prng = Prng::new(seed);
        let (mut catalogue, mut events) = zone();
        let mut model = Model::default();
        for _ in 0..400 {
            let got = if prng.chance(3, 5) {
                let path = format!("shop/{}", prng.below(12));
                let partitions = prng.range(1, 3) as u32;
                let asked = [
                    None,
                    Some(Durability::Memory),
                    Some(Durability::Local),
                    Some(Durability::Quorum),
                ][prng.below(4) as usize];
                let got = propose(&catalogue, &create(&path, partitions, asked));
                model.check_create(&path, partitions, asked, &got);
                got
            } else {
                let id = prng.below(model.given.len() as u64 + 3);
                let got = propose(&catalogue, &Change::DeleteStream(StreamId::new(id)));
                model.check_delete(id, &got);
                got
            };
            if let Ok(Proposal::Conclude(fact, _)) = got {
                apply(&mut catalogue, fact, &mut events);
            }
            if prng.chance(1, 10) {
                let dead = StreamId::new(prng.range(1, 30));
                if let Ok(fact) = catalogue.propose_cleared(dead) {
                    apply(&mut catalogue, fact, &mut events);
                }
            }
            assert_eq!(catalogue.stream_count(), model.live.len());
        }
        let snapshot = catalogue.snapshot(NODE);
        let listed: Vec<_> = snapshot
            .paths
            .iter()
            .map(|(path, id)| (path.to_string(), id.get()))
            .collect();
        let expected: Vec<_> = model
            .live
            .iter()
            .map(|(path, (id, ..))| (path.clone(), *id))
            .collect();
        assert_eq!(listed, expected);

        // Through the codec, as recovery and a follower would.
        let mut body = Vec::new();
        for event in &events {
            event.encode(&mut body);
        }
        let mut replayed = Catalogue::new();
        for event in CatalogueEvent::decode_all(&body).expect("our own bytes") {
            replayed.apply(&event).expect("our own events");
        }
        assert_eq!(replayed.encode(), catalogue.encode(), "seed {seed}");
    }
}

#[test]
fn every_boot_moves_every_epoch_of_the_node_and_keeps_its_shard() {
    let (mut catalogue, mut events) = zone();
    for (slot, place) in catalogue.snapshot(NODE).slots.iter().enumerate() {
        assert_eq!(place.leader, NODE);
        assert_eq!(usize::from(place.shard.get()), slot % SHARDS);
        assert_eq!(place.epoch, Epoch::new(10));
    }
    apply(&mut catalogue, boot(2, 255), &mut events);
    let snapshot = catalogue.snapshot(NODE);
    assert!(
        snapshot
            .slots
            .iter()
            .all(|place| place.epoch == Epoch::new(265))
    );
    assert_eq!(catalogue.epoch_max(NODE, ShardId::new(2)), Epoch::new(265));
    let place = snapshot.nodes.get(&NODE).expect("this node");
    assert_eq!(place.boot, BootId::new(2));
    assert_eq!(place.shards.len(), SHARDS);
}

#[test]
fn a_node_that_joins_later_leads_nothing() {
    let (mut catalogue, mut events) = zone();
    let before = Arc::clone(&catalogue.snapshot(NODE).slots);
    let fact = Fact::NodeJoined {
        node: NodeId::new(8),
        disks: [DiskId::new(99)].into(),
    };
    apply(&mut catalogue, fact, &mut events);
    assert_eq!(catalogue.snapshot(NODE).slots, before);
}

#[test]
fn a_malformed_change_is_refused() {
    let (catalogue, _) = zone();
    for (change, refusal) in [
        (create("", 1, None), Refusal::BadPath),
        (create("a//b", 1, None), Refusal::BadPath),
        (create(&"x".repeat(256), 1, None), Refusal::BadPath),
        (create("a", 0, None), Refusal::BadPartitions),
        (
            create("a", limits::PARTITIONS_MAX + 1, None),
            Refusal::BadPartitions,
        ),
    ] {
        assert_eq!(propose(&catalogue, &change), Err(refusal));
    }
    assert!(propose(&catalogue, &create("a", limits::PARTITIONS_MAX, None)).is_ok());
}

#[test]
fn an_event_that_does_not_fit_is_refused_and_changes_nothing() {
    let (mut catalogue, mut events) = zone();
    let Ok(Proposal::Conclude(created, _)) = propose(&catalogue, &create("a", 1, None)) else {
        panic!("a new stream");
    };
    apply(&mut catalogue, created.clone(), &mut events);
    let stream = StreamId::new(1);
    let before = catalogue.encode();
    for (fact, error) in [
        (created, ApplyError::Stream(stream)),
        (
            Fact::ZoneCreated {
                zone: ZoneId::new(2),
                slots: 1,
            },
            ApplyError::Zone,
        ),
        (
            Fact::NodeJoined {
                node: NODE,
                disks: [DiskId::new(1)].into(),
            },
            ApplyError::Node(NODE),
        ),
        (boot(1, 1), ApplyError::Boot(NODE)),
        (boot(3, 1), ApplyError::Boot(NODE)),
        (
            Fact::StreamDeleted {
                stream: StreamId::new(2),
            },
            ApplyError::Absent(StreamId::new(2)),
        ),
        (
            Fact::TombstoneCleared { stream },
            ApplyError::Absent(stream),
        ),
    ] {
        let event = catalogue.event(fact);
        assert_eq!(catalogue.apply(&event), Err(error));
        assert_eq!(catalogue.encode(), before);
    }
    let again = events.last().expect("an event").clone();
    let expected = again.version.advance(1);
    assert_eq!(
        catalogue.apply(&again),
        Err(ApplyError::Version {
            expected,
            found: again.version
        })
    );
    let mut ahead = catalogue.event(Fact::StreamDeleted { stream });
    ahead.version = ahead.version.advance(1);
    assert!(catalogue.apply(&ahead).is_err());
    assert_eq!(catalogue.encode(), before);
    assert_eq!(catalogue.version(), CatalogueVersion::new(4));
}
