//! Runs targets: `--target NAME` or `--all`, `--runs N` inputs of each from `--seed S` on, or for `--minutes M`; or the one
//! input of a file. What breaks is written to a file, with the command that runs it again.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its output is what it is for"
)]

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::{TARGETS, Taken, Target, find};

struct Arguments {
    targets: Vec<&'static Target>,
    runs: u64,
    seed: u64,
    within: Option<Duration>,
    file: Option<PathBuf>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        targets: Vec::new(),
        runs: 100_000,
        seed: 0,
        within: None,
        file: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let number = |text: String| {
            let digits = text.replace('_', "");
            digits.parse().map_err(|_| format!("{text} is no number"))
        };
        match word.as_str() {
            "--all" => arguments.targets = TARGETS.iter().collect(),
            "--target" => {
                let name = value()?;
                let target = find(&name).ok_or_else(|| {
                    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                    format!("no target is called {name}: {}", names.join(", "))
                })?;
                arguments.targets.push(target);
            }
            "--runs" => arguments.runs = number(value()?)?,
            "--seed" => arguments.seed = number(value()?)?,
            "--minutes" => {
                arguments.within = Some(Duration::from_secs(60 * number(value()?)?));
                arguments.runs = u64::MAX;
            }
            _ if !word.starts_with('-') && arguments.file.is_none() => {
                arguments.file = Some(word.into());
            }
            _ => return Err(format!("{word} is not understood")),
        }
    }
    if arguments.targets.is_empty() {
        return Err("say --all or --target NAME; see docs/fuzzing.md".to_owned());
    }
    Ok(arguments)
}

/// Whether the target holds for all of them.
fn run(target: &Target, arguments: &Arguments) -> bool {
    let corpus = (target.corpus)();
    let started = Instant::now();
    let (mut runs, mut taken) = (0_u64, 0_u64);
    while runs < arguments.runs {
        if runs.is_multiple_of(256)
            && let Some(within) = arguments.within
            && started.elapsed() >= within / arguments.targets.len() as u32
        {
            break;
        }
        let input = target.input(&corpus, arguments.seed, runs);
        match catch_unwind(|| (target.run)(&input)) {
            Ok(verdict) => taken += u64::from(verdict == Taken::Yes),
            Err(_) => {
                let file = format!("fuzz-{}-{}-{runs}.bin", target.name, arguments.seed);
                let written = std::fs::write(&file, &input);
                println!(
                    "{}: input {runs} of seed {} breaks it",
                    target.name, arguments.seed
                );
                match written {
                    Ok(()) => println!(
                        "again: cargo run --release -p fuzz -- --target {} {file}",
                        target.name
                    ),
                    Err(error) => println!("cannot write {file}: {error}"),
                }
                return false;
            }
        }
        runs += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{}: {runs} inputs, {taken} taken, {:.0} a second",
        target.name,
        runs as f64 / seconds
    );
    true
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if let Some(file) = &arguments.file {
        let input = match std::fs::read(file) {
            Ok(input) => input,
            Err(error) => {
                eprintln!("cannot read {}: {error}", file.display());
                return ExitCode::from(2);
            }
        };
        for target in &arguments.targets {
            println!("{}: taken: {:?}", target.name, (target.run)(&input));
        }
        return ExitCode::SUCCESS;
    }
    // One breaks, and the others run all the same.
    let held = arguments
        .targets
        .iter()
        .filter(|target| run(target, &arguments))
        .count();
    if held < arguments.targets.len() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
