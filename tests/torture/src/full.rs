//! A disk that fills up under a real node, again and again: a small file system of its own on a loop device, whose room is taken
//! by somebody else, by the node's own events, or to the last block, and given back; with `kill -9` while it is full and starts
//! on what is left. Appends are refused with the code of the protocol and nothing else is, a start without any room says what it
//! needs, and everything that was acknowledged is read back in each cycle. Needs a user who may mount.

use crate::cycles::{Failure, Plan, Progress, Summary, guarded};
use integration::batches;
use integration::disks::SmallDisk;
use integration::ledger::{Event, Reading};
use integration::node::{Node, Setup, get};
use integration::peer::{Peer, encoded, stream};
use integration::scratch::Scratch;
use integration::{HANG, runtime, within};
use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tiderace_base::ids::PartitionKey;
use tiderace_base::prng::Prng;
use tiderace_client::{Client, Options};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, StreamDelete};
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 96 * MIB;
/// A batch's body, nearly: few of them fill a small disk, and many of them fit into a segment.
const VALUE_BYTES: usize = 100_000;
/// What the node is left of the disk, at most, before it writes.
const LEFT_MAX: u64 = 40 * MIB;
/// The stream is given up when it has so many events.
const EVENTS_MAX: u64 = 250;
/// Exit code of a start that has no room for a segment.
const NO_SPACE: i32 = 67;

