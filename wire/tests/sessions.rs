//! Sessions and credit: the table of transitions, the order of messages, and that neither side can spend, ask or begin
//! more than it may.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tiderace_base::ids::{BootId, MessageId, NodeId, ShardId, StreamId, SubscriptionId, ZoneId};
use tiderace_base::limits::{HANDSHAKE_NS_MAX, UNCREDITED_OUTSTANDING_MAX};
use tiderace_base::position::{CatalogueVersion, Epoch, Offset};
use tiderace_base::time::Mono;
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::credit::{Amount, Granter, Spender};
use tiderace_wire::error::{ErrorCode, Retry};
use tiderace_wire::frame::{
    Ack, Credit, CreditScope, Deliver, Error, Goodbye, GoodbyeReason, Hello, Ping, Produce,
    Produced, StreamDelete, StreamDeleted, StreamList, Unsubscribe,
};
use tiderace_wire::link::{Direction, Flags, Kind};
use tiderace_wire::session::{Answer, Client, Fault, Identity, Phase, Request, Server, Step};

const WINDOW: Amount = Amount {
    bytes: 1000,
    batches: 4,
};

fn frame(write: impl FnOnce(&mut BytesMut)) -> Frame {
    let mut out = BytesMut::new();
    write(&mut out);
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    assembler.push(out.freeze());
    assembler.next_frame().expect("well formed").expect("whole")
}

fn hello(version_min: u8, version_max: u8, id: u64) -> Frame {
    let hello = Hello {
        version_min,
        version_max,
        features: u32::MAX,
        client_id: 7,
        name: "test".into(),
    };
    frame(|out| hello.encode(out, MessageId::new(id)))
}

fn ping(id: u64) -> Frame {
    frame(|out| Ping { nonce: id }.encode(out, MessageId::new(id)))
}

fn delete(id: u64) -> Frame {
    let delete = StreamDelete {
        stream: StreamId::new(id),
    };
    frame(|out| delete.encode(out, MessageId::new(id)))
}

fn produce(id: u64, batch_bytes: usize) -> Frame {
    let produce = Produce {
        epoch: Epoch::ZERO,
        produce_slot: 0,
        since: Offset::ZERO,
    };
    frame(|out| {
        produce.encode(out, MessageId::new(id), Flags::NONE, batch_bytes);
        out.extend_from_slice(&vec![0; batch_bytes]);
    })
}

fn credit(id: u64, scope: CreditScope, bytes_total: u64, batches_total: u64) -> Frame {
    let credit = Credit {
        scope,
        id: 0,
        bytes_total,
        batches_total,
    };
    frame(|out| credit.encode(out, MessageId::new(id)))
}

fn open() -> Server {
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    assert!(matches!(
        server.receive(&hello(1, 1, 1).front),
        Ok(Request::Hello(_))
    ));
    server
}

fn code<T>(result: Result<T, Fault>) -> Option<(ErrorCode, bool)> {
    result.err().map(|fault| (fault.code, fault.is_fatal))
}

// P-33
#[test]
fn message_ids_only_grow() {
    let mut server = open();
    assert!(server.receive(&ping(5).front).is_ok(), "gaps are allowed");
    let replayed = server.receive(&ping(5).front);
    assert_eq!(code(replayed), Some((ErrorCode::MessageIdOrder, true)));
    assert_eq!(server.phase(), Phase::Closed);
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    assert_eq!(
        code(server.receive(&hello(1, 1, 0).front)),
        Some((ErrorCode::MessageIdOrder, true)),
        "zero is no id"
    );
}

// P-34
#[test]
fn before_the_hello_nothing_else_is_taken_and_no_second_one_after() {
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    assert_eq!(
        code(server.receive(&ping(1).front)),
        Some((ErrorCode::NotReady, true))
    );
    let mut server = open();
    assert_eq!(
        code(server.receive(&hello(1, 1, 2).front)),
        Some((ErrorCode::BadKind, true))
    );
    assert_eq!(
        code(server.receive(&ping(3).front)),
        Some((ErrorCode::BadKind, true)),
        "closed for good"
    );
}

