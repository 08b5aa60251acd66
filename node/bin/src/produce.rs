//! `produce`: sends what a file or standard input holds, in order, and waits for every acknowledgement. A thread reads and
//! parses, this one sends; between them stand a few thousand records at most, so a slow node slows the reading and nothing
//! grows.

use crate::admin::Signal;
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::input::{Format, InputError, Parsed, Reader};
use crate::output::{self, Progress};
use crate::{session, units};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tiderace_client::{
    Ack, AckFuture, Client, Producer, ProducerOptions, Record, RequestError, SendError,
    StreamOptions,
};
use tiderace_wire::error::ErrorCode;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

/// Records that are handed over at once, and how many such handfuls may wait.
const HANDFUL_RECORDS: usize = 512;
const HANDFUL_BYTES: usize = 256 * 1024;
const HANDFULS_WAITING_MAX: usize = 4;
const READ_BYTES: usize = 128 * 1024;
/// Acknowledgements that may be outstanding here; the producer's own buffer bounds their bytes.
const ACKS_WAITING_MAX: usize = 16 * 1024;

/// After a signal or a failure, what is on its way has so long to be acknowledged.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// A record and where it stands in the input.
struct Numbered {
    record: Parsed,
    line: u64,
    /// The line behind it.
    next_line: u64,
}

/// What the reading thread hands over.
enum Handful {
    Records {
        records: Vec<Numbered>,
        bytes_read: u64,
    },
    Broken(InputError),
}

/// Why nothing more is sent.
enum End {
    Complete,
    Broken(InputError),
    Failed(SendError),
    Signalled(Signal),
}

/// What was done, for people and programs.
#[derive(Serialize)]
struct Summary<'a> {
    stream: &'a str,
    records_acked: u64,
    bytes_read: u64,
    seconds: f64,
    /// Where the input ended early: the first line that was not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    go_on_from_line: Option<u64>,
    /// How many of those acknowledged stand behind that line: sent again, they are stored twice.
    #[serde(skip_serializing_if = "is_zero")]
    acked_beyond: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

pub(crate) fn run(command: cli::Produce, format: output::Format) -> Result<(), Failure> {
    let file = command
        .file
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    let input = command
        .format
        .unwrap_or_else(|| file.map_or(Format::Lines, Format::of_name));
    if command.key.is_some() && input == Format::Lines {
        return Err(
            Failure::new(Exit::Usage, "a line has no field to be the key")
                .hint("--key needs --format ndjson or csv, or a file whose name says so"),
        );
    }
    let is_typed = file.is_none() && io::stdin().is_terminal();
    let (source, total): (Box<dyn Read + Send>, Option<u64>) = match file {
        Some(path) => {
            let unreadable = |error: io::Error| {
                Failure::new(
                    Exit::Input,
                    format!("cannot read {}: {error}", path.display()),
                )
            };
            let file = File::open(path).map_err(unreadable)?;
            let metadata = file.metadata().map_err(unreadable)?;
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        }
        None => (Box::new(io::stdin()), None),
    };
    let name = file.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    let reader = Reader::new(
        BufReader::with_capacity(READ_BYTES, source),
        input,
        command.key.clone(),
    );
    let progress = if is_typed {
        Progress::hidden()
    } else {
        Progress::new(total)
    };
    session::block_on(async {
        let client = session::connect(&command.server).await?;
        // Before the input is touched: what is piped into a misspelt stream is still there for the next attempt.
        look_up(&client, &command).await?;
        if is_typed {
            // Say so once, where pipes do not see it.
            drop(writeln!(
                io::stderr(),
                "Type events, one a line; Ctrl-D ends."
            ));
        }
        let take = begin_reading(reader)?;
        send_all(&command, &client, &name, take, progress, format).await
    })
}

type Input = Reader<BufReader<Box<dyn Read + Send>>>;

/// Starts the thread that reads.
fn begin_reading(reader: Input) -> Result<mpsc::Receiver<Handful>, Failure> {
    let (give, take) = mpsc::channel(HANDFULS_WAITING_MAX);
    let reading = std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || read_all(reader, &give));
    match reading {
        Ok(_) => Ok(take),
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("no thread can be started: {error}"),
        )),
    }
}

