//! `tail`: reads a stream and prints it. Without `-f` it ends where the stream ended when it began; every partition's end is
//! asked first, so it neither hangs on an empty one nor stops early.

use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output, printable};
use crate::{session, units};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::Offset;
use tiderace_client::{Batch, Client, ConsumeError, Consumer, From, Item, StreamInfo};
use tokio::sync::mpsc;

/// Items that wait to be printed: a slow reader of the output stops the node through credit, nothing grows here.
const ITEMS_WAITING_MAX: usize = 16;

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Earliest,
    Latest,
    Offset(u64),
    Time(u64),
    /// So many records before the end.
    Last(u64),
}

/// How records are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Table,
    Json,
    Values,
}

/// A record as programs read it. Bytes that are no text are in hexadecimal, under another name.
#[derive(Serialize)]
struct Shown<'a> {
    partition: u32,
    offset: u64,
    time: String,
    append_time: String,
    #[serde(flatten)]
    key: Field<'a>,
    #[serde(flatten)]
    value: Field<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

/// One name and its bytes: `{"key": text}`, `{"key_hex": ..}` or `{"key": null}`.
struct Field<'a> {
    name: &'static str,
    bytes: Option<&'a [u8]>,
}

impl Serialize for Field<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1))?;
        match self.bytes.map(core::str::from_utf8) {
            None => map.serialize_entry(self.name, &None::<&str>)?,
            Some(Ok(text)) => map.serialize_entry(self.name, text)?,
            Some(Err(_)) => {
                let bytes = self.bytes.unwrap_or_default();
                map.serialize_entry(&format!("{}_hex", self.name), &printable_hex(bytes))?;
            }
        }
        map.end()
    }
}

fn printable_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn run(command: cli::Tail, format: output::Format) -> Result<(), Failure> {
    let now_us = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    let place = place(&command, u64::try_from(now_us).unwrap_or(u64::MAX))?;
    let style = match format {
        _ if command.values => Style::Values,
        output::Format::Json => Style::Json,
        output::Format::Table => Style::Table,
    };
    session::block_on(async {
        let tasks = tokio::task::LocalSet::new();
        tasks.run_until(read(&command, place, style)).await
    })
}

fn place(command: &cli::Tail, now_us: u64) -> Result<Place, Failure> {
    match (command.from.as_deref(), command.count) {
        (None, Some(count)) => Ok(Place::Last(count)),
        (None | Some("earliest"), _) => Ok(Place::Earliest),
        (Some("latest"), _) => Ok(Place::Latest),
        (Some(text), _) if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.parse() {
            Ok(offset) => Ok(Place::Offset(offset)),
            Err(_) => Err(Failure::new(
                Exit::Usage,
                format!("--from {text:?} is no offset: it is too large"),
            )),
        },
        (Some(text), _) => units::time_us(text, now_us)
            .map(Place::Time)
            .map_err(|error| {
                Failure::new(Exit::Usage, format!("--from {text:?} {error}"))
                    .hint("write earliest, latest, an offset, a time or an age")
            }),
    }
}

/// One partition's part of the work.
#[derive(Clone, Copy, Debug)]
struct Part {
    partition: PartitionIndex,
    begin: Offset,
    /// Where it ended when the command began.
    end: Offset,
}

async fn read(command: &cli::Tail, place: Place, style: Style) -> Result<(), Failure> {
    let path = command.path.as_str();
    let client = session::connect(&command.server).await?;
    let info = client
        .describe_stream(path)
        .await
        .map_err(|error| session::request_failure(path, &error))?;
    let parts = parts(command, place, &client, &info).await?;
    let mut printer = Printer::new(style, place, command.count);
    printer.begin()?;
    let mut behind: BTreeMap<PartitionIndex, Offset> = parts
        .iter()
        .filter(|part| part.begin < part.end)
        .map(|part| (part.partition, part.end))
        .collect();
    let mut items = subscribe(command, place, &client, &parts);
    loop {
        if behind.is_empty() {
            printer.caught_up()?;
            if !command.follow {
                break;
            }
        }
        if items.is_empty() {
            printer.output.flush()?;
        }
        let Some(item) = items.recv().await else {
            break;
        };
        let until = |partition| {
            if command.follow {
                Offset::MAX
            } else {
                behind.get(&partition).copied().unwrap_or(Offset::ZERO)
            }
        };
        let (partition, next) =
            match item.map_err(|error| session::consume_failure(path, &error))? {
                Item::Batch(batch) => {
                    let partition = batch.partition();
                    if !printer.batch(path, &batch, until(partition))? {
                        break;
                    }
                    (partition, batch.next_offset())
                }
                Item::Gap {
                    partition,
                    reason,
                    from,
                    to,
                } => {
                    printer.gap(partition.partition, reason, from, to)?;
                    (partition.partition, to)
                }
                Item::Loss {
                    partition, from, ..
                } => {
                    printer.loss(partition.partition, from)?;
                    continue;
                }
            };
        if behind.get(&partition).is_some_and(|end| next >= *end) {
            behind.remove(&partition);
        }
    }
    printer.output.flush()
}

