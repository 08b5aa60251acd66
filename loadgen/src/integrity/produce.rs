//! The run that produces: creates the stream, sends with exact retries, books acknowledgements and deliveries, and ends
//! when everything accepted has an outcome and everything acknowledged has been delivered, or when nothing at all has
//! happened for longer than the deadline.

use super::Report;
use super::history::HistoryFile;
use super::ledger::{Acked, LedgerFile};
use super::reader::Reader;
use super::record::{self, Lane, Name};
use super::ring::Ring;
use crate::cli::IntegrityArguments;
use crate::progress::{Line, Progress};
use crate::setup::Wanted;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tiderace_base::collections::Map;
use tiderace_base::ids::{PartitionIndex, ProducerId, TenantId};
use tiderace_base::operation::{Effect, Effects, Event, Machine};
use tiderace_base::time::{Mono, Now};
use tiderace_client::Record;
use tiderace_client::core::connection::Answer;
use tiderace_client::core::engine::{self, ProducerKey, Reply, Request};
use tiderace_client::core::producer::{PushError, Settings, Settled};
use tiderace_client::error::{RequestError, SendError};
use tiderace_io::{Outcome, entropy};
use tiderace_wire::error::Retry;

/// After everything is settled, what should not come is waited for so long.
const LINGER_NS: u64 = 300_000_000;
/// With a rate, records become due in steps of this.
const STEP_NS: u64 = 2_000_000;
/// Records accepted in one turn, so that a turn stays short.
const PER_TURN_MAX: u64 = 4096;

#[derive(Debug)]
struct Producer {
    key: ProducerKey,
    /// Next number, by partition.
    next: Vec<u64>,
    partition: u32,
    full: bool,
}

/// Records of one batch that has no outcome.
#[derive(Clone, Copy, Debug)]
struct Pending {
    lane: Lane,
    first: u64,
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Creating { request: Option<u64> },
    Sending,
    Settling,
    Lingering { until_ns: u64 },
}

struct Producing {
    ring: Ring,
    wanted: Wanted,
    run: u64,
    rate: u64,
    count_max: u64,
    duration_ns: u64,
    deadline_ns: u64,
    record_bytes: usize,
    producers_wanted: u32,
    stage: Stage,
    begun_ns: u64,
    progress_ns: u64,
    producers: Vec<Producer>,
    next_producer: usize,
    pending: Map<(u32, u32), Pending>,
    reader: Reader,
    file: Option<LedgerFile>,
    history: Option<HistoryFile>,
    /// Lost connections that the history knows of.
    lost_told: u64,
    told: VecDeque<engine::Event>,
    sent: u64,
    acked: u64,
    unknown: u64,
    incomplete: Option<String>,
    /// Everything that was visible at the end has been read.
    at_end: bool,
    progress: Arc<Progress>,
}

