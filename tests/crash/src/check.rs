//! Chooses points of a recording and seeds, draws the image of each, starts a node from it and judges what it serves. Of a
//! long recording it samples: half of the images lie anywhere, half at the steps that are rare and matter most (everything but
//! the writes of the log and what is said over connections). Invariant: an image depends on the recording, its point and its
//! seed alone, never on how many are checked or on how many threads.

use crate::history::History;
use crate::image::{Directory, Files};
use crate::recording::{Recording, Step};
use sim::found::{Found, Verdict, judge};
use std::collections::BTreeMap;
use std::fmt;
use tiderace_base::disk::JournalFile;
use tiderace_base::prng::Prng;
use tiderace_io::recording::{Event, Operation};

/// A place in a recording and what decides the image there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Image {
    /// Power is lost when so many steps have happened.
    pub point: usize,
    /// Decides what is left.
    pub seed: u64,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.seed)
    }
}

/// How the node that was recorded was configured, as far as a start depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Memory of the node.
    pub memory_bytes: usize,
}

/// What came of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Images that were checked.
    pub images: u64,
    /// Different points among them.
    pub points: u64,
    /// Acknowledged batches, summed over all images.
    pub acknowledged: u64,
    /// Batches read back, summed over all images.
    pub delivered: u64,
    /// Power cuts in the middle of a start.
    pub starts_cut: u64,
    /// The first images that failed, in the order of the recording, and why.
    pub failures: Vec<(Image, String)>,
}

/// Failures that are kept.
const FAILURES_MAX: usize = 20;

/// A recording, ready to be checked.
#[derive(Debug)]
pub struct Check<'a> {
    recording: &'a Recording,
    /// What clients had been told.
    pub history: History,
    settings: Settings,
}

impl<'a> Check<'a> {
    /// Prepares the check of a recording.
    #[must_use]
    pub fn new(recording: &'a Recording, settings: Settings) -> Self {
        Self {
            recording,
            history: History::of(recording),
            settings,
        }
    }

    /// `count` images over the whole recording: at every point that matters at least one when there are twice as many.
    #[must_use]
    pub fn sample(&self, count: usize, seed: u64) -> Vec<Image> {
        let mut prng = Prng::new(seed);
        let steps = self.recording.steps.iter();
        let behind = |wanted: &dyn Fn(usize, &Step) -> bool| -> Vec<usize> {
            let steps = steps.clone().enumerate();
            let wanted = steps.filter(|(at, step)| wanted(*at, step));
            wanted.map(|(at, _)| at + 1).collect()
        };
        let all = behind(&|at, step| self.matters(at, step));
        let rare = behind(&|_, step| is_rare(step));
        let mut images = Vec::with_capacity(count);
        let rare_count = if rare.is_empty() { 0 } else { count / 2 };
        for (points, count) in [(&rare, rare_count), (&all, count - rare_count)] {
            for index in 0..count {
                // The point of this part of the recording: each part has one image, or each point has several.
                let from = index * points.len() / count;
                let to = ((index + 1) * points.len() / count).max(from + 1);
                let place = from + prng.below((to - from) as u64) as usize;
                images.push(Image {
                    point: points[place],
                    seed: prng.next_u64() >> 32,
                });
            }
        }
        images.sort_unstable();
        images.dedup();
        images
    }

    /// Whether a power cut behind this step differs from one before it.
    fn matters(&self, at: usize, step: &Step) -> bool {
        match step.event {
            Event::Opened { .. } | Event::Began { .. } | Event::Ended { .. } => true,
            Event::Sending { .. } => self.history.acknowledging.binary_search(&at).is_ok(),
            Event::Received { .. } => false,
        }
    }

