//! TLS on real sockets: who is trusted is served and loses nothing, whoever is not is told why and costs nobody else
//! anything.

use integration::authority::{Authority, Signed};
use integration::ledger::{Event, Ledger, Reading};
use integration::node::{Node, Setup};
use integration::scratch::Scratch;
use integration::{HANG, program, runtime, within};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use tiderace_client::{
    Client, From, Options, ProducerOptions, Record, RequestError, StreamOptions, Tls,
};

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 20;
const CONFIG: i32 = 60;

struct Secured {
    authority: Authority,
    setup: Setup,
    scratch: Scratch,
}

impl Secured {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let authority = Authority::new(&scratch, "ours");
        let plain = Setup::new(&scratch);
        let host = authority.sign(&scratch, &plain.server.ip().to_string());
        let setup = plain
            .with("tls_cert", host.cert.display())
            .with("tls_key", host.key.display());
        Self {
            authority,
            setup,
            scratch,
        }
    }

    fn tls(&self, identity: Option<&Signed>) -> Tls {
        let read = |path| fs::read(path).expect("it was written");
        let identity = identity.map(|signed| (read(&signed.cert), read(&signed.key)));
        let identity = identity.as_ref();
        let identity = identity.map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        Tls::new(&read(&self.authority.ca), identity).expect("it can be used")
    }

    async fn connect(&self, tls: Option<Tls>) -> Result<Client, RequestError> {
        let options = Options {
            tls,
            request_timeout: HANG,
            ..Options::default()
        };
        within("connecting", Client::connect(self.setup.server, options)).await
    }

    /// A command of the program on this node.
    fn run(&self, arguments: &[&str]) -> program::Run {
        let server = self.setup.server.to_string();
        let mut all = arguments.to_vec();
        all.extend(["--server", &server]);
        program::run(&all)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a test's directory has a plain name")
}

#[test]
fn what_was_acknowledged_over_tls_is_read_back_over_tls_after_kill_nine() {
    const EVENTS: u64 = 1_500;
    let secured = Secured::new("secured");
    let mut node = Node::start(&secured.setup);
    let runtime = runtime();
    let client = runtime.block_on(secured.connect(Some(secured.tls(None))));
    let client = client.expect("trusted");
    let (mut ledger, mut acks) = (Ledger::default(), Vec::new());
    let producer = runtime.block_on(async {
        let options = StreamOptions {
            partitions: 4,
            ..StreamOptions::default()
        };
        let created = client.create_stream("secured/events", options);
        within("creating", created).await.expect("created");
        client.producer("secured/events", ProducerOptions::default())
    });
    for number in 0..EVENTS {
        if number == EVENTS / 2 {
            node.kill();
            node = Node::start(&secured.setup);
        }
        let event = Event { sender: 1, number };
        // From next to nothing to several records of TLS.
        let value = event.value(12 + (number * 7919 % 40_000) as usize);
        let record = Record::new(value).key(format!("{}", number % 7));
        let waiting = within("room", producer.enqueue(record));
        acks.push((event, runtime.block_on(waiting).expect("it is taken")));
    }
    runtime.block_on(async {
        for (event, ack) in acks {
            let ack = within("an acknowledgement", ack).await.expect("stored");
            ledger.acked(event, &ack);
        }
        let reading = Reading::of(&client, "secured/events").await;
        ledger.settle(&reading, &BTreeMap::from([(1, EVENTS)]));
        assert_eq!(reading.count(), EVENTS);
    });
    node.stop();
}

