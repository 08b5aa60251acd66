//! A zone of three real nodes: processes with certificates, real links and real disks. What one of them was told exists for all of
//! them, whoever leads and whoever was killed; without a majority a change is refused and says why.

use integration::authority::Authority;
use integration::node::{Node, Setup, get};
use integration::peer::{Peer, encoded};
use integration::scratch::Scratch;
use integration::{HANG, runtime, within};
use std::time::Instant;
use tiderace_base::catalogue::Retention;
use tiderace_base::ids::TenantId;
use tiderace_client::{Client, Options, RequestError, StreamOptions};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, StreamCreate};

const ZONE: u64 = 0x5a;
const NOT_ADMITTED: i32 = 78;

struct Zone {
    setups: Vec<Setup>,
    nodes: Vec<Option<Node>>,
    scratch: Scratch,
    authority: Authority,
}

impl Zone {
    fn setup(scratch: &Scratch, authority: &Authority, number: u64, peers: &str) -> Setup {
        let signed = authority.sign_node(scratch, number, ZONE);
        let setup = Setup::at(scratch, scratch.join(&format!("data-{number}")));
        // Above the shards' own ports, which are kept free with it.
        let door = std::net::SocketAddr::new(setup.server.ip(), setup.first_shard.port() + 10);
        setup
            .with("shards", 1)
            .with("memory", "24MiB")
            .with("peer_listen", door)
            .with("peer_cert", signed.cert.display())
            .with("peer_key", signed.key.display())
            .with("peer_ca", authority.ca.display())
            .with("peers", peers)
    }

    fn door(setup: &Setup) -> std::net::SocketAddr {
        std::net::SocketAddr::new(setup.server.ip(), setup.first_shard.port() + 10)
    }

    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let authority = Authority::new(&scratch, "nodes");
        let first = Self::setup(&scratch, &authority, 1, "");
        let first = first.with("found_zone", true);
        let peers = format!("{:016x}@{}", 1, Self::door(&first));
        let mut setups = vec![first];
        for number in 2..=3 {
            setups.push(Self::setup(&scratch, &authority, number, &peers));
        }
        let nodes = setups
            .iter()
            .map(|setup| Some(Node::start(setup)))
            .collect();
        let zone = Self {
            setups,
            nodes,
            scratch,
            authority,
        };
        zone.wait("three vote", |zone| {
            (0..3).all(|node| zone.metric(node, "voters") == 3 && zone.is_ready(node))
        });
        zone
    }

    fn node(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().expect("it runs")
    }

    fn metric(&self, node: usize, name: &str) -> u64 {
        self.node(node).metric(&format!("tiderace_control_{name}"))
    }

    fn is_ready(&self, node: usize) -> bool {
        get(self.setups[node].admin, "/readyz").0 == 200
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(
                begun.elapsed() < HANG,
                "hangs: it never comes to that {what}"
            );
            std::thread::yield_now();
        }
    }

    fn running(&self) -> Vec<usize> {
        (0..3).filter(|node| self.nodes[*node].is_some()).collect()
    }

    fn leader(&self) -> usize {
        self.wait("one leads", |zone| {
            let leads = |node: &usize| zone.metric(*node, "leads") == 1;
            zone.running().iter().filter(|it| leads(it)).count() == 1
        });
        let leads = |node: &usize| self.metric(*node, "leads") == 1;
        self.running().into_iter().find(leads).expect("one leads")
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].take().expect("it runs").kill();
    }

    fn start(&mut self, node: usize) {
        self.nodes[node] = Some(Node::start(&self.setups[node]));
    }

    /// Asks a node for a stream. What is refused may be asked for again.
    fn create(&self, node: usize, path: &str) -> Result<u64, RequestError> {
        runtime().block_on(async {
            let options = Options {
                request_timeout: HANG,
                ..Options::default()
            };
            let connecting = Client::connect(self.setups[node].server, options);
            let client = within("a connection", connecting).await?;
            let wanted = StreamOptions {
                partitions: 2,
                ..StreamOptions::default()
            };
            let created = within("an answer", client.create_stream(path, wanted)).await;
            client.close();
            created.map(|stream| stream.id.get())
        })
    }

    /// Until somebody leads again, changes are refused, and the client asks again.
    fn create_soon(&self, node: usize, path: &str) -> u64 {
        let created = self.create(node, path);
        created.unwrap_or_else(|error| panic!("{path} at {node}: {error}"))
    }

    fn listed(&self, node: usize) -> Vec<(String, u64)> {
        runtime().block_on(async {
            let connecting = Client::connect(self.setups[node].server, Options::default());
            let client = within("a connection", connecting).await.expect("a node");
            let listing = within("a listing", client.list_streams("", 100)).await;
            let (streams, _) = listing.expect("a node lists");
            client.close();
            let named = |it: &tiderace_client::Stream| (it.path.to_string(), it.id.get());
            streams.iter().map(named).collect()
        })
    }

    /// Every node that runs knows the same streams, these among them.
    fn agrees(&self, wanted: &[(String, u64)]) {
        for node in self.running() {
            self.wait("everybody knows every stream", |zone| {
                let listed = zone.listed(node);
                wanted.iter().all(|stream| listed.contains(stream))
            });
        }
    }
}