    /// Checks images, on so many threads. `progress` hears of each one.
    ///
    /// # Panics
    /// When the recording contradicts itself, and when the images are not in the order of their points.
    #[must_use]
    pub fn run(&self, images: &[Image], threads: usize, progress: &(dyn Fn() + Sync)) -> Outcome {
        assert!(
            images.is_sorted_by_key(|image| image.point),
            "a recording is gone through once"
        );
        let threads = threads.max(1);
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|worker| {
                    let own: Vec<Image> = images
                        .iter()
                        .copied()
                        .skip(worker)
                        .step_by(threads)
                        .collect();
                    scope.spawn(move || self.run_some(&own, progress))
                })
                .collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined
                .map(|outcome| outcome.expect("a checker does not panic"))
                .collect()
        });
        let mut sum = Outcome::default();
        for outcome in outcomes {
            sum.images += outcome.images;
            sum.acknowledged += outcome.acknowledged;
            sum.delivered += outcome.delivered;
            sum.starts_cut += outcome.starts_cut;
            sum.failures.extend(outcome.failures);
        }
        let mut points: Vec<usize> = images.iter().map(|image| image.point).collect();
        points.dedup();
        sum.points = points.len() as u64;
        sum.failures.sort();
        sum.failures.truncate(FAILURES_MAX);
        sum
    }

    /// Checks images that are sorted by their points.
    fn run_some(&self, images: &[Image], progress: &(dyn Fn() + Sync)) -> Outcome {
        let mut outcome = Outcome::default();
        let mut disks = vec![Directory::default(); self.recording.shards + 1];
        let mut done = 0;
        for image in images {
            self.advance(&mut disks, &mut done, image.point);
            let verdict = self.judge(&disks, *image, None, false);
            outcome.images += 1;
            outcome.acknowledged += verdict.acknowledged;
            outcome.delivered += verdict.delivered;
            outcome.starts_cut += verdict.starts_cut;
            if let Some(violation) = verdict.violation
                && outcome.failures.len() < FAILURES_MAX
            {
                outcome.failures.push((*image, violation.to_string()));
            }
            progress();
        }
        outcome
    }

    fn advance(&self, disks: &mut [Directory], done: &mut usize, point: usize) {
        for step in &self.recording.steps[*done..point] {
            disks[step.journal].step(&step.event);
        }
        *done = point;
    }

    /// The directories of an image's journals, as a node would find them, with their names.
    #[must_use]
    pub fn directories(&self, image: Image) -> Vec<(String, Files)> {
        let mut disks = vec![Directory::default(); self.recording.shards + 1];
        self.advance(&mut disks, &mut 0, image.point);
        let mut prng = Prng::new(image.seed);
        let named = disks.iter().enumerate();
        named
            .map(|(number, disk)| (self.name(number), disk.draw(&mut prng, None)))
            .collect()
    }

    fn judge(
        &self,
        disks: &[Directory],
        image: Image,
        mut told: Option<&mut String>,
        prints: bool,
    ) -> Verdict {
        let mut prng = Prng::new(image.seed);
        let mut files = Vec::with_capacity(disks.len());
        for (number, disk) in disks.iter().enumerate() {
            if let Some(told) = &mut told {
                told.push_str(&format!("journal {}:\n", self.name(number)));
            }
            files.push(disk.draw(&mut prng, told.as_deref_mut()));
        }
        let control = files.pop().expect("control has a journal");
        let found = Found {
            shards: files,
            control,
            segment_bytes: self.settings.segment_bytes,
            memory_bytes: self.settings.memory_bytes,
            streams: self.history.streams(image.point),
            history: self.history.until(image.point),
            batch_bytes_max: self.history.batch_bytes_max,
        };
        judge(&found, prng.next_u64(), prints)
    }

    /// Checks one image again and says everything about it: the steps before it, what became of each change, and the verdict.
    /// `prints` puts the trace of the start on standard output.
    #[must_use]
    pub fn replay(&self, image: Image, prints: bool) -> (String, Verdict) {
        const STEPS_SHOWN: usize = 30;
        let mut told = String::from("the last steps before the power cut:\n");
        let first = image.point.saturating_sub(STEPS_SHOWN);
        for (number, step) in self.recording.steps[first..image.point].iter().enumerate() {
            let name = self.name(step.journal);
            told.push_str(&format!(
                "  {} {name} {}\n",
                first + number,
                describe(&step.event)
            ));
        }
        let mut disks = vec![Directory::default(); self.recording.shards + 1];
        self.advance(&mut disks, &mut 0, image.point);
        let verdict = self.judge(&disks, image, Some(&mut told), prints);
        (told, verdict)
    }

    fn name(&self, journal: usize) -> String {
        if journal == self.recording.shards {
            "control".to_owned()
        } else {
            format!("shard-{journal:04}")
        }
    }

    /// What the recording holds, in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for step in &self.recording.steps {
            *counts.entry(kind(&step.event)).or_default() += 1;
        }
        let parts: Vec<String> = counts
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let steps = self.recording.steps.len();
        format!("{steps} steps: {}", parts.join(", "))
    }
}

/// Everything but the log's own writes, their ends and what is said over connections.
fn is_rare(step: &Step) -> bool {
    match &step.event {
        Event::Began { operation, .. } => !matches!(
            operation,
            Operation::Write {
                file: JournalFile::Segment(_),
                ..
            } | Operation::Zero { .. }
        ),
        Event::Ended { .. } | Event::Received { .. } | Event::Sending { .. } => false,
        Event::Opened { .. } => true,
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Opened { .. } => "opened",
        Event::Began { operation, .. } => match operation {
            Operation::Write { durable: true, .. } => "durable writes",
            Operation::Write { durable: false, .. } => "writes",
            Operation::Zero { .. } => "zeroings",
            Operation::Sync { .. } => "syncs",
            Operation::SyncDirectory => "directory syncs",
            Operation::Create { .. } => "creations",
            Operation::Truncate { .. } => "truncations",
            Operation::Unlink { .. } => "removals",
        },
        Event::Ended { .. } => "ends",
        Event::Received { .. } => "receives",
        Event::Sending { .. } => "sends",
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Opened { name } => format!("opened {name}"),
        Event::Began { token, operation } => {
            let what = match operation {
                Operation::Write {
                    file,
                    at,
                    data,
                    durable,
                } => format!(
                    "write {file} at {at}, {} bytes, durable {durable}",
                    data.len()
                ),
                Operation::Zero { file, at, bytes } => {
                    format!("zero {file} at {at}, {bytes} bytes")
                }
                Operation::Sync { file } => format!("sync {file}"),
                Operation::SyncDirectory => "sync the directory".to_owned(),
                Operation::Create { file } => format!("create {file}"),
                Operation::Truncate { file, bytes } => format!("truncate {file} to {bytes}"),
                Operation::Unlink { file } => format!("remove {file}"),
            };
            format!("{token:x} begins: {what}")
        }
        Event::Ended { token, result } => format!("{token:x} ends: {result}"),
        Event::Received { connection, bytes } => {
            format!("receives {} bytes on {connection:x}", bytes.len())
        }
        Event::Sending { connection, bytes } => {
            format!("sends {} bytes on {connection:x}", bytes.len())
        }
    }
}
