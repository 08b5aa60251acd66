//! One run of an adapter, without its clock and its network: it says when each batch is meant to be sent, is told when that
//! happened and what came back, and makes the report. Each batch that may be in flight has a place; a place takes the next
//! due time of its connection when it is free. If that time has passed, the batch had to wait for the server, and what it
//! waited counts in its response. Invariant: a batch that was due is counted exactly once, whatever became of it.
//!
//! | a place | is told by | becomes |
//! |---|---|---|
//! | free | [`Run::take`] | due at the time that it got; or over, when nothing is due any more |
//! | due | [`Run::sent`] | out |
//! | out | [`Run::acked`], [`Run::refused`] | free |
//! | due or out | [`Run::finish`] | unfinished: it counts with the time that it has waited |

use super::Job;
use crate::environment::{Environment, Usage};
use crate::keys::{Keys, Spread};
use crate::load::{Phase, Tally, Times, readers};
use crate::output;
use crate::report::{Rates, Report, Server, Workload};
use crate::schedule::Schedule;
use std::collections::BTreeMap;
use std::path::Path;

/// Refusals after which going on says nothing more.
const REFUSALS_MAX: u64 = 100;
/// Reasons that are told apart.
const REASONS_MAX: usize = 8;
/// Of a reason.
const REASON_CHARS_MAX: usize = 200;
/// The first batch is due this long after the last connection opened.
const LEAD_NS: u64 = 5_000_000;

#[derive(Clone, Copy, Debug)]
struct Place {
    times: Times,
    /// It was free before its batch was due: if that is late, the generator is.
    ahead: bool,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    job: Job,
    environment: Environment,
    phase: Phase,
    tally: Tally,
    /// Of each connection, in an open loop.
    schedules: Vec<Schedule>,
    places: Vec<Option<Place>>,
    reasons: BTreeMap<String, u64>,
    begun_ns: u64,
    server_before: Option<Usage>,
    last_turn_ns: u64,
    last_turn_count: u64,
}

impl Run {
    /// Looks at the machine, before anything of it is used.
    ///
    /// # Errors
    /// What to change about the job.
    pub fn new(job: &Job) -> Result<Self, String> {
        job.check()?;
        Ok(Self {
            environment: Environment::read(job.data.as_deref()),
            phase: Phase::Opening,
            tally: Tally::new(0),
            schedules: Vec::new(),
            places: vec![None; job.places()],
            reasons: BTreeMap::new(),
            begun_ns: 0,
            server_before: job.server_pid.and_then(Usage::of),
            last_turn_ns: 0,
            last_turn_count: 0,
            job: job.clone(),
        })
    }

    /// Every connection is open: the clock starts.
    pub fn begin(&mut self, now_ns: u64) {
        let start_ns = now_ns + LEAD_NS;
        let measured_ns = start_ns + self.job.warmup.as_nanos() as u64;
        self.begun_ns = now_ns;
        self.phase = Phase::Running {
            start_ns,
            measured_ns,
            end_ns: measured_ns + self.job.duration.as_nanos() as u64,
            wall_offset_us: 0,
        };
        if let Some(rate) = self.job.rate {
            let (arrivals, count) = (self.job.arrivals, self.job.connections);
            self.schedules = (0..count)
                .map(|index| Schedule::new(arrivals, rate, start_ns, index, count, self.job.seed))
                .collect();
        }
    }

    /// When nothing is due any more. Zero before [`Run::begin`].
    #[must_use]
    pub const fn end_ns(&self) -> u64 {
        match self.phase {
            Phase::Running { end_ns, .. } => end_ns,
            Phase::Opening => 0,
        }
    }

