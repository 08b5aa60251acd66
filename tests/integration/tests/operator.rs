//! What an operator gets wrong, or meets: each ends with a code of its own and a sentence that names what to do, changes
//! nothing that is kept, and is over as soon as it is mended. And a stop that is asked for loses nothing.

use integration::batches::{self, put_u32};
use integration::disks::ReadOnlyView;
use integration::ledger::{Event, Ledger, Reading};
use integration::node::{Node, Setup};
use integration::peer::{Peer, stream, subscription};
use integration::scratch::Scratch;
use integration::witness::Witness;
use integration::{files, program, runtime, within};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tiderace_base::checksum::crc32c;
use tiderace_client::{
    Client, ConsumeError, From, Item, Offset, Options, ProducerOptions, Record, StreamOptions,
};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, SubscribeFrom};

/// Exit codes of `docs/exit-codes.md`.
mod code {
    pub(super) const USAGE: i32 = 2;
    pub(super) const UNREACHABLE: i32 = 20;
    pub(super) const NO_STREAM: i32 = 21;
    pub(super) const EXISTS: i32 = 22;
    pub(super) const CONFIG: i32 = 60;
    pub(super) const IN_USE: i32 = 61;
    pub(super) const UNUSABLE: i32 = 62;
    pub(super) const NEWER: i32 = 63;
    pub(super) const DAMAGED: i32 = 64;
    pub(super) const DIFFERS: i32 = 65;
    pub(super) const ADDRESS: i32 = 66;
}

/// Asserts that a start is refused and changes nothing that is kept.
#[track_caller]
fn refused(setup: &Setup, code: i32, words: &[&str]) {
    refused_for(setup, &setup.data_dir, code, words);
}

/// Asserts that a start is refused for something in `folder` and changes nothing there.
#[track_caller]
fn refused_for(setup: &Setup, folder: &Path, code: i32, words: &[&str]) {
    let before = files::contents(folder);
    let ended = Node::refused(setup);
    ended.expect(code, words);
    let after = files::contents(folder);
    let changed: Vec<_> = after
        .iter()
        .filter(|(file, content)| before.get(*file) != Some(content))
        .map(|(file, _)| file)
        .chain(before.keys().filter(|file| !after.contains_key(*file)))
        .collect();
    assert!(
        changed.is_empty(),
        "a node that refuses changed {changed:?}"
    );
}

#[test]
fn a_typo_is_named_with_its_place_and_what_was_probably_meant() {
    let scratch = Scratch::new("typo");
    let good = Setup::new(&scratch);
    let wrong = [
        good.clone().without("memory").with("memroy", "64MiB"),
        good.clone().without("segment").with("segmnet", "8MiB"),
        good.clone().with("durability", "locla"),
        good.clone().with("shards", "many"),
        good.clone().with("segment", "1MiB"),
        good.clone().with("drain_timeout", "soon"),
    ];
    let words: [&[&str]; 6] = [
        &["unknown key \"memroy\"", "did you mean \"memory\"?"],
        &["unknown key \"segmnet\"", "did you mean \"segment\"?"],
        &["durability = \"locla\"", "did you mean \"local\"?"],
        &["shards = \"many\"", "neither a number nor auto"],
        &["segment = \"1MiB\"", "is out of bounds"],
        &["drain_timeout = \"soon\""],
    ];
    for (setup, words) in wrong.iter().zip(words) {
        let ended = Node::refused(setup);
        ended.expect(code::CONFIG, words);
        // The place: file and line.
        let file = setup.write().display().to_string();
        ended.expect(code::CONFIG, &[&file, ".toml:"]);
        assert!(!setup.data_dir.exists(), "nothing was made");
    }
    let run = program::run(&["serve", "--memroy", "64MiB"]);
    assert_eq!(run.code, Some(code::USAGE), "{}", run.errors);
    assert!(run.errors.contains("--memory"), "{}", run.errors);
    let run = program::run(&["serve", "--config", "/nowhere/tiderace.toml"]);
    assert_eq!(run.code, Some(code::CONFIG), "{}", run.errors);
    // A variable is another program's more often than a typo: it is told and costs nothing.
    let mut command = program::command();
    command
        .args(["serve", "--config"])
        .arg(good.clone().with("shards", "0").write())
        .env("TIDERACE_MEMROY", "64MiB");
    let run = command.output().expect("it starts");
    assert_eq!(run.status.code(), Some(code::CONFIG));
}

