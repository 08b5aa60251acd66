//! `stream create|ls|describe|delete`: the catalogue as commands.

use crate::cli;
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output, Table};
use crate::{session, units};
use serde::Serialize;
use std::time::Duration;
use tiderace_base::catalogue::{Durability, Retention, Stream, path_is_valid};
use tiderace_base::limits;
use tiderace_client::{Partition, StreamOptions};

/// Streams asked for at once.
const PAGE: u32 = 256;

/// A stream as programs read it.
#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    id: u64,
    partitions: u32,
    durability: &'static str,
    /// `None`: all are kept.
    retention_bytes: Option<u64>,
    retention_age_ms: Option<u64>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_list: Option<Vec<ShownPartition>>,
}

#[derive(Serialize)]
struct ShownPartition {
    partition: u32,
    /// `None`: its leader could not be asked.
    start: Option<u64>,
    end: Option<u64>,
    shard: Option<u16>,
    address: Option<String>,
}

impl<'a> Shown<'a> {
    fn of(stream: &'a Stream) -> Self {
        let bound = |value: u64| (value != 0).then_some(value);
        Self {
            path: &stream.path,
            id: stream.id.get(),
            partitions: stream.partitions,
            durability: stream.durability.name(),
            retention_bytes: bound(stream.retention.bytes),
            retention_age_ms: bound(stream.retention.age_ms),
            created: units::show_time_us(stream.created_us),
            partition_list: None,
        }
    }

    const HEADS: [&'static str; 6] = [
        "STREAM",
        "PARTITIONS",
        "DURABILITY",
        "KEEPS PER PARTITION",
        "CREATED",
        "ID",
    ];

    fn cells(&self) -> Vec<String> {
        let age = self
            .retention_age_ms
            .map(|ms| units::show_duration(Duration::from_millis(ms)));
        let kept: Vec<String> = self
            .retention_bytes
            .map(units::show_bytes)
            .into_iter()
            .chain(age)
            .collect();
        // The weakest level is marked wherever it is listed.
        let is_weak = self.durability == Durability::Memory.name();
        vec![
            self.path.to_owned(),
            self.partitions.to_string(),
            if is_weak {
                "memory (a crash loses it)".to_owned()
            } else {
                self.durability.to_owned()
            },
            if kept.is_empty() {
                "all".to_owned()
            } else {
                kept.join(", ")
            },
            self.created.clone(),
            self.id.to_string(),
        ]
    }
}

pub(crate) fn run(command: cli::Stream, format: Format) -> Result<(), Failure> {
    session::block_on(async {
        match command {
            cli::Stream::Create(create) => self::create(create, format).await,
            cli::Stream::Ls { prefix, server } => {
                list(&prefix.unwrap_or_default(), &server, format).await
            }
            cli::Stream::Describe { path, server } => describe(&path, &server, format).await,
            cli::Stream::Delete { path, server } => delete(&path, &server, format).await,
        }
    })
}

async fn create(command: cli::Create, format: Format) -> Result<(), Failure> {
    let path = command.path.as_str();
    if let Some(why) = path_fault(path) {
        return Err(Failure::new(Exit::Usage, format!("the path {path:?} {why}")).hint(PATH_HINT));
    }
    let options = options(&command)?;
    let client = session::connect(&command.server).await?;
    let stream = client
        .create_stream(path, options)
        .await
        .map_err(|error| session::request_failure(path, &error))?;
    show(&[stream], "", format)
}

/// How a path is written.
pub(crate) const PATH_HINT: &str = "write names of ASCII letters, digits, `.`, `_` and `-` between slashes, 255 bytes at most, such as shop/orders";

/// How many partitions a stream may have.
pub(crate) const PARTITIONS_HINT: &str = "give it 1 to 16384 partitions";

const _: () = assert!(
    limits::PATH_BYTES_MAX == 255 && limits::PARTITIONS_MAX == 16_384,
    "the hints name the limits"
);

