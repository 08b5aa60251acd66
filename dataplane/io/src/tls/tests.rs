//! Sessions without sockets: their bytes cut at random, damaged, and refused where somebody is not trusted.

use super::outgoing::Outgoing;
use super::session::Failed;
use super::*;
use crate::parts::Parts;
use bytes::{Bytes, BytesMut};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tiderace_base::limits::TLS_HANDSHAKE_BYTES_MAX;
use tiderace_base::prng::Prng;

/// A CA and what it signed, as PEM text.
pub(crate) struct Authority {
    pub(crate) ca: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) struct Signed {
    chain: String,
    key: String,
}

impl Signed {
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            chain: self.chain.as_bytes(),
            key: self.key.as_bytes(),
        }
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { ca, issuer }
    }

    pub(crate) fn sign(&self, name: &str) -> Signed {
        self.sign_names(&[name])
    }

    pub(crate) fn sign_names(&self, names: &[&str]) -> Signed {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign_params(CertificateParams::new(names).expect("names"))
    }

    pub(crate) fn sign_expired(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign_params(params)
    }

    pub(crate) fn sign_numbered(&self, name: &str, number: u64) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(number));
        self.sign_params(params)
    }

    /// A revocation list with these numbers.
    pub(crate) fn revoke(&self, numbers: &[u64]) -> String {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("a list");
        list.pem().expect("a list")
    }

    fn sign_params(&self, params: CertificateParams) -> Signed {
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate");
        Signed {
            chain: chain.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn acceptor(authority: &Authority) -> Acceptor {
    Acceptor::new(authority.sign("node.test").identity(), None).expect("it can be used")
}

fn sessions(acceptor: &Acceptor, connector: &Connector) -> [End; 2] {
    let server = rustls::server::UnbufferedServerConnection::new(Arc::clone(&acceptor.0));
    let client = rustls::client::UnbufferedClientConnection::new(
        Arc::clone(&connector.config),
        connector.name.clone(),
    );
    let client = Session::new(Side::Client(Box::new(client.expect("a configuration"))));
    let server = Session::new(Side::Server(Box::new(server.expect("a configuration"))));
    let mut ends = [End::new(client), End::new(server)];
    let End { session, out, .. } = &mut ends[0];
    session.begin(out).expect("it begins");
    ends
}

struct End {
    session: Session,
    out: Outgoing,
    plain: BytesMut,
    failed: Option<Failed>,
}

impl End {
    fn new(session: Session) -> Self {
        Self {
            session,
            out: Outgoing::default(),
            plain: BytesMut::new(),
            failed: None,
        }
    }

    fn send(&mut self, parts: &mut Parts, bytes_max: usize) -> usize {
        let mut gathered = Vec::new();
        self.session
            .encrypt(parts, bytes_max, &mut gathered, &mut self.out)
            .expect("it is whole")
    }
}

/// Moves a piece of at most so many bytes from one end to the other. False: there was none.
fn carry(ends: &mut [End; 2], from: usize, bytes_max: usize) -> bool {
    let left = ends[from].out.left();
    let mut piece = left[..left.len().min(bytes_max)].to_vec();
    if piece.is_empty() {
        return false;
    }
    ends[from].out.advance(piece.len(), 0);
    let End {
        session,
        out,
        plain,
        failed,
    } = &mut ends[1 - from];
    if failed.is_none() {
        *failed = session.received(&mut piece, out, plain).err();
    }
    true
}

fn settle(ends: &mut [End; 2], prng: &mut Prng, bytes_max: u64) {
    while ends.iter().any(|end| !end.out.is_empty()) {
        let from = prng.below(2) as usize;
        carry(ends, from, 1 + prng.below(bytes_max) as usize);
    }
}

#[test]
fn bytes_arrive_whole_and_in_order_however_they_are_cut() {
    let authority = Authority::new();
    let connector = Connector::new(authority.ca.as_bytes(), None, "node.test").expect("a name");
    let acceptor = acceptor(&authority);
    for seed in 0..60 {
        let mut prng = Prng::new(seed);
        let mut ends = sessions(&acceptor, &connector);
        let bytes_max = [1, 7, 600, 20_000, 100_000][prng.below(5) as usize];
        settle(&mut ends, &mut prng, bytes_max);
        for end in &ends {
            assert!(end.session.is_open() && end.failed.is_none(), "seed {seed}");
        }
        let mut sent = [Vec::new(), Vec::new()];
        for _ in 0..10 {
            let from = prng.below(2) as usize;
            let parts: Vec<Bytes> = (0..prng.below(6))
                .map(|_| {
                    let largest = [0, 30, 5000, 100_000][prng.below(4) as usize];
                    let mut part = vec![0; prng.below(largest + 1) as usize];
                    prng.fill(&mut part);
                    sent[from].extend_from_slice(&part);
                    part.into()
                })
                .collect();
            let mut parts = Parts::new(parts);
            while !parts.is_empty() {
                let limit = 1 + prng.below(80_000) as usize;
                let taken = ends[from].send(&mut parts, limit);
                assert!(taken > 0 && taken < limit + (16 << 10));
                if prng.below(2) == 0 {
                    carry(&mut ends, from, 1 + prng.below(bytes_max) as usize);
                }
            }
        }
        settle(&mut ends, &mut prng, bytes_max);
        for from in 0..2 {
            assert!(ends[1 - from].plain == sent[from], "seed {seed}");
            assert_eq!(ends[from].session.pending_bytes(), 0, "seed {seed}");
        }
        let End { session, out, .. } = &mut ends[1];
        session.close_notify(out).expect("it is whole");
        settle(&mut ends, &mut prng, bytes_max);
        assert!(ends[0].session.peer_closed() && !ends[1].session.peer_closed());
    }
}

#[test]
fn damaged_bytes_end_the_session_and_never_become_others() {
    let authority = Authority::new();
    let connector = Connector::new(authority.ca.as_bytes(), None, "node.test").expect("a name");
    let acceptor = acceptor(&authority);
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let mut ends = sessions(&acceptor, &connector);
        settle(&mut ends, &mut prng, 5000);
        let mut text = vec![0; 1 + prng.below(40_000) as usize];
        prng.fill(&mut text);
        let mut parts = Parts::new(vec![text.clone().into()]);
        while !parts.is_empty() {
            ends[0].send(&mut parts, 1 << 20);
        }
        let mut bytes = ends[0].out.left().to_vec();
        let at = prng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << prng.below(8);
        let mut plain = BytesMut::new();
        let End { session, out, .. } = &mut ends[1];
        let result = session.received(&mut bytes, out, &mut plain);
        // A length that grew waits for bytes that never come.
        assert!(
            result.is_err() || session.pending_bytes() > 0,
            "seed {seed}"
        );
        assert!(text.starts_with(&plain), "seed {seed}");
        assert_ne!(plain.len(), text.len(), "seed {seed}");
    }
}

/// Two ends whose handshake is done.
fn opened(authority: &Authority) -> [End; 2] {
    let connector = Connector::new(authority.ca.as_bytes(), None, "node.test").expect("a name");
    let mut ends = sessions(&acceptor(authority), &connector);
    settle(&mut ends, &mut Prng::new(1), 5000);
    assert!(ends.iter().all(|end| end.session.is_open()));
    ends
}

#[test]
fn what_comes_behind_the_end_is_thrown_away_and_holds_nothing() {
    let authority = Authority::new();
    let mut ends = opened(&authority);
    let End { session, out, .. } = &mut ends[0];
    session.close_notify(out).expect("it is whole");
    let mut bytes = out.left().to_vec();
    // In one piece with the end, and in pieces of their own.
    bytes.extend_from_slice(&[0xff; 10_000]);
    let End {
        session,
        out,
        plain,
        ..
    } = &mut ends[1];
    session.received(&mut bytes, out, plain).expect("an end");
    assert!(session.peer_closed());
    for byte in [0, 23, 0xff] {
        for _ in 0..100 {
            let piece = &mut vec![byte; 64 << 10];
            session.received(piece, out, plain).expect("nobody looks");
            assert_eq!(session.pending_bytes(), 0);
        }
    }
    assert!(plain.is_empty());
}

#[test]
fn a_session_that_is_open_holds_one_record_at_most() {
    // Lengths that never end: each is refused, or awaited within one record.
    let authority = Authority::new();
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let mut ends = opened(&authority);
        let End {
            session,
            out,
            plain,
            ..
        } = &mut ends[1];
        for _ in 0..20 {
            let mut piece = vec![prng.below(256) as u8; 1 + prng.below(40_000) as usize];
            if prng.below(2) == 0 && piece.len() > 5 {
                let len = prng.below(20_000) as u16;
                piece[..3].copy_from_slice(&[20 + prng.below(4) as u8, 3, 3]);
                piece[3..5].copy_from_slice(&len.to_be_bytes());
            }
            if session.received(&mut piece, out, plain).is_err() {
                break;
            }
            // What rustls takes for a record: the plaintext of one and 2 KiB.
            assert!(session.pending_bytes() <= (18 << 10) + 5, "seed {seed}");
        }
        assert!(plain.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_reader_that_was_slow_is_sent_small_pieces_for_a_while() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority);
    let connector = Connector::new(authority.ca.as_bytes(), None, "node.test").expect("a name");
    let (mut node, mut other) = (
        acceptor.accept().expect("a configuration"),
        connector.connect().expect("a configuration"),
    );
    let mut gathered = Vec::new();
    let mut plain = BytesMut::new();
    // Both ends are links here; what one sends is given to the other at once.
    for _ in 0..10 {
        for _ in 0..2 {
            let piece = other.next(None, &mut gathered).1.map(<[u8]>::to_vec);
            if let Some(mut piece) = piece {
                other.sent(piece.len());
                node.received(&mut piece, &mut plain);
            }
            core::mem::swap(&mut node, &mut other);
        }
    }
    assert!(node.is_open() && other.is_open());
    let mut parts = Parts::new(vec![vec![1; 4 << 20].into()]);
    let mut send = |link: &mut Link, slow: bool| {
        let (taken, piece) = link.next(Some(&mut parts), &mut gathered);
        let len = piece.expect("there is more").len();
        if slow {
            link.sent(0);
            link.slow();
            let (none, rest) = link.next(Some(&mut parts), &mut gathered);
            assert_eq!((none, rest.map(<[u8]>::len)), (0, Some(len)));
        }
        link.sent(len);
        taken
    };
    assert_eq!(send(&mut node, true), 64 << 10);
    for _ in 0..16 {
        assert_eq!(send(&mut node, false), 16 << 10);
    }
    assert_eq!(send(&mut node, false), 64 << 10);
}

#[test]
fn a_handshake_of_any_bytes_is_bounded() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority);
    let server = || {
        let server = rustls::server::UnbufferedServerConnection::new(Arc::clone(&acceptor.0));
        End::new(Session::new(Side::Server(Box::new(server.expect("ok")))))
    };
    // A record of the handshake that never becomes a message: each byte is awaited, up to the bound.
    let mut end = server();
    let mut held = 0;
    let mut piece = [22, 3, 3, 0x40, 0, 1, 0, 0xff, 0xff];
    for _ in 0..2 * TLS_HANDSHAKE_BYTES_MAX / piece.len() {
        let End {
            session,
            out,
            plain,
            failed,
        } = &mut end;
        *failed = session.received(&mut piece, out, plain).err();
        held = held.max(session.pending_bytes());
        piece = [0; 9];
        if failed.is_some() {
            break;
        }
    }
    assert!(end.failed.is_some());
    assert!(held <= TLS_HANDSHAKE_BYTES_MAX);
    let connector = Connector::new(authority.ca.as_bytes(), None, "node.test").expect("ok");
    for seed in 0..3000 {
        let mut prng = Prng::new(seed);
        // A hello that is nearly good, cut and damaged at random, one record or several.
        let ends = sessions(&acceptor, &connector);
        let mut hello = ends[0].out.left().to_vec();
        for _ in 0..prng.below(4) {
            let at = prng.below(hello.len() as u64) as usize;
            hello[at] = prng.below(256) as u8;
        }
        if prng.below(2) == 0 {
            let cut = 5 + prng.below(hello.len() as u64 - 5) as usize;
            let rest = hello.split_off(cut);
            let lengths = [cut - 5, rest.len()].map(|len| (len as u16).to_be_bytes());
            hello[3..5].copy_from_slice(&lengths[0]);
            hello.extend_from_slice(&[22, 3, 3, lengths[1][0], lengths[1][1]]);
            hello.extend_from_slice(&rest);
        }
        let mut end = server();
        while !hello.is_empty() && end.failed.is_none() {
            let len = 1 + prng.below(hello.len() as u64) as usize;
            let mut piece: Vec<u8> = hello.drain(..len).collect();
            let End {
                session,
                out,
                plain,
                failed,
            } = &mut end;
            *failed = session.received(&mut piece, out, plain).err();
            assert!(!session.is_open() && plain.is_empty());
        }
        let End {
            session,
            out,
            plain,
            ..
        } = &mut server();
        let mut bytes = vec![0; prng.below(3000) as usize];
        prng.fill(&mut bytes);
        if prng.below(2) == 0 && bytes.len() > 5 {
            bytes[..3].copy_from_slice(&[22, 3, 1]);
        }
        let _ = session.received(&mut bytes, out, plain);
        assert!(!session.is_open() && plain.is_empty());
    }
}