    /// Whether it ended early.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.tally.failed.is_some()
    }

    /// A free place asks when its next batch is meant to be sent: now or earlier in a run that is behind, later in an open
    /// loop that is not. `None`: nothing is due any more.
    ///
    /// # Panics
    /// When the place is not free.
    pub fn take(&mut self, place: usize, now_ns: u64) -> Option<u64> {
        assert!(self.places[place].is_none(), "the place is free");
        self.tally.clock(now_ns, self.phase);
        let Phase::Running {
            start_ns, end_ns, ..
        } = self.phase
        else {
            return None;
        };
        if self.has_failed() {
            return None;
        }
        let connection = place / self.job.in_flight;
        let intended_ns = match self.schedules.get_mut(connection) {
            Some(schedule) => {
                let at_ns = schedule.next_ns();
                if at_ns < end_ns {
                    schedule.advance();
                }
                at_ns
            }
            // Room is made by an answer, which is now.
            None => now_ns.max(start_ns),
        };
        if intended_ns >= end_ns {
            return None;
        }
        self.places[place] = Some(Place {
            times: Times {
                intended_ns,
                sent_ns: None,
            },
            ahead: self.schedules.is_empty() || intended_ns > now_ns,
        });
        Some(intended_ns)
    }

    /// The batch of a place is handed to the client now.
    ///
    /// # Panics
    /// When nothing is due at the place.
    pub fn sent(&mut self, place: usize, now_ns: u64) {
        let due = self.places[place].as_mut().expect("something is due");
        due.times.sent_ns = Some(now_ns);
        self.tally.sent += 1;
        if due.ahead {
            let (intended_ns, phase) = (due.times.intended_ns, self.phase);
            let lag_ns = now_ns.saturating_sub(intended_ns);
            self.tally.lag(intended_ns, lag_ns, phase);
        }
    }

    /// The server has acknowledged all of the batch of a place.
    ///
    /// # Panics
    /// When nothing is out at the place.
    pub fn acked(&mut self, place: usize, now_ns: u64) {
        let out = self.places[place].take().expect("something is out");
        assert!(out.times.sent_ns.is_some(), "it was sent");
        self.tally.clock(now_ns, self.phase);
        self.tally.acked(out.times, now_ns, self.phase);
    }

    /// The batch of a place, or a part of it, was refused or lost, for this reason. A run with any such batch has failed; one
    /// with many ends early.
    ///
    /// # Panics
    /// When nothing is out at the place.
    pub fn refused(&mut self, place: usize, reason: &str) {
        let out = self.places[place].take().expect("something is out");
        assert!(out.times.sent_ns.is_some(), "it was sent");
        self.tally.refused_count += 1;
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let known = self.reasons.contains_key(&reason) || self.reasons.len() < REASONS_MAX;
        let reason = if known { reason } else { "other".to_owned() };
        *self.reasons.entry(reason).or_default() += 1;
        if self.tally.refused_count >= REFUSALS_MAX {
            self.fail("too many batches were refused");
        }
    }

    /// The run ends early, for this reason.
    pub fn fail(&mut self, why: &str) {
        self.tally.failed.get_or_insert(why.to_owned());
    }

    /// A thread that spins says that it came round: what lies between two turns counts as the generator's work if a batch
    /// was sent or answered in it.
    pub fn turn(&mut self, now_ns: u64) {
        let count = self.tally.sent + self.tally.acked + self.tally.refused_count;
        if count != std::mem::replace(&mut self.last_turn_count, count) {
            self.tally.busy(self.last_turn_ns, now_ns, self.phase);
        }
        self.last_turn_ns = now_ns;
        self.tally.clock(now_ns, self.phase);
    }

    /// The end: what is out, and what was due and never sent, counts with the time that it has waited.
    #[must_use]
    pub fn finish(mut self, now_ns: u64) -> Finished {
        self.tally.clock(now_ns, self.phase);
        let until_ns = self.end_ns().min(now_ns);
        for place in self.places.iter_mut().filter_map(Option::take) {
            if place.times.intended_ns < until_ns {
                self.tally.unfinished(place.times, now_ns, self.phase);
            }
        }
        for schedule in &mut self.schedules {
            while schedule.next_ns() < until_ns {
                let times = Times {
                    intended_ns: schedule.next_ns(),
                    sent_ns: None,
                };
                self.tally.unfinished(times, now_ns, self.phase);
                schedule.advance();
            }
        }
        Finished(Box::new(self.report(now_ns)))
    }

    fn report(self, now_ns: u64) -> Report {
        let Self {
            job,
            tally,
            environment,
            ..
        } = self;
        let (seconds, bytes) = (job.duration.as_secs_f64(), job.batch_bytes());
        let elapsed_s = now_ns.saturating_sub(self.begun_ns) as f64 / 1e9;
        let total_bytes = tally.acked * bytes as u64;
        let server = self
            .server_before
            .zip(job.server_pid.and_then(Usage::of))
            .map(|(before, after)| {
                let cpu_s = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9;
                Server {
                    cpu_s,
                    cores: cpu_s / elapsed_s,
                    cpu_s_per_gb: (total_bytes > 0).then(|| cpu_s * 1e9 / total_bytes as f64),
                    peak_rss_mib: after.peak_rss_kib as f64 / 1024.0,
                }
            });
        let spinning = job.rate.is_some();
        let mut report = Report::new(
            if spinning { "open loop" } else { "saturation" },
            Workload {
                profile: None,
                stream: job.stream,
                streams: 1,
                stream_spread: Spread::Even,
                stream_theta: None,
                partitions: job.partitions,
                keys: Keys::Unkeyed,
                key_count: None,
                key_theta: None,
                durability: job.durability,
                tls: false,
                connections: job.connections,
                in_flight: job.in_flight,
                batch_records: job.batch_records,
                record_bytes: job.record_bytes,
                batch_bytes: bytes,
                idempotent: false,
                fan_out: 0,
                arrivals: job.rate.map(|_| job.arrivals),
                warmup_s: job.warmup.as_secs_f64(),
                duration_s: seconds,
                spinning,
                cpu: job.cpu,
                seed: job.seed,
            },
            environment,
            Rates::new(job.rate, &tally, seconds, job.batch_records, bytes),
            &tally,
            readers::Report::default(),
            server,
            spinning,
            job.duration.as_nanos() as u64,
        );
        report.failed |= tally.refused_count > 0;
        for (reason, count) in &self.reasons {
            report.warnings.push(format!("refused {count}: {reason}"));
        }
        report.batches.refused = self.reasons;
        report
    }
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished(Box<Report>);

