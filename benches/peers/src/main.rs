//! `peers`: one workload of `loadgen compare` against one other system, with that system's own client. When batches are
//! sent, what counts as their response and which percentiles may be said is decided by the library of `loadgen`, the same
//! that drives Tiderace; here is only how each system is asked. `loadgen compare` starts it once for each run; it can be
//! run by hand with the same flags.

#![forbid(unsafe_code)]

mod drive;
#[cfg(feature = "iggy")]
mod iggy;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis;

use clap::{Parser, Subcommand};
use loadgen::peer::{Finished, Job};
use std::process::ExitCode;

/// Runs one workload against one other system.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the systems that this program can drive, one a line.
    Systems,
    /// Runs one workload and writes its report. Exits with 1 when anything was refused or lost.
    Run(Box<Job>),
}

/// The systems that it was built for.
const SYSTEMS: &[&str] = &[
    #[cfg(feature = "iggy")]
    "iggy",
    #[cfg(feature = "kafka")]
    "kafka",
    #[cfg(feature = "nats")]
    "nats",
    #[cfg(feature = "redis")]
    "redis",
];

fn main() -> ExitCode {
    let job = match Arguments::parse().command {
        Command::Systems => {
            for system in SYSTEMS {
                println!("{system}");
            }
            return ExitCode::SUCCESS;
        }
        Command::Run(job) => job,
    };
    let done = run(&job).and_then(|finished| {
        eprintln!("{}", finished.text());
        finished.write(&job.json)?;
        Ok(finished.has_failed())
    });
    match done {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("peers: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(job: &Job) -> Result<Finished, String> {
    match job.system.as_str() {
        #[cfg(feature = "iggy")]
        "iggy" => drive::run::<iggy::Iggy>(job),
        #[cfg(feature = "kafka")]
        "kafka" => drive::run::<kafka::Kafka>(job),
        #[cfg(feature = "nats")]
        "nats" => drive::run::<nats::Nats>(job),
        #[cfg(feature = "redis")]
        "redis" => drive::run::<redis::Redis>(job),
        other => Err(format!(
            "{other:?} is none of the systems that this was built for: {}",
            SYSTEMS.join(", ")
        )),
    }
}
