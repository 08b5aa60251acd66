//! The comparison behind the decision to write a ring of our own (docs/decisions/0003-our-own-ring.md), to be run again by
//! anybody: the same small server on our ring, on glommio, on tokio-uring, and on epoll with a blocking durable write,
//! under the same client, in turns. It measures and judges nothing; the decision does.

#![forbid(unsafe_code)]

mod commit;
mod compare;
mod environment;
mod load;
mod protocol;
mod report;
mod servers;
mod statistics;

use clap::{Parser, Subcommand};
use servers::Runtime;
use std::path::PathBuf;
use std::process::ExitCode;

/// The same small server on our own ring, on other io_uring runtimes and on epoll, under one client.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Option<CompareArguments>,
}

#[derive(clap::Args, Debug)]
struct CompareArguments {
    /// A directory on the disk that is to be measured, made if absent. A folder is made in it, and removed at the end.
    #[arg(long)]
    dir: PathBuf,
    /// Rounds. Each runs every workload on every runtime, in turns. With fewer than two there is no interval.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement, besides its warm-up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The runtimes to compare with our own, which always runs.
    #[arg(long, value_delimiter = ',', default_values_t = Runtime::ALL)]
    runtimes: Vec<Runtime>,
    /// The core of the servers. Default: the first that this process may use.
    #[arg(long)]
    server_cpu: Option<usize>,
    /// The core of the client. Default: the second.
    #[arg(long)]
    client_cpu: Option<usize>,
    /// Chunks that a server may have in flight. The one on epoll has one, whatever this says.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    writes_max: u8,
    /// Let glommio and tokio-uring sync by a second operation of their own, and not by opening the file with O_DSYNC.
    #[arg(long)]
    fdatasync: bool,
    /// Size of the file that is overwritten round and round, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=4096))]
    file_mib: u64,
    /// Write everything that was measured to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// One server, as the comparison starts them. It ends with its parent.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        runtime: Runtime,
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        file_bytes: u64,
        #[arg(long)]
        writes_max: usize,
        #[arg(long)]
        cpu: usize,
        #[arg(long)]
        fdatasync: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match (arguments.command, arguments.compare) {
        (
            Some(Command::Serve {
                runtime,
                dir,
                file_bytes,
                writes_max,
                cpu,
                fdatasync,
            }),
            _,
        ) => serve(
            runtime,
            &servers::Options {
                dir,
                file_bytes,
                writes_max,
                cpu,
                fdatasync,
            },
        ),
        (None, Some(arguments)) => compare::run(&arguments),
        (None, None) => Err("say where to write: --dir DIRECTORY_ON_THE_DISK".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(runtime: Runtime, options: &servers::Options) -> Result<(), String> {
    // A comparison that dies must not leave a server on the core that it measured.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| format!("cannot be tied to the parent: {error}"))?;
    // Before the runtime starts its threads, so that all of them, and the kernel's for its rings, stay on this core.
    tiderace_io::pin::to(options.cpu)
        .map_err(|error| format!("cannot run on core {}: {error}", options.cpu))?;
    // A task that panics must not be survived by its server: its runtime would go on without it.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        std::process::exit(101);
    }));
    servers::run(runtime, options)
}
