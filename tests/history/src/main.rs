//! Judges a history file, or translates it for other checkers. Exit code 0: nothing is wrong; 1: a property is broken; 2: the
//! arguments or the file are not what this program reads.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a program: it speaks to whoever started it"
)]

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::process::ExitCode;

use history::export::{elle, porcupine};
use history::format::{Line, Reader};
use history::judge::Judge;

const HELP: &str = "\
Judges histories of what clients saw: docs/consistency.md says what, and which lines a file has.

  check FILE                 show FILE to every property; exit code 1 if one is broken
  export --porcupine FILE    print FILE as operations for Porcupine: JSON, one a line
  export --elle FILE         print FILE as list-append transactions for Elle: EDN, one a line
";

fn each_line(
    path: &str,
    mut take: impl FnMut(u64, &Line),
) -> Result<Reader<BufReader<File>>, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("{path}: {what}");
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut reader = Reader::begin(BufReader::new(file)).map_err(|error| wrong(&error))?;
    while let Some(line) = reader.next_line().map_err(|error| wrong(&error))? {
        take(reader.line(), &line);
    }
    Ok(reader)
}

/// Whether every property holds.
fn check(path: &str) -> Result<bool, String> {
    let mut judge = Judge::default();
    let reader = each_line(path, |_, line| judge.observe(line.at_ns, &line.saw))?;
    let (by, observations) = (&reader.head().by, judge.observations());
    println!("{path}, written by {by}: {observations} observations");
    if reader.is_cut() {
        println!("its last line has no end and was passed over");
    }
    println!("\n{:>12}  {:6}  property", "judged", "");
    for verdict in judge.verdicts() {
        let word = match (&verdict.violation, verdict.judged) {
            (Some(_), _) => "BROKEN",
            // It says nothing about what it never saw.
            (None, 0) => "-",
            (None, _) => "holds",
        };
        println!("{:>12}  {word:6}  {}", verdict.judged, verdict.property);
        if let Some(violation) = &verdict.violation {
            // The first line is the file's own.
            let line = violation.observation + 2;
            println!("{:>12}  {:6}  line {line}: {}", "", "", violation.what);
        }
    }
    Ok(!judge.is_broken())
}

fn export_porcupine(path: &str, to: impl Write) -> Result<(), String> {
    let mut export = porcupine::Export::default();
    each_line(path, |_, line| export.observe(line.at_ns, &line.saw))?;
    porcupine::write(&export.finish(), to).map_err(|error| error.to_string())
}

fn export_elle(path: &str, to: impl Write) -> Result<(), String> {
    let mut export = elle::Export::default();
    each_line(path, |_, line| export.observe(line.at_ns, &line.saw))?;
    export.write(to).map_err(|error| error.to_string())
}

fn run(arguments: &[&str]) -> Result<bool, String> {
    let mut to = BufWriter::new(io::stdout().lock());
    match arguments {
        ["check", path] => {
            drop(to);
            return check(path);
        }
        ["export", "--porcupine", path] => export_porcupine(path, &mut to)?,
        ["export", "--elle", path] => export_elle(path, &mut to)?,
        _ => return Err(HELP.to_owned()),
    }
    to.flush().map_err(|error| error.to_string())?;
    Ok(true)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}
