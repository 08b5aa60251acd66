//! An honest client beside the hostile ones. It has a stream of one partition of its own: when its events keep their dense
//! offsets, the node serves it on; when they can all be read in the end, nothing was lost.

use crate::ledger::{Event, Ledger, Reading};
use crate::within;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tiderace_client::{Client, Options, Producer, ProducerOptions, Record, StreamOptions};
use tokio::runtime::Runtime;

/// The client.
#[derive(Debug)]
pub struct Witness {
    runtime: Runtime,
    client: Client,
    producer: Producer,
    path: String,
    ledger: Ledger,
}

impl Witness {
    /// Creates its stream and sends a first event.
    #[must_use]
    pub fn new(server: SocketAddr, path: &str) -> Self {
        let runtime = crate::runtime();
        let (client, producer) = runtime.block_on(async {
            let connecting = Client::connect(server, Options::default());
            let client = within("a connection", connecting).await.expect("a node");
            let creating = client.create_stream(path, StreamOptions::default());
            within("a stream", creating).await.expect("created");
            let producer = client.producer(path, ProducerOptions::default());
            (client, producer)
        });
        let mut witness = Self {
            runtime,
            client,
            producer,
            path: path.to_owned(),
            ledger: Ledger::default(),
        };
        witness.is_served();
        witness
    }

    /// Asserts that the node still serves: an event is acknowledged at the offset behind the one before.
    #[track_caller]
    pub fn is_served(&mut self) {
        let number = self.ledger.count();
        let event = Event { sender: 0, number };
        let sending = self.producer.send(Record::new(event.value(100)));
        let ack = self
            .runtime
            .block_on(async { within("the witness's acknowledgement", sending).await })
            .expect("the witness is served");
        assert_eq!(ack.offset.get(), number, "the witness's offsets are dense");
        self.ledger.acked(event, &ack);
    }

    /// Asserts that the node still serves and that every event of the witness can be read.
    #[track_caller]
    pub fn lost_nothing(&mut self) {
        self.is_served();
        let reading = self.runtime.block_on(Reading::of(&self.client, &self.path));
        assert_eq!(
            reading.count(),
            self.ledger.count(),
            "nobody else wrote into its stream"
        );
        let sent = BTreeMap::from([(0, self.ledger.count())]);
        self.ledger.settle(&reading, &sent);
    }
}
