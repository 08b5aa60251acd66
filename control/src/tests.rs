//! What only the inside of the crate can see: cells and checkpoints against the states that they stand for. Histories are
//! random and decided by a seed; a state is compared by its encoding, which names every part of it.

use crate::catalogue::{ApplyError, Catalogue, Proposal};
use crate::cell::{Assembly, CellKey, FORMAT};
use crate::checkpoint::{Captured, Found, LOG_KIND, LogEnd, LogFault, Rebuilt};
use crate::encoding::DecodeError;
use crate::event::{CatalogueEvent, Fact, ShardBoot};
use crate::log::{entry_header, position_of};
use crate::raft::{self, Members, Payload, Position};
use core::num::NonZeroU8;
use std::collections::BTreeSet;
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Retention, Stream};
use tiderace_base::ids::{BootId, DiskId, NodeId, SlotId, StreamId, TenantId, ZoneId};
use tiderace_base::position::{Epoch, Lsn, RaftIndex, SlotSeq, Term};
use tiderace_base::prng::Prng;
use tiderace_base::time::Wall;
use tiderace_storage::Replay;
use tiderace_wire::entry::{EntryKind, NO_PARTITION, encode_entry};

fn shards(count: usize, boot_count: u64) -> Arc<[ShardBoot]> {
    (0..count)
        .map(|index| ShardBoot {
            disk: DiskId::new(0xd0 + index as u128),
            boot_count,
            address: ([127, 0, 0, 1], 7001 + index as u16).into(),
        })
        .collect()
}

fn next_fact(state: &Catalogue, prng: &mut Prng) -> Option<Fact> {
    let node = NodeId::new(7);
    if state.zone().get() == 0 {
        return Some(Fact::ZoneCreated {
            zone: ZoneId::new(9),
            slots: 16,
        });
    }
    let Some(record) = state.node(node) else {
        return Some(Fact::NodeJoined {
            node,
            disks: shards(3, 0).iter().map(|shard| shard.disk).collect(),
        });
    };
    let stream = StreamId::new(prng.range(1, 40));
    let proposal = match prng.below(10) {
        0 => {
            return Some(Fact::NodeBooted {
                node,
                boot: BootId::new(prng.next_u64()),
                boot_number: record.boot_number + 1,
                epoch_step: NonZeroU8::MIN.saturating_add(prng.below(255) as u8),
                shared: ([127, 0, 0, 1], 7000).into(),
                control: None,
                shards: shards(3, record.boot_number + 1),
            });
        }
        1..=5 => state.propose(
            &Change::CreateStream {
                path: format!("p/{}", prng.below(20)).into(),
                tenant: TenantId::new(1),
                partitions: prng.range(1, 9) as u32,
                durability: None,
                retention: Retention::default(),
            },
            Durability::Local,
            Wall::from_us(prng.next_u64()),
        ),
        6..=8 => state.propose(
            &Change::DeleteStream(stream),
            Durability::Local,
            Wall::default(),
        ),
        _ => return state.propose_cleared(stream).ok(),
    };
    match proposal {
        Ok(Proposal::Conclude(fact, _)) => Some(fact),
        Ok(Proposal::Already(_)) | Err(_) => None,
    }
}

fn step(state: &mut Catalogue, prng: &mut Prng) -> Option<CatalogueEvent> {
    let event = state.event(next_fact(state, prng)?);
    state.apply(&event).expect("a concluded fact fits");
    Some(event)
}

fn put_all(assembly: &mut Assembly, state: &Catalogue) {
    let mut cursor = None;
    while let Some(key) = state.next_cell(cursor) {
        put(assembly, state, key);
        cursor = Some(key);
    }
}

fn put(assembly: &mut Assembly, state: &Catalogue, key: CellKey) {
    let name = key.encode();
    assert_eq!(CellKey::decode(key.kind(), &name), Ok(key));
    let value = state.cell(key);
    assert_eq!(assembly.put(key, value.as_deref()), Ok(()), "{key:?}");
}