#[test]
fn a_data_directory_in_use_is_not_shared() {
    let scratch = Scratch::new("in-use");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "operator/in-use");
    let second = Setup::at(&scratch, setup.data_dir.clone());
    Node::refused(&second).expect(code::IN_USE, &["is in use by another process"]);
    witness.lost_nothing();
    node.stop();
    // Free again, it is taken by the next.
    let node = Node::start(&second);
    node.stop();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let scratch = Scratch::new("not-writable");
    let file = scratch.join("file");
    fs::write(&file, "no directory").expect("a file");
    let below = Setup::at(&scratch, file.join("data"));
    Node::refused(&below).expect(code::UNUSABLE, &["cannot be used", "no directory"]);
    let in_place = Setup::at(&scratch, file.clone());
    Node::refused(&in_place).expect(code::UNUSABLE, &["cannot be used", "no directory"]);
    assert_eq!(
        fs::read_to_string(&file).expect("still there"),
        "no directory"
    );

    let setup = Setup::new(&scratch);
    Node::start(&setup).stop();
    let Some(view) = ReadOnlyView::new(&setup.data_dir, scratch.join("view")) else {
        return;
    };
    let read_only = Setup::at(&scratch, view.path().to_owned());
    refused(&read_only, code::UNUSABLE, &["cannot be used", "read-only"]);
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_to_it() {
    let scratch = Scratch::new("newer");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "operator/newer");
    node.stop();

    let layout = setup.data_dir.join("layout");
    let text = fs::read_to_string(&layout).expect("a layout");
    fs::write(&layout, text.replace("version = 1", "version = 2")).expect("written");
    refused(&setup, code::NEWER, &["version 2"]);
    fs::write(&layout, text).expect("written");

    for journal in ["control", "shard-0000", "shard-0001"] {
        let folder = setup.data_dir.join(journal);
        let superblock = folder.join("superblock");
        let good = fs::read(&superblock).expect("a superblock");
        let mut newer = good.clone();
        of_a_newer_version(&mut newer);
        fs::write(&superblock, newer).expect("written");
        refused_for(&setup, &folder, code::NEWER, &["format version 2"]);
        fs::write(&superblock, good).expect("written");
    }
    let node = Node::start(&setup);
    witness.lost_nothing();
    node.stop();
}

/// Raises the version of both copies of a superblock, with a checksum that holds (`docs/journal.md`).
fn of_a_newer_version(superblock: &mut [u8]) {
    const COPY_BYTES: usize = 256 * 1024;
    const HEADER_BYTES: usize = 512;
    for copy in superblock.chunks_mut(COPY_BYTES) {
        let header = &mut copy[..HEADER_BYTES];
        put_u32(header, 8, 2);
        let crc = crc32c(&header[..HEADER_BYTES - 4]);
        put_u32(header, HEADER_BYTES - 4, crc);
    }
}

#[test]
fn a_data_directory_with_other_settings_or_missing_parts_is_refused() {
    let scratch = Scratch::new("differs");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "operator/differs");
    node.stop();
    let others = [
        (setup.clone().with("shards", 1), "2 shards"),
        (
            setup.clone().with("shards", 3).with("memory", "96MiB"),
            "2 shards",
        ),
        (setup.clone().with("segment", "16MiB"), "segments of 8MiB"),
    ];
    for (other, words) in others {
        refused(&other, code::DIFFERS, &[words]);
    }
    // What lost a file that holds what is kept is damaged, and never taken for empty.
    let missing = [
        ("layout", "no file `layout`"),
        ("shard-0000/superblock", "there is no superblock"),
        ("shard-0001/superblock", "there is no superblock"),
        ("control/superblock", "there is no superblock"),
    ];
    for (missing, words) in missing {
        let (file, aside) = (setup.data_dir.join(missing), scratch.join("aside"));
        fs::rename(&file, &aside).expect("moved");
        let folder = file.parent().expect("a folder");
        refused_for(&setup, folder, code::DAMAGED, &[words]);
        fs::rename(&aside, &file).expect("moved back");
    }
    let node = Node::start(&setup);
    witness.lost_nothing();
    node.stop();
}