impl Finished {
    /// Whether it ended early, or anything was refused or lost.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.failed
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.text()
    }

    /// Writes the report as JSON, as `loadgen run --json` does; `-` is standard output.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        output::json(path, &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::tests::job;
    use super::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;
    const NOW: u64 = 1_000 * MS;

    /// One connection with two places, a batch each millisecond for 100 ms, nothing to warm up.
    fn open_loop() -> Run {
        let mut run = Run::new(&Job {
            connections: 1,
            in_flight: 2,
            rate: Some(1000.0),
            warmup: Duration::ZERO,
            duration: Duration::from_millis(100),
            ..job()
        })
        .expect("it can be carried out");
        run.begin(NOW);
        run
    }

    #[test]
    fn a_stall_shows_in_every_batch_that_was_due_meanwhile() {
        let mut run = open_loop();
        let start = NOW + LEAD_NS;
        // Both places get a time before it comes; the server then takes 50 ms for each.
        assert_eq!(run.take(0, NOW), Some(start));
        assert_eq!(run.take(1, NOW), Some(start + MS));
        run.sent(0, start);
        run.sent(1, start + MS);
        run.acked(0, start + 50 * MS);
        run.acked(1, start + 50 * MS);
        // What was due meanwhile has its own time, not that at which there was room.
        let mut due = Vec::new();
        let now = start + 50 * MS;
        while let Some(intended) = run.take(0, now).filter(|intended| *intended <= now) {
            run.sent(0, now);
            run.acked(0, now);
            due.push(intended);
        }
        assert_eq!(due.first(), Some(&(start + 2 * MS)));
        assert_eq!(due.len(), 49);
        let report = run.finish(now).0;
        assert_eq!(report.response_ns.count, 51);
        let max = report.response_ns.max.expect("samples");
        assert!(max.abs_diff(50 * MS) < MS, "{max}");
        // Only what had not to wait for the server says how late the generator was.
        assert_eq!(report.schedule_lag_ns.count, 2);
    }

    #[test]
    fn what_was_due_and_never_came_back_counts_with_what_it_waited() {
        let mut run = open_loop();
        let start = NOW + LEAD_NS;
        run.take(0, NOW);
        run.sent(0, start);
        run.take(1, NOW);
        let report = run.finish(start + 200 * MS).0;
        assert_eq!(report.batches.unfinished, 100);
        assert_eq!(report.response_ns.count, 100);
        assert!(report.response_ns.max >= Some(199 * MS));
        assert!(report.rates.missed);
        assert!(!report.failed, "a rate that is missed is a result");
    }

    #[test]
    fn a_run_that_ends_early_does_not_count_what_was_not_due_yet() {
        let mut run = open_loop();
        run.take(0, NOW);
        run.fail("the connection broke");
        assert_eq!(run.take(1, NOW), None);
        let report = run.finish(NOW + LEAD_NS + 10 * MS).0;
        assert!(report.failed);
        assert_eq!(report.batches.unfinished, 10);
    }

    #[test]
    fn a_refused_batch_fails_the_run_and_has_its_reason() {
        let mut run = Run::new(&job()).expect("it can be carried out");
        run.begin(NOW);
        let mut now = NOW + LEAD_NS;
        for _ in 0..3 {
            run.take(0, now);
            run.sent(0, now);
            run.acked(0, now + MS);
            now += MS;
        }
        run.take(5, now);
        run.sent(5, now);
        run.refused(5, "the stream is full");
        assert!(!run.has_failed(), "one does not end it");
        let finished = run.finish(now);
        assert!(finished.has_failed());
        assert_eq!(
            finished.0.batches.refused.get("the stream is full"),
            Some(&1)
        );
        assert!(finished.text().contains("the stream is full"));
    }

    #[test]
    fn a_server_that_refuses_everything_ends_the_run() {
        let mut run = Run::new(&job()).expect("it can be carried out");
        run.begin(NOW);
        let mut count = 0;
        while run.take(0, NOW).is_some() {
            run.sent(0, NOW + LEAD_NS);
            count += 1;
            run.refused(0, &format!("reason {count}"));
        }
        assert_eq!(count, REFUSALS_MAX);
        let report = run.finish(NOW + LEAD_NS).0;
        assert_eq!(report.batches.refused.len(), REASONS_MAX + 1);
        assert_eq!(report.batches.refused.values().sum::<u64>(), REFUSALS_MAX);
    }

    #[test]
    fn saturation_counts_from_the_answer_that_made_room() {
        let mut run = Run::new(&Job {
            warmup: Duration::ZERO,
            ..job()
        })
        .expect("it can be carried out");
        run.begin(NOW);
        let start = NOW + LEAD_NS;
        assert_eq!(run.take(0, NOW), Some(start));
        run.sent(0, start);
        run.acked(0, start + 3 * MS);
        assert_eq!(run.take(0, start + 3 * MS), Some(start + 3 * MS));
        let end = run.end_ns();
        run.sent(0, start + 3 * MS);
        run.acked(0, end);
        assert_eq!(run.take(0, end), None);
        let report = run.finish(end).0;
        assert_eq!((report.batches.acked, report.batches.unfinished), (2, 0));
        // The second came after the measured part.
        assert!((report.rates.records_per_s - 4.0).abs() < 1e-9);
    }
}
