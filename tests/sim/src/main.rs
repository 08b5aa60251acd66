//! Runs seeds of the simulator and names the first one that breaks a property. Exit code 1 means that one did: the property,
//! what the seed drew, the last events and the command that runs it again with a trace are printed.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program: it speaks to whoever started it"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sim::node::OneNode;
use sim::rot::{Outcome, Rot};
use sim::run::{Options, Report, Scenario, mixture, run};
use sim::toy::Toy;
use sim::world::Counted;
use sim::world::faults::{Fault, Fired, Without};
use sim::world::trace::Lines;
use sim::zone::OneZone;

/// Events that are printed of a run that broke something.
const LAST_EVENTS: usize = 200;

const HELP: &str = "\
Runs the product's own code in one thread on a simulated disk, network and clock.

  --seed N        run one seed
  --seeds A..B    run the seeds from A to B, without B
  --minutes M     run seeds for so long, from --from on
  --from A        the first seed for --minutes (default 0)
  --twice         run each seed twice and compare
  --trace         print everything that happens
  --without F     switch off a fault, by its name in the summary; may be given again
  --every-fault   fail if a fault that is drawn never fired
  --print-options print what each seed draws: the chance of each fault
  --history FILE  with --seed: write what clients saw, for the program `history`
  --toy           simulate the toy log instead of a node
  --nodes N       simulate a zone of so many nodes: 2 to 7
  --rot           let something rot at rest in each seed, and see that the node says so
  --planted N     plant each bug in turn; within N seeds it has to be noticed by what it is aimed at (builds with
                  --cfg planted only)
";

/// Flags that `--rot` takes; the others say nothing of it, and are refused.
const WITH_ROT: [&str; 6] = [
    "--rot",
    "--seed",
    "--seeds",
    "--minutes",
    "--from",
    "--trace",
];
/// The same for `--planted`.
const WITH_PLANTED: [&str; 1] = ["--planted"];
/// Flags that `--toy` does not take: it does not come to every fault.
const NOT_WITH_TOY: [&str; 2] = ["--every-fault", "--nodes"];

#[derive(Debug)]
struct Arguments {
    seeds: Range<u64>,
    deadline: Option<Instant>,
    twice: bool,
    trace: bool,
    toy: bool,
    /// How many nodes; none: one, by itself.
    nodes: Option<u16>,
    planted: Option<u64>,
    rot: bool,
    without: Without,
    switched_off: Vec<&'static str>,
    every_fault: bool,
    print_options: bool,
    history: Option<PathBuf>,
}

impl Arguments {
    /// The command that runs this seed again, with everything that decides what it does.
    fn again(&self, seed: u64) -> String {
        let mut command = format!("cargo run --release -p sim -- --seed {seed}");
        let flags = [
            (self.toy, " --toy"),
            (self.rot, " --rot"),
            (self.twice, " --twice"),
        ];
        for (_, flag) in flags.iter().filter(|(given, _)| *given) {
            command += flag;
        }
        if let Some(nodes) = self.nodes {
            command = format!("{command} --nodes {nodes}");
        }
        for fault in &self.switched_off {
            command = format!("{command} --without {fault}");
        }
        command + " --trace"
    }

    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn lines(&self) -> Lines {
        if self.trace {
            Lines::Printed
        } else {
            Lines::None
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seeds: 0..100,
        deadline: None,
        twice: false,
        trace: false,
        toy: false,
        nodes: None,
        planted: None,
        rot: false,
        without: Without::default(),
        switched_off: Vec::new(),
        every_fault: false,
        print_options: false,
        history: None,
    };
    let mut arguments = arguments.peekable();
    let mut given = Vec::new();
    while let Some(name) = arguments.next() {
        given.push(name.clone());
        let mut value = || arguments.next().ok_or(format!("{name} needs a value"));
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{text:?} is not a number"))
        };
        match name.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                parsed.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text
                    .split_once("..")
                    .ok_or(format!("{text:?} is not like 0..200"))?;
                parsed.seeds = number(from)?..number(to)?;
            }
            "--minutes" => {
                let minutes = number(&value()?)?;
                parsed.deadline = Some(Instant::now() + Duration::from_secs(60 * minutes));
                parsed.seeds.end = u64::MAX;
            }
            "--from" => parsed.seeds.start = number(&value()?)?,
            "--twice" => parsed.twice = true,
            "--trace" => parsed.trace = true,
            "--toy" => parsed.toy = true,
            "--rot" => parsed.rot = true,
            "--nodes" => {
                let nodes = number(&value()?)?;
                let nodes = u16::try_from(nodes).ok().filter(|it| (2..=7).contains(it));
                parsed.nodes = Some(nodes.ok_or("a zone has 2 to 7 nodes here")?);
            }
            "--every-fault" => parsed.every_fault = true,
            "--print-options" => parsed.print_options = true,
            "--without" => {
                let name = value()?;
                let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
                let fault = fault.ok_or(format!("{name:?} is no fault"))?;
                parsed.without.add(fault);
                parsed.switched_off.push(fault.name());
            }
            "--planted" => parsed.planted = Some(number(&value()?)?),
            "--history" => parsed.history = Some(value()?.into()),
            _ => return Err(format!("{name} is unknown\n\n{HELP}")),
        }
    }
    if parsed.history.is_some() && parsed.seeds.end - parsed.seeds.start != 1 {
        return Err("--history is for one seed: name it with --seed".to_owned());
    }
    let refuses = |mode: &str, takes: &dyn Fn(&str) -> bool| {
        given
            .iter()
            .find(|name| !takes(name))
            .map_or(Ok(()), |name| {
                Err(format!("{name} says nothing with {mode}"))
            })
    };
    if parsed.rot {
        refuses("--rot", &|name| WITH_ROT.contains(&name))?;
    }
    if parsed.planted.is_some() {
        refuses("--planted", &|name| WITH_PLANTED.contains(&name))?;
    }
    if parsed.toy {
        refuses("--toy", &|name| !NOT_WITH_TOY.contains(&name))?;
    }
    Ok(parsed)
}