/// Reads until the end, or until nobody takes any more. What is there is handed over before waiting for more, so that a
/// typed line is sent when it is typed.
fn read_all(mut reader: Input, give: &mpsc::Sender<Handful>) {
    loop {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut end = None;
        while end.is_none() && records.len() < HANDFUL_RECORDS && bytes < HANDFUL_BYTES {
            match reader.next() {
                Ok(Some(record)) => {
                    bytes += record.value.len();
                    records.push(Numbered {
                        record,
                        line: reader.record_line(),
                        next_line: reader.next_line(),
                    });
                }
                Ok(None) => end = Some(None),
                Err(error) => end = Some(Some(error)),
            }
            if reader.is_starved(|from| from.buffer().len()) {
                break;
            }
        }
        let bytes_read = reader.bytes_read();
        if !records.is_empty()
            && give
                .blocking_send(Handful::Records {
                    records,
                    bytes_read,
                })
                .is_err()
        {
            return;
        }
        match end {
            None => {}
            Some(None) => return,
            Some(Some(error)) => {
                // Nobody takes it only when sending has failed, which is said already.
                drop(give.blocking_send(Handful::Broken(error)));
                return;
            }
        }
    }
}

/// Sends everything and says what was acknowledged, however it ends.
async fn send_all(
    command: &cli::Produce,
    client: &Client,
    name: &str,
    mut take: mpsc::Receiver<Handful>,
    progress: Progress,
    format: output::Format,
) -> Result<(), Failure> {
    let stream = command.path.as_str();
    let mut signals = Signals::watch()?;
    let mut sending = Sending {
        producer: client.producer(stream, ProducerOptions::default()),
        progress,
        bytes_read: 0,
        next_line: 1,
        acks: Acks::default(),
    };
    let begun = Instant::now();
    let mut end = tokio::select! {
        biased;
        signal = signals.next() => End::Signalled(signal),
        end = sending.all(&mut take) => end,
    };
    if let End::Signalled(_) = end {
        tokio::select! {
            // A second signal is a person who does not want to wait.
            _ = signals.next() => {}
            () = sending.acks.flush() => {}
        }
    }
    if let End::Failed(error) = end {
        // Where a deadline has passed, more patience would bring nothing.
        if !matches!(error, SendError::Deadline { .. }) {
            sending.acks.flush().await;
        }
        // What the oldest record suffered says more than what stopped a later one.
        sending.acks.look().await;
        end = End::Failed(sending.acks.first_error.unwrap_or(error));
    }
    sending.acks.look().await;
    sending.progress.clear();
    if matches!(end, End::Signalled(_))
        && !sending.progress.is_shown()
        && io::stderr().is_terminal()
    {
        // What was being typed, and the ^C, stay on a row of their own.
        drop(writeln!(io::stderr()));
    }
    let is_whole = matches!(end, End::Complete);
    let go_on_from_line = match &end {
        End::Complete => None,
        End::Broken(error) => Some(error.line),
        End::Failed(_) | End::Signalled(_) => {
            Some(sending.acks.first_missing.unwrap_or(sending.next_line))
        }
    };
    // Where nothing was sent, the error alone says so.
    let is_worth_it = is_whole || matches!(end, End::Signalled(_)) || sending.next_line > 1;
    if is_worth_it {
        let summary = Summary {
            stream,
            records_acked: sending.acks.heard,
            bytes_read: sending.bytes_read,
            seconds: begun.elapsed().as_secs_f64(),
            go_on_from_line,
            acked_beyond: sending.acks.beyond,
        };
        summarize(&summary, format)?;
    }
    match end {
        End::Complete => {
            let closed = sending.producer.close().await;
            closed.map_err(|error| session::send_failure(stream, &error))
        }
        End::Broken(error) => {
            let hint = if sending.next_line > 1 {
                "mend it and go on from that line; those before it are sent and acknowledged"
            } else {
                "mend it and send again; nothing was sent"
            };
            let what = format!("{name}:{}: {}", error.line, error.why);
            Err(Failure::new(Exit::Input, what).hint(hint))
        }
        End::Failed(error) => Err(failure(command, &error)),
        // As the signal would have ended it.
        End::Signalled(signal) => std::process::exit(signal.exit_code()),
    }
}

