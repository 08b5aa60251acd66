//! Redis Streams, through `redis`. A key for each partition, trimmed about to what is kept. A batch is as many `XADD` in one
//! pipeline, which is answered when the last one is; the pipeline is no transaction.

use crate::drive::{Broken, Client};
use loadgen::peer::Job;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline};

/// One connection.
pub struct Redis {
    connection: MultiplexedConnection,
    batch: Pipeline,
}

async fn connect(job: &Job) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(job.patience))
        // Its own limit is half a second, after which an answer that comes is a lost one.
        .set_response_timeout(Some(job.patience));
    let client = redis::Client::open(format!("redis://{}", job.server));
    client
        .map_err(|error| error.to_string())?
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| error.to_string())
}

fn key(job: &Job, partition: u32) -> String {
    format!("{}-{partition}", job.stream)
}

impl Client for Redis {
    async fn prepare(job: &Job) -> Result<(), String> {
        Self::clear(job).await
    }

    async fn clear(job: &Job) -> Result<(), String> {
        let mut delete = redis::cmd("DEL");
        for partition in 0..job.partitions {
            delete.arg(key(job, partition));
        }
        let mut connection = connect(job).await?;
        let deleted = delete.exec_async(&mut connection).await;
        deleted.map_err(|error| error.to_string())
    }

    async fn open(job: &Job, connection: usize, _broken: &Broken) -> Result<Self, String> {
        let key = key(job, job.partition_of(connection));
        let mut batch = Pipeline::new();
        for value in job.values(connection) {
            batch
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(job.kept_records())
                .arg("*")
                .arg("v")
                .arg(value);
        }
        Ok(Self {
            connection: connect(job).await?,
            batch,
        })
    }

    async fn send(&self) -> Result<(), String> {
        // A broken connection fails everything that is sent from then on.
        self.batch
            .exec_async(&mut self.connection.clone())
            .await
            .map_err(|error| error.to_string())
    }
}
