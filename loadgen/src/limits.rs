//! What the machine allows, measured in the same run as what it is compared with: how fast memory is copied, how long one
//! bare durable write takes, and what the floor, a server that only receives, writes and acknowledges, does under the same
//! batches. One pair without turns: a ratio here says where a run stands; `floor-compare` says how far apart two servers are.

use crate::compare::calibrate::{self, Calibration};
use crate::compare::server::{self, Folder, Kind, Server};
use crate::compare::{Sample, line};
use crate::environment;
use crate::keys::{Choice, Keys, Spread};
use crate::load::{Mode, Plan, execute, readers};
use crate::setup::Wanted;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiderace_base::catalogue::Durability;

/// The measured part of a run on the floor, at most.
const DURATION_MAX: Duration = Duration::from_secs(4);
const WARMUP_MAX: Duration = Duration::from_secs(1);
/// Partitions on the floor, at most: it keeps one number for each.
const PARTITIONS_MAX: u64 = 1024;

/// Where the floor is and where it may write.
#[derive(Clone, Debug)]
pub(crate) struct Measurer {
    program: PathBuf,
    dir: PathBuf,
    cpu: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Limits {
    pub(crate) calibration: Calibration,
    /// Where the floor wrote.
    pub(crate) file_system: Option<String>,
    /// The floor under the same batches and connections, saturated.
    pub(crate) floor_saturated: Sample,
    /// The floor at the same rate, in an open loop.
    pub(crate) floor_at_rate: Option<Sample>,
    /// The measured rate over that of the saturated floor.
    pub(crate) rate_ratio: Option<f64>,
    /// The measured median response over that of the floor in the same mode.
    pub(crate) p50_ratio: Option<f64>,
    /// The same at the 99th percentile.
    pub(crate) p99_ratio: Option<f64>,
    pub(crate) warnings: Vec<String>,
}

impl Measurer {
    /// Checks that the program is there, before anything is measured.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn new(program: &Path, dir: &Path, cpu: Option<usize>) -> Result<Self, String> {
        Ok(Self {
            program: server::program(Some(program), "floor")?,
            dir: dir.to_owned(),
            cpu,
        })
    }

    /// Measures what the plan would have had on the floor, and compares `measured` with it.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn measure(&self, plan: &Plan, measured: &Sample) -> Result<Limits, String> {
        let folder = Folder::make(&self.dir, "loadgen-floor")?;
        let calibration = calibrate::measure(folder.path(), plan.cpu)?;
        let floor = Server::start(Kind::Floor, &self.program, &folder, self.cpu)?;
        let run = |mode| -> Result<Sample, String> {
            let report = execute(&on_the_floor(plan, mode, &floor, folder.path()))?.report;
            if report.failed {
                return Err(report.warnings.join("; "));
            }
            Ok(Sample::of(&report))
        };
        let floor_saturated = run(Mode::Saturation)?;
        let floor_at_rate = match plan.mode {
            Mode::Open { .. } => Some(run(plan.mode)?),
            Mode::Saturation => None,
        };
        let file_system = environment::file_system(folder.path());
        let mut warnings = Vec::new();
        if let Some(data) = &plan.data
            && environment::file_system(data) != file_system
        {
            warnings.push(
                "the floor wrote to another file system than the server: name one with --floor-dir"
                    .to_owned(),
            );
        }
        let same = floor_at_rate.as_ref().unwrap_or(&floor_saturated);
        let ratio = |over: Option<u64>, under: Option<u64>| {
            over.zip(under)
                .map(|(over, under)| over as f64 / under as f64)
        };
        Ok(Limits {
            rate_ratio: (floor_saturated.batches_per_s > 0.0)
                .then(|| measured.batches_per_s / floor_saturated.batches_per_s),
            p50_ratio: ratio(measured.p50_ns, same.p50_ns),
            p99_ratio: ratio(measured.p99_ns, same.p99_ns),
            calibration,
            file_system,
            floor_saturated,
            floor_at_rate,
            warnings,
        })
    }
}

/// The same batches over the same connections to one stream of the floor's; nobody listens, because it delivers nothing.
fn on_the_floor(plan: &Plan, mode: Mode, floor: &Server, folder: &Path) -> Plan {
    let partitions = plan.wanted.streams * u64::from(plan.wanted.partitions);
    Plan {
        profile: None,
        server: floor.address(),
        wanted: Wanted {
            path: "loadgen/floor".into(),
            streams: 1,
            partitions: partitions.min(PARTITIONS_MAX) as u32,
            durability: Some(Durability::Local),
            retention_bytes: 0,
        },
        choice: Choice {
            keys: if plan.shape.keyed {
                Keys::Even
            } else {
                Keys::Unkeyed
            },
            key_count: 1,
            key_theta: 0.0,
            spread: Spread::Even,
            stream_theta: 0.0,
        },
        mode,
        fan_out: 0,
        readers: readers::Wanted::default(),
        verifies: false,
        interval: None,
        warmup: plan.warmup.min(WARMUP_MAX),
        duration: plan.duration.min(DURATION_MAX),
        server_pid: Some(floor.pid()),
        data: Some(folder.to_owned()),
        ..plan.clone()
    }
}

impl Limits {
    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("limits       {}", self.calibration.line()),
            format!("floor        saturated {}", line(&self.floor_saturated)),
        ];
        if let Some(sample) = &self.floor_at_rate {
            lines.push(format!("floor        same rate {}", line(sample)));
        }
        let show = |ratio: Option<f64>| {
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        lines.push(format!(
            "over floor   {} of its saturated rate; response p50 x {}, p99 x {} (one pair: no interval)",
            show(self.rate_ratio),
            show(self.p50_ratio),
            show(self.p99_ratio)
        ));
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("WARNING      {warning}")),
        );
        lines
    }
}
