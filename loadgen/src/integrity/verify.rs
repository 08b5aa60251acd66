//! The check that comes later: reads the stream from its beginning and compares it with a ledger that an earlier run
//! wrote, for example after the last of many kills.

use super::Report;
use super::ledger;
use super::reader::Reader;
use super::ring::Ring;
use crate::cli::IntegrityArguments;
use crate::progress::{Line, Progress};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tiderace_base::operation::{Effect, Effects, Event, Machine};
use tiderace_base::time::{Mono, Now};
use tiderace_client::core::engine;
use tiderace_io::Outcome;

/// At the visible end of every partition, more is waited for so long before what lacks counts as lost.
const IDLE_NS: u64 = 1_000_000_000;
const STEP_NS: u64 = 100_000_000;

struct Verifying {
    ring: Ring,
    path: String,
    runs: BTreeSet<u64>,
    reader: Reader,
    begun: bool,
    progress_ns: u64,
    deadline_ns: u64,
    incomplete: Option<String>,
    told: VecDeque<engine::Event>,
    progress: Arc<Progress>,
}

/// Carries it out.
pub(super) fn run(arguments: &IntegrityArguments, path: &Path) -> Result<Report, String> {
    let ranges = ledger::read(path)?;
    let mut reader = Reader::default();
    let mut runs = BTreeSet::new();
    for range in ranges {
        runs.insert(range.lane.run);
        reader.ledger.acked(range);
    }
    let (ring, mut driver) = Ring::new(
        arguments.target.server,
        arguments.target.connector()?,
        arguments.cpu,
    )?;
    let progress = Arc::new(Progress::default());
    let mut machine = Verifying {
        ring,
        path: arguments.target.stream.clone(),
        runs,
        reader,
        begun: false,
        progress_ns: 0,
        deadline_ns: arguments.deadline.as_nanos() as u64,
        incomplete: None,
        told: VecDeque::new(),
        progress: Arc::clone(&progress),
    };
    let begun = Instant::now();
    let line = Line::draw(&progress, "records");
    let outcome = driver.run(&mut machine);
    drop(line);
    match outcome {
        Outcome::Stopped => {}
        Outcome::Fatal(fatal) => return Err(fatal.to_string()),
        Outcome::NotStarted(error) => return Err(error.to_string()),
    }
    let mut report = Report {
        sent: 0,
        acked: 0,
        delivered: 0,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        misplaced: 0,
        damaged: machine.reader.damaged,
        unknown: 0,
        reconnects: machine.ring.lost,
        elapsed_s: begun.elapsed().as_secs_f64(),
        incomplete: machine.incomplete.or(machine.reader.failed),
        violations: machine.reader.violations,
    };
    report.verdict(machine.reader.ledger.verdict());
    if report.incomplete.is_some() {
        // Not everything was read: what lacks may be there.
        report.unknown = std::mem::take(&mut report.lost);
    }
    Ok(report)
}

impl Machine for Verifying {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Stop => self.incomplete = Some("stopped".to_owned()),
            other => self.ring.step(now, other, effects),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        let now_ns = now.mono.as_ns();
        if !std::mem::replace(&mut self.begun, true) {
            self.progress_ns = now_ns;
            self.reader
                .begin(now, &mut self.ring.engine, &self.path.clone());
        }
        let mut told = std::mem::take(&mut self.told);
        loop {
            self.ring.turn(now, effects, &mut told);
            if told.is_empty() {
                break;
            }
            while let Some(event) = told.pop_front() {
                if matches!(event, engine::Event::Ready { .. }) {
                    let runs = &self.runs;
                    if self
                        .reader
                        .take(now, &mut self.ring.engine, |run| runs.contains(&run), None)
                    {
                        self.progress_ns = now_ns;
                    }
                }
            }
        }
        self.told = told;
        let verdict = self.reader.ledger.verdict();
        self.progress
            .update(verdict.delivered, verdict.acked, verdict.acked);
        let idle_ns = now_ns - self.progress_ns;
        let read = self.reader.at_end(&self.ring.engine) && idle_ns > IDLE_NS;
        if !read && idle_ns > self.deadline_ns {
            self.incomplete = Some("the stream could not be read to its end".to_owned());
        }
        if read || self.incomplete.is_some() || self.reader.failed.is_some() {
            effects.push(Effect::Stopped);
            return;
        }
        self.ring.finish(Mono::from_ns(now_ns + STEP_NS), effects);
    }
}