#[test]
fn who_is_not_trusted_is_not_let_in_and_is_told() {
    let (ours, others) = (Authority::new(), Authority::new());
    let good = Connector::new(ours.ca.as_bytes(), None, "node.test").expect("ok");
    let elsewhere = Connector::new(ours.ca.as_bytes(), None, "other.test").expect("ok");
    let stranger = Connector::new(others.ca.as_bytes(), None, "node.test").expect("ok");
    let (client, forged) = (ours.sign("client"), others.sign("client"));
    let known = Connector::new(ours.ca.as_bytes(), Some(client.identity()), "node.test");
    let known = known.expect("ok");
    let unknown = Connector::new(ours.ca.as_bytes(), Some(forged.identity()), "node.test");
    let unknown = unknown.expect("ok");
    let node = ours.sign("node.test");
    let open = Acceptor::new(node.identity(), None).expect("ok");
    let strict = Acceptor::new(node.identity(), Some(ours.ca.as_bytes())).expect("ok");
    for (acceptor, connector, is_let_in) in [
        (&open, &good, true),
        (&open, &known, true),
        (&open, &elsewhere, false),
        (&open, &stranger, false),
        (&strict, &known, true),
        (&strict, &good, false),
        (&strict, &unknown, false),
    ] {
        let mut ends = sessions(acceptor, connector);
        settle(&mut ends, &mut Prng::new(1), 5000);
        assert_eq!(ends[1].session.is_open(), is_let_in);
        // Both ends know: the one that refuses, and the one that hears of it.
        for end in &ends {
            assert_eq!(end.failed.is_none(), is_let_in, "{:?}", end.failed);
        }
    }
}

#[test]
fn what_cannot_be_used_says_why() {
    let authority = Authority::new();
    let node = authority.sign("node.test");
    let other = authority.sign("node.test");
    let pem = |chain: &str, key: &str| {
        let identity = Identity {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
        };
        Acceptor::new(identity, None)
            .map(drop)
            .expect_err("it is wrong")
            .to_string()
    };
    assert_eq!(
        pem("", &node.key),
        "no certificate can be read from this PEM text: it holds no certificate"
    );
    assert!(pem(&node.chain, "").starts_with("no private key can be read"));
    assert!(pem(&node.chain, &other.key).starts_with("certificate and key cannot be used"));
    let name = Connector::new(authority.ca.as_bytes(), None, "a name").map(drop);
    assert_eq!(
        name.expect_err("it is wrong").to_string(),
        "\"a name\" is neither a host's name nor an address"
    );
}
