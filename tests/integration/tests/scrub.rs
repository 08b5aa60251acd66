//! Bytes that rot under a node that runs: it finds them by itself, before anybody reads them, says where they are and whose
//! they were, and serves everything else.

use integration::ledger::Event;
use integration::node::{Node, Setup, get};
use integration::peer::{Peer, stream, subscription};
use integration::scratch::Scratch;
use integration::witness::Witness;
use integration::{batches, files};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, SubscribeFrom};

// J-19
#[test]
fn what_rots_while_a_node_runs_is_named_before_anybody_reads_it() {
    const PATH: &str = "scrub/rots";
    const BATCHES: u64 = 150;
    let scratch = Scratch::new("scrub");
    let setup = Setup::new(&scratch)
        .with("segment", "4MiB")
        .with("scrub", "1GiB");
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "scrub/beside");
    let (mut peer, _) = Peer::open(setup.server);
    peer.create(&stream(PATH, 1));
    let (mut peer, key, _) = Peer::at_leader(&setup, PATH, 0);
    let event = |number| Event { sender: 5, number }.value(60_000);
    for number in 0..BATCHES {
        peer.produce(&batches::batch(key, None, &[&event(number)]));
        let ack = peer.ack();
        assert_eq!((ack.code, ack.base_offset.get()), (None, number));
    }
    let (file, at) = files::find(&setup.data_dir, &event(20)).expect("it was acknowledged");
    files::flip(&file, at + 30_000);

    assert!(node.says("are damaged"), "{}", node.log());
    let log = node.log();
    let line = log
        .lines()
        .find(|line| line.contains("are damaged"))
        .expect("it was said");
    let name = file.file_name().and_then(|name| name.to_str());
    assert!(line.contains(name.expect("a name")), "{line}");
    let whose = format!("stream {} partition 0 offsets ", key.stream);
    let offsets = line.split_once(&whose).expect(line).1;
    let mut numbers = offsets.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.find_map(|text| text.parse::<u64>().ok());
    let (from, to) = (number().expect(line), number().expect(line));
    assert!((from..=to).contains(&20) && to - from < 40, "{line}");

    // Counted, and no reason to send anybody away.
    let (status, body) = get(setup.admin, "/readyz");
    assert_eq!(status, 200);
    assert!(body.contains("damaged: 1 places"), "{body}");
    assert_eq!(node.metric("tiderace_shard_journal_damaged"), 1);

    // Whoever reads it is refused there, as ever, and nowhere else.
    let (mut reader, ..) = Peer::at_leader(&setup, PATH, 0);
    reader.subscribe(&subscription(1, key, SubscribeFrom::Offset, 20));
    match reader.answer().control() {
        Control::Error(error) => assert_eq!(error.code, ErrorCode::Damaged),
        other => panic!("damaged bytes are delivered: {other:?}"),
    }
    let behind = to + 1;
    let subscribed = reader.subscribe(&subscription(1, key, SubscribeFrom::Offset, behind));
    assert_eq!(subscribed.next.get(), behind);
    assert!(matches!(reader.answer().control(), Control::Deliver(_)));
    witness.is_served();
    witness.lost_nothing();
    node.stop();
}