// P-34
#[test]
fn the_tables_take_only_what_the_direction_allows() {
    for kind in Kind::ALL {
        for phase in Phase::ALL {
            if matches!(Server::step(phase, *kind), Step::Take(_)) {
                assert!(
                    matches!(kind.direction(), Direction::ToNode | Direction::Both),
                    "{kind:?}"
                );
            }
            if matches!(Client::step(phase, *kind), Step::Take(_)) {
                assert!(
                    matches!(kind.direction(), Direction::ToClient | Direction::Both),
                    "{kind:?}"
                );
            }
        }
        assert!(matches!(
            Server::step(Phase::Closed, *kind),
            Step::Refuse(_)
        ));
        assert!(matches!(
            Client::step(Phase::Closed, *kind),
            Step::Refuse(_)
        ));
    }
}

// P-35
#[test]
fn a_hello_without_a_common_version_is_refused() {
    for (min, max, is_common) in [
        (1, 1, true),
        (0, 9, true),
        (2, 9, false),
        (0, 0, false),
        (3, 1, false),
    ] {
        let mut server = Server::new(Mono::from_ns(0), WINDOW);
        let result = server.receive(&hello(min, max, 1).front);
        assert_eq!(
            code(result),
            (!is_common).then_some((ErrorCode::BadVersion, true)),
            "{min}..={max}"
        );
    }
}

// P-36
#[test]
fn a_hello_that_stalls_ends_the_connection() {
    let mut server = Server::new(Mono::from_ns(10), WINDOW);
    let deadline = Mono::from_ns(10 + HANDSHAKE_NS_MAX);
    assert_eq!(server.deadline(), Some(deadline));
    assert_eq!(server.timer(Mono::from_ns(9 + HANDSHAKE_NS_MAX)), None);
    let fault = server.timer(deadline).expect("it is due");
    assert_eq!(
        (fault.code, fault.is_fatal),
        (ErrorCode::HandshakeTimeout, true)
    );
    assert_eq!(
        open().timer(deadline),
        None,
        "an open session has no deadline"
    );
}

// P-40
#[test]
fn a_producer_that_overspends_loses_its_connection() {
    let mut server = open();
    assert!(server.receive(&produce(2, 500).front).is_ok());
    assert!(server.receive(&produce(3, 500).front).is_ok());
    assert_eq!(server.link().outstanding().bytes, 1000);
    assert_eq!(
        code(server.receive(&produce(4, 129).front)),
        Some((ErrorCode::NoCredit, true))
    );
    let mut server = open();
    for id in 2..6 {
        assert!(server.receive(&produce(id, 129).front).is_ok());
    }
    assert_eq!(
        code(server.receive(&produce(6, 129).front)),
        Some((ErrorCode::NoCredit, true)),
        "batches count too"
    );
}

#[test]
fn credit_comes_back_in_steps_of_half_a_window() {
    let mut server = open();
    assert!(server.receive(&produce(2, 400).front).is_ok());
    server.give_back(400);
    assert_eq!(server.grant(), None);
    assert!(server.receive(&produce(3, 400).front).is_ok());
    server.give_back(400);
    let credit = server.grant().expect("half of either unit is free again");
    assert_eq!(
        (credit.scope, credit.bytes_total, credit.batches_total),
        (CreditScope::Link, 1800, 6)
    );
    assert_eq!(server.grant(), None);
}

// P-41
#[test]
fn a_lower_total_than_before_changes_nothing() {
    let mut spender = Spender::new(WINDOW);
    assert!(!spender.granted_to(Amount {
        bytes: 10,
        batches: 1
    }));
    assert_eq!(spender.available(), WINDOW);
    assert!(spender.granted_to(Amount {
        bytes: 2000,
        batches: 1
    }));
    assert_eq!(
        spender.available(),
        Amount {
            bytes: 2000,
            batches: 4
        }
    );
    let mut granter = Granter::new(WINDOW);
    granter.set_window(Amount {
        bytes: 1,
        batches: 1,
    });
    assert_eq!(granter.grant_all(), None);
    assert_eq!(granter.granted(), WINDOW, "what was granted stays granted");
}

// P-42
#[test]
fn requests_without_credit_are_counted_on_both_sides() {
    let mut server = open();
    let limit = UNCREDITED_OUTSTANDING_MAX as u64;
    for id in 2..2 + limit {
        assert!(server.receive(&delete(id).front).is_ok());
    }
    let refused = server.receive(&delete(20).front);
    assert_eq!(code(refused), Some((ErrorCode::TooManyOutstanding, false)));
    assert!(
        server.receive(&ping(21).front).is_ok(),
        "what is answered at once is not counted"
    );
    server.answered();
    assert!(server.receive(&delete(22).front).is_ok());

    let mut client = open_client();
    for _ in 0..limit {
        assert!(client.begin_request(Kind::StreamDelete).is_some());
    }
    assert_eq!(client.begin_request(Kind::StreamDelete), None);
    let answer = frame(|out| {
        StreamDeleted {
            request: MessageId::new(3),
        }
        .encode(out, MessageId::new(9));
    });
    assert!(client.receive(&answer).is_ok());
    assert!(client.begin_request(Kind::StreamDelete).is_some());
}

