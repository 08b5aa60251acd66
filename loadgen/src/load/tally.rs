//! What a run has counted. A batch belongs to the measured part when it was *meant* to be sent in it; throughput counts
//! what was acknowledged in it. Batches that were never answered enter the distribution with the time that they had
//! waited when the run gave up on them: they are at least that late, and leaving them out would flatter the server.

use super::intervals::Intervals;
use super::link::Times;
use crate::latency::Latency;
use std::collections::BTreeMap;
use tiderace_wire::error::ErrorCode;

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Sessions are being opened.
    Opening,
    /// Batches are sent, or what was due is waited for.
    Running {
        /// The first batch may be sent.
        start_ns: u64,
        /// The warm-up is over.
        measured_ns: u64,
        /// No batch is due any more.
        end_ns: u64,
        /// From the monotonic clock to the wall clock, in microseconds.
        wall_offset_us: i64,
    },
}

impl Phase {
    /// How far into the measured part a time lies, if it does.
    #[must_use]
    pub(crate) const fn since_measured(&self, at_ns: u64) -> Option<u64> {
        match self {
            Self::Running { measured_ns, .. } if self.measures(at_ns) => Some(at_ns - *measured_ns),
            Self::Running { .. } | Self::Opening => None,
        }
    }

    /// Whether a time lies in the measured part.
    #[must_use]
    pub(crate) const fn measures(&self, at_ns: u64) -> bool {
        match self {
            Self::Opening => false,
            Self::Running {
                measured_ns,
                end_ns,
                ..
            } => at_ns >= *measured_ns && at_ns < *end_ns,
        }
    }
}

/// The counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// From the intended time to the acknowledgement.
    pub(crate) response: Latency,
    /// From the time of sending to the acknowledgement.
    pub(crate) service: Latency,
    /// From the intended time to the time of sending, of batches that only the generator can have made late.
    pub(crate) lag: Latency,
    /// From the intended time to the arrival at the subscriber.
    pub(crate) delivery: Latency,
    /// Batches sent.
    pub(crate) sent: u64,
    /// Batches acknowledged.
    pub(crate) acked: u64,
    /// Batches acknowledged in the measured part.
    pub(crate) acked_measured: u64,
    /// Batches that were meant to be sent in the measured part and have an outcome.
    pub(crate) measured: u64,
    /// Batches of the measured part that were never acknowledged.
    pub(crate) unfinished: u64,
    /// Batches that the subscribers got, each of them counted.
    pub(crate) delivered: u64,
    /// Offsets that the subscribers did not get in order.
    pub(crate) delivered_out_of_order: u64,
    /// Subscribers of each partition.
    pub(crate) fan_out: u64,
    /// Batches refused.
    pub(crate) refused_count: u64,
    /// The same by reason.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// The measured part piece by piece, if that was asked for.
    pub(crate) intervals: Option<Intervals>,
    /// Delivered batches whose numbers show that some before them, of the same producer and partition, are missing: how
    /// many are.
    pub(crate) missing: u64,
    /// Delivered batches that came after a later one of the same producer and partition: again, or too late.
    pub(crate) behind: u64,
    /// Delivered batches that are not what was sent.
    pub(crate) damaged: u64,
    /// Time of the measured part in which the thread did something.
    pub(crate) busy_ns: u64,
    /// Processor time of the thread at the beginning and at the end of the measured part.
    pub(crate) cpu_ns: [Option<u64>; 2],
    /// Why the run ended early.
    pub(crate) failed: Option<String>,
    /// How many of the two were read.
    pub(crate) marks: usize,
}

impl Tally {
    /// Nothing counted yet, of a run with so many subscribers of each partition.
    pub(crate) fn new(fan_out: u64) -> Self {
        Self {
            fan_out,
            ..Self::default()
        }
    }

    pub(crate) fn acked(&mut self, times: Times, now_ns: u64, phase: Phase) {
        self.acked += 1;
        if let Some(into_ns) = phase.since_measured(now_ns) {
            self.acked_measured += 1;
            if let Some(intervals) = &mut self.intervals {
                intervals.acked(into_ns);
            }
        }
        self.respond(times, now_ns, phase);
    }

    fn respond(&mut self, times: Times, now_ns: u64, phase: Phase) {
        let Some(into_ns) = phase.since_measured(times.intended_ns) else {
            return;
        };
        self.measured += 1;
        let response_ns = now_ns - times.intended_ns;
        self.response.record(response_ns);
        if let Some(intervals) = &mut self.intervals {
            intervals.responded(into_ns, response_ns);
        }
        self.serve(times, now_ns);
    }

    fn serve(&mut self, times: Times, now_ns: u64) {
        if let Some(sent_ns) = times.sent_ns {
            self.service.record(now_ns.saturating_sub(sent_ns));
        }
    }

    pub(crate) fn unfinished(&mut self, times: Times, now_ns: u64, phase: Phase) {
        if phase.measures(times.intended_ns) {
            self.unfinished += 1;
        }
        self.respond(times, now_ns, phase);
    }

    pub(crate) fn lag(&mut self, intended_ns: u64, lag_ns: u64, phase: Phase) {
        if phase.measures(intended_ns) {
            self.lag.record(lag_ns);
        }
    }

    pub(super) fn refused(&mut self, code: ErrorCode) {
        self.refused_count += 1;
        *self.refused.entry(code.code()).or_default() += 1;
    }

    /// Whether the subscribers have what was acknowledged.
    #[must_use]
    pub(crate) fn delivered_all(&self) -> bool {
        self.delivered >= self.acked * self.fan_out
    }

    pub(crate) fn busy(&mut self, from_ns: u64, to_ns: u64, phase: Phase) {
        if phase.measures(from_ns) {
            self.busy_ns += to_ns - from_ns;
        }
    }

    /// Reads the thread's processor time when the measured part begins and when it ends.
    pub(crate) fn clock(&mut self, now_ns: u64, phase: Phase) {
        let Phase::Running {
            measured_ns,
            end_ns,
            ..
        } = phase
        else {
            return;
        };
        if self.marks < 2 && now_ns >= [measured_ns, end_ns][self.marks] {
            self.cpu_ns[self.marks] = crate::environment::thread_cpu_ns();
            self.marks += 1;
        }
    }
}
