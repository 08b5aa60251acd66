//! Runs fuzz targets: a campaign under a seed, or files that were found. Says what it ran, how fast and what became of it; ends
//! with 1 when a property broke, after writing the input to a file and the command that replays it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people speaks on its terminal"
)]

use clap::Parser;
use fuzz::campaign::{self, Finding, Report, Until};
use fuzz::{Target, corpus, targets};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Feeds whatever reads bytes from outside with bytes that nobody would send.
#[derive(Parser, Debug)]
struct Arguments {
    /// The target to run; --list shows all.
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    target: Option<String>,
    /// Run every target, one after the other.
    #[arg(long)]
    all: bool,
    /// Show the targets.
    #[arg(long)]
    list: bool,
    /// Inputs of each target.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    runs: u64,
    /// How long, for all targets together, instead of --runs.
    #[arg(long, value_name = "M", conflicts_with = "runs")]
    minutes: Option<u64>,
    /// Decides every input.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Threads; each has a seed of its own, counted up from --seed.
    #[arg(long, value_name = "T", default_value_t = 1)]
    threads: u64,
    /// Where findings are written.
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    keep: PathBuf,
    /// Write the encoders' samples into the corpus of the tree.
    #[arg(long)]
    write_corpus: bool,
    /// Inputs to replay, of --target.
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Whether every property held.
fn start(arguments: &Arguments) -> Result<bool, String> {
    if arguments.list {
        for target in targets::ALL {
            println!("{:<18} {}", target.name, target.reads);
        }
        return Ok(true);
    }
    let chosen: Vec<&Target> = match &arguments.target {
        Some(name) => {
            vec![targets::named(name).ok_or(format!("there is no target {name:?}: see --list"))?]
        }
        None if arguments.all || arguments.write_corpus => targets::ALL.iter().collect(),
        None => return Err("say --target NAME or --all; --list shows the targets".to_owned()),
    };
    if arguments.write_corpus {
        for target in chosen {
            corpus::write(target).map_err(|error| format!("{}: {error}", target.name))?;
        }
        return Ok(true);
    }
    if !arguments.files.is_empty() {
        let [target] = chosen[..] else {
            return Err("files are replayed with --target NAME".to_owned());
        };
        return replay(target, &arguments.files);
    }
    let mut all_hold = true;
    for (done, target) in chosen.iter().enumerate() {
        let left = (chosen.len() - done) as u32;
        all_hold &= run(target, arguments, left)?;
    }
    Ok(all_hold)
}

fn replay(target: &Target, files: &[PathBuf]) -> Result<bool, String> {
    let mut all_hold = true;
    for file in files {
        let input = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        match campaign::once(target, &input) {
            Ok((outcome, held)) => println!("{}: {outcome:?}, held {held} bytes", file.display()),
            Err(message) => {
                all_hold = false;
                println!("{}: BROKEN: {message}", file.display());
            }
        }
    }
    Ok(all_hold)
}

fn run(target: &'static Target, arguments: &Arguments, targets_left: u32) -> Result<bool, String> {
    let pool: Vec<Vec<u8>> = corpus::read(target)
        .map_err(|error| format!("{}: {error}", corpus::folder(target).display()))?
        .into_iter()
        .map(|(_, input)| input)
        .collect();
    let began = Instant::now();
    let until = |thread: u64| match arguments.minutes {
        Some(minutes) => Until {
            runs: u64::MAX,
            at: Some(began + Duration::from_secs(minutes * 60) / targets_left.max(1)),
        },
        None => Until {
            // What does not divide goes to the first threads.
            runs: arguments.runs / arguments.threads.max(1)
                + u64::from(thread < arguments.runs % arguments.threads.max(1)),
            at: None,
        },
    };
    let mut report = Report::default();
    let mut seed = arguments.seed;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads.max(1))
            .map(|thread| {
                let (pool, until) = (pool.clone(), until(thread));
                let seed = arguments.seed + thread;
                (
                    seed,
                    scope.spawn(move || campaign::run(target, pool, seed, until)),
                )
            })
            .collect();
        for (own, worker) in workers {
            let counted = worker.join().expect("a campaign catches its panics");
            if report.finding.is_none() && counted.finding.is_some() {
                seed = own;
            }
            report.add(counted);
        }
    });
    print(target, &report, began.elapsed());
    if let Some(finding) = &report.finding {
        keep(target, finding, seed, &arguments.keep)?;
    }
    Ok(report.finding.is_none())
}

fn print(target: &Target, report: &Report, took: Duration) {
    let runs = report.runs as f64;
    let percent = |count: u64| 100.0 * count as f64 / runs.max(1.0);
    println!(
        "{:<18} {:>10} runs {:>9.0}/s  taken {:>5.1} %  held at most {} bytes",
        target.name,
        report.runs,
        runs / took.as_secs_f64().max(1e-9),
        percent(report.taken()),
        report.held_bytes_max,
    );
    let refused: Vec<String> = report
        .outcomes
        .iter()
        .filter(|(outcome, _)| !outcome.is_taken())
        .map(|(outcome, count)| format!("{} {:.1} %", outcome.name(), percent(*count)))
        .collect();
    println!("{:<18} refused: {}", "", refused.join(", "));
}

fn keep(target: &Target, finding: &Finding, seed: u64, folder: &Path) -> Result<(), String> {
    let folder = folder.join(target.name);
    let file = folder.join(finding.file_name());
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, &finding.input))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    println!("BROKEN: {}", finding.message);
    println!(
        "  seed {seed}, run {}: {} bytes in {}",
        finding.run,
        finding.input.len(),
        file.display()
    );
    println!(
        "  again: cargo run --release -p fuzz -- --target {} {}",
        target.name,
        file.display()
    );
    Ok(())
}