// P-43
#[test]
fn a_client_limits_the_whole_link_only_when_it_says_so() {
    let mut server = open();
    let amount = Amount::batch(600);
    assert!(server.try_deliver(amount) && server.try_deliver(amount));
    assert!(
        server
            .receive(&credit(2, CreditScope::Link, 2000, 10).front)
            .is_ok()
    );
    assert!(server.try_deliver(amount), "800 of 2000 were left");
    assert!(!server.try_deliver(amount), "200 are left");
    assert!(
        server
            .receive(&credit(3, CreditScope::Link, 1000, 10).front)
            .is_ok(),
        "old news"
    );
    assert!(
        server
            .receive(&credit(4, CreditScope::Link, 2400, 10).front)
            .is_ok()
    );
    assert!(server.try_deliver(amount));
    let slot = server.receive(&credit(5, CreditScope::ProduceSlot, 1, 1).front);
    assert_eq!(code(slot), Some((ErrorCode::BadControl, false)));
}

// P-50
#[test]
fn what_breaks_the_framing_or_the_credit_ends_the_connection_and_nothing_else_does() {
    let fatal: Vec<u16> = ErrorCode::ALL
        .iter()
        .filter(|code| code.is_fatal())
        .map(|code| code.code())
        .collect();
    assert_eq!(fatal, [1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13]);
    for code in ErrorCode::ALL {
        assert!(
            !(code.is_fatal() && code.retry() == Retry::Later),
            "{code:?}: later needs a connection"
        );
    }
    let mut server = open();
    let mut bad = frame(|out| {
        StreamList {
            limit: 1,
            after: "ab".into(),
        }
        .encode(out, MessageId::new(2));
    });
    let mut control = bad.front.control.to_vec();
    control[6] = 0xff;
    bad.front.control = Bytes::from(control).into();
    assert_eq!(
        code(server.receive(&bad.front)),
        Some((ErrorCode::BadControl, false))
    );
    assert_eq!(server.phase(), Phase::Open);
    assert_eq!(
        server.outstanding(),
        0,
        "a refused request waits for nothing"
    );
}

// P-50
#[test]
fn anything_wrong_with_the_handshake_ends_the_connection() {
    let mut bad = hello(1, 1, 1);
    let mut control = bad.front.control.to_vec();
    control[2] = 1;
    bad.front.control = Bytes::from(control).into();
    let mut server = Server::new(Mono::from_ns(0), WINDOW);
    assert_eq!(
        code(server.receive(&bad.front)),
        Some((ErrorCode::BadControl, true))
    );
    assert_eq!(server.phase(), Phase::Closed);
}

// P-51, P-52
#[test]
fn a_draining_node_answers_each_batch_and_gives_its_credit_back() {
    let mut server = open();
    assert!(server.drain());
    assert!(!server.drain());
    let fault = server
        .receive(&produce(2, 500).front)
        .expect_err("nothing new begins");
    assert_eq!((fault.code, fault.is_fatal), (ErrorCode::Draining, false));
    assert_eq!(server.link().outstanding(), Amount::ZERO);
    let answer = frame(|out| fault.encode(out, MessageId::new(1)));
    assert_eq!(answer.front.header.kind(), Kind::Produced);
    let acks: Vec<Ack> = Produced::decode(&answer.front.control)
        .expect("well formed")
        .acks()
        .collect();
    assert_eq!(
        acks,
        [Ack::refused(MessageId::new(2), ErrorCode::Draining, 0, 0)]
    );
    assert_eq!(
        code(server.receive(&delete(3).front)),
        Some((ErrorCode::Draining, false))
    );
    let unsubscribe = Unsubscribe {
        subscription: SubscriptionId::new(1),
    };
    assert!(
        server
            .receive(&frame(|out| unsubscribe.encode(out, MessageId::new(4))).front)
            .is_ok()
    );
}

