//! Both ends of a session under any order of frames and of its owner's calls. An input's first byte says which end it is; then
//! follow steps of four bytes: what happens, a kind of frame, a distance and a change. A small model of its own says what
//! the session may have done; nothing of the product's ledgers is used for it.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use bytes::{Bytes, BytesMut};
use compat::samples;
use std::sync::LazyLock;
use tiderace_base::ids::{BootId, MessageId, NodeId, ShardId, ZoneId};
use tiderace_base::limits::{LINK_HEADER_BYTES, UNCREDITED_OUTSTANDING_MAX};
use tiderace_base::position::CatalogueVersion;
use tiderace_base::time::Mono;
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::credit::Amount;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::link::{Kind, LinkHeader};
use tiderace_wire::session::{Answer, Client, Fault, Identity, Phase, Request, Server, Step};

/// See the module.
pub const TARGET: Target = Target {
    name: "session",
    reads: "`session::Server` and `session::Client`: frames in any order, from any peer",
    holds: "phases follow the table, ids only grow, nobody spends what was not granted, no more than the limit waits, what \
            is fatal is final, and every answer to a fault is a frame",
    run,
    samples,
    seal: None,
    words: &[&[0, 1, 1, 0], &[0, 32, 1, 0], &[0, 7, 1, 0]],
    bytes_max: 400,
    held_bytes_max: 64 * 1024,
    runs_in_tests: 30_000,
};

const WINDOW: Amount = Amount {
    bytes: 4000,
    batches: 8,
};

/// A kind, its control section and its batches.
type Parts = (Kind, Vec<u8>, Vec<u8>);

/// One sample of each kind.
static FRAMES: LazyLock<Vec<Parts>> = LazyLock::new(|| {
    samples::frames()
        .into_iter()
        .map(|(control, bytes)| {
            let batches = samples::batches_behind(&control);
            let section = bytes[LINK_HEADER_BYTES..bytes.len() - batches.len()].to_vec();
            (control.kind(), section, batches)
        })
        .collect()
});

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((side, steps)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    let steps = steps.as_chunks::<4>().0;
    let fault = if side % 2 == 0 {
        server(steps)
    } else {
        client(steps)
    };
    match fault {
        None => Outcome::Taken(if side % 2 == 0 { "Node" } else { "Client" }),
        Some(code) => Outcome::Refused(code.name()),
    }
}

/// The frame of a step: a sample with at most one byte changed, and an id.
fn frame(step: [u8; 4], id: u64) -> Option<Frame> {
    let [what, kind, _, change] = step;
    let (kind, section, batches) = FRAMES
        .iter()
        .find(|(it, ..)| it.code() == kind)
        .unwrap_or(&FRAMES[usize::from(kind) % FRAMES.len()]);
    let mut section = section.clone();
    if change > 0 && !section.is_empty() {
        let at = usize::from(change) % section.len();
        section[at] = section[at].wrapping_add(what | 1);
    }
    let header = LinkHeader::new(
        *kind,
        tiderace_wire::link::Flags::NONE,
        MessageId::new(id),
        &section,
        batches.len(),
    );
    let bytes = [header.bytes().as_slice(), &section, batches].concat();
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    assembler.push(Bytes::from(bytes));
    assembler.next_frame().expect("it is well formed")
}

/// The next id of a peer: usually one more, sometimes a leap, sometimes an old one.
fn next_id(last: u64, distance: u8) -> u64 {
    match distance {
        0..=199 => last.saturating_add(1),
        200..=249 => last.saturating_add(u64::from(distance)),
        250..=253 => last,
        254 => last.saturating_sub(1),
        255 => u64::MAX,
    }
}

/// What tells the peer of a fault is a frame that the peer can read.
fn is_told(fault: &Fault) {
    let mut out = BytesMut::new();
    fault.encode(&mut out, MessageId::new(1));
    let mut assembler = Assembler::new(Receiver::Client);
    assembler.open();
    assembler.push(out.freeze());
    let told = assembler
        .next_frame()
        .expect("it is well formed")
        .expect("it is whole");
    let mut client = Client::new();
    if told.front.header.kind() == Kind::Error {
        assert!(client.receive(&told).is_ok(), "a client reads it");
    }
}

/// The requests that no credit covers, as docs/protocol.md lists them.
const fn is_counted(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::MetadataRequest
            | Kind::StreamCreate
            | Kind::StreamDescribe
            | Kind::StreamList
            | Kind::StreamDelete
            | Kind::ProduceResume
            | Kind::Subscribe
            | Kind::Unsubscribe
            | Kind::OffsetByTime
    )
}

/// What a node's end may have done.
#[derive(Default)]
struct Node {
    last_id: u64,
    waiting: usize,
    spent: (u64, u64),
    /// Batches that take room, by their size.
    held: Vec<u64>,
    granted: (u64, u64),
    delivered: (u64, u64),
    delivery: Option<(u64, u64)>,
}