#[test]
fn a_base_and_its_deltas_are_the_state_at_the_last_delta() {
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let mut state = Catalogue::new();
        let mut assembly = Assembly::default();
        for _ in 0..prng.below(60) {
            step(&mut state, &mut prng);
        }
        put_all(&mut assembly, &state);
        for _ in 0..prng.below(4) {
            let mut changed = BTreeSet::new();
            for _ in 0..prng.below(60) {
                if let Some(event) = step(&mut state, &mut prng) {
                    state.touch(&event.fact, &mut changed);
                }
            }
            for key in changed {
                put(&mut assembly, &state, key);
            }
        }
        let restored = assembly.finish().expect("cells of one state agree");
        assert_eq!(restored.encode(), state.encode(), "seed {seed}");
        // The maps that no cell holds are rebuilt too.
        if state.node(NodeId::new(7)).is_some() {
            let (a, b) = (
                restored.snapshot(NodeId::new(7)),
                state.snapshot(NodeId::new(7)),
            );
            assert_eq!(a.paths, b.paths, "seed {seed}");
            assert_eq!(a.nodes, b.nodes, "seed {seed}");
        }
    }
}

#[test]
fn a_clone_keeps_its_state_while_the_original_goes_on() {
    let mut prng = Prng::new(3);
    let mut state = Catalogue::new();
    for _ in 0..50 {
        step(&mut state, &mut prng);
    }
    let (aside, before) = (state.clone(), state.encode());
    for _ in 0..200 {
        step(&mut state, &mut prng);
    }
    assert_eq!(aside.encode(), before);
    assert_ne!(state.encode(), before);
}

#[test]
fn damaged_cells_are_refused_without_a_panic() {
    let mut prng = Prng::new(5);
    let mut state = Catalogue::new();
    for _ in 0..80 {
        step(&mut state, &mut prng);
    }
    let mut cursor = None;
    while let Some(key) = state.next_cell(cursor) {
        let value = state.cell(key).expect("a live cell");
        for cut in 0..value.len() {
            assert_eq!(
                Assembly::default().put(key, Some(&value[..cut])),
                Err(DecodeError::Short)
            );
        }
        let mut long = value.clone();
        long.push(0);
        assert_eq!(
            Assembly::default().put(key, Some(&long)),
            Err(DecodeError::Trailing)
        );
        for _ in 0..50 {
            let mut bad = value.clone();
            let at = prng.below(bad.len() as u64) as usize;
            bad[at] = prng.next_u64() as u8;
            let _ = Assembly::default().put(key, Some(&bad));
        }
        cursor = Some(key);
    }
}

#[test]
fn cells_that_do_not_belong_together_are_refused() {
    let mut prng = Prng::new(5);
    let mut state = Catalogue::new();
    for _ in 0..80 {
        step(&mut state, &mut prng);
    }
    let mut without_slots = Assembly::default();
    put(&mut without_slots, &state, CellKey::Zone);
    put(&mut without_slots, &state, CellKey::Node(NodeId::new(7)));
    assert_eq!(
        without_slots.finish().err(),
        Some(DecodeError::BadField("slots"))
    );
    let mut without_zone = Assembly::default();
    let stream = *state.streams.keys().next().expect("a stream");
    put(&mut without_zone, &state, CellKey::Stream(stream));
    assert_eq!(
        without_zone.finish().err(),
        Some(DecodeError::BadField("last stream"))
    );
    assert!(
        Assembly::default()
            .finish()
            .is_ok_and(|empty| empty.encode() == Catalogue::new().encode())
    );
}

/// A checkpoint of an older version does not say when a stream was deleted last.
#[test]
fn the_zone_of_an_older_version_is_read() {
    let mut state = Catalogue::new();
    let mut prng = Prng::new(6);
    for _ in 0..60 {
        step(&mut state, &mut prng);
    }
    let zone = state.cell(CellKey::Zone).expect("there is a zone");
    let mut old = zone[..zone.len() - 8].to_vec();
    old[0] = 1;
    let mut assembly = Assembly::default();
    put_all(&mut assembly, &state);
    assert_eq!(assembly.put(CellKey::Zone, Some(&old)), Ok(()));
    let read = assembly.finish().expect("cells of one state agree");
    assert_eq!(read.deleted, state.version());
    assert_eq!(read.version(), state.version());
}

