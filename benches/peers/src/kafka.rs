//! Whatever speaks the protocol of Kafka, through `rskafka`, which asks for the acknowledgement of all replicas. A topic of
//! one replica with as many partitions, made for the run; a batch is one record batch without compression. Whether an
//! acknowledged record is on the disk is the broker's configuration: this client can set none for a topic.

use crate::drive::{Broken, Client};
use loadgen::peer::{Job, now_ns};
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client as Connection, ClientBuilder};
use rskafka::record::Record;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// One connection.
pub struct Kafka {
    /// Ends its connections when it goes.
    _client: Connection,
    partition: PartitionClient,
    values: Vec<Vec<u8>>,
}

async fn connect(job: &Job) -> Result<Connection, String> {
    ClientBuilder::new(vec![job.server.to_string()])
        .client_id("loadgen")
        .build()
        .await
        .map_err(|error| error.to_string())
}

fn patience_ms(job: &Job) -> i32 {
    i32::try_from(job.patience.as_millis()).unwrap_or(i32::MAX)
}

fn now() -> DateTime<Utc> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis() as i64);
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A broker deletes topics when it comes to it, so each run has one of another name.
fn topic(job: &Job) -> String {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    format!("{}-{}", job.stream, NUMBER.get_or_init(now_ns))
}

impl Client for Kafka {
    async fn prepare(job: &Job) -> Result<(), String> {
        let client = connect(job).await?;
        let controller = client
            .controller_client()
            .map_err(|error| error.to_string())?;
        let partitions = i32::try_from(job.partitions).map_err(|error| error.to_string())?;
        controller
            .create_topic(topic(job), partitions, 1, patience_ms(job))
            .await
            .map_err(|error| error.to_string())
    }

    async fn clear(job: &Job) -> Result<(), String> {
        let client = connect(job).await?;
        let controller = client
            .controller_client()
            .map_err(|error| error.to_string())?;
        controller
            .delete_topic(topic(job), patience_ms(job))
            .await
            .map_err(|error| error.to_string())
    }

    async fn open(job: &Job, connection: usize, _broken: &Broken) -> Result<Self, String> {
        let client = connect(job).await?;
        let index = i32::try_from(job.partition_of(connection));
        let index = index.map_err(|error| error.to_string())?;
        let partition = client
            // A new topic is not known everywhere at once.
            .partition_client(topic(job), index, UnknownTopicHandling::Retry)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self {
            _client: client,
            partition,
            values: job.values(connection),
        })
    }

    async fn send(&self) -> Result<(), String> {
        let timestamp = now();
        let records: Vec<Record> = self
            .values
            .iter()
            .map(|value| Record {
                key: None,
                value: Some(value.clone()),
                headers: BTreeMap::new(),
                timestamp,
            })
            .collect();
        self.partition
            .produce(records, Compression::NoCompression)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