#[test]
fn acknowledged_bytes_that_are_damaged_are_named_and_nothing_is_skipped() {
    let scratch = Scratch::new("damaged");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "operator/damaged");
    for _ in 0..50 {
        witness.is_served();
    }
    node.kill();
    // In the middle: an event that others follow.
    let victim = Event {
        sender: 0,
        number: 25,
    };
    let (file, at) = files::find(&setup.data_dir, &victim.value(100)).expect("it was acknowledged");
    files::flip(&file, at + 50);
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    refused_for(
        &setup,
        file.parent().expect("a folder"),
        code::DAMAGED,
        &[name, "were acknowledged and are damaged", "shard"],
    );
    // Mended, everything is there.
    files::flip(&file, at + 50);
    let node = Node::start(&setup);
    witness.lost_nothing();
    node.stop();
}

#[test]
fn old_bytes_that_are_damaged_are_told_to_their_reader_alone() {
    const PATH: &str = "operator/old-damage";
    const BATCHES: u64 = 400;
    let scratch = Scratch::new("old-damage");
    let setup = Setup::new(&scratch).with("segment", "4MiB");
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "operator/beside-damage");
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(PATH, 1));
    let (mut peer, key, _) = Peer::at_leader(&setup, PATH, 0);
    let event = |number| Event { sender: 3, number }.value(60_000);
    for number in 0..BATCHES {
        peer.produce(&batches::batch(key, None, &[&event(number)]));
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, number));
    }
    node.stop();
    // In a segment that was sealed long ago: a start does not read it again, a reader does.
    let (file, at) = files::find(&setup.data_dir, &event(20)).expect("it was acknowledged");
    files::flip(&file, at + 30_000);
    let node = Node::start(&setup);
    let (mut reader, ..) = Peer::at_leader(&setup, PATH, 0);
    let subscribed = reader.subscribe(&subscription(1, key, SubscribeFrom::Offset, 0));
    assert_eq!(subscribed.end.get(), BATCHES);
    let error = loop {
        let answer = reader.answer();
        match answer.control() {
            Control::Deliver(_) => {}
            Control::Error(error) => break error,
            other => panic!("neither delivered nor refused: {other:?}"),
        }
    };
    assert_eq!((error.code, error.detail_a), (ErrorCode::Damaged, 20));
    // A consumer of the client library is told as well, once what lies before it was read, and goes on where it is sent.
    runtime().block_on(async {
        let connecting = Client::connect(setup.server, Options::default());
        let client = within("a connection", connecting).await.expect("a node");
        let from = From::Offset(Offset::new(19));
        let mut consumer = client.subscribe(PATH, from).start();
        let mut told = None;
        let mut next = 19;
        while next < 22 {
            match within("an item", consumer.next()).await.expect("open") {
                Ok(Item::Batch(batch)) => {
                    assert_eq!(batch.first_offset().get(), next);
                    next = batch.next_offset().get();
                }
                Err(ConsumeError::Damaged { partition, at }) => {
                    assert_eq!((at.get(), next, told), (20, 20, None));
                    told = Some(at);
                    next = 21;
                    consumer.seek(partition, From::Offset(Offset::new(next)));
                }
                other => panic!("neither delivered nor said to be damaged: {other:?}"),
            }
        }
        assert_eq!(told, Some(Offset::new(20)));
    });
    // Behind it, beside it and at the end everything goes on.
    let subscribed = reader.subscribe(&subscription(1, key, SubscribeFrom::Offset, 21));
    assert_eq!(subscribed.next.get(), 21);
    assert!(matches!(reader.answer().control(), Control::Deliver(_)));
    witness.lost_nothing();
    node.stop();
    // Mended, it is whole.
    files::flip(&file, at + 30_000);
    let node = Node::start(&setup);
    let (mut reader, ..) = Peer::at_leader(&setup, PATH, 0);
    reader.subscribe(&subscription(1, key, SubscribeFrom::Offset, 20));
    let answer = reader.answer();
    assert!(matches!(answer.control(), Control::Deliver(_)));
    assert!(answer.batches.windows(60_000).any(|part| part == event(20)));
    witness.lost_nothing();
    node.stop();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let scratch = Scratch::new("taken");
    let setup = Setup::new(&scratch);
    let keys = [
        ("listen = ", setup.server),
        ("shard_listen = ", setup.first_shard),
        ("shard_listen = ", setup.shard(1)),
        ("admin_listen = ", setup.admin),
    ];
    for (key, address) in keys {
        let holder = TcpListener::bind(address).expect("it is ours");
        let said = format!("{key}{address} is taken");
        Node::refused(&setup).expect(code::ADDRESS, &[&said, "ss -ltnp"]);
        drop(holder);
    }
    let node = Node::start(&setup);
    // Another node, with a directory of its own, on the same address.
    let mut second = Setup::at(&scratch, scratch.join("second"));
    second.server = setup.server;
    Node::refused(&second).expect(code::ADDRESS, &["listen = ", "is taken"]);
    node.stop();
}