#[derive(Default)]
struct Summary {
    seeds: u64,
    events: u64,
    effects: u64,
    writes: u64,
    acknowledged: u64,
    delivered: u64,
    crashes: u64,
    restarts: u64,
    simulated_ns: u128,
    progress_ns: u64,
    fired: Fired,
    counted: Counted,
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.counts.events;
        self.effects += report.counts.effects;
        self.writes += report.counts.writes;
        self.acknowledged += report.acknowledged;
        self.delivered += report.delivered;
        self.crashes += report.counts.crashes;
        self.restarts += report.counts.restarts;
        self.simulated_ns += u128::from(report.simulated_ns);
        self.progress_ns = self.progress_ns.max(report.progress_ns);
        self.fired.add(&report.fired);
        for (name, count) in &report.counted {
            *self.counted.entry(name).or_default() += count;
        }
    }

    fn print(&self, took: Duration) {
        println!(
            "{} seeds in {:.1} s ({:.1} ms each), {:.0} simulated seconds, everybody's goals within {:.1}",
            self.seeds,
            took.as_secs_f64(),
            took.as_secs_f64() * 1e3 / self.seeds.max(1) as f64,
            self.simulated_ns as f64 / 1e9,
            self.progress_ns as f64 / 1e9,
        );
        println!(
            "events {}, effects {}, disk writes {}, batches acknowledged {}, delivered {}, crashes {}, restarts {}",
            self.events,
            self.effects,
            self.writes,
            self.acknowledged,
            self.delivered,
            self.crashes,
            self.restarts
        );
        let fired: Vec<String> = Fault::ALL
            .into_iter()
            .filter(|fault| self.fired.count(*fault) > 0)
            .map(|fault| format!("{} {}", fault.name(), self.fired.count(fault)))
            .collect();
        println!("faults fired: {}", fired.join(", "));
        let counted: Vec<String> = self
            .counted
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        println!("nodes counted: {}", counted.join(", "));
    }
}

fn print_last(lines: &[String]) {
    println!("the last {} events:", lines.len());
    for line in lines {
        println!("{line}");
    }
}

/// Lets something rot in each seed, and counts what came of it.
fn rot(arguments: &Arguments) -> ExitCode {
    let mut seen: BTreeMap<(Rot, Outcome), u64> = BTreeMap::new();
    for seed in arguments.seeds.clone() {
        if arguments.is_over() {
            println!("{} seeds", seed - arguments.seeds.start);
            break;
        }
        let Some(case) = sim::rot::run(seed, arguments.lines()) else {
            continue;
        };
        if let Outcome::Wrong(what) = &case.outcome {
            if !arguments.trace
                && let Some(again) = sim::rot::run(seed, Lines::Kept(LAST_EVENTS))
            {
                print_last(&again.last_lines);
            }
            println!(
                "seed {seed}: {:?} of {}, while it {}: {what}",
                case.rot,
                case.file,
                if case.while_running { "ran" } else { "stood" }
            );
            println!("again: {}", arguments.again(seed));
            return ExitCode::FAILURE;
        }
        *seen.entry((case.rot, case.outcome)).or_default() += 1;
    }
    for ((rot, outcome), count) in seen {
        println!("{rot:?}: {outcome:?} {count}");
    }
    ExitCode::SUCCESS
}

/// Plants each bug in turn, and says which property notices it by which seed.
#[cfg(planted)]
fn planted(seeds_max: u64) -> ExitCode {
    use sim::planted::{Missed, WITHOUT_A_BUG, hunt, unaimed};
    let mut wrong = 0;
    for bug in tiderace_base::planted::Bug::ALL {
        let started = Instant::now();
        match hunt(bug, seeds_max) {
            Ok(noticed) => {
                let took = started.elapsed().as_secs_f64();
                println!("{bug:?}, in {took:.1} s:");
                for noticed in noticed {
                    println!(
                        "  {} by seed {}, where {}",
                        noticed.property, noticed.seed, noticed.violation
                    );
                }
            }
            Err(Missed::By(properties)) => {
                wrong += 1;
                println!("{bug:?}: NOT NOTICED by {}", properties.join(", "));
            }
            Err(Missed::Unexpected(seed, violation)) => {
                wrong += 1;
                println!("{bug:?}: seed {seed} is not what notices it: {violation}");
            }
        }
    }
    for (property, why) in WITHOUT_A_BUG {
        println!("no bug for {property}: {why}");
    }
    for property in unaimed() {
        wrong += 1;
        println!("{property}: NO BUG is aimed at it, and no reason is given, or both");
    }
    if wrong > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(not(planted))]