/// An entry as recovery meets it.
struct Entry {
    place: LogEnd,
    body: Vec<u8>,
}

impl Entry {
    fn replay(&self, recovery: &mut Rebuilt) {
        let header = entry_header(EntryKind::Catalogue, self.place, &self.body, 5);
        let at = Lsn::new(self.place.sequence.get() * 100);
        recovery.entry(at, at.advance(100), &header, &self.body);
    }

    /// As consensus has it.
    fn raft(&self) -> raft::Entry {
        raft::Entry {
            position: position_of(self.place),
            payload: Payload::Command(self.body.clone().into()),
        }
    }
}

/// Where the log ends that was found.
fn last(found: &Found) -> u64 {
    found.log.base.index.get() + found.log.tail.len() as u64
}

/// A random log, and the state after each of its entries, the empty one first.
fn log(prng: &mut Prng) -> (Vec<Entry>, Vec<Catalogue>) {
    let mut states = vec![Catalogue::new()];
    let mut entries = Vec::new();
    for sequence in 1..=30 {
        let mut state = states.last().expect("one state").clone();
        let mut body = Vec::new();
        while body.is_empty() || prng.chance(2, 3) {
            if let Some(event) = step(&mut state, prng) {
                event.encode(&mut body);
            }
        }
        states.push(state);
        let place = LogEnd {
            sequence: SlotSeq::new(sequence),
            epoch: Epoch::new(1),
        };
        entries.push(Entry { place, body });
    }
    (entries, states)
}

fn replay_state(recovery: &mut Rebuilt, state: &Catalogue) {
    let mut cursor = None;
    while let Some(key) = state.next_cell(cursor) {
        recovery.cell(key.kind(), &key.encode(), state.cell(key).as_deref());
        cursor = Some(key);
    }
}

