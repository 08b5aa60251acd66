//! The `tiderace` program. All of it is in the library beside this file; here is the name that it has for its users.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tiderace::run()
}