#[test]
fn commands_without_their_node_or_stream_say_so() {
    let scratch = Scratch::new("commands");
    let setup = Setup::new(&scratch);
    let server = setup.server.to_string();
    let run = |arguments: &[&str]| program::run(&[arguments, &["--server", &server]].concat());
    let expect = |code: i32, arguments: &[&str]| {
        let run = run(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.errors);
        assert!(run.errors.contains("what to do"), "{}", run.errors);
    };
    expect(code::UNREACHABLE, &["stream", "ls"]);
    let lines = scratch.join("lines").display().to_string();
    fs::write(&lines, "one\ntwo\n").expect("a file");
    let node = Node::start(&setup);
    expect(code::NO_STREAM, &["tail", "operator/absent"]);
    expect(code::NO_STREAM, &["produce", "operator/absent", &lines]);
    expect(code::NO_STREAM, &["stream", "describe", "operator/absent"]);
    expect(code::NO_STREAM, &["stream", "delete", "operator/absent"]);
    assert_eq!(run(&["stream", "create", "operator/there"]).code, Some(0));
    expect(
        code::EXISTS,
        &["stream", "create", "operator/there", "--partitions", "5"],
    );
    node.stop();
}

#[test]
fn a_stop_under_load_keeps_what_it_acknowledged() {
    const PATH: &str = "operator/drain";
    const ROUNDS: u64 = 5;
    let scratch = Scratch::new("drain");
    let setup = Setup::new(&scratch);
    let mut node = Node::start(&setup);
    let runtime = runtime();
    let (client, producer) = runtime.block_on(async {
        let client = Client::connect(setup.server, Options::default())
            .await
            .expect("a node");
        let four = StreamOptions {
            partitions: 4,
            ..StreamOptions::default()
        };
        client.create_stream(PATH, four).await.expect("created");
        let patient = ProducerOptions {
            timeout: Duration::from_secs(3_600),
            ..ProducerOptions::default()
        };
        let producer = client.producer(PATH, patient);
        (client, producer)
    });
    let (mut ledger, mut sent) = (Ledger::default(), 0);
    let mut waiting = VecDeque::new();
    for _ in 0..ROUNDS {
        let target = ledger.count() + 500;
        while ledger.count() < target {
            runtime.block_on(within("acknowledgements", async {
                let event = Event {
                    sender: 0,
                    number: sent,
                };
                let record = Record::new(event.value(500)).key(format!("{}", sent % 16));
                let ack = producer.enqueue(record).await.expect("credit");
                waiting.push_back((event, ack));
                sent += 1;
                if waiting.len() > 100 {
                    let (event, ack) = waiting.pop_front().expect("some wait");
                    ledger.acked(event, &ack.await.expect("acknowledged"));
                }
            }));
        }
        // A hundred are on their way: each is acknowledged before the end or sent again after it, and stands once.
        node.terminate();
        node.wait().expect(0, &["drains", "stopped in order"]);
        node = Node::start(&setup);
    }
    for (event, ack) in waiting {
        let ack = runtime.block_on(within("the last acknowledgements", ack));
        ledger.acked(event, &ack.expect("acknowledged"));
    }
    let reading = runtime.block_on(Reading::of(&client, PATH));
    assert_eq!((reading.count(), ledger.count()), (sent, sent));
    ledger.settle(&reading, &BTreeMap::from([(0, sent)]));
    node.stop();
}