/// Why a path is none, as the end of a sentence that begins with it; `None` when it is one.
pub(crate) fn path_fault(path: &str) -> Option<String> {
    if path_is_valid(path) {
        return None;
    }
    let is_allowed =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '/');
    let foreign = path
        .chars()
        .enumerate()
        .find(|(_, letter)| !is_allowed(*letter));
    if path.is_empty() {
        Some("is empty".to_owned())
    } else if path.len() > limits::PATH_BYTES_MAX {
        Some(format!(
            "is {} bytes long, and a path has at most {}",
            path.len(),
            limits::PATH_BYTES_MAX
        ))
    } else if let Some((index, letter)) = foreign {
        Some(format!(
            "holds {letter:?} as its character {}, which paths do not have",
            index + 1
        ))
    } else if path.split('/').any(str::is_empty) {
        Some("has a slash at an end, or two in a row".to_owned())
    } else {
        Some("holds the name `.` or `..`, which paths do not have".to_owned())
    }
}

fn options(command: &cli::Create) -> Result<StreamOptions, Failure> {
    let wrong = |flag: &str, text: &str, why: &dyn core::fmt::Display| {
        Failure::new(Exit::Usage, format!("--{flag} {text:?} {why}"))
            .hint("`tiderace help stream create` shows how values are written")
    };
    if !(1..=limits::PARTITIONS_MAX).contains(&command.partitions) {
        let what = format!(
            "--partitions {} is out of bounds: 1 to {}",
            command.partitions,
            limits::PARTITIONS_MAX
        );
        return Err(Failure::new(Exit::Usage, what).hint(PARTITIONS_HINT));
    }
    let mut retention = Retention::default();
    if let Some(text) = &command.retention_bytes {
        retention.bytes =
            units::bytes(text).map_err(|error| wrong("retention-bytes", text, &error))?;
    }
    if let Some(text) = &command.retention_age {
        let age = units::duration(text).map_err(|error| wrong("retention-age", text, &error))?;
        retention.age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if retention.age_ms == 0 {
            return Err(wrong(
                "retention-age",
                text,
                &"is shorter than a millisecond",
            ));
        }
    }
    if command.retention_bytes.is_some() && retention.bytes == 0 {
        return Err(wrong(
            "retention-bytes",
            "0",
            &"keeps nothing: leave the flag out to keep everything",
        ));
    }
    let durability = match &command.durability {
        None => None,
        Some(name) => Durability::ALL
            .into_iter()
            .find(|level| level.name() == name),
    };
    Ok(StreamOptions {
        partitions: command.partitions,
        durability,
        retention,
        ..StreamOptions::default()
    })
}

async fn list(prefix: &str, server: &cli::Server, format: Format) -> Result<(), Failure> {
    let client = session::connect(server).await?;
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.list_streams(&after, PAGE).await;
        let (streams, more) =
            page.map_err(|error| session::request_failure("the list of streams", &error))?;
        let last = streams.last().map(|stream| stream.path.to_string());
        found.extend(
            streams
                .into_iter()
                .filter(|stream| stream.path.starts_with(prefix)),
        );
        match last {
            // A page that does not advance would be asked for without end.
            Some(last) if more && last > after => after = last,
            _ => break,
        }
    }
    let none = match prefix {
        "" => "no streams; `tiderace stream create` makes one".to_owned(),
        _ => format!("no stream begins with {prefix:?}; `tiderace stream ls` lists them all"),
    };
    show(&found, &none, format)
}

/// Prints streams, or for people `none` when there are none.
fn show(streams: &[Stream], none: &str, format: Format) -> Result<(), Failure> {
    let mut output = Output::new();
    let shown = streams.iter().map(Shown::of);
    match format {
        Format::Json => shown
            .into_iter()
            .try_for_each(|stream| output.json(&stream))?,
        Format::Table => {
            let mut table = Table::new(&Shown::HEADS);
            shown.for_each(|stream| table.row(stream.cells()));
            if table.is_empty() {
                output.line(none)?;
            } else {
                table
                    .lines()
                    .iter()
                    .try_for_each(|line| output.line(line))?;
            }
        }
    }
    output.flush()
}

