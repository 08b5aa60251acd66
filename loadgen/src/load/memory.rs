//! How memory drifts in a long run: a thread of its own reads the server's resident memory and ours at the end of every
//! interval. The drift is the slope of a straight line through the samples, so that one peak is not taken for a leak.

use crate::environment::Usage;
use crate::progress::Progress;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the thread looks whether a sample is due.
const LOOK: Duration = Duration::from_millis(20);
/// Samples that a slope needs.
const SAMPLES_MIN: usize = 3;

/// Memory at one time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since the measured part began.
    pub(crate) at_s: f64,
    /// Resident, in MiB; `None`: the process is not known or gone.
    pub(crate) server_mib: Option<f64>,
    /// The generator's own.
    pub(crate) generator_mib: Option<f64>,
}

/// How a process's memory moved.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Drift {
    /// At the first sample, in MiB.
    pub(crate) first_mib: f64,
    /// At the last.
    pub(crate) last_mib: f64,
    /// The most of all samples.
    pub(crate) most_mib: f64,
    /// The slope of a straight line through all of them, in MiB an hour; `None` of fewer than three.
    pub(crate) mib_per_hour: Option<f64>,
}

impl Drift {
    /// Of samples at their times, in seconds. `None` of nothing.
    pub(crate) fn of(samples: &[(f64, f64)]) -> Option<Self> {
        let (first, last) = (samples.first()?.1, samples.last()?.1);
        let count = samples.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
        let (at, mib) = (mean(|sample| sample.0), mean(|sample| sample.1));
        let spread: f64 = samples.iter().map(|sample| (sample.0 - at).powi(2)).sum();
        let both: f64 = samples
            .iter()
            .map(|sample| (sample.0 - at) * (sample.1 - mib))
            .sum();
        Some(Self {
            first_mib: first,
            last_mib: last,
            most_mib: samples.iter().map(|sample| sample.1).fold(first, f64::max),
            mib_per_hour: (samples.len() >= SAMPLES_MIN && spread > 0.0)
                .then(|| both / spread * 3600.0),
        })
    }
}

/// The thread that samples.
#[derive(Debug)]
pub(super) struct Sampler {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Samples when the measured part begins, at the end of every interval, and when the run is over.
    pub(super) fn begin(interval: Duration, server: Option<u32>, progress: &Arc<Progress>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let progress = Arc::clone(progress);
        let thread = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || samples(interval, server, &progress, &over))
        };
        Self { over, thread }
    }

    /// All samples.
    pub(super) fn end(self) -> Vec<Sample> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn samples(
    interval: Duration,
    server: Option<u32>,
    progress: &Progress,
    over: &AtomicBool,
) -> Vec<Sample> {
    let mib = |pid| Usage::of(pid).map(|usage| usage.rss_kib as f64 / 1024.0);
    let sample = |begun: Instant| Sample {
        at_s: begun.elapsed().as_secs_f64(),
        server_mib: server.and_then(mib),
        generator_mib: mib(std::process::id()),
    };
    let mut all = Vec::new();
    let mut begun: Option<Instant> = None;
    while !over.load(Ordering::Relaxed) {
        if begun.is_none() && progress.measures() {
            begun = Some(Instant::now());
        }
        if let Some(begun) = begun
            && begun.elapsed() >= interval * all.len() as u32
        {
            all.push(sample(begun));
        }
        std::thread::sleep(LOOK);
    }
    // The end of the last interval.
    all.extend(begun.map(sample));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_has_a_slope_and_a_peak_has_not() {
        let leak: Vec<(f64, f64)> = (0..100)
            .map(|at| (f64::from(at), 50.0 + f64::from(at)))
            .collect();
        let drift = Drift::of(&leak).expect("samples");
        assert!((drift.mib_per_hour.expect("enough") - 3600.0).abs() < 1e-6);
        assert!((drift.most_mib - 149.0).abs() < 1e-9);
        let peak: Vec<(f64, f64)> = (-50..=50)
            .map(|at| (f64::from(at), if at == 0 { 500.0 } else { 50.0 }))
            .collect();
        let drift = Drift::of(&peak).expect("samples");
        assert!(drift.mib_per_hour.expect("enough").abs() < 1e-6);
        assert!((drift.most_mib - 500.0).abs() < 1e-9);
        assert_eq!(Drift::of(&[]), None);
        let two = Drift::of(&leak[..2]).expect("samples");
        assert_eq!(two.mib_per_hour, None);
    }
}
