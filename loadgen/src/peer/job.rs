//! What an adapter is told, as flags. `loadgen compare` writes them and the adapter reads them, so that both are of one
//! definition. Refuses what cannot be carried out.

use crate::cli::{duration, rate};
use crate::schedule::Arrivals;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tiderace_base::prng::Prng;

/// Batches in flight of all connections together.
const PLACES_MAX: usize = 1 << 16;
/// Bytes of a batch's values.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// One workload against one system.
#[derive(Args, Clone, PartialEq, Debug)]
pub struct Job {
    /// The system, by the name that the adapter lists.
    #[arg(long)]
    pub system: String,
    /// Where it listens.
    #[arg(long)]
    pub server: SocketAddr,
    /// What the streams, topics or keys of this run are called. The adapter makes them anew.
    #[arg(long)]
    pub stream: String,
    /// How many of them; connections take them in turn.
    #[arg(long)]
    pub partitions: u32,
    /// Bytes of values that all of them together keep, where the system can be told.
    #[arg(long)]
    pub kept_bytes: u64,
    /// Connections.
    #[arg(long)]
    pub connections: usize,
    /// Batches in flight of each connection.
    #[arg(long)]
    pub in_flight: usize,
    /// Records of a batch. Where a system has no batches: records that are sent together.
    #[arg(long)]
    pub batch_records: u32,
    /// Bytes of a record's value.
    #[arg(long)]
    pub record_bytes: usize,
    /// Open loop: so many batches a second over all connections. Saturation if not given.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// How an open loop's batches are spread.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Before anything is measured.
    #[arg(long, value_parser = duration)]
    pub warmup: Duration,
    /// The measured part.
    #[arg(long, value_parser = duration)]
    pub duration: Duration,
    /// How long connections may take to open, and answers to come at the end.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub patience: Duration,
    /// The adapter's core.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// The server's process, where it runs here.
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Where the server writes, where that is known.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// What the server has done when it acknowledges, in words, for the report.
    #[arg(long, default_value = "as the server is configured")]
    pub durability: String,
    /// Decides arrivals and values.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Writes the report as JSON to this file; `-` is standard output.
    #[arg(long, default_value = "-")]
    pub json: PathBuf,
}

impl Job {
    /// Whether it can be carried out.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        if self.connections == 0 || self.in_flight == 0 || self.partitions == 0 {
            return Err("connections, batches in flight and partitions are at least 1".to_owned());
        }
        if self.connections.saturating_mul(self.in_flight) > PLACES_MAX {
            return Err(format!(
                "at most {PLACES_MAX} batches are in flight over all connections"
            ));
        }
        let bytes = self
            .record_bytes
            .saturating_mul(self.batch_records as usize);
        if bytes == 0 || bytes > BATCH_BYTES_MAX {
            return Err(format!(
                "the values of a batch have 1 to {BATCH_BYTES_MAX} bytes, not {bytes}"
            ));
        }
        if self.duration.is_zero() {
            return Err("a run measures for some time: --duration is more than zero".to_owned());
        }
        Ok(())
    }

    /// Bytes of a batch's values: what the figures of a peer count. Keys, headers and framing are not in it.
    #[must_use]
    pub const fn batch_bytes(&self) -> usize {
        self.batch_records as usize * self.record_bytes
    }

    /// Batches that may be in flight, over all connections.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.connections * self.in_flight
    }

    /// The stream of a connection: its number among the partitions.
    #[must_use]
    pub const fn partition_of(&self, connection: usize) -> u32 {
        (connection % self.partitions as usize) as u32
    }

    /// Records that each partition may keep; at least one batch.
    #[must_use]
    pub fn kept_records(&self) -> u64 {
        let kept = self.kept_bytes / u64::from(self.partitions) / self.record_bytes as u64;
        kept.max(u64::from(self.batch_records))
    }

    /// Random values for the batches of a connection.
    #[must_use]
    pub fn values(&self, connection: usize) -> Vec<Vec<u8>> {
        let mut prng = Prng::new(self.seed.wrapping_add(connection as u64));
        (0..self.batch_records)
            .map(|_| {
                let mut value = vec![0; self.record_bytes];
                prng.fill(&mut value);
                value
            })
            .collect()
    }

    /// The flags that say this.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        let arrivals = match self.arrivals {
            Arrivals::Constant => "constant",
            Arrivals::Poisson => "poisson",
        };
        let always = [
            ("system", self.system.clone()),
            ("server", self.server.to_string()),
            ("stream", self.stream.clone()),
            ("partitions", self.partitions.to_string()),
            ("kept-bytes", self.kept_bytes.to_string()),
            ("connections", self.connections.to_string()),
            ("in-flight", self.in_flight.to_string()),
            ("batch-records", self.batch_records.to_string()),
            ("record-bytes", self.record_bytes.to_string()),
            ("arrivals", arrivals.to_owned()),
            ("warmup", seconds(self.warmup)),
            ("duration", seconds(self.duration)),
            ("patience", seconds(self.patience)),
            ("durability", self.durability.clone()),
            ("seed", self.seed.to_string()),
            ("json", self.json.display().to_string()),
        ];
        let sometimes = [
            ("rate", self.rate.map(|rate| rate.to_string())),
            ("cpu", self.cpu.map(|cpu| cpu.to_string())),
            ("server-pid", self.server_pid.map(|pid| pid.to_string())),
            (
                "data",
                self.data.as_ref().map(|data| data.display().to_string()),
            ),
        ];
        let given = sometimes
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        always
            .into_iter()
            .chain(given)
            .map(|(name, value)| format!("--{name}={value}"))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Adapter {
        #[command(flatten)]
        job: Job,
    }

    pub(crate) fn job() -> Job {
        Job {
            system: "other".to_owned(),
            server: ([127, 0, 0, 1], 4222).into(),
            stream: "compare/large".to_owned(),
            partitions: 2,
            kept_bytes: 1 << 20,
            connections: 3,
            in_flight: 2,
            batch_records: 4,
            record_bytes: 100,
            rate: None,
            arrivals: Arrivals::Constant,
            warmup: Duration::from_millis(500),
            duration: Duration::from_secs(1),
            patience: Duration::from_secs(2),
            cpu: None,
            server_pid: None,
            data: None,
            durability: "each record synced".to_owned(),
            seed: 7,
            json: "-".into(),
        }
    }

    #[test]
    fn what_is_written_as_flags_is_read_from_them() {
        let bare = job();
        let full = Job {
            rate: Some(1234.5),
            arrivals: Arrivals::Poisson,
            cpu: Some(1),
            server_pid: Some(42),
            data: Some("some where".into()),
            json: "a file.json".into(),
            ..job()
        };
        for job in [bare, full] {
            let words = ["adapter".to_owned()].into_iter().chain(job.words());
            let read = Adapter::try_parse_from(words).expect("it parses");
            assert_eq!(read.job, job);
        }
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        assert_eq!(job().check(), Ok(()));
        for wrong in [
            Job {
                connections: 0,
                ..job()
            },
            Job {
                in_flight: usize::MAX,
                ..job()
            },
            Job {
                record_bytes: 0,
                ..job()
            },
            Job {
                duration: Duration::ZERO,
                ..job()
            },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn values_are_random_and_a_seed_decides_them() {
        let values = job().values(0);
        assert_eq!(values.len(), 4);
        assert!(values.iter().all(|value| value.len() == 100));
        assert_ne!(values[0], values[1]);
        assert_eq!(values, job().values(0));
        assert_ne!(values, job().values(1));
        assert_eq!(job().partition_of(2), 0);
        assert_eq!(job().kept_records(), 5242);
    }
}