async fn describe(path: &str, server: &cli::Server, format: Format) -> Result<(), Failure> {
    let client = session::connect(server).await?;
    let info = client
        .describe_stream(path)
        .await
        .map_err(|error| session::request_failure(path, &error))?;
    let partitions: Vec<ShownPartition> = info.partitions.iter().map(ShownPartition::of).collect();
    let mut output = Output::new();
    match format {
        Format::Json => output.json(&Shown {
            partition_list: Some(partitions),
            ..Shown::of(&info.stream)
        })?,
        Format::Table => {
            let mut table = Table::new(&Shown::HEADS);
            table.row(Shown::of(&info.stream).cells());
            table
                .lines()
                .iter()
                .try_for_each(|line| output.line(line))?;
            output.line("")?;
            let mut table =
                Table::new(&["PARTITION", "START", "END", "RECORDS", "SHARD", "ADDRESS"]);
            partitions
                .iter()
                .for_each(|partition| table.row(partition.cells()));
            table
                .lines()
                .iter()
                .try_for_each(|line| output.line(line))?;
        }
    }
    output.flush()
}

impl ShownPartition {
    fn of(partition: &Partition) -> Self {
        Self {
            partition: partition.partition.get(),
            start: partition.offsets.map(|(start, _)| start.get()),
            end: partition.offsets.map(|(_, end)| end.get()),
            shard: partition.place.map(|place| place.shard.get()),
            address: partition.place.map(|place| place.address.to_string()),
        }
    }

    fn cells(&self) -> Vec<String> {
        let known =
            |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let records = self
            .start
            .zip(self.end)
            .map(|(start, end)| end.saturating_sub(start));
        vec![
            self.partition.to_string(),
            known(self.start),
            known(self.end),
            known(records),
            known(self.shard.map(u64::from)),
            self.address.clone().unwrap_or_else(|| "?".to_owned()),
        ]
    }
}

async fn delete(path: &str, server: &cli::Server, format: Format) -> Result<(), Failure> {
    let failed = |error| session::request_failure(path, &error);
    let client = session::connect(server).await?;
    let stream = client.metadata(path).await.map_err(failed)?.stream;
    client.delete_stream(stream.id).await.map_err(failed)?;
    let mut output = Output::new();
    match format {
        Format::Json => {
            output.json(&serde_json::json!({ "deleted": path, "id": stream.id.get() }))?;
        }
        Format::Table => output.line(format!("deleted {path}"))?,
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn create(flags: &[&str]) -> Result<StreamOptions, Failure> {
        let cli =
            cli::Cli::try_parse_from(["tiderace", "stream", "create", "a"].iter().chain(flags))
                .expect("parses");
        let cli::Run::Stream(cli::Stream::Create(create)) = cli.run else {
            panic!("a create")
        };
        options(&create)
    }

    #[test]
    fn retention_and_durability_are_read_with_their_units() {
        let made = create(&[
            "-p",
            "16",
            "-d",
            "memory",
            "--retention-age",
            "7d",
            "--retention-bytes",
            "1GiB",
        ])
        .expect("good");
        assert_eq!(
            (made.partitions, made.durability),
            (16, Some(Durability::Memory))
        );
        assert_eq!(
            made.retention,
            Retention {
                bytes: 1 << 30,
                age_ms: 7 * 86_400_000
            }
        );
        assert_eq!(create(&[]).expect("good"), StreamOptions::default());
    }

    #[test]
    fn what_is_wrong_with_a_path_is_named_with_its_place() {
        for (path, why) in [
            ("", "is empty"),
            ("shop/my orders", "holds ' ' as its character 8"),
            ("Zürich", "holds 'ü' as its character 2"),
            (&"x".repeat(256), "is 256 bytes long"),
            ("a//b", "two in a row"),
            ("/a", "a slash at an end"),
            ("a/..", "holds the name"),
        ] {
            let fault = path_fault(path).expect("a fault");
            assert!(fault.contains(why), "{path}: {fault}");
        }
        assert_eq!(path_fault("shop/orders-2.b_c"), None);
    }

    #[test]
    fn a_count_or_retention_of_nothing_or_nonsense_is_refused() {
        for (flag, text) in [
            ("--retention-age", "0"),
            ("--retention-age", "7"),
            ("--retention-bytes", "0"),
            ("--retention-bytes", "x"),
            ("--partitions", "0"),
            ("--partitions", "16385"),
        ] {
            assert_eq!(
                create(&[flag, text]).expect_err("refused").exit,
                Exit::Usage,
                "{flag} {text}"
            );
        }
    }
}
