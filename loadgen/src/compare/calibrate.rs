//! What the machine can do right now, measured beside every round: how fast memory is copied, and how long one bare
//! durable write of 4 KiB takes on the same disk, through the same driver that the servers use.

use crate::latency::Latency;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use tiderace_base::disk::JournalFile;
use tiderace_base::limits::{BLOCK_BYTES, MIB};
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine, OpIds};
use tiderace_base::region::aligned_zeroed;
use tiderace_base::time::Now;
use tiderace_io::{Clock, Driver, DriverConfig, JournalDirectory, Outcome};

const COPY_BYTES: usize = 16 * MIB;
const COPY_FOR: Duration = Duration::from_millis(200);
const FILE_BYTES: u64 = 8 * MIB as u64;
const WRITES: u64 = 4000;
const FILE: JournalFile = JournalFile::Segment(0);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Calibration {
    /// Copying 16 MiB, in 10^9 bytes a second.
    pub(crate) memcpy_gb_per_s: f64,
    /// One durable write of 4 KiB at a time, overwriting: the median, in nanoseconds.
    pub(crate) write_4k_p50_ns: Option<u64>,
    /// The same at the 99th percentile.
    pub(crate) write_4k_p99_ns: Option<u64>,
    /// Whether the writes bypassed the page cache, as the servers' do.
    pub(crate) direct_io: bool,
}

impl Calibration {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let us = |ns: Option<u64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1000.0);
        format!(
            "calibration: memcpy {:.1} GB/s; 4 KiB durable write p50 {:.1} us, p99 {:.1} us{}",
            self.memcpy_gb_per_s,
            us(self.write_4k_p50_ns),
            us(self.write_4k_p99_ns),
            if self.direct_io {
                ""
            } else {
                " (THROUGH THE PAGE CACHE)"
            }
        )
    }
}

/// Measures, on one core, or on any.
pub(crate) fn measure(folder: &Path, cpu: Option<usize>) -> Result<Calibration, String> {
    let journal = JournalDirectory::open(&folder.join("calibration"), true)
        .map_err(|error| error.to_string())?;
    let direct_io = journal.direct_io();
    let mut driver = Driver::new(DriverConfig {
        journal: Some(journal),
        cpu,
        ..DriverConfig::default()
    })
    .map_err(|error| error.to_string())?;
    let thread = std::thread::spawn(move || {
        let mut writes = Writes::default();
        let outcome = driver.run(&mut writes);
        // The driver has pinned this thread, if it was asked to.
        (outcome, writes.latency.summary(), memcpy())
    });
    let (outcome, summary, memcpy_gb_per_s) = thread
        .join()
        .map_err(|_| "the calibration panicked".to_owned())?;
    match outcome {
        Outcome::Stopped => Ok(Calibration {
            memcpy_gb_per_s,
            write_4k_p50_ns: summary.p50,
            write_4k_p99_ns: summary.p99,
            direct_io,
        }),
        Outcome::Fatal(fatal) => Err(fatal.to_string()),
        Outcome::NotStarted(error) => Err(error.to_string()),
    }
}

fn memcpy() -> f64 {
    let from = vec![1_u8; COPY_BYTES];
    let mut to = vec![2_u8; COPY_BYTES];
    let begun = Instant::now();
    let mut copied = 0_u64;
    while begun.elapsed() < COPY_FOR {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        copied += COPY_BYTES as u64;
    }
    copied as f64 / begun.elapsed().as_nanos() as f64
}

/// One durable write at a time.
#[derive(Debug, Default)]
struct Writes {
    begun: bool,
    ops: OpIds,
    latency: Latency,
    sent_ns: u64,
    count: u64,
}

impl Writes {
    fn write(&mut self, effects: &mut Effects) {
        let at = self.count * BLOCK_BYTES as u64 % FILE_BYTES;
        self.sent_ns = Clock::mono().as_ns();
        effects.push(Effect::Write {
            op: self.ops.allocate(),
            file: FILE,
            at,
            data: aligned_zeroed(BLOCK_BYTES).freeze(),
            durable: true,
        });
    }
}

impl Machine for Writes {
    fn step(&mut self, _now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Prepared { result: Ok(()), .. } => self.write(effects),
            Event::Written { result: Ok(()), .. } => {
                self.latency.record(Clock::mono().as_ns() - self.sent_ns);
                self.count += 1;
                if self.count < WRITES {
                    self.write(effects);
                } else {
                    effects.push(Effect::Stopped);
                }
            }
            Event::Prepared {
                result: Err(error), ..
            }
            | Event::Written {
                result: Err(error), ..
            } => effects.push(Effect::Fatal(Fatal::JournalWrite(error))),
            _ => {}
        }
    }

    fn finish_turn(&mut self, _now: Now, effects: &mut Effects) {
        if !std::mem::replace(&mut self.begun, true) {
            effects.push(Effect::Prepare {
                op: self.ops.allocate(),
                file: FILE,
                bytes: FILE_BYTES,
            });
        }
    }
}
