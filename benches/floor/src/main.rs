//! The floor: what the disk and the ring allow with no product on top, so that every other number can be read as a
//! distance from it. It speaks enough of the protocol for the real client and generator to talk to it, and does for each
//! batch only what no durable server can leave out: receive the frame, copy it once, checksum the copy, write it with
//! direct io, acknowledge when it is on the disk. It keeps no index, no producer windows, no subscribers and no recovery.
//!
//! It runs on the product's own driver, assembler and regions; whatever those cost, both pay.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program speaks to its user")]

mod answers;
mod log;
mod machine;

use clap::Parser;
use machine::Floor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tiderace_base::limits::MIB;
use tiderace_io::{
    Driver, DriverConfig, JournalDirectory, LargePages, Listen, Listener, Outcome, StopHandle,
    entropy,
};

/// What the disk and the ring allow, with no product on top.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Where to listen. Port 0 lets the kernel choose; the address is printed to standard error.
    #[arg(long, default_value = "127.0.0.1:7470")]
    listen: SocketAddr,
    /// Where the file is written. Made if absent.
    #[arg(long)]
    dir: PathBuf,
    /// The core to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Size of the pre-written file, which is overwritten round and round, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=2048))]
    file_mib: u64,
    /// Writes in flight at once.
    #[arg(long, default_value_t = tiderace_base::limits::CHUNKS_INFLIGHT_MAX)]
    writes_max: usize,
    /// Write through the page cache: for file systems without direct io. Such a figure is no floor.
    #[arg(long)]
    buffered: bool,
}

/// The write buffers and the receive buffers lie in huge pages where the kernel gives them.
#[global_allocator]
static MEMORY: LargePages = LargePages;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("floor: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let journal = JournalDirectory::open(&arguments.dir, !arguments.buffered)
        .map_err(|error| error.to_string())?;
    let listener = Listener::bind(Listen::on(arguments.listen))
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    let address = listener.address();
    let mut driver = Driver::new(DriverConfig {
        journal: Some(journal),
        listeners: vec![listener],
        cpu: arguments.cpu,
        ..DriverConfig::default()
    })
    .map_err(|error| error.to_string())?;
    eprintln!("floor: {}", driver.report());
    eprintln!("floor: listening on {address}");
    stop_with_standard_input(driver.stop_handle());
    let mut machine = Floor::new(
        address,
        entropy::random_u64(),
        arguments.file_mib * MIB as u64,
        arguments.writes_max.max(1),
    );
    match driver.run(&mut machine) {
        Outcome::Stopped => Ok(()),
        Outcome::Fatal(fatal) => Err(fatal.to_string()),
        Outcome::NotStarted(error) => Err(error.to_string()),
    }
}

/// Ends with its parent: a comparison that dies must not leave a server on the core that it measured. Where standard
/// input is a terminal or `/dev/null` at the start, only a signal ends it.
fn stop_with_standard_input(stop: StopHandle) {
    if std::env::var_os("FLOOR_STOP_WITH_STDIN").is_none() {
        return;
    }
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.stop();
    });
}
