//! `tail`: reads a stream and prints it. Without `-f` it ends where the stream ended when it began; every partition's end is
//! asked first, so it neither hangs on an empty one nor stops early.

mod print;

use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::{session, units};
use print::{Printer, Style};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::Offset;
use tiderace_client::{Client, ConsumeError, Consumer, From, Item, RequestError, StreamInfo};
use tokio::sync::mpsc;

/// Items that wait to be printed: a slow reader of the output stops the node through credit, nothing grows here.
const ITEMS_WAITING_MAX: usize = 16;

/// How often a command that follows asks whether the node is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    let addresses = session::addresses(&command.server)?;
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
    if command.follow {
        // Ends with the tasks of this command.
        tokio::task::spawn_local(watch(client.clone(), session::shown(&addresses), style));
    }
    loop {
        if behind.is_empty() {
            printer.caught_up()?;
            if !command.follow {
                break;
            }
        }
        if printer.is_done() {
            break;
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
            return Err(Failure::new(
                Exit::History,
                format!(
                    "{path}: partition {partition} {}, and {begin} is asked for",
                    held(start, end)
                ),
            )
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

/// Says when the node is gone and when it is back: the subscription itself waits for it without a word.
async fn watch(client: Client, addresses: String, style: Style) {
    let mut is_gone = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let asked = Instant::now();
        let answer = client.ping().await;
        // A reader of the output that stops holds this thread: the answer came meanwhile, and was not seen in time.
        if asked.elapsed() > session::PATIENCE + LOOK_EVERY {
            continue;
        }
        let was_gone = is_gone;
        is_gone = match answer {
            // Whoever refuses is there.
            Ok(()) | Err(RequestError::Refused(_)) => false,
            Err(RequestError::Unreachable | RequestError::Deadline | RequestError::TlsFailed) => {
                true
            }
            Err(RequestError::Closed) => return,
            // They say nothing about the node.
            Err(RequestError::Violation(_) | RequestError::TooMany) => is_gone,
        };
        match (was_gone, is_gone) {
            (false, true) => {
                print::aside(style, &format!("{addresses} does not answer; trying again"));
            }
            (true, false) => print::aside(style, &format!("{addresses} answers again")),
            (false, false) | (true, true) => {}
        }
    }
}

/// What a partition holds from `start` to before `end`.
fn held(start: Offset, end: Offset) -> String {
    match end.get().checked_sub(1) {
        Some(last) if last >= start.get() => {
            format!("holds the offsets {start} to {last} (the next is {end})")
        }
        _ => format!("holds no events (the next offset is {end})"),
    }
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
    fn what_a_partition_holds_ends_before_its_end() {
        let held = |start, end| held(Offset::new(start), Offset::new(end));
        assert_eq!(
            held(0, 1000),
            "holds the offsets 0 to 999 (the next is 1000)"
        );
        assert_eq!(held(7, 8), "holds the offsets 7 to 7 (the next is 8)");
        assert_eq!(held(0, 0), "holds no events (the next offset is 0)");
        assert_eq!(held(8, 8), "holds no events (the next offset is 8)");
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
}