fn planted(_: u64) -> ExitCode {
    eprintln!(
        "this build holds no planted bugs: RUSTFLAGS=\"--cfg planted\" cargo run --release --target-dir target/planted -p sim -- --planted 3000"
    );
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if let Some(seeds_max) = arguments.planted {
        return planted(seeds_max);
    }
    if arguments.rot {
        return rot(&arguments);
    }
    let toy = Toy::default();
    let zone = arguments.nodes.map(OneZone::new);
    let scenario: &dyn Scenario = match &zone {
        Some(zone) => zone,
        None if arguments.toy => &toy,
        None => &OneNode,
    };
    let started = Instant::now();
    let mut summary = Summary::default();
    let options = Options {
        lines: arguments.lines(),
        without: arguments.without,
        records: arguments.history.is_some(),
    };
    for seed in arguments.seeds.clone() {
        if arguments.is_over() {
            break;
        }
        if arguments.print_options {
            println!("seed {seed}: {}", mixture(scenario, seed, options));
        }
        let report = run(scenario, seed, options);
        summary.add(&report);
        if let Some(path) = &arguments.history
            && let Err(error) = std::fs::write(path, &report.history)
        {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::from(2);
        }
        if let Some(violation) = &report.violation {
            if !arguments.trace {
                let lines = Lines::Kept(LAST_EVENTS);
                print_last(&run(scenario, seed, Options { lines, ..options }).last_lines);
            }
            println!("seed {seed} drew: {}", mixture(scenario, seed, options));
            println!("seed {seed}: {violation}");
            println!("again: {}", arguments.again(seed));
            summary.print(started.elapsed());
            return ExitCode::FAILURE;
        }
        if arguments.twice {
            let again = run(scenario, seed, options);
            if again != report {
                println!(
                    "seed {seed}: two runs differ: {:016x} and {:016x}",
                    report.hash, again.hash
                );
                println!("seed {seed} drew: {}", mixture(scenario, seed, options));
                println!("again: {}", arguments.again(seed));
                return ExitCode::FAILURE;
            }
        }
        if arguments.seeds.end - arguments.seeds.start == 1 {
            println!("seed {seed}: hash {:016x}", report.hash);
        } else if summary.seeds.is_multiple_of(500) {
            println!(
                "{} seeds, up to {seed}: {:.1} s",
                summary.seeds,
                started.elapsed().as_secs_f64()
            );
        }
    }
    summary.print(started.elapsed());
    if let Some(zone) = &zone {
        let seen = zone.seen();
        println!(
            "{} zones populated, several voted in {}, others than the founder led in {}, {} versions of catalogues compared",
            seen.seeds, seen.zones, seen.led_by_others, seen.shared_versions
        );
    }
    if arguments.every_fault {
        let never: Vec<&str> = Fault::ALL
            .into_iter()
            .filter(|fault| fault.is_survivable() && summary.fired.count(*fault) == 0)
            .map(Fault::name)
            .collect();
        if !never.is_empty() {
            println!("never fired: {}", never.join(", "));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_that_runs_a_seed_again_holds_everything_that_decides_it() {
        let commands = [
            ("--seeds 0..9", ""),
            ("--minutes 1 --from 4", ""),
            ("--toy --seeds 0..9", " --toy"),
            ("--rot --minutes 2", " --rot"),
            ("--nodes 3 --minutes 2", " --nodes 3"),
            (
                "--without kill --twice --without reset --every-fault",
                " --twice --without kill --without reset",
            ),
        ];
        for (line, flags) in commands {
            let arguments = parsed(line).expect(line);
            let expected = format!("cargo run --release -p sim -- --seed 7{flags} --trace");
            assert_eq!(arguments.again(7), expected, "{line}");
            let again = expected.split(" -- ").nth(1).expect("it has arguments");
            assert_eq!(parsed(again).expect(again).seeds, 7..8);
        }
    }

    #[test]
    fn a_flag_that_would_be_ignored_is_refused() {
        for line in [
            "--rot --without kill",
            "--rot --twice",
            "--rot --toy",
            "--seed 1 --rot --history file",
            "--planted 3 --seeds 0..4",
            "--toy --every-fault",
            "--toy --nodes 3",
            "--rot --nodes 3",
            "--nodes 1",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        for line in ["--rot --seeds 3..4 --trace", "--rot --minutes 1 --from 3"] {
            assert!(parsed(line).is_ok(), "{line}");
        }
    }
}