#[test]
fn a_reader_that_reads_late_gets_everything_in_order() {
    const EVENTS: u64 = 600;
    let secured = Secured::new("secured-late");
    let node = Node::start(&secured.setup);
    runtime().block_on(async {
        let tls = secured.tls(None);
        let client = secured.connect(Some(tls.clone())).await.expect("trusted");
        let created = client.create_stream("secured/late", StreamOptions::default());
        within("creating", created).await.expect("created");
        let reader = secured.connect(Some(tls)).await.expect("trusted");
        // It grants credit and is not polled: the node fills the network's buffers, and holds the rest back.
        let mut consumer = reader.subscribe("secured/late", From::Earliest).start();
        let producer = client.producer("secured/late", ProducerOptions::default());
        let mut ledger = Ledger::default();
        for number in 0..EVENTS {
            let event = Event { sender: 1, number };
            let record = Record::new(event.value(60_000));
            let ack = within("an acknowledgement", producer.send(record)).await;
            ledger.acked(event, &ack.expect("stored"));
        }
        let mut reading = Reading::default();
        reading.read(&mut consumer, EVENTS).await;
        ledger.settle(&reading, &BTreeMap::from([(1, EVENTS)]));
    });
    node.stop();
}

#[test]
fn who_is_not_trusted_is_told_why_and_the_others_are_served() {
    let secured = Secured::new("secured-trust");
    let known = secured.authority.sign(&secured.scratch, "client.test");
    let others = Authority::new(&secured.scratch, "others");
    let forged = others.sign(&secured.scratch, "client.test");
    let strict = secured
        .setup
        .clone()
        .with("tls_client_ca", secured.authority.ca.display());
    let node = Node::start(&strict);
    let (ca, other_ca) = (path(&secured.authority.ca), path(&others.ca));
    let (cert, key) = (path(&known.cert), path(&known.key));
    let ls = |arguments: &[&str]| {
        let mut all = vec!["stream", "ls"];
        all.extend(arguments);
        secured.run(&all)
    };
    let good = ls(&["--tls-ca", ca, "--tls-cert", cert, "--tls-key", key]);
    assert_eq!(good.code, Some(0), "{}", good.errors);
    for (arguments, code, words) in [
        (vec![], UNREACHABLE, "TLS"),
        (vec!["--tls-ca", other_ca], UNREACHABLE, "UnknownIssuer"),
        (vec!["--tls-ca", ca], UNREACHABLE, "CertificateRequired"),
        (
            vec![
                "--tls-ca",
                ca,
                "--tls-cert",
                path(&forged.cert),
                "--tls-key",
                path(&forged.key),
            ],
            UNREACHABLE,
            "alert",
        ),
        (
            vec![
                "--tls-ca",
                ca,
                "--tls-name",
                "elsewhere.test",
                "--tls-cert",
                cert,
                "--tls-key",
                key,
            ],
            UNREACHABLE,
            "not valid for name",
        ),
        (vec!["--tls-cert", cert], USAGE, "--tls-ca"),
        (
            vec!["--tls-ca", cert, "--tls-cert", cert, "--tls-key", cert],
            USAGE,
            "private key",
        ),
    ] {
        let run = ls(&arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.errors);
        assert!(run.errors.contains(words), "{arguments:?}: {}", run.errors);
    }
    // Bytes that are no TLS are answered by an alert at most, and an end.
    let mut plain = TcpStream::connect(strict.server).expect("it listens");
    plain.write_all(&[0x54; 200]).expect("it is open");
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(rest.len() < 100 && rest.first().is_none_or(|first| *first == 21));
    assert!(node.metric("tiderace_driver_tls_failed_total") >= 4);
    let again = ls(&["--tls-ca", ca, "--tls-cert", cert, "--tls-key", key]);
    assert_eq!(again.code, Some(0), "{}", again.errors);
    node.stop();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let secured = Secured::new("secured-files");
    let other = secured.authority.sign(&secured.scratch, "other.test");
    let setup = &secured.setup;
    for (setup, words) in [
        (
            setup.clone().without("tls_key"),
            vec!["tls_key", "is missing"],
        ),
        (
            setup.clone().without("tls_cert"),
            vec!["tls_cert", "is missing"],
        ),
        (
            setup.clone().with("tls_key", "/nowhere/key.pem"),
            vec!["/nowhere/key.pem"],
        ),
        (
            setup.clone().with("tls_key", other.key.display()),
            vec!["TLS is not possible", "docs/tls.md"],
        ),
        (
            setup.clone().with("tls_client_ca", other.key.display()),
            vec!["CA certificate"],
        ),
    ] {
        Node::refused(&setup).expect(CONFIG, &words);
    }
    Node::start(setup).stop();
}
