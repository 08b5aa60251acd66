//! The workloads of a comparison, each as a plan for the product and as a job for an adapter. Both come from one
//! definition: as many records of as many bytes, over as many connections with as much in flight, to as many
//! partitions, for as long. Records have no keys, so that values are all that anybody stores.

use super::System;
use super::figures::Sample;
use super::server::Fleet;
use crate::batches::Shape;
use crate::cli::SystemsArguments;
use crate::compare::server::{Folder, Server};
use crate::keys::{Choice, Keys, Spread};
use crate::load::{Mode, Plan, Wait, readers};
use crate::peer::Job;
use crate::schedule::Arrivals;
use crate::setup::Wanted;
use serde::Serialize;
use std::time::Duration;
use tiderace_base::catalogue::Durability;

/// What the streams of a workload keep.
const KEPT_BYTES: u64 = 256 << 20;
/// The same of the one that is written one record at a time.
const KEPT_SINGLE_BYTES: u64 = 1 << 20;
/// How long connections may take to open, and answers to come at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// By what a workload is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) enum Figure {
    /// Records acknowledged a second: more is better.
    #[serde(rename = "records/s")]
    Rate,
    /// Median response: less is better.
    #[serde(rename = "p50")]
    Median,
    /// The 99th percentile of the response: less is better.
    #[serde(rename = "p99")]
    Tail,
}

impl Figure {
    pub(super) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => Some(sample.records_per_s),
            Self::Median => sample.p50_ns.map(|ns| ns as f64),
            Self::Tail => sample.p99_ns.map(|ns| ns as f64),
        }
        .filter(|value| *value > 0.0)
    }

    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "records/s",
            Self::Median => "p50",
            Self::Tail => "p99",
        }
    }
}

/// A workload.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Case {
    pub(super) name: &'static str,
    #[serde(skip)]
    stream: &'static str,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    pub(super) partitions: u32,
    pub(super) batch_records: u32,
    pub(super) record_bytes: usize,
    kept_bytes: u64,
    /// Batches a second of an open loop; `None` saturates.
    pub(super) rate: Option<f64>,
    pub(super) figure: Figure,
}

/// All of them; the open loop at this rate.
pub(super) fn all(rate: f64) -> Vec<Case> {
    vec![
        Case {
            name: "64 x 1000 B batches",
            stream: "compare-batches",
            connections: 8,
            in_flight: 4,
            partitions: 8,
            batch_records: 64,
            record_bytes: 1000,
            kept_bytes: KEPT_BYTES,
            rate: None,
            figure: Figure::Rate,
        },
        Case {
            name: "256 B records, 1024 in flight",
            stream: "compare-records",
            connections: 64,
            in_flight: 16,
            partitions: 64,
            batch_records: 1,
            record_bytes: 256,
            kept_bytes: KEPT_BYTES,
            rate: None,
            figure: Figure::Rate,
        },
        Case {
            name: "one 256 B record at a time",
            stream: "compare-single",
            connections: 1,
            in_flight: 1,
            partitions: 1,
            batch_records: 1,
            record_bytes: 256,
            kept_bytes: KEPT_SINGLE_BYTES,
            rate: None,
            figure: Figure::Median,
        },
        Case {
            name: "1000 x 1000 B batches, one in flight",
            stream: "compare-largest",
            connections: 4,
            in_flight: 1,
            partitions: 4,
            batch_records: 1000,
            record_bytes: 1000,
            kept_bytes: KEPT_BYTES,
            rate: None,
            figure: Figure::Tail,
        },
        Case {
            name: "1 KB records at a rate",
            stream: "compare-rate",
            connections: 16,
            in_flight: 64,
            partitions: 16,
            batch_records: 1,
            record_bytes: 1000,
            kept_bytes: KEPT_SINGLE_BYTES,
            rate: Some(rate),
            figure: Figure::Tail,
        },
    ]
}

impl Case {
    /// For people: what the name leaves out.
    pub(super) fn line(&self) -> String {
        let how = self.rate.map_or_else(
            || "saturated".to_owned(),
            |rate| format!("open loop, {rate:.0}/s, Poisson"),
        );
        format!(
            "{}: {how}, {} connections x {} in flight, {} partitions; compared by {}",
            self.name,
            self.connections,
            self.in_flight,
            self.partitions,
            self.figure.name()
        )
    }

    /// For the engine in this process.
    pub(super) fn plan(
        &self,
        arguments: &SystemsArguments,
        server: &Server,
        folder: &Folder,
        cpu: usize,
        round: u32,
    ) -> Plan {
        Plan {
            profile: None,
            server: server.address(),
            tls: None,
            wanted: Wanted {
                path: self.stream.into(),
                streams: 1,
                partitions: self.partitions,
                durability: Some(Durability::Local),
                retention_bytes: self.kept_bytes / u64::from(self.partitions),
            },
            choice: Choice {
                keys: Keys::Unkeyed,
                key_count: 1,
                key_theta: 0.0,
                spread: Spread::Even,
                stream_theta: 0.0,
            },
            shape: Shape {
                records: self.batch_records,
                value_bytes: self.record_bytes,
                keyed: false,
            },
            mode: self.rate.map_or(Mode::Saturation, |rate| Mode::Open {
                rate,
                arrivals: Arrivals::Poisson,
            }),
            connections: self.connections,
            in_flight: self.in_flight,
            idempotent: true,
            fan_out: 0,
            readers: readers::Wanted::default(),
            verifies: false,
            interval: None,
            warmup: arguments.warmup,
            duration: arguments.duration,
            patience: PATIENCE,
            cpu: Some(cpu),
            wait: Wait::Auto,
            server_pid: Some(server.pid()),
            data: Some(folder.path().to_owned()),
            seed: u64::from(round) + 1,
        }
    }

    /// For an adapter.
    pub(super) fn job(
        &self,
        arguments: &SystemsArguments,
        fleet: &Fleet,
        system: System,
        folder: &Folder,
        cpu: usize,
        round: u32,
    ) -> Job {
        let peer = fleet.peer(system);
        Job {
            system: system.name().to_owned(),
            server: peer.address(),
            stream: self.stream.to_owned(),
            partitions: self.partitions,
            kept_bytes: self.kept_bytes,
            connections: self.connections,
            in_flight: self.in_flight,
            batch_records: self.batch_records,
            record_bytes: self.record_bytes,
            rate: self.rate,
            arrivals: Arrivals::Poisson,
            warmup: arguments.warmup,
            duration: arguments.duration,
            patience: PATIENCE,
            cpu: Some(cpu),
            server_pid: peer.pid(),
            data: Some(folder.path().to_owned()),
            durability: peer.standing().acknowledged.clone(),
            seed: u64::from(round) + 1,
            json: folder.path().join("report.json"),
        }
    }
}
