//! Too little of everything: receive buffers, submission entries, completion entries. Nothing is lost and nobody starves.

use crate::world::{Echo, Scripted, pattern, start, start_echo};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use tiderace_base::operation::{Effects, Event};
use tiderace_io::{DriverConfig, Outcome};

/// Every client writes `bytes` bytes while it reads them back.
fn exchange_all(clients: &[TcpStream], bytes: usize) {
    std::thread::scope(|scope| {
        for (seed, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                let mut writer = client;
                writer
                    .write_all(&pattern(seed as u64, bytes))
                    .expect("the server reads");
            });
            scope.spawn(move || {
                let mut back = vec![0; bytes];
                let mut reader = client;
                reader.read_exact(&mut back).expect("the server echoes");
                assert!(back == pattern(seed as u64, bytes), "client {seed}");
            });
        }
    });
}

#[test]
fn two_receive_buffers_serve_fifty_connections() {
    let server = start_echo(DriverConfig {
        receive_buffers: 2,
        receive_buffer_bytes: 1024,
        ..DriverConfig::default()
    });
    let clients: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    exchange_all(&clients, 50_000);
    assert!(
        server.counters.receive_starved.get() > 0,
        "the case that this is about happened"
    );
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn a_machine_that_keeps_what_it_received_never_holds_the_last_buffer() {
    const CLIENTS: usize = 50;
    let mut kept = BTreeMap::new();
    let (done, all) = mpsc::channel();
    let server = start(
        DriverConfig {
            receive_buffers: 8,
            receive_buffer_bytes: 4096,
            ..DriverConfig::default()
        },
        Scripted::new(move |_, event, _: &mut Effects| {
            if let Some(Event::Received { conn, data }) = event {
                let pieces: &mut Vec<_> = kept.entry(conn).or_default();
                pieces.push(data);
                let total: usize = kept.values().flatten().map(bytes::Bytes::len).sum();
                if total == CLIENTS * 20_000 {
                    let whole: Vec<Vec<u8>> = kept.values().map(|pieces| pieces.concat()).collect();
                    done.send(whole).expect("the test listens");
                }
            }
        }),
    );
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| server.connect()).collect();
    let whole = pattern(5, 20_000);
    // Small pieces in turns, so that every connection holds an incomplete frame at the same time.
    for piece in whole.chunks(500) {
        for client in &mut clients {
            client.write_all(piece).expect("the server reads");
        }
    }
    for got in all.recv().expect("still running") {
        assert!(got == whole);
    }
    assert!(server.counters.received_copied.get() > 0);
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn tiny_queues_lose_nothing() {
    let server = start_echo(DriverConfig {
        submission_entries: 2,
        completion_entries: 4,
        ..DriverConfig::default()
    });
    let mut clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for round in 0..20 {
        for client in &mut clients {
            client
                .write_all(&pattern(round, 100))
                .expect("the server reads");
        }
        for client in &mut clients {
            let mut back = [0; 100];
            client.read_exact(&mut back).expect("the server echoes");
            assert_eq!(back.to_vec(), pattern(round, 100));
        }
    }
    exchange_all(&clients, 30_000);
    assert!(
        server.counters.queue_overflows.get() > 0,
        "the case that this is about happened"
    );
    assert!(matches!(server.finish(), Outcome::Stopped));
}

#[test]
fn pieces_outlive_the_driver_that_received_them() {
    let (pieces, taken) = mpsc::channel();
    let mut echo = Echo::default();
    let server = start(
        DriverConfig::default(),
        Scripted::new(move |_, event, effects: &mut Effects| {
            if let Some(event) = event {
                if let Event::Received { data, .. } = &event {
                    pieces.send(data.clone()).expect("the test listens");
                }
                echo.step(&event, effects);
                assert!(echo.open() <= 1);
            }
        }),
    );
    let client = server.connect();
    exchange_all(std::slice::from_ref(&client), 100_000);
    assert!(matches!(server.finish(), Outcome::Stopped));
    let whole: Vec<u8> = taken.iter().flatten().collect();
    assert!(whole == pattern(0, 100_000));
}
