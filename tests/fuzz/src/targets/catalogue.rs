//! Events of the catalogue, as control reads them back from its journal: decoded from any bytes, then applied to a catalogue one
//! after the other.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{BootId, DiskId, NodeId, ShardId, StreamId, TenantId, ZoneId};
use tiderace_base::limits::{KIB, MIB};
use tiderace_base::position::CatalogueVersion;
use tiderace_control::{Catalogue, CatalogueEvent, DecodeError, Fact, ShardBoot};

/// See the module.
pub const TARGET: Target = Target {
    name: "catalogue",
    reads: "`CatalogueEvent::decode_all` and `Catalogue::apply`: the body of control's entries, from a disk or a hostile writer",
    holds: "what is taken is written again as the same bytes; an event that does not fit changes nothing; after any events a \
            node can be given its snapshot",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 2 * KIB,
    held_bytes_max: 16 * MIB,
    runs_in_tests: 10_000,
};

const NODE: NodeId = NodeId::new(3);

/// Runs one input: the body of an entry.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let events = match CatalogueEvent::decode_all(input) {
        Ok(events) => events,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Outcome::Refused(reason(error));
        }
    };
    let mut again = Vec::new();
    for event in &events {
        event.encode(&mut again);
    }
    assert!(again == input, "events are written again as the same bytes");
    let mut catalogue = Catalogue::new();
    let mut applied = 0;
    for event in &events {
        let before = counts(&catalogue);
        match catalogue.apply(event) {
            Ok(()) => applied += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(
                    counts(&catalogue),
                    before,
                    "an event that does not fit changes nothing"
                );
            }
        }
    }
    for node in catalogue.nodes() {
        let snapshot = catalogue.snapshot(node);
        assert_eq!(
            snapshot.version.get(),
            applied,
            "versions count what was applied"
        );
        let _ = catalogue.epoch_max(node, ShardId::new(0));
    }
    for tombstone in catalogue.tombstones() {
        assert!(catalogue.propose_cleared(tombstone).is_ok());
    }
    if applied == events.len() as u64 {
        Outcome::Taken("All")
    } else if applied > 0 {
        Outcome::Taken("Some")
    } else {
        Outcome::Refused("NothingFits")
    }
}

fn counts(catalogue: &Catalogue) -> [usize; 3] {
    [
        catalogue.nodes().count(),
        catalogue.stream_count(),
        catalogue.tombstone_count(),
    ]
}

const fn reason(error: DecodeError) -> &'static str {
    match error {
        DecodeError::Short => "Short",
        DecodeError::Trailing => "Trailing",
        DecodeError::Reserved => "Reserved",
        DecodeError::UnknownKind(_) => "UnknownKind",
        DecodeError::UnknownFormat { .. } => "UnknownFormat",
        DecodeError::BadField(_) => "BadField",
    }
}

fn samples() -> Vec<Sample> {
    let stream = |id: u64| {
        Fact::StreamCreated(
            Stream {
                id: StreamId::new(id),
                path: format!("shop/orders-{id}").into(),
                tenant: TenantId::new(1),
                partitions: 4,
                durability: Durability::Local,
                retention: Retention {
                    bytes: 1 << 30,
                    age_ms: 0,
                },
                created_us: 1_000_000,
            }
            .into(),
        )
    };
    let shard = |disk: u128, address: SocketAddr| ShardBoot {
        disk: DiskId::new(disk),
        boot_count: 1,
        address,
    };
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, 7450));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 7451));
    let facts = [
        Fact::ZoneCreated {
            zone: ZoneId::new(9),
            slots: 1024,
        },
        Fact::NodeJoined {
            node: NODE,
            disks: [DiskId::new(5), DiskId::new(6)].into(),
        },
        Fact::NodeBooted {
            node: NODE,
            boot: BootId::new(77),
            boot_number: 1,
            epoch_step: NonZeroU8::MIN,
            shared: four,
            control: None,
            shards: [shard(5, four), shard(6, six)].into(),
        },
        Fact::NodeBooted {
            node: NODE,
            boot: BootId::new(78),
            boot_number: 2,
            epoch_step: NonZeroU8::MIN,
            shared: four,
            control: Some(six),
            shards: [shard(5, four), shard(6, six)].into(),
        },
        stream(1),
        stream(2),
        Fact::StreamDeleted {
            stream: StreamId::new(1),
        },
        Fact::TombstoneCleared {
            stream: StreamId::new(1),
        },
    ];
    let input = |count: usize| {
        let mut bytes = Vec::new();
        for (version, fact) in (1..).zip(facts.iter().take(count)) {
            let event = CatalogueEvent {
                version: CatalogueVersion::new(version),
                fact: fact.clone(),
            };
            event.encode(&mut bytes);
        }
        bytes
    };
    (1..=facts.len())
        .map(|count| (format!("events-{count}"), input(count)))
        .collect()
}
