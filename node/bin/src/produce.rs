//! `produce`: sends what a file or standard input holds, in order, and waits for every acknowledgement. A thread reads and
//! parses, this one sends; between them stand a few thousand records at most, so a slow node slows the reading and nothing
//! grows.

use crate::cli;
use crate::exit::{Exit, Failure};
use crate::input::{Format, InputError, Parsed, Reader};
use crate::output::{self, Progress};
use crate::{session, units};
use serde::Serialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tiderace_client::{
    AckFuture, Client, ProducerOptions, Record, RequestError, SendError, StreamOptions,
};
use tiderace_wire::error::ErrorCode;
use tokio::sync::mpsc;

/// Records that are handed over at once, and how many such handfuls may wait.
const HANDFUL_RECORDS: usize = 512;
const HANDFUL_BYTES: usize = 256 * 1024;
const HANDFULS_WAITING_MAX: usize = 4;
const READ_BYTES: usize = 128 * 1024;
/// Acknowledgements that may be outstanding here; the producer's own buffer bounds their bytes.
const ACKS_WAITING_MAX: usize = 16 * 1024;

/// What the reading thread hands over.
enum Handful {
    Records {
        records: Vec<Parsed>,
        bytes_read: u64,
    },
    Broken(InputError),
}

/// What was done, for people and programs.
#[derive(Serialize)]
struct Summary<'a> {
    stream: &'a str,
    records_acked: u64,
    bytes_read: u64,
    seconds: f64,
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
                    records.push(record);
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

async fn send_all(
    command: &cli::Produce,
    client: &Client,
    name: &str,
    mut take: mpsc::Receiver<Handful>,
    mut progress: Progress,
    format: output::Format,
) -> Result<(), Failure> {
    let stream = command.path.as_str();
    let producer = client.producer(stream, ProducerOptions::default());
    let failed = |error| session::send_failure(stream, &error);
    let begun = Instant::now();
    let mut bytes_read = 0_u64;
    let mut broken = None;
    let mut acks = Acks::default();
    loop {
        // Acknowledgements are heard while the input is silent, so that a refusal is not kept for the next line.
        let handful = tokio::select! {
            biased;
            handful = take.recv() => handful,
            settled = acks.next(), if !acks.waiting.is_empty() => {
                settled.map_err(failed)?;
                continue;
            }
        };
        match handful {
            None => break,
            Some(Handful::Broken(error)) => broken = Some(error),
            Some(Handful::Records {
                records,
                bytes_read: so_far,
            }) => {
                bytes_read = so_far;
                for Parsed { key, value } in records {
                    let mut record = Record::new(value);
                    if let Some(key) = key {
                        record = record.key(key);
                    }
                    acks.waiting
                        .push_back(producer.enqueue(record).await.map_err(failed)?);
                    if acks.waiting.len() > ACKS_WAITING_MAX {
                        acks.next().await.map_err(failed)?;
                    }
                }
                progress.at(bytes_read, |elapsed| pace(acks.heard, bytes_read, elapsed));
            }
        }
    }
    while !acks.waiting.is_empty() {
        acks.next().await.map_err(failed)?;
        progress.at(bytes_read, |elapsed| pace(acks.heard, bytes_read, elapsed));
    }
    progress.clear();
    producer.close().await.map_err(failed)?;
    let sent = acks.heard;
    summarize(
        &Summary {
            stream,
            records_acked: sent,
            bytes_read,
            seconds: begun.elapsed().as_secs_f64(),
        },
        format,
    )?;
    match broken {
        None => Ok(()),
        Some(error) => Err(Failure::new(Exit::Input, format!("{name}:{}: {}", error.line, error.why))
            .hint(format!("the {sent} records before it are sent and acknowledged; mend it and go on from that line"))),
    }
}

/// Acknowledgements to be heard, oldest first. Every one is awaited: a failure that nobody hears is a lost record.
#[derive(Default)]
struct Acks {
    waiting: VecDeque<AckFuture>,
    heard: u64,
}

impl Acks {
    /// Hears the oldest. Dropped before it is heard, it is still the oldest.
    async fn next(&mut self) -> Result<(), SendError> {
        if let Some(oldest) = self.waiting.front_mut() {
            let settled = oldest.await;
            self.waiting.pop_front();
            settled?;
            self.heard += 1;
        }
        Ok(())
    }
}

/// Sees that the stream is there, whatever it is like, and creates it where that is wanted.
async fn look_up(client: &Client, command: &cli::Produce) -> Result<(), Failure> {
    let stream = command.path.as_str();
    match client.describe_stream(stream).await {
        Ok(_) => return Ok(()),
        Err(error @ RequestError::Refused(refusal))
            if refusal.code == ErrorCode::UnknownStream =>
        {
            if !command.create {
                return Err(session::request_failure(stream, &error).hint(
                    "`tiderace stream ls` lists them; add --create to make this one, with one partition",
                ));
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
    let line = match format {
        output::Format::Json => serde_json::to_string(summary).map_err(|error| {
            Failure::new(Exit::Failed, format!("a summary is no JSON: {error}"))
        })?,
        output::Format::Table => {
            let elapsed = Duration::from_secs_f64(summary.seconds);
            format!(
                "{}: {} acknowledged in {:.3} s ({})",
                summary.stream,
                units::show_count(summary.records_acked),
                summary.seconds,
                pace(summary.records_acked, summary.bytes_read, elapsed)
            )
        }
    };
    drop(writeln!(io::stderr(), "{line}"));
    Ok(())
}
