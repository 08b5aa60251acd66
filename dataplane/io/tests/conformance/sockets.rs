//! Connections: what arrives is what was sent, sends end exactly once with the right count, and `Closed` is the last that
//! is heard of a connection.

use crate::world::{
    Echo, Scripted, any_port, connect, pattern, start, start_echo, start_listening,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Door, Effect, Effects, Event, Fatal, OpId, OpIds};
use tiderace_io::{DriverConfig, Listen, Outcome};

/// More than any socket buffers hold.
const HUGE_BYTES: usize = 64 << 20;

fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream
        .read_exact(&mut bytes)
        .expect("the server sends that much");
    bytes
}

/// Sends all of `bytes` while it reads them back.
fn exchange(stream: &TcpStream, bytes: &[u8]) -> Vec<u8> {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(bytes).expect("the server reads");
        });
        let mut back = vec![0; bytes.len()];
        let mut reader = stream;
        reader.read_exact(&mut back).expect("the server echoes");
        back
    })
}

fn huge_parts() -> Vec<Bytes> {
    let part = Bytes::from(vec![7; 256 << 10]);
    vec![part; HUGE_BYTES / (256 << 10)]
}

#[test]
fn single_bytes_come_back_in_order() {
    let server = start_echo(DriverConfig::default());
    let mut client = server.connect();
    let bytes = pattern(1, 2000);
    for byte in &bytes {
        client.write_all(&[*byte]).expect("the server reads");
    }
    assert_eq!(read_exactly(&mut client, bytes.len()), bytes);
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn frames_of_a_mebibyte_come_back_whole() {
    let server = start_echo(DriverConfig::default());
    let client = server.connect();
    for seed in 0..16 {
        let bytes = pattern(seed, 1 << 20);
        assert!(exchange(&client, &bytes) == bytes, "frame {seed} differs");
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn two_hundred_connections_are_served_at_once() {
    let server = start_echo(DriverConfig::default());
    let mut clients: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for (seed, client) in clients.iter_mut().enumerate() {
        client
            .write_all(&pattern(seed as u64, 8192))
            .expect("the server reads");
    }
    for (seed, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_exactly(client, 8192), pattern(seed as u64, 8192));
    }
    assert_eq!(server.counters.accepted.get(), 200);
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn a_name_is_never_given_twice() {
    let (names, seen) = mpsc::channel();
    let mut echo = Echo::default();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| {
            if let Some(event) = event {
                if let Event::Accepted { conn, peer, from } = &event {
                    assert!(peer.ip().is_loopback() && peer.port() > 0);
                    assert_eq!(*from, Door::Client);
                    names.send(*conn).expect("the test listens");
                }
                echo.step(&event, effects);
            }
        }),
    );
    for _ in 0..300 {
        let mut client = server.connect();
        client.write_all(b"x").expect("the server reads");
        client.shutdown(Shutdown::Write).expect("connected");
        let mut back = Vec::new();
        client
            .read_to_end(&mut back)
            .expect("the server closes in order");
        assert_eq!(back, b"x");
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
    let names: Vec<ConnectionId> = seen.iter().collect();
    assert_eq!(names.len(), 300);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 300);
}

#[test]
fn a_send_in_many_parts_to_a_slow_reader_arrives_whole() {
    // More parts than one syscall gathers, of odd sizes, some empty, through a small socket buffer.
    let parts: Vec<Bytes> = (0..500)
        .map(|index| Bytes::from(pattern(index, (index as usize * 7919) % 9000)))
        .collect();
    let whole: Vec<u8> = parts.iter().flatten().copied().collect();
    let (answers, sent) = mpsc::channel();
    let server = start_listening(
        DriverConfig::default(),
        Listen {
            send_buffer_bytes: Some(16 << 10),
            ..Listen::on(any_port())
        },
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(9),
                conn,
                parts: parts.clone(),
            }),
            Some(Event::Sent {
                op,
                sent_bytes,
                alive,
                ..
            }) => answers
                .send((op, sent_bytes, alive))
                .expect("the test listens"),
            _ => {}
        }),
    );
    let mut client = server.connect();
    let mut got = vec![0; whole.len()];
    for piece in got.chunks_mut(1000) {
        client.read_exact(piece).expect("the server sends all");
    }
    assert!(got == whole);
    let (op, sent_bytes, alive) = sent.recv().expect("the send is answered");
    assert_eq!(
        (op, sent_bytes, alive),
        (OpId::new(9), whole.len() as u64, true)
    );
    assert!(matches!(server.finish(), Outcome::Stopped));
    assert!(sent.recv().is_err(), "a send is answered once");
}

