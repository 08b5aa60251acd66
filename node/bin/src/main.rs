//! The `tiderace` program. All of it is in the library beside this file; here is the name that it has for its users.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use tiderace_io::LargePages;

/// The write buffers and the receive buffers lie in huge pages where the kernel gives them.
#[global_allocator]
static MEMORY: LargePages = LargePages;

fn main() -> ExitCode {
    tiderace::run()
}