/// Why a record was not acknowledged; where nobody answered, with the address that was asked.
fn failure(command: &cli::Produce, error: &SendError) -> Failure {
    let stream = command.path.as_str();
    let is_silence = matches!(
        error,
        SendError::Deadline { .. }
            | SendError::Stream(RequestError::Unreachable | RequestError::Deadline)
    );
    match session::addresses(&command.server) {
        Ok(addresses) if is_silence => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let what = format!("{stream}: no answer from {}", shown.join(", "));
            session::send_failure(&what, error)
        }
        _ => session::send_failure(stream, error),
    }
}

/// The signals that end the command, which it answers itself from here on.
struct Signals {
    interrupts: unix::Signal,
    terminations: unix::Signal,
}

impl Signals {
    fn watch() -> Result<Self, Failure> {
        let watch = |kind| {
            unix::signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("signals cannot be watched: {error}"))
            })
        };
        Ok(Self {
            interrupts: watch(SignalKind::interrupt())?,
            terminations: watch(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupts.recv() => Signal::Interrupt,
            _ = self.terminations.recv() => Signal::Terminate,
        }
    }
}

/// What is sent and heard so far.
struct Sending {
    producer: Producer,
    progress: Progress,
    bytes_read: u64,
    /// The first line of the input that was not handed to the producer.
    next_line: u64,
    acks: Acks,
}

impl Sending {
    /// Sends all that is read and hears what becomes of it. Dropped early it leaves what it has reached.
    async fn all(&mut self, take: &mut mpsc::Receiver<Handful>) -> End {
        match self.try_all(take).await {
            Ok(None) => End::Complete,
            Ok(Some(error)) => End::Broken(error),
            Err(error) => End::Failed(error),
        }
    }

    async fn try_all(
        &mut self,
        take: &mut mpsc::Receiver<Handful>,
    ) -> Result<Option<InputError>, SendError> {
        let mut broken = None;
        loop {
            // Acknowledgements are heard while the input is silent, so that a refusal is not kept for the next line.
            let handful = tokio::select! {
                biased;
                handful = take.recv() => handful,
                settled = self.acks.next(), if !self.acks.waiting.is_empty() => {
                    settled?;
                    continue;
                }
            };
            match handful {
                None => break,
                Some(Handful::Broken(error)) => broken = Some(error),
                Some(Handful::Records {
                    records,
                    bytes_read,
                }) => {
                    self.bytes_read = bytes_read;
                    for record in records {
                        self.send(record).await?;
                    }
                    self.tell();
                }
            }
        }
        while !self.acks.waiting.is_empty() {
            self.acks.next().await?;
            self.tell();
        }
        Ok(broken)
    }

    async fn send(&mut self, numbered: Numbered) -> Result<(), SendError> {
        let Parsed { key, value } = numbered.record;
        let mut record = Record::new(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        let ack = self.producer.enqueue(record).await?;
        self.acks.waiting.push_back((numbered.line, ack));
        self.next_line = numbered.next_line;
        if self.acks.waiting.len() > ACKS_WAITING_MAX {
            self.acks.next().await?;
        }
        Ok(())
    }

    fn tell(&mut self) {
        let (heard, bytes_read) = (self.acks.heard, self.bytes_read);
        self.progress
            .at(bytes_read, |elapsed| pace(heard, bytes_read, elapsed));
    }
}

/// Acknowledgements to be heard, oldest first. Every one is awaited: a failure that nobody hears is a lost record.
#[derive(Default)]
struct Acks {
    /// Each with the line of its record.
    waiting: VecDeque<(u64, AckFuture)>,
    heard: u64,
    /// The line of the first record that was not acknowledged, and why.
    first_missing: Option<u64>,
    first_error: Option<SendError>,
    /// Those heard of records behind it.
    beyond: u64,
}

impl Acks {
    /// Hears the oldest, and says when any has failed. Dropped before it is heard, it is still the oldest.
    async fn next(&mut self) -> Result<(), SendError> {
        self.hear().await;
        self.first_error.map_or(Ok(()), Err)
    }

    async fn hear(&mut self) {
        let Some((line, oldest)) = self.waiting.front_mut() else {
            return;
        };
        let line = *line;
        let result = oldest.await;
        self.waiting.pop_front();
        self.settle(line, result);
    }