/// Where each wanted partition begins and ends now.
async fn parts(
    command: &cli::Tail,
    place: Place,
    client: &Client,
    info: &StreamInfo,
) -> Result<Vec<Part>, Failure> {
    let path = command.path.as_str();
    let count = info.stream.partitions;
    if let Some(wanted) = command.partition.filter(|wanted| *wanted >= count) {
        let what = format!("{path} has no partition {wanted}: it has {count}, from 0 on");
        return Err(Failure::new(Exit::NoSuchStream, what));
    }
    if matches!(place, Place::Offset(_)) && command.partition.is_none() && count > 1 {
        return Err(Failure::new(
            Exit::Usage,
            format!("an offset belongs to one partition, and {path} has {count}"),
        )
        .hint("add --partition N, or begin at a time"));
    }
    let mut parts = Vec::new();
    for described in &info.partitions {
        let partition = described.partition;
        if command
            .partition
            .is_some_and(|wanted| wanted != partition.get())
        {
            continue;
        }
        let Some((start, end)) = described.offsets else {
            let what = format!(
                "{path}: the leader of partition {partition} cannot be asked where it ends"
            );
            return Err(Failure::new(Exit::Unreachable, what)
                .hint("look at the node's log and at /readyz, then try again"));
        };
        let begin = match place {
            Place::Earliest => start,
            Place::Latest => end,
            Place::Offset(offset) => Offset::new(offset),
            Place::Last(count) => Offset::new(end.get().saturating_sub(count)).max(start),
            Place::Time(time_us) => {
                let found = client.offset_by_time(path, partition, time_us).await;
                found
                    .map_err(|error| session::request_failure(path, &error))?
                    .0
            }
        };
        if begin < start || begin > end {
            let what = format!(
                "{path}: partition {partition} holds the offsets {start} to {end}, and {begin} is asked for"
            );
            return Err(Failure::new(Exit::History, what)
                .hint(format!("read from {start} on with --from earliest")));
        }
        parts.push(Part {
            partition,
            begin,
            end,
        });
    }
    Ok(parts)
}

type Received = Result<Item, ConsumeError>;

/// Subscribes and brings everything that comes into one channel. One consumer reads all partitions, unless each begins at
/// a place of its own.
fn subscribe(
    command: &cli::Tail,
    place: Place,
    client: &Client,
    parts: &[Part],
) -> mpsc::Receiver<Received> {
    let path = command.path.as_str();
    let consumers: Vec<Consumer> = match place {
        Place::Last(_) | Place::Offset(_) => {
            let wanted = parts
                .iter()
                .filter(|part| command.follow || part.begin < part.end);
            wanted
                .map(|part| {
                    client
                        .subscribe(path, From::Offset(part.begin))
                        .partition(part.partition)
                        .start()
                })
                .collect()
        }
        Place::Earliest | Place::Latest | Place::Time(_) => {
            let from = match place {
                Place::Latest => From::Latest,
                Place::Time(time_us) => From::Time(time_us),
                Place::Earliest | Place::Offset(_) | Place::Last(_) => From::Earliest,
            };
            let all = client.subscribe(path, from);
            let wanted = parts.iter().filter(|_| command.partition.is_some());
            vec![
                wanted
                    .fold(all, |all, part| all.partition(part.partition))
                    .start(),
            ]
        }
    };
    let (give, take) = mpsc::channel(ITEMS_WAITING_MAX);
    for mut consumer in consumers {
        let give = give.clone();
        tokio::task::spawn_local(async move {
            while let Some(item) = consumer.next().await {
                let is_last = item.is_err();
                if give.send(item).await.is_err() || is_last {
                    return;
                }
            }
        });
    }
    take
}

