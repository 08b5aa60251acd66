//! Makes a recording of the real program under a real load, or takes one, draws crash images from it, starts a node from each
//! and names those that break a property. Exit code 1 means that one did; its line says how to look at it again.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program: it speaks to whoever started it"
)]

use crash::check::{Check, Image};
use crash::load::{self, Plan};
use crash::recording::Recording;
use integration::scratch::Scratch;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const HELP: &str = "\
Cuts the power of a recorded run of the real program, again and again, and starts a node from what is left.

  --images N        images to check (default 10000)
  --seed S          decides the load, the points and what is left (default 1)
  --threads T       checkers (default 2)
  --shards N        shards of the node (default 3)
  --kills N         kill -9 under the load, and starts behind them (default 3)
  --small N         small records of each of their seven producers (default 5000)
  --large N         large records, of up to 400 KiB (default 400)
  --keep DIR        leave the recording there
  --recording DIR   check that recording instead of making one
  --replay P:S      check one image of a recording and say everything about it
  --write DIR       also make that image a data directory, for the program to start from
";

struct Arguments {
    images: usize,
    threads: usize,
    plan: Plan,
    keep: Option<PathBuf>,
    recording: Option<PathBuf>,
    replay: Option<Image>,
    write: Option<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        images: 10_000,
        threads: 2,
        plan: Plan {
            shards: 3,
            kills: 3,
            small_records: 5_000,
            large_records: 400,
            sessions: 4,
            seed: 1,
        },
        keep: None,
        recording: None,
        replay: None,
        write: None,
    };
    while let Some(name) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or(format!("{name} needs a value\n\n{HELP}"))
        };
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text:?} is not a number"))
        };
        let small = |number: u64| usize::try_from(number).map_err(|_| "too many".to_owned());
        match name.as_str() {
            "--images" => parsed.images = small(number(value()?)?)?,
            "--threads" => parsed.threads = small(number(value()?)?)?,
            "--seed" => parsed.plan.seed = number(value()?)?,
            "--shards" => {
                parsed.plan.shards =
                    u16::try_from(number(value()?)?).map_err(|_| "too many".to_owned())?;
            }
            "--kills" => parsed.plan.kills = number(value()?)?,
            "--small" => parsed.plan.small_records = number(value()?)?,
            "--large" => parsed.plan.large_records = number(value()?)?,
            "--keep" => parsed.keep = Some(value()?.into()),
            "--recording" => parsed.recording = Some(value()?.into()),
            "--write" => parsed.write = Some(value()?.into()),
            "--replay" => {
                let text = value()?;
                let (point, seed) = text
                    .split_once(':')
                    .ok_or(format!("{text:?} is not like 1234:5"))?;
                parsed.replay = Some(Image {
                    point: small(number(point.to_owned())?)?,
                    seed: number(seed.to_owned())?,
                });
            }
            _ => return Err(format!("{name} is unknown\n\n{HELP}")),
        }
    }
    if parsed.replay.is_some() && parsed.recording.is_none() {
        return Err(format!("--replay needs --recording\n\n{HELP}"));
    }
    if parsed.write.is_some() && parsed.replay.is_none() {
        return Err(format!("--write needs --replay\n\n{HELP}"));
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(what) => {
            eprintln!("{what}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything holds.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let begun = Instant::now();
    let scratch = Scratch::new("crash");
    let (folder, settings) = match &arguments.recording {
        Some(folder) => {
            let settings = load::settings(folder);
            let what = format!(
                "{} does not say how its node was configured",
                folder.display()
            );
            (folder.clone(), settings.ok_or(what)?)
        }
        None => {
            let kept = arguments.keep.clone();
            let folder = kept.unwrap_or_else(|| scratch.join("recording"));
            let settings = load::record(arguments.plan, &scratch, &folder);
            println!("recorded in {:.1} s", begun.elapsed().as_secs_f64());
            (folder, settings)
        }
    };
    let recording = Recording::read(&folder).map_err(|error| error.to_string())?;
    let check = Check::new(&recording, settings);
    println!("{}", check.summary());
    if let Some(image) = arguments.replay {
        if image.point > recording.steps.len() {
            return Err(format!("the recording has {} steps", recording.steps.len()));
        }
        let (told, verdict) = check.replay(image, true);
        println!("{told}");
        if let Some(data_dir) = &arguments.write {
            load::layout(&folder)
                .and_then(|layout| load::write(&check.directories(image), &layout, data_dir))
                .map_err(|error| format!("{} cannot be written: {error}", data_dir.display()))?;
        }
        return Ok(match verdict.violation {
            Some(violation) => {
                println!("{violation}");
                false
            }
            None => {
                println!("holds");
                true
            }
        });
    }
    let begun = Instant::now();
    let images = check.sample(arguments.images, arguments.plan.seed);
    let done = AtomicU64::new(0);
    let outcome = check.run(&images, arguments.threads, &|| {
        let count = done.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(1_000) {
            println!("{count} images in {:.0} s", begun.elapsed().as_secs_f64());
        }
    });
    println!(
        "{} images at {} points in {:.1} s: {} batches acknowledged before and {} read back, {} starts cut short; {} failures",
        outcome.images,
        outcome.points,
        begun.elapsed().as_secs_f64(),
        outcome.acknowledged,
        outcome.delivered,
        outcome.starts_cut,
        outcome.failures.len()
    );
    for (image, what) in &outcome.failures {
        println!("--recording {} --replay {image}: {what}", folder.display());
    }
    if !outcome.failures.is_empty() && arguments.recording.is_none() && arguments.keep.is_none() {
        println!("make the recording again with --keep DIR to look at one");
    }
    Ok(outcome.failures.is_empty())
}
