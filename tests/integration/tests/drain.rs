//! P-52 with the real program: SIGTERM under load, with subscribers that are behind. Whoever reads and grants hears everything
//! that was acknowledged before the end of its connection; whoever does not is no reason to stay.

use integration::batches;
use integration::node::{Node, Setup};
use integration::peer::{Peer, encoded, stream, subscription};
use integration::scratch::Scratch;
use tiderace_base::limits::BATCH_BYTES_MAX;
use tiderace_base::position::Offset;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Control, Credit, CreditScope, Produced, Subscribe, SubscribeFrom};
use tiderace_wire::link::Kind;

const PATH: &str = "drain/behind";
const VALUE_BYTES: usize = 200_000;
/// Batches that the subscribers are behind when the signal comes: more than sockets hold.
const BEHIND: usize = 60;
/// What a subscriber lets the node send ahead: it must grant all the time, while the node ends.
const WINDOW: u64 = 2 * BATCH_BYTES_MAX as u64;

/// Reads deliveries, and grants what they spent, until the node ends the connection. The first offset that was not delivered,
/// and whether the node said goodbye.
fn read_to_the_end(peer: &mut Peer, asked: &Subscribe) -> (Offset, bool) {
    let (mut next, mut left) = (Offset::ZERO, false);
    let (mut bytes, mut batches) = (0, 0);
    while let Some(answer) = peer.next_frame() {
        match answer.kind() {
            Kind::Goodbye => left = true,
            Kind::Deliver => {
                let mut rest = &answer.batches[..];
                while !rest.is_empty() {
                    let header = BatchHeader::parse(rest).expect("a batch");
                    assert_eq!(header.base_offset(), next, "offsets are dense");
                    next = header.next_offset();
                    batches += 1;
                    rest = &rest[header.batch_len()..];
                }
                bytes += answer.batches.len() as u64;
                let credit = Credit {
                    scope: CreditScope::Subscription,
                    id: asked.subscription.get(),
                    bytes_total: bytes + WINDOW,
                    batches_total: batches + 1024,
                };
                // Its end may have come meanwhile.
                let frame = encoded(|out, id| credit.encode(out, id));
                peer.ask(frame);
            }
            other => panic!("{other:?} is no delivery"),
        }
    }
    (next, left)
}

/// Produces until the node refuses it. The offset behind the last record that was acknowledged.
fn produce_to_the_end(peer: &mut Peer, batch: &[u8]) -> Offset {
    let mut acked = Offset::ZERO;
    let mut in_flight = 0;
    let mut begins = true;
    loop {
        while begins && in_flight < 8 {
            begins = peer.try_produce(batch).is_ok();
            in_flight += usize::from(begins);
        }
        let Some(answer) = peer.next_frame() else {
            return acked;
        };
        match answer.control() {
            Control::Produced(produced) => {
                for ack in Produced::acks(&produced) {
                    in_flight -= 1;
                    match ack.code {
                        None => acked = acked.max(ack.base_offset.checked_add(1).expect("small")),
                        Some(ErrorCode::Draining) => begins = false,
                        Some(code) => panic!("{code:?} refuses a good batch"),
                    }
                }
            }
            // A batch refused at its frame is answered by an error that names it.
            Control::Error(error) if error.code == ErrorCode::Draining => {
                in_flight -= 1;
                begins = false;
            }
            Control::Goodbye(_) => begins = false,
            Control::Credit(_) => {}
            other => panic!("{other:?} answers nothing"),
        }
    }
}

#[test]
fn a_stop_under_load_delivers_everything_that_it_acknowledged() {
    let scratch = Scratch::new("drain-behind");
    let setup = Setup::new(&scratch);
    let node = Node::start(&setup);
    Peer::open(setup.server).0.create(&stream(PATH, 1));
    let (mut producer, key, _) = Peer::at_leader(&setup, PATH, 0);
    let value = vec![7; VALUE_BYTES];
    let batch = batches::batch(key, None, &[&value]);
    for _ in 0..BEHIND {
        producer.produce(&batch);
        assert_eq!(producer.ack().code, None);
    }
    let mut readers: Vec<(Peer, Subscribe)> = (1..=2)
        .map(|number| {
            let (mut peer, _, _) = Peer::at_leader(&setup, PATH, 0);
            let mut asked = subscription(number, key, SubscribeFrom::Earliest, 0);
            asked.credit_bytes = WINDOW;
            peer.subscribe(&asked);
            (peer, asked)
        })
        .collect();
    let (mut sleeper, _, _) = Peer::at_leader(&setup, PATH, 0);
    sleeper.subscribe(&subscription(9, key, SubscribeFrom::Earliest, 0));

    std::thread::scope(|scope| {
        let producing = scope.spawn(|| produce_to_the_end(&mut producer, &batch));
        node.terminate();
        let reading: Vec<_> = readers
            .iter_mut()
            .map(|(peer, asked)| scope.spawn(move || read_to_the_end(peer, asked)))
            .collect();
        let acked = producing.join().expect("no panic");
        assert!(acked >= Offset::new(BEHIND as u64) || acked == Offset::ZERO);
        for reading in reading {
            let (next, left) = reading.join().expect("no panic");
            assert!(left, "the node says goodbye");
            assert!(
                next >= acked.max(Offset::new(BEHIND as u64)),
                "{next:?} is the first that was not delivered, and everything below {acked:?} was acknowledged"
            );
        }
    });
    // The one that never reads is cut off.
    node.wait().expect(0, &["drains", "stopped in order"]);
    drop(sleeper);
}