/// Prints records as they come, or keeps the newest until everything that was there has come.
struct Printer {
    output: Output,
    style: Style,
    /// Records that may still be printed.
    left: u64,
    /// The newest so far by append time, partition and offset, and how many are wanted; `None` once they are printed.
    newest: Option<(BTreeMap<(u64, u32, u64), Vec<u8>>, u64)>,
}

impl Printer {
    fn new(style: Style, place: Place, count: Option<u64>) -> Self {
        let (left, newest) = match place {
            Place::Last(count) => (u64::MAX, Some((BTreeMap::new(), count))),
            Place::Earliest | Place::Latest | Place::Offset(_) | Place::Time(_) => {
                (count.unwrap_or(u64::MAX), None)
            }
        };
        Self {
            output: Output::new(),
            style,
            left,
            newest,
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        match self.style {
            Style::Table => self
                .output
                .line(row("PARTITION", "OFFSET", "TIME", "KEY", "VALUE")),
            Style::Json | Style::Values => Ok(()),
        }
    }

    /// Prints a batch's records before `until`. False: enough was printed.
    fn batch(&mut self, path: &str, batch: &Batch, until: Offset) -> Result<bool, Failure> {
        let partition = batch.partition().get();
        let records = batch.records().map_err(|error| {
            let what = format!(
                "{path}: the batch at offset {} of partition {partition} is no archive: {error}",
                batch.first_offset()
            );
            Failure::new(Exit::History, what)
                .hint("its producer wrote it so; read on behind it with --from and --partition")
        })?;
        for record in records {
            if record.offset() >= until {
                break;
            }
            if self.left == 0 {
                return Ok(false);
            }
            let shown = Shown {
                partition,
                offset: record.offset().get(),
                time: units::show_time_us(record.time_us()),
                append_time: units::show_time_us(batch.append_time_us()),
                key: Field {
                    name: "key",
                    bytes: record.key(),
                },
                value: Field {
                    name: "value",
                    bytes: record.value(),
                },
                headers: record
                    .headers()
                    .map(|(name, value)| (printable(name), printable(value)))
                    .collect(),
            };
            let line = shown.line(self.style)?;
            match &mut self.newest {
                None => {
                    self.output.line(line)?;
                    self.left -= 1;
                }
                Some((newest, count)) => {
                    newest.insert((batch.append_time_us(), partition, shown.offset), line);
                    if newest.len() as u64 > *count {
                        newest.pop_first();
                    }
                }
            }
        }
        Ok(self.left > 0)
    }

    /// Everything that was there has come.
    fn caught_up(&mut self) -> Result<(), Failure> {
        let newest = self
            .newest
            .take()
            .map(|(newest, _)| newest)
            .unwrap_or_default();
        newest.values().try_for_each(|line| self.output.line(line))
    }

    fn gap(
        &mut self,
        partition: PartitionIndex,
        reason: u8,
        from: Offset,
        to: Offset,
    ) -> Result<(), Failure> {
        let partition = partition.get();
        let reason = match reason {
            1 => "their age",
            2 => "the bytes kept",
            _ => "somebody's wish",
        };
        let note = format!("partition {partition}: offsets {from} to {to} are gone, by {reason}");
        let value = serde_json::json!({ "partition": partition, "gap_from": from.get(), "gap_to": to.get(), "reason": reason });
        self.note(&note, &value)
    }

    fn loss(&mut self, partition: PartitionIndex, from: Offset) -> Result<(), Failure> {
        let partition = partition.get();
        let note = format!(
            "partition {partition}: a fail-over lost what stood at offset {from} and after it"
        );
        self.note(
            &note,
            &serde_json::json!({ "partition": partition, "lost_from": from.get() }),
        )
    }

    /// Programs find it between the records, people beside them.
    fn note(&mut self, note: &str, value: &serde_json::Value) -> Result<(), Failure> {
        match self.style {
            Style::Json => self.output.json(value),
            Style::Table | Style::Values => {
                drop(writeln!(io::stderr(), "tiderace: {note}"));
                Ok(())
            }
        }
    }
}

fn row(partition: &str, offset: &str, time: &str, key: &str, value: &str) -> String {
    format!("{partition:>9}  {offset:>10}  {time:<24}  {key:<16}  {value}")
        .trim_end()
        .to_owned()
}

impl Shown<'_> {
    fn line(&self, style: Style) -> Result<Vec<u8>, Failure> {
        let shown = |field: &Field<'_>| field.bytes.map_or_else(|| "-".to_owned(), printable);
        match style {
            Style::Values => Ok(self.value.bytes.unwrap_or_default().to_vec()),
            Style::Json => serde_json::to_vec(self).map_err(|error| {
                Failure::new(Exit::Failed, format!("a record is no JSON: {error}"))
            }),
            Style::Table => {
                let (partition, offset) = (self.partition.to_string(), self.offset.to_string());
                Ok(row(
                    &partition,
                    &offset,
                    &self.time,
                    &shown(&self.key),
                    &shown(&self.value),
                )
                .into_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn tail(flags: &[&str]) -> cli::Tail {
        let cli = cli::Cli::try_parse_from(["tiderace", "tail", "a"].iter().chain(flags))
            .expect("parses");
        let cli::Run::Tail(tail) = cli.run else {
            panic!("a tail")
        };
        tail
    }

    #[test]
    fn every_way_to_say_where_to_begin_is_understood() {
        const NOW: u64 = 1_700_000_000_000_000;
        for (flags, expected) in [
            (&[][..], Place::Earliest),
            (&["-n", "5"], Place::Last(5)),
            (&["--from", "earliest", "-n", "5"], Place::Earliest),
            (&["--from", "latest"], Place::Latest),
            (&["--from", "42"], Place::Offset(42)),
            (&["--from", "5m"], Place::Time(NOW - 300_000_000)),
            (&["--from", "2h ago"], Place::Time(NOW - 7_200_000_000)),
            (
                &["--from", "2013-01-01T10:15:00Z"],
                Place::Time(1_357_035_300_000_000),
            ),
        ] {
            assert_eq!(
                place(&tail(flags), NOW).expect("good"),
                expected,
                "{flags:?}"
            );
        }
        for text in ["soon", "99999999999999999999", "-1"] {
            assert_eq!(
                place(&tail(&[&format!("--from={text}")]), NOW)
                    .expect_err("refused")
                    .exit,
                Exit::Usage,
                "{text}"
            );
        }
    }

    fn shown<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Shown<'a> {
        Shown {
            partition: 3,
            offset: 17,
            time: units::show_time_us(0),
            append_time: units::show_time_us(1_000),
            key: Field {
                name: "key",
                bytes: key,
            },
            value: Field {
                name: "value",
                bytes: value,
            },
            headers: BTreeMap::new(),
        }
    }

    #[test]
    fn records_are_printed_for_people_programs_and_pipes() {
        let record = shown(Some(b"k"), Some(b"a\tb\n"));
        let text = |style| String::from_utf8(record.line(style).expect("a line")).expect("text");
        assert_eq!(
            text(Style::Table),
            "        3          17  1970-01-01T00:00:00.000Z  k                 a\\tb\\n"
        );
        assert_eq!(
            text(Style::Json),
            r#"{"partition":3,"offset":17,"time":"1970-01-01T00:00:00.000Z","append_time":"1970-01-01T00:00:00.001Z","key":"k","value":"a\tb\n"}"#
        );
        assert_eq!(text(Style::Values), "a\tb\n");
    }

    #[test]
    fn absent_and_binary_fields_are_told_apart_from_text() {
        let line = shown(None, Some(b"\xff\x00"))
            .line(Style::Json)
            .expect("a line");
        let line = String::from_utf8(line).expect("text");
        assert!(line.contains(r#""key":null,"value_hex":"ff00""#), "{line}");
        let tombstone = shown(Some(b""), None).line(Style::Table).expect("a line");
        assert!(tombstone.ends_with(b"  -"));
    }
}