#[test]
fn where_the_replay_begins_before_the_checkpoint_does_not_matter() {
    let mut prng = Prng::new(8);
    let (entries, states) = log(&mut prng);
    for captured in 1..=entries.len() {
        let tail = (prng.below(4) as usize).min(entries.len() - captured);
        let cells = Captured {
            base: position_of(entries[captured - 1].place),
            term: Term::new(4),
            vote: Some(NodeId::new(7)),
            members: Some(Members::voters([NodeId::new(7)])),
            tail: entries[captured..captured + tail]
                .iter()
                .map(Entry::raft)
                .collect(),
            lsn: Lsn::ZERO,
        }
        .cells();
        for first in 0..=captured + tail {
            let mut recovery = Rebuilt::new();
            // What an earlier part of the checkpoint had behind its last entry does not count any more.
            for key in 0..5_u32 {
                let mut stale = vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
                stale.extend([1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
                recovery.cell(24, &key.to_le_bytes(), Some(&stale));
            }
            for (kind, key, value) in &cells {
                recovery.cell(*kind, key, Some(value));
            }
            replay_state(&mut recovery, &states[captured]);
            for entry in &entries[first..] {
                entry.replay(&mut recovery);
            }
            let found = recovery.finish().expect("a good journal");
            let newest = found.newest().expect("a good history");
            assert_eq!(newest.encode(), states.last().expect("one state").encode());
            assert_eq!(last(&found), entries.len() as u64);
            assert_eq!(
                (found.log.term, found.log.vote),
                (Term::new(4), Some(NodeId::new(7)))
            );
        }
    }
}

/// Before there was consensus, an entry was the log's as soon as it was written, and the log's cell ended behind the sequence.
#[test]
fn a_checkpoint_of_an_older_version_is_read() {
    let (entries, states) = log(&mut Prng::new(11));
    let mut recovery = Rebuilt::new();
    let mut cell = vec![1, 0, 0, 0, 1, 0, 0, 0];
    cell.extend(20_u64.to_le_bytes());
    recovery.cell(LOG_KIND, &[], Some(&cell));
    replay_state(&mut recovery, &states[20]);
    for entry in &entries[15..] {
        entry.replay(&mut recovery);
    }
    let found = recovery.finish().expect("a good journal");
    assert!(!found.is_voted && found.log.members.is_none());
    assert_eq!((found.log.base.index.get(), last(&found)), (20, 30));
    assert_eq!(found.log.term, Term::new(1));
    assert_eq!(found.catalogue.encode(), states[20].encode());
    let newest = found.newest().expect("a good history");
    assert_eq!(newest.encode(), states[30].encode());
}

/// The journal is replayed from before the capture, where entries may lie that a later leader's had taken the place of by then.
#[test]
fn what_was_overwritten_before_the_capture_is_not_replayed() {
    let (entries, states) = log(&mut Prng::new(13));
    let newer = raft::Entry {
        position: Position {
            term: Term::new(3),
            ..entries[20].raft().position
        },
        payload: entries[20].raft().payload,
    };
    let cells = Captured {
        base: position_of(entries[19].place),
        term: Term::new(3),
        vote: None,
        members: None,
        tail: vec![newer],
        lsn: Lsn::new(100_000),
    }
    .cells();
    let mut recovery = Rebuilt::new();
    for (kind, key, value) in &cells {
        recovery.cell(*kind, key, Some(value));
    }
    replay_state(&mut recovery, &states[20]);
    // Of an older term, and behind a hole.
    for entry in [&entries[21], &entries[25]] {
        entry.replay(&mut recovery);
    }
    let found = recovery.finish().expect("a good journal");
    assert_eq!((last(&found), found.log.term), (21, Term::new(3)));
    let newest = found.newest().expect("a good history");
    assert_eq!(newest.encode(), states[21].encode());
}

/// An entry that comes again takes the place of the one before and of all behind it.
#[test]
fn a_later_leaders_entries_take_the_place_of_those_before() {
    let (entries, states) = log(&mut Prng::new(12));
    let mut recovery = Rebuilt::new();
    for entry in &entries[..20] {
        entry.replay(&mut recovery);
    }
    // A leader of a later term lacked the last eight.
    for entry in &entries[12..15] {
        let place = LogEnd {
            epoch: Epoch::new(3),
            ..entry.place
        };
        let body = entry.body.clone();
        Entry { place, body }.replay(&mut recovery);
    }
    let found = recovery.finish().expect("a good journal");
    assert_eq!(last(&found), 15);
    assert_eq!(found.log.term, Term::new(3));
    let newest = found.newest().expect("a good history");
    assert_eq!(newest.encode(), states[15].encode());
}

#[test]
fn a_missing_entry_is_refused_and_named() {
    let (entries, _) = log(&mut Prng::new(9));
    let mut recovery = Rebuilt::new();
    for entry in entries
        .iter()
        .filter(|entry| entry.place.sequence.get() != 7)
    {
        entry.replay(&mut recovery);
    }
    assert_eq!(
        recovery.finish().err(),
        Some(LogFault::Sequence {
            at: Lsn::new(800),
            expected: RaftIndex::new(7),
            found: RaftIndex::new(8),
        })
    );
}

#[test]
fn another_journals_entry_and_unreadable_ones_are_refused() {
    let (entries, _) = log(&mut Prng::new(10));
    let mut recovery = Rebuilt::new();
    let body = [0; 8];
    let header = encode_entry(EntryKind::PartitionDrop, NO_PARTITION, &body);
    recovery.entry(Lsn::new(1), Lsn::new(2), &header, &body);
    // What follows a fault is not looked at.
    entries[0].replay(&mut recovery);
    assert_eq!(
        recovery.finish().err(),
        Some(LogFault::Foreign(Lsn::new(1)))
    );

    let mut recovery = Rebuilt::new();
    let short = Entry {
        place: entries[0].place,
        body: entries[0].body[1..].to_vec(),
    };
    short.replay(&mut recovery);
    let found = recovery.finish().expect("an entry says anything");
    assert!(matches!(found.newest().err(), Some(LogFault::Entry(..))));

    let mut recovery = Rebuilt::new();
    let out_of_place = Entry {
        place: entries[0].place,
        body: entries[1].body.clone(),
    };
    out_of_place.replay(&mut recovery);
    let found = recovery.finish().expect("an entry says anything");
    assert!(matches!(found.newest().err(), Some(LogFault::Apply(..))));

    let mut recovery = Rebuilt::new();
    let body = [9, 0, 0, 0, 0, 0, 0, 0];
    let header = entry_header(EntryKind::Consensus, LogEnd::default(), &body, 5);
    recovery.entry(Lsn::new(1), Lsn::new(2), &header, &body);
    assert_eq!(
        recovery.finish().err(),
        Some(LogFault::Unreadable(
            Lsn::new(1),
            DecodeError::UnknownKind(9)
        ))
    );

    let mut recovery = Rebuilt::new();
    recovery.cell(LOG_KIND, &[], Some(&[FORMAT]));
    assert_eq!(
        recovery.finish().err(),
        Some(LogFault::Cell(DecodeError::Short))
    );
}

#[test]
fn spent_epochs_refuse_a_boot_and_never_wrap() {
    let node = NodeId::new(7);
    let mut state = Catalogue::new();
    let boot = |boot_number, step: u8| Fact::NodeBooted {
        node,
        boot: BootId::new(boot_number),
        boot_number,
        epoch_step: step.try_into().expect("not zero"),
        shared: ([127, 0, 0, 1], 7000).into(),
        control: None,
        shards: shards(1, boot_number),
    };
    for fact in [
        Fact::ZoneCreated {
            zone: ZoneId::new(9),
            slots: 2,
        },
        Fact::NodeJoined {
            node,
            disks: [DiskId::new(0xd0)].into(),
        },
    ] {
        let event = state.event(fact);
        state.apply(&event).expect("a good history");
    }
    let mut slots = state.slots.to_vec();
    slots[1].epoch = Epoch::new(u32::MAX - 5);
    state.slots = slots.into();
    let before = state.encode();
    assert_eq!(
        state.apply(&state.event(boot(1, 6))),
        Err(ApplyError::Epoch(SlotId::new(1)))
    );
    assert_eq!(state.encode(), before);
    assert_eq!(state.apply(&state.event(boot(1, 5))), Ok(()));
    assert_eq!(state.slots[1].epoch, Epoch::MAX);
}

/// These bytes are on disks: they may be added to, never changed.
#[test]
fn golden_cells() {
    let mut state = Catalogue::new();
    let stream = |id, path: &str| {
        Arc::new(Stream {
            id: StreamId::new(id),
            path: path.into(),
            tenant: TenantId::new(6),
            partitions: 8,
            durability: Durability::Quorum,
            retention: Retention {
                bytes: 9,
                age_ms: 10,
            },
            created_us: 11,
        })
    };
    for fact in [
        Fact::ZoneCreated {
            zone: ZoneId::new(0x0102),
            slots: 1,
        },
        Fact::NodeJoined {
            node: NodeId::new(7),
            disks: [DiskId::new(0xd0)].into(),
        },
        Fact::NodeBooted {
            node: NodeId::new(7),
            boot: BootId::new(0xb0),
            boot_number: 1,
            epoch_step: NonZeroU8::MAX,
            shared: ([127, 0, 0, 1], 0x1b58).into(),
            control: None,
            shards: shards(1, 4),
        },
        Fact::StreamCreated(stream(1, "a")),
        Fact::StreamDeleted {
            stream: StreamId::new(1),
        },
        Fact::StreamCreated(stream(2, "b")),
    ] {
        let event = state.event(fact);
        state.apply(&event).expect("a good history");
    }
    let golden = "
        11 00 28000000                  02 00 0100 00000000 0201000000000000 0600000000000000 0200000000000000
            0500000000000000
        12 08 68000000 0700000000000000 01 01 0100 00000000 0100000000000000 b000000000000000
            04 00 581b 00000000 00000000 7f000001 000000000000000000000000
            d0000000000000000000000000000000 0400000000000000
            04 00 591b 00000000 00000000 7f000001 000000000000000000000000
        13 02 18000000 0000             01 00 0000 ff000000 0700000000000000 0100000000000000
        14 08 32000000 0200000000000000 01 0200000000000000 06000000 08000000
            0900000000000000 0a00000000000000 0b00000000000000 02 00 0100 00000000 62
        15 08 01000000 0100000000000000 01";
    let hex: String = state
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let golden: String = golden.split_whitespace().collect();
    assert_eq!(hex, golden);
}