    fn settle(&mut self, line: u64, result: Result<Ack, SendError>) {
        match result {
            Ok(_) => {
                self.heard += 1;
                self.beyond += u64::from(self.first_missing.is_some());
            }
            Err(error) => {
                self.first_missing.get_or_insert(line);
                self.first_error.get_or_insert(error);
            }
        }
    }

    /// Hears all that come within [`FLUSH_MAX`], failures too: they are kept.
    async fn flush(&mut self) {
        let all = async {
            while !self.waiting.is_empty() {
                self.hear().await;
            }
        };
        // What has not come by then counts as missing.
        drop(tokio::time::timeout(FLUSH_MAX, all).await);
    }

    /// Hears those that are there already. The others are missing and may be stored.
    async fn look(&mut self) {
        for (line, mut ack) in core::mem::take(&mut self.waiting) {
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut ack).poll(context))).await;
            let result = match polled {
                Poll::Ready(result) => result,
                Poll::Pending => Err(SendError::Deadline { maybe_stored: true }),
            };
            self.settle(line, result);
        }
    }
}

/// Sees that the stream is there, whatever it is like, and creates it where that is wanted.
async fn look_up(client: &Client, command: &cli::Produce) -> Result<(), Failure> {
    let stream = command.path.as_str();
    match client.describe_stream(stream).await {
        Ok(_) => return Ok(()),
        Err(error @ RequestError::Refused(refusal)) if refusal.code == ErrorCode::UnknownStream => {
            if !command.create {
                return Err(session::request_failure(stream, &error)
                    .hint("`tiderace stream ls` lists them; --create makes this one"));
            }
        }
        Err(error) => return Err(session::request_failure(stream, &error)),
    }
    match client.create_stream(stream, StreamOptions::default()).await {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(RequestError::Refused(refusal)) if refusal.code == ErrorCode::StreamExists => Ok(()),
        Err(error) => Err(session::request_failure(stream, &error)),
    }
}

fn pace(records: u64, bytes: u64, elapsed: Duration) -> String {
    let per_second = records as f64 / elapsed.as_secs_f64().max(1e-9);
    format!(
        "{} records, {}/s, {} read",
        units::show_count(records),
        units::show_count(per_second as u64),
        mib(bytes)
    )
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// Says on standard error what was done: standard output belongs to results, and this command has none.
fn summarize(summary: &Summary<'_>, format: output::Format) -> Result<(), Failure> {
    let acked = format!(
        "{}: {} acknowledged",
        summary.stream,
        units::show_count(summary.records_acked)
    );
    let line = match (format, summary.go_on_from_line) {
        (output::Format::Json, _) => serde_json::to_string(summary).map_err(|error| {
            Failure::new(Exit::Failed, format!("a summary is no JSON: {error}"))
        })?,
        (output::Format::Table, None) => {
            let elapsed = Duration::from_secs_f64(summary.seconds);
            format!(
                "{acked} in {:.3} s ({})",
                summary.seconds,
                pace(summary.records_acked, summary.bytes_read, elapsed)
            )
        }
        (output::Format::Table, Some(line)) if summary.acked_beyond > 0 => format!(
            "{acked}; go on from line {line}, behind which {} of them stand",
            units::show_count(summary.acked_beyond)
        ),
        (output::Format::Table, Some(line)) => format!("{acked}; go on from line {line}"),
    };
    drop(writeln!(io::stderr(), "{line}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn silence_names_the_address_that_was_asked() {
        let cli = cli::Cli::try_parse_from([
            "tiderace",
            "produce",
            "shop/orders",
            "--server",
            "127.0.0.1:7450",
        ]);
        let cli::Run::Produce(command) = cli.expect("parses").run else {
            panic!("a produce")
        };
        let silence = failure(&command, &SendError::Deadline { maybe_stored: true });
        assert_eq!(silence.exit, Exit::Unreachable);
        let said = silence.to_string();
        assert!(
            said.starts_with("shop/orders: no answer from 127.0.0.1:7450: not acknowledged"),
            "{said}"
        );
        let other = failure(&command, &SendError::Fenced).to_string();
        assert!(!other.contains("no answer"), "{other}");
    }
}