fn server(steps: &[[u8; 4]]) -> Option<ErrorCode> {
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    let mut model = Node {
        granted: (WINDOW.bytes, WINDOW.batches),
        ..Node::default()
    };
    let mut fatal = None;
    for step in steps {
        let before = server.phase();
        if step[0] < 190 {
            let id = next_id(model.last_id, step[2]);
            if let Some(frame) = frame(*step, id)
                && let Some(code) = node_receives(&mut server, &mut model, &frame)
            {
                fatal = Some(code);
            }
        } else {
            node_is_told(&mut server, &mut model, *step);
        }
        let after = server.phase();
        assert!(
            after >= before,
            "a session never goes back: {before:?} to {after:?}"
        );
        assert_eq!(server.outstanding(), model.waiting, "requests that wait");
        assert!(model.waiting <= UNCREDITED_OUTSTANDING_MAX);
        let link = server.link();
        assert_eq!((link.spent().bytes, link.spent().batches), model.spent);
        assert_eq!(
            (link.granted().bytes, link.granted().batches),
            model.granted
        );
        let room = (model.held.iter().sum(), model.held.len() as u64);
        assert_eq!((link.outstanding().bytes, link.outstanding().batches), room);
    }
    fatal
}

/// Gives the code when the connection ends.
fn node_receives(server: &mut Server, model: &mut Node, frame: &Frame) -> Option<ErrorCode> {
    let header = &frame.front.header;
    let (kind, id) = (header.kind(), header.message_id().get());
    let phase = server.phase();
    let step = Server::step(phase, kind);
    let is_new = id > model.last_id;
    let batch = header.batch_len() as u64;
    let result = server.receive(&frame.front);
    if !is_new {
        let code = result.as_ref().err().map(|fault| fault.code);
        assert_eq!(code, Some(ErrorCode::MessageIdOrder), "P-33");
    } else {
        model.last_id = id;
        let is_begun = matches!(step, Step::Take(_));
        let pays = kind == Kind::Produce && (is_begun || step == Step::Refuse(ErrorCode::Draining));
        let has_credit =
            model.spent.0 + batch <= model.granted.0 && model.spent.1 < model.granted.1;
        if pays && has_credit {
            model.spent = (model.spent.0 + batch, model.spent.1 + 1);
            if is_begun {
                model.held.push(batch);
            } else {
                // It is refused and takes no room: what comes back is only what the ledger may grant again.
                assert!(result.is_err(), "P-52");
            }
        }
        assert!(!(pays && !has_credit && result.is_ok()), "P-40");
        match step {
            Step::Refuse(code) => {
                let found = result.as_ref().err().map(|fault| fault.code);
                let overspends = pays && !has_credit;
                assert_eq!(
                    found,
                    Some(if overspends {
                        ErrorCode::NoCredit
                    } else {
                        code
                    }),
                    "P-34"
                );
            }
            Step::Take(next) => {
                if result.is_ok() {
                    assert_eq!(server.phase(), next, "the table says where it leads");
                    model.waiting += usize::from(is_counted(kind));
                }
            }
        }
    }
    if let Ok(Request::Credit(credit)) = &result
        && credit.scope == tiderace_wire::frame::CreditScope::Link
    {
        let old = model.delivery.unwrap_or(model.delivered);
        model.delivery = Some((
            old.0.max(credit.bytes_total),
            old.1.max(credit.batches_total),
        ));
    }
    let fault = result.err()?;
    is_told(&fault);
    assert!(
        fault.is_fatal || phase != Phase::Handshake,
        "before the handshake is done every fault is fatal"
    );
    if !fault.is_fatal {
        assert_eq!(server.phase(), phase, "a frame alone was refused");
        return None;
    }
    assert_eq!(server.phase(), Phase::Closed, "what is fatal is final");
    Some(fault.code)
}

/// A call of the session's owner.
fn node_is_told(server: &mut Server, model: &mut Node, [what, a, b, _]: [u8; 4]) {
    match what % 9 {
        0 | 1 if model.waiting > 0 => {
            server.answered();
            model.waiting -= 1;
        }
        2 | 3 if !model.held.is_empty() => {
            let size = model.held.swap_remove(usize::from(a) % model.held.len());
            server.give_back(size);
        }
        4 => {
            if let Some(credit) = server.grant() {
                assert!(credit.bytes_total >= model.granted.0, "P-41");
                assert!(credit.batches_total >= model.granted.1, "P-41");
                model.granted = (credit.bytes_total, credit.batches_total);
            }
        }
        5 => server.set_window(Amount {
            bytes: u64::from(a) * 64,
            batches: u64::from(b),
        }),
        6 => {
            let amount = Amount {
                bytes: u64::from(a) * 16,
                batches: u64::from(b % 4),
            };
            let sum = (
                model.delivered.0 + amount.bytes,
                model.delivered.1 + amount.batches,
            );
            let fits = model
                .delivery
                .is_none_or(|most| sum.0 <= most.0 && sum.1 <= most.1);
            assert_eq!(server.may_deliver(amount), fits, "P-43");
            assert_eq!(server.try_deliver(amount), fits, "P-43");
            if fits {
                model.delivered = sum;
            }
        }
        7 if a % 4 == 0 => {
            let was = server.phase();
            assert_eq!(server.drain(), was == Phase::Open);
        }
        8 => {
            let identity = Identity {
                zone: ZoneId::new(1),
                node: NodeId::new(2),
                boot: BootId::new(3),
                shard: ShardId::new(0),
                shard_count: 1,
            };
            let welcome = server.welcome(identity, CatalogueVersion::new(1));
            assert_eq!((welcome.bytes_total, welcome.batches_total), model.granted);
        }
        _ => {}
    }
}

