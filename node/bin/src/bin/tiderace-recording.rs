//! The same program in a build that records its disk: what it asked of its journals' files and what it said to clients goes
//! to the folder that `DISK_RECORDING` names. For building crash images (docs/crash-images.md), never for serving.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use tiderace_io::LargePages;

/// The write buffers and the receive buffers lie in huge pages where the kernel gives them.
#[global_allocator]
static MEMORY: LargePages = LargePages;

fn main() -> ExitCode {
    tiderace::run()
}
