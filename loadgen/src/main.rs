//! The load generator. It drives the client core on our own ring from one pinned thread, and its figures are meant to
//! survive a hostile reading: latency counts from the intended time of sending, percentiles without enough samples are
//! refused, and whatever makes a figure unfit to be believed is said beside it.
//!
//! - [`load`] sends and measures, by the times of [`schedule`], with batches from [`batches`], into [`latency`].
//! - [`integrity`] keeps a ledger of what was acknowledged and verifies it against what is delivered.
//! - [`compare`] runs the floor and the product in turns.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program speaks to its user")]

mod batches;
mod cli;
mod compare;
mod environment;
mod integrity;
mod latency;
mod load;
mod output;
mod progress;
mod report;
mod schedule;
mod setup;

use clap::Parser;
use cli::{Arguments, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Integrity(arguments) => integrity::run(&arguments),
        Command::FloorCompare(arguments) => compare::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("loadgen: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &cli::RunArguments) -> Result<ExitCode, String> {
    let plan = arguments.plan();
    let (report, tally) = load::execute(&plan)?;
    eprintln!("{}", report.text());
    if let Some(path) = &arguments.json {
        output::json(path, &report)?;
    }
    if let Some(path) = &arguments.hgrm {
        output::write(path, &tally.response.hgrm())?;
        if plan.subscribe {
            output::write(
                &path.with_extension("delivery.hgrm"),
                &tally.delivery.hgrm(),
            )?;
        }
    }
    Ok(if report.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