#[test]
fn a_zone_of_three_keeps_its_catalogue_whoever_is_killed() {
    let mut zone = Zone::new("zone");
    let mut known = Vec::new();
    for node in 0..3 {
        let path = format!("at/{node}");
        let id = zone.create(node, &path).expect("the zone is whole");
        known.push((path, id));
    }
    zone.agrees(&known);
    // Whoever leads dies; the others go on, and the dead one comes back and knows what it missed.
    for round in 0..3 {
        let leader = zone.leader();
        zone.kill(leader);
        let other = zone.running()[round % 2];
        let path = format!("without/{round}");
        known.push((path.clone(), zone.create_soon(other, &path)));
        zone.agrees(&known);
        zone.start(leader);
        zone.wait("it is ready again", |zone| zone.is_ready(leader));
        zone.agrees(&known);
    }
    // An orderly stop of the leader hands over.
    let leader = zone.leader();
    let node = zone.nodes[leader].take().expect("it runs");
    node.stop();
    let other = zone.running()[0];
    known.push((
        "handed/over".to_owned(),
        zone.create_soon(other, "handed/over"),
    ));
    zone.start(leader);
    zone.wait("it is ready again", |zone| zone.is_ready(leader));
    zone.agrees(&known);
}

#[test]
fn without_a_majority_a_change_is_refused_and_comes_through_afterwards() {
    let mut zone = Zone::new("zone-alone");
    let id = zone.create(0, "before").expect("the zone is whole");
    zone.agrees(&[("before".to_owned(), id)]);
    zone.kill(1);
    zone.kill(2);
    let asked = StreamCreate {
        partitions: 2,
        durability: None,
        tenant: TenantId::new(1),
        retention: Retention::default(),
        path: "alone".into(),
    };
    let (mut peer, _) = Peer::open(zone.setups[0].server);
    peer.ask(encoded(|out, id| asked.encode(out, id)));
    let answer = peer.answer();
    let is_refused = matches!(
        answer.control(),
        Control::Error(error) if error.code == ErrorCode::CatalogueUnavailable
    );
    assert!(is_refused, "one of three decides: {:?}", answer.control());
    // It still knows, and still serves, what there is.
    assert!(zone.listed(0).iter().any(|(path, _)| path == "before"));
    zone.start(1);
    zone.wait("it is ready again", |zone| zone.is_ready(1));
    // What was refused may have been made, so another one is asked for.
    let id = zone.create_soon(0, "together");
    zone.start(2);
    zone.wait("it is ready again", |zone| zone.is_ready(2));
    zone.agrees(&[("together".to_owned(), id)]);
}

#[test]
fn a_node_with_an_id_that_is_taken_is_told_so() {
    let zone = Zone::new("zone-twice");
    let peers = format!("{:016x}@{}", 1, Zone::door(&zone.setups[0]));
    let mut twin = Zone::setup(&zone.scratch, &zone.authority, 3, &peers);
    twin.data_dir = zone.scratch.join("data-twin");
    Node::refused(&twin).expect(
        NOT_ADMITTED,
        &["the zone knows a node of this id with other disks"],
    );
}