/// Runs it.
///
/// # Errors
/// What must not have come, and what this user may not do.
pub fn run(plan: &Plan, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure> {
    let at = AtomicU64::new(0);
    let ran = guarded(&at, || torture(plan, &at, tell)).map_err(Failure::Violated)?;
    ran.ok_or_else(|| {
        let what = "an ext4 in a file cannot be made and mounted: it needs root, mkfs.ext4 and a loop device";
        Failure::Unavailable(what.to_owned())
    })
}

/// Cycles of one disk.
const DISK_CYCLES: u64 = 20;

fn torture(plan: &Plan, at: &AtomicU64, tell: &(dyn Fn(&str) + Sync)) -> Option<Summary> {
    let progress = Progress::new("full", tell);
    let mut summary = Summary::default();
    let numbers = plan.numbers_since(DISK_CYCLES);
    let mut from = numbers.start;
    while from < numbers.end {
        let scratch = Scratch::new("torture-full");
        let disk = SmallDisk::new(scratch.path(), DISK_BYTES)?;
        let setup = Setup::at(&scratch, disk.path().join("data"))
            .with("shards", 1)
            .with("segment", "4MiB");
        let mut world = World {
            runtime: runtime(),
            node: Some(Node::start(&setup)),
            writer: Writer::new(&setup, from),
            disk,
            setup,
            others: 0,
        };
        for cycle in from..(from + DISK_CYCLES).min(numbers.end) {
            at.store(cycle, Ordering::Relaxed);
            world.cycle(cycle, &mut plan.choices(cycle), &mut summary);
            summary.cycles += 1;
            progress.step(&summary);
        }
        if let Some(node) = world.node.take() {
            node.stop();
        }
        from += DISK_CYCLES;
    }
    Some(summary)
}

/// A producer over a bare socket: it is refused once, and does not ask again by itself.
struct Writer {
    path: String,
    peer: Peer,
    key: PartitionKey,
    acked: u64,
}

impl Writer {
    /// Creates a stream of this number, as soon as there is room for that.
    fn new(setup: &Setup, number: u64) -> Self {
        let path = format!("full/{number}");
        let (mut peer, _) = Peer::open(setup.server);
        let asked = stream(&path, 1);
        let begun = Instant::now();
        loop {
            peer.ask(encoded(|out, id| asked.encode(out, id)));
            match peer.answer().control() {
                Control::StreamCreated(_) => break,
                Control::Error(error) => assert_eq!(error.code, ErrorCode::ReadOnly),
                other => panic!("a stream was due, not {other:?}"),
            }
            assert!(begun.elapsed() < HANG, "hangs: no stream can be made");
        }
        let (peer, key, _) = Peer::at_leader(setup, &path, 0);
        Self {
            path,
            peer,
            key,
            acked: 0,
        }
    }

    fn connect(&mut self, setup: &Setup) {
        self.peer = Peer::at_leader(setup, &self.path, 0).0;
    }

    /// Sends one event. Whether it was acknowledged; refused is it only for want of room.
    fn write(&mut self) -> bool {
        let event = Event {
            sender: 1,
            number: self.acked,
        };
        let value = event.value(VALUE_BYTES);
        self.peer
            .produce(&batches::batch(self.key, None, &[&value]));
        let ack = self.peer.ack();
        match ack.code {
            None => {
                assert_eq!(ack.base_offset.get(), self.acked, "offsets are dense");
                self.acked += 1;
                true
            }
            Some(code) => {
                assert_eq!(code, ErrorCode::ReadOnly, "a full disk is called that");
                false
            }
        }
    }
}

struct World {
    runtime: Runtime,
    node: Option<Node>,
    writer: Writer,
    setup: Setup,
    disk: SmallDisk,
    /// Files of somebody else.
    others: u64,
}

impl World {
    fn cycle(&mut self, cycle: u64, prng: &mut Prng, summary: &mut Summary) {
        // Somebody else takes some of the room, or the node has all of it.
        if prng.chance(2, 3) {
            let name = self.next_other();
            self.disk.leave(&name, prng.below(LEFT_MAX));
        }
        let mut written = 0_u64;
        while self.writer.write() {
            written += 1;
        }
        summary.add("events acknowledged", written);
        summary.add("disks filled", 1);
        if prng.chance(1, 3) {
            self.take_the_last_block();
            summary.add("disks filled to the last block", 1);
        }
        self.goes_on(summary);
        if prng.chance(1, 2) {
            self.die(prng, summary);
        }
        self.give_back(prng, cycle, summary);
        let begun = Instant::now();
        while !self.writer.write() {
            assert!(begun.elapsed() < HANG, "hangs: no room comes");
        }
        summary.add("events acknowledged", 1);
        self.goes_on(summary);
    }

    fn next_other(&mut self) -> String {
        self.others += 1;
        format!("other-{}", self.others)
    }

    /// Takes what is left, in smaller and smaller pieces.
    fn take_the_last_block(&mut self) {
        let name = self.next_other();
        let mut file = File::create(self.disk.path().join(name)).expect("an entry still fits");
        for bytes in [1 << 20, 64 << 10, 4 << 10] {
            let zeros = vec![0; bytes];
            // An error is the end of the room.
            while file
                .write_all(&zeros)
                .and_then(|()| file.sync_data())
                .is_ok()
            {}
        }
    }

    /// Room comes: from somebody else, or by giving up the stream, or both.
    fn give_back(&mut self, prng: &mut Prng, cycle: u64, summary: &mut Summary) {
        let gives_up = self.writer.acked > EVENTS_MAX || prng.chance(1, 4);
        if gives_up {
            let (mut peer, _) = Peer::open(self.setup.server);
            let known = peer.metadata(&self.writer.path).stream;
            let asked = StreamDelete {
                stream: known.expect("it is there").id,
            };
            peer.ask(encoded(|out, id| asked.encode(out, id)));
            let answer = peer.answer();
            assert!(
                matches!(answer.control(), Control::StreamDeleted(_)),
                "a full disk can be told to drop data, but: {:?}",
                answer.control()
            );
            summary.add("streams given up on a full disk", 1);
        }
        self.others_go();
        if gives_up {
            self.writer = Writer::new(&self.setup, cycle + 1_000_000);
        }
    }

    fn others_go(&mut self) {
        for number in 1..=self.others {
            let file = self.disk.path().join(format!("other-{number}"));
            drop(fs::remove_file(file));
        }
        self.others = 0;
    }

    /// `kill -9` while the disk is full, and a start on it.
    fn die(&mut self, prng: &mut Prng, summary: &mut Summary) {
        let node = self.node.take().expect("it runs between cycles");
        node.kill();
        summary.add("kills on a full disk", 1);
        if prng.chance(1, 3) {
            // What the dead process held is taken, too.
            self.take_the_last_block();
        }
        let node = Node::spawn(&self.setup);
        if node.runs() {
            summary.add("starts on a full disk", 1);
            self.node = Some(node);
        } else {
            node.wait().expect(NO_SPACE, &["free that much"]);
            summary.add("starts refused for want of room", 1);
            self.others_go();
            self.node = Some(Node::start(&self.setup));
        }
        self.writer.connect(&self.setup);
        self.goes_on(summary);
    }

    /// What a full disk does not stop: questions, and reading everything.
    fn goes_on(&self, summary: &mut Summary) {
        assert_eq!(get(self.setup.admin, "/livez"), (200, "ok\n".to_owned()));
        let reading = self.runtime.block_on(async {
            let connecting = Client::connect(self.setup.server, Options::default());
            let client = within("a connection", connecting).await.expect("a node");
            let reading = Reading::of(&client, &self.writer.path).await;
            client.close();
            reading
        });
        assert_eq!(
            reading.count(),
            self.writer.acked,
            "what was acknowledged is there, and nothing else"
        );
        summary.add("events read back", reading.count());
    }
}
