//! The text of a configuration file: TOML, then every value's type and bounds.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, seals};
use tiderace::texts;
use tiderace_base::limits::{KIB, MIB};

/// See the module.
pub const TARGET: Target = Target {
    name: "config",
    reads: "the configuration file of a node, from whoever runs it",
    holds: "refused by a message that names the file and its line or key and what to do, or written as a file that means \
            the same and is written the same again",
    run,
    samples,
    seal: Some(|bytes| seals::text(bytes)),
    words: &[
        b"\"",
        b"=",
        b"\n",
        b"auto",
        b"true",
        b"segment",
        b"shards",
        b"listen = ",
        b"127.0.0.1:0",
        b"[::1]:7450",
        b"0.0.0.0",
        b"KiB",
        b"TiB",
        b"s",
        b"durability",
        b"memory",
        b"local",
        b"quorum",
        b"prewrite",
        b"scrub",
        b"busy_poll = \"1ms\"",
        b"drain_timeout",
        b"log_level",
        b"info,x=debug",
        b"18446744073709551615",
        b"-1",
        b"0x10",
        b"[t]",
        b"'''",
        b"\\u0000",
        b"tls_key",
    ],
    bytes_max: 2 * KIB,
    held_bytes_max: 2 * MIB,
    runs_in_tests: 10_000,
};

/// Runs one input: the bytes of a file, text or not.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    // As `read_to_string` refuses it, before anything else looks.
    let Ok(text) = std::str::from_utf8(input) else {
        return Outcome::Refused("NoText");
    };
    match texts::config(text) {
        Ok(shown) => {
            let again = texts::config(&shown);
            let again = again
                .unwrap_or_else(|message| panic!("its own file is refused: {message}\n{shown}"));
            assert_eq!(
                values(&shown),
                values(&again),
                "a file means what it was written from"
            );
            Outcome::Taken("Config")
        }
        Err(message) => {
            assert!(message.contains("what to do: "), "{message}");
            let names_a_place =
                message.starts_with("tiderace.toml:") || message.starts_with("default: ");
            assert!(names_a_place, "{message}");
            Outcome::Refused(if message.contains("unknown") {
                "UnknownKey"
            } else if message.contains("bounds") {
                "Bounds"
            } else if message.contains(" = ") {
                "Value"
            } else {
                "Toml"
            })
        }
    }
}

/// The assignments of a file without where each comes from.
fn values(shown: &str) -> Vec<String> {
    let lines = shown.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.rsplit_once(" # ")
                .map_or(line, |(value, _)| value)
                .trim()
                .to_owned()
        })
        .collect()
}

fn samples() -> Vec<Sample> {
    let all = texts::config("").expect("the defaults are a configuration");
    vec![
        ("defaults.toml".to_owned(), all.into_bytes()),
        (
            "small.toml".to_owned(),
            b"shards = 2\nsegment = \"8MiB\"\npin = false\nmemory = \"1GiB\"\nscrub = \"0\"\n".to_vec(),
        ),
        (
            "addresses.toml".to_owned(),
            b"listen = \"0.0.0.0:7000\"\nadvertise = \"10.1.2.3\"\nshard_listen = \"[::]:0\"\nlog_level = \"info,tiderace=debug\"\n"
                .to_vec(),
        ),
    ]
}
