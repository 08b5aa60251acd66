//! A zone of several nodes as a scenario: the first founds it, the others ask to be let in, and everybody's control threads keep one
//! catalogue by consensus, over a network that parts them. Slots are led by the first node until replication moves them, so
//! producers and subscribers are its; whoever creates and deletes streams is at every node.
//!
//! What must never be: two leaders of one term, and two catalogues of one version, on any node, over all starts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{NodeId, ZoneId};
use tiderace_base::limits::SEGMENT_BYTES_MIN;
use tiderace_base::operation::{Effects, Event, Machine};
use tiderace_base::position::{CatalogueVersion, Term};
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use tiderace_control::Control;
use tiderace_node::LinksConfig;

use crate::node::Tiderace;
use crate::run::Scenario;
use crate::workload::{Creator, StreamPlan, Zone, audit, populate};
use crate::world::faults::Faults;
use crate::world::{MachineId, World, door_of};

/// The zone's id: every node is configured with it, as by its certificate.
const ZONE: ZoneId = ZoneId::new(7);
const FOUNDER: NodeId = NodeId::new(1);

/// What the nodes of a zone were seen to hold.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    catalogues: BTreeMap<CatalogueVersion, (NodeId, u32)>,
    leaders: BTreeMap<Term, NodeId>,
    seen: Seen,
}

/// What came of the seeds of a scenario: a run in which no zone was made shows nothing.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Seeds that were populated.
    pub seeds: u64,
    /// Of them, those in which more than one node voted.
    pub zones: u64,
    /// Of them, those in which somebody else than the founder led.
    pub led_by_others: u64,
    /// Versions of the catalogue that several nodes had.
    pub shared_versions: u64,
}

/// A node's place in its zone.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) links: LinksConfig,
    pub(crate) watch: Arc<Mutex<Watch>>,
}

impl Member {
    pub(crate) const fn zone(&self) -> ZoneId {
        ZONE
    }

    /// The machine, watched.
    pub(crate) fn watched(&self, control: Control) -> Watched {
        Watched {
            control,
            watch: Arc::clone(&self.watch),
            seen: CatalogueVersion::ZERO,
        }
    }
}

/// A control machine whose catalogue and leadership are held against those of the others after each turn.
pub(crate) struct Watched {
    control: Control,
    watch: Arc<Mutex<Watch>>,
    seen: CatalogueVersion,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control.fmt(f)
    }
}

impl Watched {
    fn look(&mut self) {
        let node = self.control.node();
        let committed = self.control.committed();
        let version = committed.version();
        let mut watch = held(&self.watch);
        if version != self.seen {
            assert!(version > self.seen, "{node:?}: a catalogue never goes back");
            self.seen = version;
            let sum = crc32c(&committed.encode());
            let (first, known) = *watch.catalogues.entry(version).or_insert((node, sum));
            watch.seen.shared_versions += u64::from(first != node);
            assert_eq!(
                known, sum,
                "version {version} of the catalogue differs between {first:?} and {node:?}"
            );
        }
        let members = self.control.members();
        if members.voters.len() > 1 {
            watch.seen.zones = 1;
        }
        if let Some(term) = self.control.leads_term() {
            let leader = *watch.leaders.entry(term).or_insert(node);
            assert_eq!(leader, node, "term {term} has two leaders");
            if node != FOUNDER {
                watch.seen.led_by_others = 1;
            }
        }
    }
}

impl Machine for Watched {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        self.control.step(now, event, effects);
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        self.control.finish_turn(now, effects);
        self.look();
    }
}

/// A zone of so many nodes.
#[derive(Debug)]
pub struct OneZone {
    nodes: u16,
    /// What the last seed's nodes hold.
    watch: Mutex<Arc<Mutex<Watch>>>,
    seen: Mutex<Seen>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A seed that panics is a finding; the next one begins anew.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OneZone {
    /// Of so many nodes, at least two.
    #[must_use]
    pub fn new(nodes: u16) -> Self {
        Self {
            nodes,
            watch: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// What came of all seeds so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut seen = held(&self.seen).clone();
        let last = held(&held(&self.watch)).seen.clone();
        seen.zones += last.zones;
        seen.led_by_others += last.led_by_others;
        seen.shared_versions += last.shared_versions;
        seen
    }

    /// The next seed begins.
    fn begin(&self) -> Arc<Mutex<Watch>> {
        let sum = self.seen();
        let watch = Arc::<Mutex<Watch>>::default();
        *held(&self.seen) = Seen {
            seeds: sum.seeds + 1,
            ..sum
        };
        *held(&self.watch) = Arc::clone(&watch);
        watch
    }
}

impl OneZone {
    fn zone(seed: u64) -> Zone {
        let prng = &mut Prng::new(seed);
        let streams = prng.range(1, 3);
        Zone {
            node: 0,
            shards: prng.range(1, 3) as u16,
            streams: (0..streams)
                .map(|number| StreamPlan::draw(number, prng))
                .collect(),
            crowded: false,
        }
    }
}

impl Scenario for OneZone {
    fn populate(&self, world: &mut World, seed: u64) {
        let zone = Self::zone(seed);
        let prng = &mut Prng::new(!seed);
        let watch = self.begin();
        let door = |node| {
            door_of(MachineId {
                node,
                machine: zone.shards,
            })
        };
        let id = |node: u16| NodeId::new(u64::from(node) + 1);
        for node in 0..self.nodes {
            // Who joins knows the founder, and sometimes somebody else, too.
            let peers = match node {
                0 => Vec::new(),
                _ => (0..node)
                    .filter(|other| *other == 0 || prng.chance(1, 2))
                    .map(|other| (id(other), door(other)))
                    .collect(),
            };
            let segment_bytes = SEGMENT_BYTES_MIN << prng.below(3);
            let links = LinksConfig {
                address: door(node),
                peers,
                founds: node == 0,
                timing: Default::default(),
            };
            let member = Member {
                node: id(node),
                links,
                watch: Arc::clone(&watch),
            };
            let program = Tiderace::of_zone(zone.shards, segment_bytes, member);
            world.add_node(Box::new(program));
        }
        populate(world, &zone, prng);
        for node in 1..self.nodes {
            let zone = Zone {
                node,
                ..zone.clone()
            };
            world.add_actor(Box::new(Creator::new(zone, prng)));
        }
    }

    fn describe(&self, seed: u64) -> String {
        format!("{} nodes, {:?}", self.nodes, Self::zone(seed))
    }

    fn audit(&self, world: &mut World, seed: u64) {
        audit(
            world,
            &Self::zone(seed),
            &mut Prng::new(seed.rotate_left(7)),
        );
    }

    fn faults(&self, prng: &mut Prng) -> Faults {
        let mut faults = Faults::draw(prng);
        faults.draw_links(prng);
        faults
    }
}
