//! The load generator. It drives the client core on our own ring from one pinned thread, and its figures are meant to
//! survive a hostile reading: latency counts from the intended time of sending, percentiles without enough samples are
//! refused, and whatever makes a figure unfit to be believed is said beside it.
//!
//! - [`load`] sends and measures, by the times of [`schedule`], with batches from [`batches`], into [`latency`].
//! - [`sweep`] repeats that at one rate after the other until it has found the knee.
//! - [`soak`] does it for long, interval by interval, and counts what was delivered.
//! - [`integrity`] keeps a ledger of what was acknowledged and verifies it against what is delivered.
//! - [`limits`] measures what the machine allows beside any of them.
//! - [`compare`] runs the floor and the product in turns.
//! - [`systems`] runs the product and other systems in turns, and draws them in one table and one plot.
//! - [`peer`] is what the adapters to other systems are made of. It is all that another package may see.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program speaks to its user")]

mod batches;
mod cli;
mod compare;
mod environment;
mod integrity;
mod keys;
mod latency;
mod limits;
mod load;
mod output;
pub mod peer;
mod profiles;
mod progress;
mod report;
mod schedule;
mod session;
mod setup;
mod soak;
mod sweep;
mod systems;

use cli::Command;
use std::path::Path;
use std::process::ExitCode;

/// The program, for the command line that the process was started with.
#[must_use]
pub fn program() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let arguments = cli::parse(&words).unwrap_or_else(|error| error.exit());
    let result = match arguments.command {
        Command::Run(arguments) => run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Profiles(arguments) => list(arguments.json.as_deref()),
        Command::Integrity(arguments) => integrity::run(&arguments),
        Command::FloorCompare(arguments) => compare::run(&arguments),
        Command::Compare(arguments) => systems::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("loadgen: {message}");
            ExitCode::from(2)
        }
    }
}

fn list(json: Option<&Path>) -> Result<ExitCode, String> {
    match json {
        Some(path) => output::json(path, &profiles::list())?,
        None => output::text(&profiles::text()),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: &cli::RunArguments) -> Result<ExitCode, String> {
    let plan = load::Plan {
        tls: arguments.workload.connector()?,
        ..arguments.plan()
    };
    let measurer = arguments.workload.measurer()?;
    let load::Measured {
        mut report, tally, ..
    } = load::execute(&plan)?;
    report.compare(measurer.as_ref(), &plan);
    eprintln!("{}", report.text());
    if let Some(path) = &arguments.workload.json {
        output::json(path, &report)?;
    }
    if let Some(path) = &arguments.hgrm {
        output::write(path, &tally.response.hgrm())?;
        if plan.fan_out > 0 {
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