#[test]
fn a_cancelled_send_says_exactly_how_far_it_came() {
    let (answers, sent) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(1),
                conn,
                parts: huge_parts(),
            }),
            Some(Event::Received { conn, .. }) => effects.push(Effect::CancelSend { conn }),
            Some(Event::Sent {
                op,
                conn,
                sent_bytes,
                alive,
            }) => {
                assert!(alive, "a cancelled send does not harm its connection");
                answers.send(sent_bytes).expect("the test listens");
                if op == OpId::new(1) {
                    effects.push(Effect::Send {
                        op: OpId::new(2),
                        conn,
                        parts: vec![Bytes::from_static(b"the end")],
                    });
                } else {
                    effects.push(Effect::Close { conn });
                }
            }
            _ => {}
        }),
    );
    let mut client = server.connect();
    read_exactly(&mut client, 100_000);
    client.write_all(b"c").expect("the server reads");
    let sent_bytes = sent.recv().expect("the send is answered");
    assert!(sent_bytes >= 100_000 && sent_bytes < HUGE_BYTES as u64);
    let mut rest = Vec::new();
    client
        .read_to_end(&mut rest)
        .expect("the server closes in order");
    assert_eq!(100_000 + rest.len() as u64, sent_bytes + 7);
    assert!(rest.ends_with(b"the end"));
    assert!(rest[..rest.len() - 7].iter().all(|byte| *byte == 7));
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn cancelling_nothing_does_nothing() {
    let mut echo = Echo::default();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| {
            if let Some(event) = event {
                if let Event::Received { conn, .. } = &event {
                    effects.push(Effect::CancelSend { conn: *conn });
                    effects.push(Effect::CancelSend {
                        conn: ConnectionId::new(u64::MAX),
                    });
                }
                echo.step(&event, effects);
            }
        }),
    );
    let client = server.connect();
    for seed in 0..50 {
        let bytes = pattern(seed, 300);
        assert_eq!(exchange(&client, &bytes), bytes);
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn after_a_hangup_the_machine_may_still_send_and_closes_itself() {
    let (log, logged) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Received { data, .. }) => log
                .send(format!("received {}", data.len()))
                .expect("the test listens"),
            Some(Event::Hangup { conn }) => {
                log.send("hangup".into()).expect("the test listens");
                effects.push(Effect::Send {
                    op: OpId::new(1),
                    conn,
                    parts: vec![Bytes::from_static(b"bye")],
                });
            }
            Some(Event::Sent { conn, alive, .. }) => {
                log.send(format!("sent {alive}")).expect("the test listens");
                effects.push(Effect::Close { conn });
                // The second has no effect.
                effects.push(Effect::Close { conn });
            }
            Some(Event::Closed { conn }) => {
                log.send("closed".into()).expect("the test listens");
                // Of a connection that is gone nothing is heard but the answers that are owed.
                effects.push(Effect::Close { conn });
                effects.push(Effect::Receive { conn, wanted: true });
            }
            _ => {}
        }),
    );
    let mut client = server.connect();
    client.write_all(b"xyz").expect("the server reads");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut back = Vec::new();
    client
        .read_to_end(&mut back)
        .expect("the server closes in order");
    assert_eq!(back, b"bye");
    for expected in ["received 3", "hangup", "sent true", "closed"] {
        assert_eq!(logged.recv().expect("still running"), expected);
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
    assert!(logged.recv().is_err(), "nothing follows the close");
}