fn open_client() -> Client {
    let server = Server::new(Mono::from_ns(0), WINDOW);
    let identity = Identity {
        zone: ZoneId::new(1),
        node: NodeId::new(2),
        boot: BootId::new(3),
        shard: ShardId::new(4),
        shard_count: 5,
    };
    let welcome = server.welcome(identity, CatalogueVersion::new(6));
    let mut client = Client::new();
    assert_eq!(client.next_message_id(), MessageId::new(1));
    let welcome = frame(|out| welcome.encode(out, MessageId::new(1)));
    assert!(matches!(client.receive(&welcome), Ok(Answer::Welcome(_))));
    client
}

#[test]
fn a_client_spends_what_it_was_granted_and_no_more() {
    let mut client = open_client();
    assert_eq!(client.begin_produce(600), Some(MessageId::new(2)));
    assert_eq!(client.begin_produce(600), None);
    let more = credit(2, CreditScope::Link, 1600, 5);
    assert!(matches!(client.receive(&more), Ok(Answer::Credit(_))));
    assert_eq!(client.begin_produce(600), Some(MessageId::new(3)));
}

#[test]
fn a_client_stops_when_it_is_told() {
    let mut client = open_client();
    let goodbye = Goodbye {
        reason: GoodbyeReason::Drain,
    };
    assert!(
        client
            .receive(&frame(|out| goodbye.encode(out, MessageId::new(2))))
            .is_ok()
    );
    assert_eq!(client.phase(), Phase::Draining);
    assert_eq!(client.begin_produce(129), None);
    let error = Error {
        fatal: true,
        ..Error::about(MessageId::new(0), ErrorCode::NoCredit)
    };
    assert!(
        client
            .receive(&frame(|out| error.encode(out, MessageId::new(3))))
            .is_ok()
    );
    assert_eq!(client.phase(), Phase::Closed);
}

#[test]
fn a_client_refuses_a_delivery_before_the_welcome() {
    let deliver = Deliver {
        subscription: SubscriptionId::new(1),
        epoch: Epoch::ZERO,
        end_offset: Offset::ZERO,
    };
    let deliver = frame(|out| {
        deliver.encode(out, MessageId::new(1), Flags::NONE, 200);
        out.extend_from_slice(&[0; 200]);
    });
    assert_eq!(
        code(Client::new().receive(&deliver)),
        Some((ErrorCode::BadKind, true))
    );
}

#[derive(Clone, Debug)]
enum Move {
    Spend(u64),
    GiveBack,
    Grant,
    Deliver,
    Replay,
    Window(u64),
}

proptest! {
    // P-40, P-41: whatever happens in whatever order, nobody spends what was not granted, and grants may be repeated,
    // late and out of order.
    #[test]
    fn the_two_ledgers_never_part(moves in prop::collection::vec(prop_oneof![
        4 => (1_u64..400).prop_map(Move::Spend),
        3 => Just(Move::GiveBack),
        3 => Just(Move::Grant),
        3 => Just(Move::Deliver),
        1 => Just(Move::Replay),
        1 => (1_u64..2000).prop_map(Move::Window),
    ], 0..200)) {
        let mut granter = Granter::new(WINDOW);
        let mut spender = Spender::new(WINDOW);
        let mut held = Vec::new();
        let mut on_the_way = Vec::new();
        let mut seen = Vec::new();
        let mut window_max = WINDOW.bytes;
        for step in moves {
            match step {
                Move::Spend(bytes) => if spender.try_spend(Amount::batch(bytes)) {
                    prop_assert_eq!(granter.spend(Amount::batch(bytes)), Ok(()));
                    held.push(bytes);
                },
                Move::GiveBack => if let Some(bytes) = held.pop() {
                    granter.give_back(Amount::batch(bytes));
                },
                Move::Grant => on_the_way.extend(granter.grant_all()),
                Move::Deliver => if !on_the_way.is_empty() {
                    let total = on_the_way.remove(0);
                    spender.granted_to(total);
                    seen.push(total);
                },
                Move::Replay => if let Some(total) = seen.first() {
                    spender.granted_to(*total);
                },
                Move::Window(bytes) => {
                    granter.set_window(Amount { bytes, batches: 4 });
                    window_max = window_max.max(bytes);
                }
            }
            prop_assert!(granter.granted().covers(granter.spent()));
            prop_assert!(granter.granted().covers(spender.granted()));
            prop_assert_eq!(granter.spent(), spender.spent());
            let reachable = granter.granted().bytes - granter.spent().bytes + granter.outstanding().bytes;
            prop_assert!(reachable <= window_max, "{reachable} of {window_max}");
        }
    }
}