/// Carries it out.
pub(super) fn run(arguments: &IntegrityArguments) -> Result<Report, String> {
    let target = &arguments.target;
    if target.partitions == 0 || arguments.producers == 0 {
        return Err("partitions and producers are at least 1".to_owned());
    }
    let (ring, mut driver) = Ring::new(target.server, target.connector()?, arguments.cpu)?;
    let progress = Arc::new(Progress::default());
    let mut machine = Producing {
        ring,
        wanted: target.wanted(),
        run: entropy::random_u64(),
        rate: arguments.rate,
        count_max: arguments.count.unwrap_or(u64::MAX),
        duration_ns: arguments.duration.as_nanos() as u64,
        deadline_ns: arguments.deadline.as_nanos() as u64,
        record_bytes: arguments.record_bytes,
        producers_wanted: arguments.producers,
        stage: Stage::Creating { request: None },
        begun_ns: 0,
        progress_ns: 0,
        producers: Vec::new(),
        next_producer: 0,
        pending: Map::default(),
        reader: Reader::default(),
        file: arguments
            .ledger
            .as_deref()
            .map(LedgerFile::append)
            .transpose()?,
        history: arguments
            .history
            .as_deref()
            .map(HistoryFile::create)
            .transpose()?,
        lost_told: 0,
        told: VecDeque::new(),
        sent: 0,
        acked: 0,
        unknown: 0,
        incomplete: None,
        at_end: false,
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
    machine.end_history()?;
    machine.unknown += machine
        .pending
        .values()
        .map(|pending| pending.count)
        .sum::<u64>();
    let mut report = Report {
        sent: machine.sent,
        acked: 0,
        delivered: 0,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        misplaced: 0,
        damaged: machine.reader.damaged,
        unknown: machine.unknown,
        reconnects: machine.ring.lost,
        elapsed_s: begun.elapsed().as_secs_f64(),
        incomplete: machine.incomplete.or(machine.reader.failed),
        violations: machine.reader.violations,
    };
    report.verdict(machine.reader.ledger.verdict());
    if !machine.at_end {
        // Not everything was read: what lacks may be there.
        report.unknown += std::mem::take(&mut report.lost);
    }
    Ok(report)
}

impl Producing {
    /// Asks for the stream until it is there.
    fn create(&mut self, now: Now) {
        if self.stage == (Stage::Creating { request: None }) {
            let request = Request::Create {
                path: self.wanted.path.clone(),
                partitions: self.wanted.partitions,
                durability: self.wanted.durability,
                tenant: TenantId::new(0),
                retention: self.wanted.retention(),
            };
            match self.ring.engine.request(now, request) {
                Ok(id) => self.stage = Stage::Creating { request: Some(id) },
                Err(error) => self.give_up(error.to_string()),
            }
        }
    }

    fn created(&mut self, now: Now, result: Result<Reply, RequestError>) {
        match result {
            Ok(Reply {
                answer: Answer::Created(created),
                ..
            }) => {
                if let Some(history) = &mut self.history {
                    history.created(&created);
                }
                self.begin(now);
            }
            Ok(reply) => self.give_up(format!("a create was answered with {:?}", reply.answer)),
            Err(RequestError::Refused(refusal)) if refusal.retry() == Retry::Never => {
                self.give_up(format!("{refusal}: {}", refusal.code));
            }
            // The node is away, or comes up: ask again until the deadline.
            Err(RequestError::Closed | RequestError::Violation(_)) => {
                self.give_up("the server broke the protocol".to_owned());
            }
            Err(_) => self.stage = Stage::Creating { request: None },
        }
    }

    fn begin(&mut self, now: Now) {
        self.stage = Stage::Sending;
        self.begun_ns = now.mono.as_ns();
        self.progress_ns = self.begun_ns;
        let path = self.wanted.path.clone();
        for _ in 0..self.producers_wanted {
            let mut settings = Settings::new(ProducerId::new(entropy::random_u128() | 1));
            // A batch waits as long as the run does.
            settings.deadline_ns = self.deadline_ns.saturating_mul(10);
            let key = self.ring.engine.producer(now, &path, settings);
            self.producers.push(Producer {
                key,
                next: vec![0; self.wanted.partitions as usize],
                partition: 0,
                full: true,
            });
        }
        self.reader.begin(now, &mut self.ring.engine, &path);
    }

    /// Writes down what has no outcome, and what was read to its end.
    fn end_history(&mut self) -> Result<(), String> {
        let Some(history) = &mut self.history else {
            return Ok(());
        };
        for pending in self.pending.values() {
            for index in 0..pending.count {
                history.unknown(pending.lane, pending.first + index);
            }
        }
        if self.at_end {
            self.reader.read_through(&self.ring.engine, history);
        }
        history.flush()
    }

    fn give_up(&mut self, why: String) {
        self.incomplete.get_or_insert(why);
    }

    /// Pushes what is due.
    fn push(&mut self, now: Now) {
        if self.stage != Stage::Sending {
            return;
        }
        let elapsed_ns = now.mono.as_ns() - self.begun_ns;
        let allowed = if self.rate == 0 {
            u64::MAX
        } else {
            (u128::from(self.rate) * u128::from(elapsed_ns) / 1_000_000_000) as u64
        };
        let due = allowed.min(self.count_max).min(self.sent + PER_TURN_MAX);
        while self.sent < due {
            let count = self.producers.len();
            let Some(index) = (0..count)
                .map(|step| (self.next_producer + step) % count)
                .find(|index| !self.producers[*index].full)
            else {
                break;
            };
            self.next_producer = (index + 1) % count;
            self.push_one(now, index);
        }
        if elapsed_ns >= self.duration_ns || self.sent >= self.count_max {
            self.stage = Stage::Settling;
        }
    }

    fn push_one(&mut self, now: Now, index: usize) {
        let producer = &mut self.producers[index];
        let partition = producer.partition;
        producer.partition = (partition + 1) % self.wanted.partitions;
        let name = Name {
            lane: Lane {
                run: self.run,
                producer: index as u32,
                partition,
            },
            seq: producer.next[partition as usize],
        };
        let value = record::write(name, self.record_bytes);
        if let Some(history) = &mut self.history {
            history.sent(name, &value);
        }
        let record = Record::new(value);
        let partition = PartitionIndex::new(partition);
        let pushed = self
            .ring
            .engine
            .push(now, producer.key, &record, Some(partition));
        match pushed {
            Ok(ticket) => {
                producer.next[partition.get() as usize] += 1;
                self.sent += 1;
                let pending = self
                    .pending
                    .entry((index as u32, ticket.batch))
                    .or_insert(Pending {
                        lane: name.lane,
                        first: name.seq,
                        count: 0,
                    });
                assert_eq!(
                    (pending.lane, pending.first + pending.count),
                    (name.lane, name.seq),
                    "a batch holds neighbours of one partition"
                );
                pending.count += 1;
            }
            Err(refused) => {
                if let Some(history) = &mut self.history {
                    history.not_sent(name);
                }
                match refused {
                    PushError::Full => producer.full = true,
                    PushError::Invalid(SendError::AckedLost(lost)) => {
                        self.reader.violate(lost.to_string());
                    }
                    PushError::Invalid(error) => self.give_up(error.to_string()),
                }
            }
        }
    }

    fn hear(&mut self, now: Now, event: engine::Event) {
        match event {
            engine::Event::Settled { producer, settled } => self.settled(now, producer, settled),
            engine::Event::Room { producer } => {
                for known in &mut self.producers {
                    if known.key == producer {
                        known.full = false;
                    }
                }
            }
            engine::Event::Answered { request, result } => {
                if self.stage
                    == (Stage::Creating {
                        request: Some(request),
                    })
                {
                    self.created(now, result);
                }
            }
            engine::Event::Ready { .. } => {
                let run = self.run;
                if self.reader.take(
                    now,
                    &mut self.ring.engine,
                    |other| other == run,
                    self.history.as_mut(),
                ) {
                    self.progress_ns = now.mono.as_ns();
                }
            }
            // The ring has seen to these.
            engine::Event::Connect { .. } | engine::Event::Disconnect { .. } => {}
        }
    }

    fn settled(&mut self, now: Now, key: ProducerKey, settled: Settled) {
        self.progress_ns = now.mono.as_ns();
        let Some(index) = self
            .producers
            .iter()
            .position(|producer| producer.key == key)
        else {
            return;
        };
        let Some(pending) = self.pending.remove(&(index as u32, settled.batch)) else {
            self.reader
                .violate(format!("a batch settled twice: {settled:?}"));
            return;
        };
        if u64::from(settled.records) != pending.count {
            self.reader.violate(format!(
                "a batch of {} records settled with {}",
                pending.count, settled.records
            ));
        }
        if let Some(history) = &mut self.history {
            history.settled(pending.lane, pending.first, pending.count, &settled.result);
        }
        match settled.result {
            Ok(placed) => {
                let range = Acked {
                    lane: pending.lane,
                    first: pending.first,
                    count: pending.count,
                    offset: placed.base_offset.get(),
                };
                self.acked += pending.count;
                self.reader.ledger.acked(range);
                let written = self.file.as_mut().map_or(Ok(()), |file| file.acked(range));
                if let Err(error) = written {
                    self.give_up(format!("the ledger cannot be written: {error}"));
                }
            }
            Err(SendError::AckedLost(lost)) => {
                self.unknown += pending.count;
                self.reader.violate(lost.to_string());
            }
            Err(error) => {
                self.unknown += pending.count;
                self.incomplete
                    .get_or_insert(format!("a batch has no outcome: {error}"));
            }
        }
    }

    /// Whether the run is over.
    fn over(&mut self, now: Now) -> bool {
        let now_ns = now.mono.as_ns();
        if self.progress_ns == 0 {
            self.progress_ns = now_ns;
        }
        let creating = matches!(self.stage, Stage::Creating { .. });
        if self.reader.failed.is_some() || (creating && self.incomplete.is_some()) {
            return true;
        }
        if self.incomplete.is_some() && self.stage == Stage::Sending {
            // What is under way may still be settled, and what was acknowledged must be verified.
            self.stage = Stage::Settling;
        }
        let settled = self.pending.is_empty()
            && self.reader.ledger.owed() == 0
            && self.reader.at_end(&self.ring.engine);
        match self.stage {
            Stage::Settling if settled => {
                self.stage = Stage::Lingering {
                    until_ns: now_ns + LINGER_NS,
                };
            }
            Stage::Lingering { until_ns } if now_ns >= until_ns => return true,
            Stage::Creating { .. } | Stage::Sending | Stage::Settling | Stage::Lingering { .. } => {
            }
        }
        let waits = self.stage != Stage::Sending || !self.pending.is_empty();
        if waits && now_ns - self.progress_ns > self.deadline_ns {
            let seconds = self.deadline_ns / 1_000_000_000;
            self.give_up(format!(
                "nothing was acknowledged or delivered for {seconds} s"
            ));
            return true;
        }
        false
    }
}

impl Machine for Producing {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Stop => self.give_up("stopped".to_owned()),
            other => self.ring.step(now, other, effects),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if let Some(history) = &mut self.history {
            history.turn(now);
            while self.lost_told < self.ring.lost {
                self.lost_told += 1;
                history.link_lost();
            }
        }
        self.create(now);
        let mut told = std::mem::take(&mut self.told);
        // What is pushed and taken has consequences of its own.
        loop {
            self.ring.turn(now, effects, &mut told);
            if told.is_empty() {
                break;
            }
            while let Some(event) = told.pop_front() {
                self.hear(now, event);
            }
        }
        self.push(now);
        self.ring.turn(now, effects, &mut told);
        self.told = told;
        if let Some(file) = &mut self.file
            && let Err(error) = file.flush()
        {
            self.incomplete
                .get_or_insert(format!("the ledger cannot be written: {error}"));
        }
        if let Some(Err(error)) = self.history.as_mut().map(HistoryFile::flush) {
            self.incomplete
                .get_or_insert(format!("the history cannot be written: {error}"));
        }
        self.progress.update(self.acked, self.sent, 1);
        if self.over(now) {
            self.at_end = self.reader.at_end(&self.ring.engine);
            effects.push(Effect::Stopped);
            return;
        }
        let now_ns = now.mono.as_ns();
        let soon = !self.told.is_empty()
            || (self.stage == Stage::Sending
                && self.rate == 0
                && self.producers.iter().any(|producer| !producer.full));
        let step_ns = if soon {
            0
        } else if self.stage == Stage::Sending {
            STEP_NS
        } else {
            50_000_000
        };
        self.ring.finish(Mono::from_ns(now_ns + step_ns), effects);
    }
}
