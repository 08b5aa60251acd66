//! NATS JetStream, through `async-nats`. A stream for each partition, one replica, in files. A batch is as many messages
//! published in a row; each has an acknowledgement of its own and all of them are awaited, so that a batch is
//! acknowledged when its last message is.

use crate::drive::{Broken, Client};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use loadgen::peer::Job;

/// One connection.
pub struct Nats {
    context: Context,
    subject: String,
    values: Vec<Bytes>,
}

async fn context(job: &Job, broken: Option<&Broken>) -> Result<Context, String> {
    let mut options = ConnectOptions::new().connection_timeout(job.patience);
    if let Some(broken) = broken.cloned() {
        options = options.event_callback(move |event| {
            // It would connect again by itself; what was out is lost all the same.
            if matches!(event, Event::Disconnected | Event::Closed) {
                broken.tell();
            }
            std::future::ready(())
        });
    }
    let client = options
        .connect(job.server.to_string())
        .await
        .map_err(|error| error.to_string())?;
    Ok(ContextBuilder::new()
        .timeout(job.patience)
        .max_ack_inflight(job.in_flight * job.batch_records as usize + 1)
        .build(client))
}

fn name(job: &Job, partition: u32) -> String {
    format!("{}-{partition}", job.stream)
}

impl Client for Nats {
    async fn prepare(job: &Job) -> Result<(), String> {
        let context = context(job, None).await?;
        for partition in 0..job.partitions {
            let name = name(job, partition);
            // One that an earlier run left; that there is none is no error.
            let _ = context.delete_stream(&name).await;
            let kept = job.kept_bytes / u64::from(job.partitions);
            let config = Config {
                subjects: vec![name.clone()],
                name,
                max_bytes: i64::try_from(kept).unwrap_or(i64::MAX),
                discard: DiscardPolicy::Old,
                storage: StorageType::File,
                num_replicas: 1,
                ..Config::default()
            };
            context
                .create_stream(config)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn clear(job: &Job) -> Result<(), String> {
        let context = context(job, None).await?;
        for partition in 0..job.partitions {
            let deleted = context.delete_stream(name(job, partition)).await;
            deleted.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn open(job: &Job, connection: usize, broken: &Broken) -> Result<Self, String> {
        Ok(Self {
            context: context(job, Some(broken)).await?,
            subject: name(job, job.partition_of(connection)),
            values: job
                .values(connection)
                .into_iter()
                .map(Bytes::from)
                .collect(),
        })
    }

    async fn send(&self) -> Result<(), String> {
        let mut answers = Vec::with_capacity(self.values.len());
        for value in &self.values {
            let published = self.context.publish(self.subject.clone(), value.clone());
            answers.push(published.await.map_err(|error| error.to_string())?);
        }
        // Published is not acknowledged: that is a second wait.
        for answer in answers {
            answer.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
