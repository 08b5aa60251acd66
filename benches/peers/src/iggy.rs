//! Apache Iggy over TCP, through its own crate. A stream with one topic for the run, with as many partitions and with the
//! durability `persisted`; a batch is one call with as many messages. Its client has one request out on a connection: what
//! else is in flight waits for it in the client, which counts in the response.

use crate::drive::{Broken, Client};
use bytes::Bytes;
use iggy::prelude::{
    Client as _, DEFAULT_ROOT_PASSWORD, DEFAULT_ROOT_USERNAME, Durability, Identifier,
    IggyByteSize, IggyClient, IggyClientBuilder, IggyMessage, MaxTopicSize, MessageClient,
    Partitioning, StreamClient, TopicClient, TopicCreateOptions, UserClient,
};
use loadgen::peer::Job;

const TOPIC: &str = "records";
/// Segments of a partition that are kept.
const SEGMENTS: u64 = 4;
/// The smallest that the server makes.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// One connection.
pub struct Iggy {
    client: IggyClient,
    stream: Identifier,
    topic: Identifier,
    partition: Partitioning,
    values: Vec<Bytes>,
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn connect(job: &Job) -> Result<IggyClient, String> {
    let client = IggyClientBuilder::new()
        .with_tcp()
        .with_server_address(job.server.to_string())
        // A connection that breaks ends the run.
        .with_reconnection_max_retries(Some(0))
        .with_no_delay()
        .build()
        .map_err(said)?;
    client.connect().await.map_err(said)?;
    client
        .login_user(DEFAULT_ROOT_USERNAME, DEFAULT_ROOT_PASSWORD)
        .await
        .map_err(said)?;
    Ok(client)
}

impl Client for Iggy {
    async fn prepare(job: &Job) -> Result<(), String> {
        let client = connect(job).await?;
        let stream = Identifier::named(&job.stream).map_err(said)?;
        // One that an earlier run left; that there is none is no error.
        let _ = client.delete_stream(&stream).await;
        client.create_stream(&job.stream).await.map_err(said)?;
        // Both are of each partition.
        let segment = (job.kept_bytes / u64::from(job.partitions) / SEGMENTS)
            .max(SEGMENT_BYTES_MIN)
            .next_multiple_of(SEGMENT_BYTES_MIN);
        let options = TopicCreateOptions {
            partitions_count: Some(job.partitions),
            max_topic_size: Some(MaxTopicSize::Custom(IggyByteSize::from(segment * SEGMENTS))),
            segment_size: Some(IggyByteSize::from(segment)),
            durability: Durability::Persisted,
            ..TopicCreateOptions::default()
        };
        client
            .create_topic(&stream, TOPIC, &options)
            .await
            .map(drop)
            .map_err(said)
    }

    async fn clear(job: &Job) -> Result<(), String> {
        let stream = Identifier::named(&job.stream).map_err(said)?;
        let client = connect(job).await?;
        client.delete_stream(&stream).await.map_err(said)
    }

    async fn open(job: &Job, connection: usize, _broken: &Broken) -> Result<Self, String> {
        Ok(Self {
            client: connect(job).await?,
            stream: Identifier::named(&job.stream).map_err(said)?,
            topic: Identifier::named(TOPIC).map_err(said)?,
            partition: Partitioning::partition_id(job.partition_of(connection)),
            values: job
                .values(connection)
                .into_iter()
                .map(Bytes::from)
                .collect(),
        })
    }

    async fn send(&self) -> Result<(), String> {
        let messages: Result<Vec<IggyMessage>, _> = self
            .values
            .iter()
            .map(|value| IggyMessage::builder().payload(value.clone()).build())
            .collect();
        self.client
            .send_messages(
                &self.stream,
                &self.topic,
                &self.partition,
                &mut messages.map_err(said)?,
            )
            .await
            .map(drop)
            .map_err(said)
    }
}
