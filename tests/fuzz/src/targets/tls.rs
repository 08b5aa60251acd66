//! Both ends of a TLS connection with somebody in between who cuts, damages, repeats, drops and invents bytes. Steps of four
//! bytes: what happens, a place, two numbers. The handshake is random, so an input decides what is done to it and not its
//! bytes.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::sync::LazyLock;
use tiderace_base::limits::{KIB, MIB, TLS_HANDSHAKE_BYTES_MAX};
use tiderace_io::{Acceptor, Connector, Identity, TlsEnd};

/// See the module.
pub const TARGET: Target = Target {
    name: "tls",
    reads: "a TLS session of `dataplane/io`: records of the handshake and of data, from any peer",
    holds: "what an end is given is a prefix of what the other end sent, whatever is done to the bytes; nothing is given \
            before the handshake is done; what is held is bounded; what failed takes nothing more",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 160,
    // What both ends sent and nobody took; what an end holds of what arrived is bounded below.
    held_bytes_max: 8 * MIB,
    runs_in_tests: 600,
};

/// Who trusts whom: one certificate for all runs of a process.
static WORLD: LazyLock<(Acceptor, Connector)> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(params, ca_key);
    let params = CertificateParams::new(vec!["node.test".to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let chain = params
        .signed_by(&key, &issuer)
        .expect("a certificate")
        .pem();
    let key = key.serialize_pem();
    let identity = Identity {
        chain: chain.as_bytes(),
        key: key.as_bytes(),
    };
    let acceptor = Acceptor::new(identity, None).expect("it can be used");
    let connector = Connector::new(ca.as_bytes(), None, "node.test").expect("it can be used");
    (acceptor, connector)
});

/// An end, what it sent, and how much of that the other end was given.
struct Side {
    end: TlsEnd,
    sent: Vec<u8>,
    given: usize,
    /// The last piece that went out, to be repeated.
    last: Vec<u8>,
}

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let (acceptor, connector) = &*WORLD;
    let mut sides = [
        connector.end().expect("it can be used"),
        acceptor.end().expect("it can be used"),
    ]
    .map(|end| Side {
        end,
        sent: Vec::new(),
        given: 0,
        last: Vec::new(),
    });
    for step in input.as_chunks::<4>().0 {
        take(&mut sides, *step);
    }
    let both_open = sides.iter().all(|side| side.end.is_open());
    let failed = sides.iter().any(|side| side.end.failed().is_some());
    match (both_open, failed) {
        (true, false) if sides.iter().any(|side| side.given > 0) => Outcome::Taken("Data"),
        (true, false) => Outcome::Taken("Open"),
        (false, false) => Outcome::Taken("Waiting"),
        (true, true) => Outcome::Refused("Data"),
        (false, true) => Outcome::Refused("Handshake"),
    }
}

fn take(sides: &mut [Side; 2], [what, place, a, b]: [u8; 4]) {
    let from = usize::from(place % 2);
    let count = usize::from(a) * 24 + 1;
    match what % 20 {
        // All of it, back and forth: how a handshake ends.
        0..=3 => {
            for from in [0, 1, 0, 1] {
                let piece = sides[from].end.sent(usize::MAX);
                arrive(sides, from, piece);
            }
        }
        4..=7 => {
            let piece = sides[from].end.sent(count);
            arrive(sides, from, piece);
        }
        8 | 9 => {
            let mut piece = sides[from].end.sent(count);
            if let Some(byte) = piece.get_mut(usize::from(b)) {
                *byte ^= 1 << (place % 8);
            }
            arrive(sides, from, piece);
        }
        10 => drop(sides[from].end.sent(count)),
        11 => {
            let piece = sides[from].last.clone();
            arrive(sides, from, piece);
        }
        12 => {
            // A record that nobody sent: its type, a version, a length, and so many bytes.
            let types = [20, 21, 22, 23, 24, a];
            let length = u16::from(b) * 129;
            let mut piece = vec![types[usize::from(place / 2) % types.len()], 3, 3];
            piece.extend_from_slice(&length.to_be_bytes());
            piece.resize(5 + usize::from(length).min(usize::from(a) * 129), b);
            arrive(sides, from, piece);
        }
        13 => arrive(sides, from, vec![b; count]),
        14 => {
            let mut piece = sides[from].end.sent(count);
            piece.truncate(usize::from(b));
            arrive(sides, from, piece);
        }
        15..=17 => {
            let plain: Vec<u8> = (0..usize::from(a) * 150 + 1)
                .map(|at| (at as u8) ^ b)
                .collect();
            let side = &mut sides[from];
            let taken = side.end.send(Bytes::from(plain.clone()));
            assert!(
                taken == 0 || side.end.is_open(),
                "nothing is sent before the handshake is done"
            );
            side.sent.extend_from_slice(&plain[..taken]);
        }
        _ => sides[from].end.close(),
    }
}

/// Bytes arrive at the other end, from this one or from nobody.
fn arrive(sides: &mut [Side; 2], from: usize, piece: Vec<u8>) {
    let receiver = &mut sides[1 - from].end;
    let had_failed = receiver.failed().is_some();
    let plain = receiver.received(&piece);
    assert!(
        plain.is_empty() || !had_failed,
        "what failed takes nothing more"
    );
    assert!(
        plain.is_empty() || receiver.is_open(),
        "nothing is given before the handshake is done"
    );
    assert!(
        receiver.held_bytes() <= TLS_HANDSHAKE_BYTES_MAX + 17 * KIB,
        "{} bytes are held",
        receiver.held_bytes()
    );
    let side = &mut sides[from];
    let expected = side.sent.get(side.given..side.given + plain.len());
    assert!(
        expected == Some(&plain[..]),
        "an end was given what nobody sent"
    );
    side.given += plain.len();
    side.last = piece;
}

fn samples() -> Vec<Sample> {
    let all = [0, 0, 0, 0];
    let say = |from: u8, amount: u8| [15, from, amount, 7];
    let input = |steps: &[[u8; 4]]| steps.as_flattened().to_vec();
    vec![
        (
            "speaks".to_owned(),
            input(&[
                all,
                say(0, 1),
                say(1, 200),
                all,
                say(0, 255),
                [4, 0, 9, 0],
                [4, 0, 200, 0],
                all,
            ]),
        ),
        (
            "in-pieces".to_owned(),
            input(
                &[
                    [[4, 0, 2, 0]; 12].as_slice(),
                    &[[4, 1, 5, 0]; 12],
                    &[all, say(1, 3), all],
                ]
                .concat(),
            ),
        ),
        (
            "damaged".to_owned(),
            input(&[all, say(0, 9), [8, 0, 80, 40], all]),
        ),
        (
            "damaged-handshake".to_owned(),
            input(&[[8, 0, 80, 99], all]),
        ),
        (
            "repeated".to_owned(),
            input(&[all, say(0, 2), [4, 0, 255, 0], [11, 0, 0, 0], all]),
        ),
        ("invented".to_owned(), input(&[all, [12, 6, 9, 3], all])),
        (
            "closed".to_owned(),
            input(&[all, say(1, 2), [18, 1, 0, 0], all, say(0, 1), all]),
        ),
        (
            "dropped".to_owned(),
            input(&[all, say(0, 90), [10, 0, 20, 0], all]),
        ),
    ]
}
