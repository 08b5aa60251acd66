//! The program `torture`: one command for each torture, for ten cycles before a change lands and ten thousand by hand.
//! Exit code 0: nothing was violated; 1: something was, and its lines say how to see it again; 2: the command line is wrong;
//! 3: this machine cannot do what was asked.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program: it speaks to whoever started it"
)]

use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use std::time::Instant;
use torture::cycles::{Failure, Plan, Summary};
use torture::{damage, full, image, kill, refuse, stop};

/// Treats real nodes badly, in thousands of seeded cycles, and knows what has to come of each.
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Arguments {
    #[command(subcommand)]
    torture: Torture,
}

#[derive(Debug, Subcommand)]
enum Torture {
    /// kill -9 under load, at any moment, also of a start.
    Kill(Cycles),
    /// SIGSTOP and SIGCONT under load.
    Stop(Cycles),
    /// One damage of each kind in turn to a settled directory, with the exact outcome told beforehand.
    Damage(Cycles),
    /// The directory as it was some time ago, whole or in parts.
    Image(Cycles),
    /// No space left, on a small file system of its own.
    Full(Cycles),
    /// A directory that cannot be written, no io_uring, no descriptors.
    Refuse(Cycles),
    /// Each of the others, one after the other.
    All(Cycles),
}

#[derive(Clone, Debug, Args)]
struct Cycles {
    /// How many cycles.
    #[arg(long, default_value_t = 10)]
    cycles: u64,
    /// Decides every choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this cycle, with those that it builds on.
    #[arg(long)]
    cycle: Option<u64>,
    /// Nodes at once, where a torture can have more than one.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// A violation is told and does not end the run, where cycles stand alone.
    #[arg(long)]
    keep_going: bool,
    /// What this machine or this user cannot do is told and passed over.
    #[arg(long)]
    skip_unavailable: bool,
}

type Run = fn(&Plan, &(dyn Fn(&str) + Sync)) -> Result<Summary, Failure>;

const ALL: [(&str, Run); 6] = [
    ("kill", kill::run),
    ("stop", stop::run),
    ("damage", damage::run),
    ("image", image::run),
    ("full", full::run),
    ("refuse", refuse::run),
];

fn main() -> ExitCode {
    let (wanted, cycles) = match Arguments::parse().torture {
        Torture::Kill(cycles) => (Some("kill"), cycles),
        Torture::Stop(cycles) => (Some("stop"), cycles),
        Torture::Damage(cycles) => (Some("damage"), cycles),
        Torture::Image(cycles) => (Some("image"), cycles),
        Torture::Full(cycles) => (Some("full"), cycles),
        Torture::Refuse(cycles) => (Some("refuse"), cycles),
        Torture::All(cycles) => (None, cycles),
    };
    let chosen = ALL
        .iter()
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
    let mut exit = 0;
    for (name, run) in chosen {
        exit = exit.max(one(name, *run, &cycles));
    }
    ExitCode::from(exit)
}

fn one(name: &str, run: Run, cycles: &Cycles) -> u8 {
    let plan = Plan {
        seed: cycles.seed,
        cycles: cycles.cycles,
        only: cycles.cycle,
        at_once: cycles.at_once.max(1),
        keep_going: cycles.keep_going,
    };
    let begun = Instant::now();
    match run(&plan, &|line| println!("{line}")) {
        Ok(summary) => {
            println!("{name}: {summary}");
            println!("{}", summary.json(name, plan.seed, begun.elapsed()));
            0
        }
        Err(Failure::Unavailable(what)) if cycles.skip_unavailable => {
            println!("{name}: passed over: {what}");
            0
        }
        Err(Failure::Unavailable(what)) => {
            eprintln!("{name}: cannot be done here: {what}");
            3
        }
        Err(Failure::Violated(violation)) => {
            let (seed, cycle) = (plan.seed, violation.cycle);
            eprintln!(
                "{name}: VIOLATED in cycle {cycle} of seed {seed}: {}",
                violation.what
            );
            eprintln!(
                "again: cargo run --release -p torture -- {name} --seed {seed} --cycle {cycle}"
            );
            1
        }
    }
}
