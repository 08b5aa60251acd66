//! The `tiderace` program: configuration, threads, the admin port and the command line around a node that knows none of
//! them. Also the client commands, which know a node only by its address. A library only so that two programs share it: the
//! ordinary one and, in a build that asks for it, one that records its disk.

#![forbid(unsafe_code)]

#[cfg(planted)]
compile_error!("planted bugs are for the simulator alone: build the program without --cfg planted");

mod admin;
mod cli;
mod config;
mod demo;
mod directory;
mod exit;
mod health;
mod input;
mod listen;
mod logging;
mod node_command;
mod output;
mod produce;
mod serve;
mod session;
mod stream;
mod tail;
pub mod texts;
mod tls;
mod units;

use clap::Parser;
use cli::{Cli, Run};
use exit::{Exit, Failure};
use std::io::Write;
use std::process::ExitCode;

/// Runs the command that the process was started with; how it ends.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let is_json =
        cli.output == output::Format::Json || matches!(&cli.run, Run::Demo(demo) if demo.json);
    let format = if is_json {
        output::Format::Json
    } else {
        output::Format::Table
    };
    let result = match cli.run {
        Run::Serve(serve) => node_command::serve(serve),
        Run::Dev(dev) => node_command::dev(dev),
        Run::Demo(demo) => demo::run(&demo, format),
        Run::Stream(command) => stream::run(command, format),
        Run::Produce(produce) => produce::run(produce, format),
        Run::Tail(tail) => tail::run(tail, format),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, is_json);
            failure.exit_code()
        }
    }
}

/// Says on standard error why the program ends. Nothing is lost when nobody listens there.
fn tell(failure: &Failure, is_json: bool) {
    if failure.exit == Exit::Done {
        return;
    }
    let line = if is_json {
        failure.json()
    } else {
        format!("tiderace: {failure}")
    };
    drop(writeln!(std::io::stderr(), "{line}"));
}
