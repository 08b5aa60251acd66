//! The `loadgen` program. All that it does is in the library beside it, so that the adapters to other systems, which live
//! outside of this workspace, measure with the very same parts.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use tiderace_io::LargePages;

/// The write buffers and the receive buffers lie in huge pages where the kernel gives them.
#[global_allocator]
static MEMORY: LargePages = LargePages;

fn main() -> ExitCode {
    loadgen::program()
}