fn client(steps: &[[u8; 4]]) -> Option<ErrorCode> {
    let mut client = Client::new();
    let mut last_id = 0;
    let mut sent = 0;
    let mut fatal = None;
    for step in steps {
        let before = client.phase();
        if step[0] < 190 {
            let id = next_id(last_id, step[2]);
            let Some(frame) = frame(*step, id) else {
                continue;
            };
            let kind = frame.front.header.kind();
            let table = Client::step(before, kind);
            let result = client.receive(&frame);
            match &result {
                Ok(answer) => {
                    assert!(id > last_id, "P-33");
                    let Step::Take(next) = table else {
                        panic!("{kind:?} was taken in {before:?}");
                    };
                    let ends = matches!(answer, Answer::Error(error) if error.fatal);
                    assert_eq!(client.phase(), if ends { Phase::Closed } else { next });
                }
                Err(fault) if fault.is_fatal => {
                    assert_eq!(client.phase(), Phase::Closed, "what is fatal is final");
                    fatal = Some(fault.code);
                }
                Err(_) => assert_eq!(client.phase(), before, "a frame alone was refused"),
            }
            last_id = last_id.max(id);
        } else {
            client_is_told(&mut client, *step, &mut sent);
        }
        assert!(client.phase() >= before, "a session never goes back");
        assert!(client.waiting() <= UNCREDITED_OUTSTANDING_MAX);
        let link = client.link();
        assert!(link.granted().covers(link.spent()), "P-40");
    }
    fatal
}

fn client_is_told(client: &mut Client, [what, a, b, _]: [u8; 4], sent: &mut u64) {
    let id = match what % 4 {
        0 | 1 => {
            let waiting = client.waiting();
            let id = client.begin_request(Kind::StreamList);
            assert_eq!(client.waiting(), waiting + usize::from(id.is_some()));
            id
        }
        2 => {
            let bytes = u64::from(a) * 256 + u64::from(b);
            let available = client.link().available();
            let id = client.begin_produce(bytes);
            let may = client.phase() == Phase::Open && available.covers(Amount::batch(bytes));
            assert_eq!(id.is_some(), may, "P-40");
            id
        }
        _ => Some(client.next_message_id()),
    };
    if let Some(id) = id {
        assert!(id.get() > *sent, "P-33");
        *sent = id.get();
    }
}

fn samples() -> Vec<Sample> {
    let hello = [0, Kind::Hello.code(), 1, 0];
    let welcome = [0, Kind::Welcome.code(), 1, 0];
    let of = |kind: Kind| [0, kind.code(), 1, 0];
    let input = |side: u8, steps: &[[u8; 4]]| [&[side], steps.as_flattened()].concat();
    let owner = |what: u8| [198 + what, 3, 2, 0];
    vec![
        (
            "node-serves".to_owned(),
            input(
                0,
                &[
                    hello,
                    owner(8),
                    of(Kind::Ping),
                    of(Kind::Produce),
                    of(Kind::Produce),
                    owner(2),
                    owner(4),
                    of(Kind::MetadataRequest),
                    owner(0),
                    of(Kind::Subscribe),
                    of(Kind::Credit),
                    owner(6),
                    of(Kind::Goodbye),
                    of(Kind::Produce),
                ],
            ),
        ),
        (
            "node-full".to_owned(),
            input(
                0,
                &[[hello].as_slice(), &[of(Kind::StreamList); 10]].concat(),
            ),
        ),
        (
            "node-overspent".to_owned(),
            input(0, &[[hello].as_slice(), &[of(Kind::Produce); 12]].concat()),
        ),
        (
            "node-drains".to_owned(),
            input(
                0,
                &[
                    hello,
                    [205, 4, 0, 0],
                    of(Kind::Produce),
                    of(Kind::StreamList),
                ],
            ),
        ),
        (
            "client-uses".to_owned(),
            input(
                1,
                &[
                    welcome,
                    [240, 0, 0, 0],
                    [242, 0, 9, 0],
                    of(Kind::Produced),
                    of(Kind::Metadata),
                    of(Kind::Credit),
                    of(Kind::Deliver),
                    of(Kind::Error),
                ],
            ),
        ),
        ("client-refused".to_owned(), input(1, &[of(Kind::Error)])),
        (
            "client-left".to_owned(),
            input(
                1,
                &[
                    welcome,
                    of(Kind::Goodbye),
                    of(Kind::Produced),
                    [242, 0, 9, 0],
                ],
            ),
        ),
    ]
}