#[test]
fn a_finished_connection_delivers_its_last_bytes_to_a_peer_that_still_sends() {
    let (log, logged) = mpsc::channel();
    let mut heard = 0;
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(1),
                conn,
                parts: vec![Bytes::from(vec![7; 1 << 20])],
            }),
            Some(Event::Sent { conn, .. }) => effects.push(Effect::Finish { conn }),
            Some(Event::Received { data, .. }) => heard += data.len(),
            Some(Event::Hangup { conn }) => effects.push(Effect::Close { conn }),
            Some(Event::Closed { .. }) => log.send(heard).expect("the test listens"),
            _ => {}
        }),
    );
    let mut client = server.connect();
    let mut back = vec![0; 1 << 20];
    for piece in back.chunks_mut(1 << 14) {
        client.read_exact(piece).expect("nothing is thrown away");
        client.write_all(b"more").expect("the server still reads");
    }
    assert!(back.iter().all(|byte| *byte == 7));
    assert_eq!(client.read(&mut [0]).expect("an end, and no reset"), 0);
    client.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(logged.recv().expect("still running"), 4 * (1 << 6));
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn a_peer_that_resets_is_a_hangup_and_ends_the_send() {
    let (log, logged) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Received { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(1),
                conn,
                parts: huge_parts(),
            }),
            Some(Event::Hangup { .. }) => log.send("hangup").expect("the test listens"),
            Some(Event::Sent { conn, alive, .. }) => {
                assert!(!alive);
                log.send("sent").expect("the test listens");
                effects.push(Effect::Close { conn });
            }
            Some(Event::Closed { .. }) => log.send("closed").expect("the test listens"),
            _ => {}
        }),
    );
    let mut client = server.connect();
    client.write_all(b"x").expect("the server reads");
    read_exactly(&mut client, 1000);
    // Unread bytes make this a reset.
    drop(client);
    let mut first: Vec<&str> = (0..2)
        .map(|_| logged.recv().expect("still running"))
        .collect();
    first.sort_unstable();
    assert_eq!(first, ["hangup", "sent"]);
    assert_eq!(logged.recv().expect("still running"), "closed");
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn closing_while_sending_answers_the_send_before_the_close() {
    let (log, logged) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(1),
                conn,
                parts: huge_parts(),
            }),
            Some(Event::Received { conn, .. }) => effects.push(Effect::Close { conn }),
            Some(Event::Sent {
                sent_bytes, alive, ..
            }) => {
                assert!(!alive && sent_bytes < HUGE_BYTES as u64);
                log.send("sent").expect("the test listens");
            }
            Some(Event::Closed { .. }) => log.send("closed").expect("the test listens"),
            Some(Event::Hangup { .. }) => log.send("hangup").expect("the test listens"),
            _ => {}
        }),
    );
    let mut client = server.connect();
    read_exactly(&mut client, 1000);
    client.write_all(b"x").expect("the server reads");
    assert_eq!(logged.recv().expect("still running"), "sent");
    assert_eq!(logged.recv().expect("still running"), "closed");
    assert!(matches!(server.finish(), Outcome::Stopped));
    assert!(logged.recv().is_err(), "nothing follows the close");
}

#[test]
fn a_connection_that_is_not_wanted_to_receive_does_not() {
    let mut first = None;
    let mut paused = false;
    let mut seen = Vec::new();
    let (done, whole) = mpsc::channel();
    let mut ops = OpIds::default();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| {
            let Some(Event::Received { conn, data }) = event else {
                return;
            };
            let pausing = *first.get_or_insert(conn) == conn;
            if pausing {
                assert!(!paused, "nothing arrives while nothing is wanted");
                seen.extend_from_slice(&data);
                if data.ends_with(b"|") {
                    paused = true;
                    effects.push(Effect::Receive {
                        conn,
                        wanted: false,
                    });
                    effects.push(Effect::Send {
                        op: ops.allocate(),
                        conn,
                        parts: vec![Bytes::from_static(b"k")],
                    });
                }
                if data.ends_with(b".") {
                    done.send(seen.clone()).expect("the test listens");
                }
            } else {
                paused = false;
                let conn = first.expect("the first came first");
                // On, off and on again at once must end as on.
                for wanted in [true, false, true] {
                    effects.push(Effect::Receive { conn, wanted });
                }
            }
        }),
    );
    let mut client = server.connect();
    let mut other = None;
    for round in 0..20 {
        client.write_all(b"before|").expect("the server reads");
        assert_eq!(read_exactly(&mut client, 1), b"k");
        client.write_all(b"after").expect("the socket buffers it");
        let other = other.get_or_insert_with(|| connect(server.address));
        other.write_all(b"go").expect("the server reads");
        if round == 19 {
            client.write_all(b".").expect("the server reads");
        }
    }
    assert_eq!(
        whole.recv().expect("still running"),
        [b"before|after".repeat(20), b".".to_vec()].concat()
    );
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn nobody_is_accepted_while_refusing() {
    let mut refusing = false;
    let mut echo = Echo::default();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| {
            let Some(event) = event else {
                return;
            };
            match &event {
                Event::Accepted { .. } => assert!(!refusing),
                Event::Received { data, .. } if &data[..] == b"r" => {
                    refusing = true;
                    effects.push(Effect::Refuse);
                }
                Event::Received { data, .. } if &data[..] == b"s" => {
                    refusing = false;
                    effects.push(Effect::Serve);
                }
                _ => {}
            }
            echo.step(&event, effects);
        }),
    );
    let first = server.connect();
    for _ in 0..20 {
        assert_eq!(exchange(&first, b"r"), b"r");
        let second = server.connect();
        assert_eq!(exchange(&first, b"s"), b"s");
        assert_eq!(exchange(&second, b"hello"), b"hello");
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn one_connection_too_many_is_closed_at_once() {
    let server = start_echo(DriverConfig {
        connections_max: 2,
        ..DriverConfig::default()
    });
    let first = server.connect();
    let second = server.connect();
    assert_eq!(exchange(&first, b"one"), b"one");
    assert_eq!(exchange(&second, b"two"), b"two");
    let mut third = server.connect();
    assert_eq!(third.read(&mut [0; 1]).expect("closed in order"), 0);
    assert_eq!(server.counters.turned_away.get(), 1);
    drop(first);
    // The place is free once the server has seen that the first is gone.
    loop {
        let fourth = server.connect();
        let mut stream = &fourth;
        let mut back = [0; 4];
        if stream.write_all(b"four").is_ok() && stream.read_exact(&mut back).is_ok() {
            assert_eq!(&back, b"four");
            break;
        }
    }
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn what_is_sent_before_the_end_is_received() {
    for fatal in [false, true] {
        let mut server = start(
            DriverConfig::default(),
            Scripted::new(move |_, event, effects: &mut Effects| {
                if let Some(Event::Received { conn, data }) = event {
                    effects.push(Effect::Send {
                        op: OpId::new(1),
                        conn,
                        parts: vec![data, Bytes::from_static(b" and good bye")],
                    });
                    effects.push(if fatal {
                        Effect::Fatal(Fatal::Corruption("planted".into()))
                    } else {
                        Effect::Stopped
                    });
                }
            }),
        );
        let mut client = server.connect();
        client.write_all(b"hello").expect("the server reads");
        let mut back = Vec::new();
        client
            .read_to_end(&mut back)
            .expect("the server closes in order");
        assert_eq!(back, b"hello and good bye");
        match server.join() {
            Outcome::Stopped => assert!(!fatal),
            Outcome::Fatal(Fatal::Corruption(text)) => assert!(fatal && text == "planted"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_empty_send_is_answered() {
    let (answers, sent) = mpsc::channel();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| match event {
            Some(Event::Accepted { conn, .. }) => effects.push(Effect::Send {
                op: OpId::new(3),
                conn,
                parts: vec![Bytes::new()],
            }),
            Some(Event::Sent {
                sent_bytes, alive, ..
            }) => answers.send((sent_bytes, alive)).expect("the test listens"),
            _ => {}
        }),
    );
    let _client = server.connect();
    assert_eq!(sent.recv().expect("still running"), (0, true));
    assert!(matches!(server.finish(), Outcome::Stopped));
}
