//! History files, which the judges read: JSON lines from any writer in any language.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, seals};
use history::format::{FormatError, Reader, Writer};
use tiderace_base::limits::{KIB, MIB};

/// See the module.
pub const TARGET: Target = Target {
    name: "history-file",
    reads: "`history::format::Reader`: a history, from any writer",
    holds: "what is read is written and read as the same lines, times never go back, and a refusal names its line",
    run,
    samples,
    seal: Some(|bytes| seals::text(bytes)),
    words: &[
        b"{",
        b"}",
        b"\"at_ns\":",
        b"\"saw\":",
        b"\n",
        b",",
        b"null",
        b"-1",
        b"18446744073709551616",
        b"\"tiderace_history\":1",
        b"\"by\":\"x\"",
        b"1.5",
        b"[]",
        b"\\u0000",
    ],
    bytes_max: 3 * KIB,
    held_bytes_max: 2 * MIB,
    runs_in_tests: 20_000,
};

/// Runs one input: the bytes of a file.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let mut reader = match Reader::begin(input) {
        Ok(reader) => reader,
        Err(error) => return refused(&error, input),
    };
    let by = reader.head().by.clone();
    let mut lines = Vec::new();
    let mut last = 0;
    loop {
        match reader.next_line() {
            Ok(Some(line)) => {
                assert!(line.at_ns >= last, "times never go back");
                last = line.at_ns;
                lines.push(line);
            }
            Ok(None) => break,
            Err(error) => return refused(&error, input),
        }
    }
    let mut writer = Writer::begin(Vec::new(), &by).expect("memory takes everything");
    for line in &lines {
        writer
            .write(line.at_ns, &line.saw)
            .expect("memory takes everything");
    }
    let written = writer.into_inner();
    let mut again = Reader::begin(written.as_slice()).expect("what is written is read");
    assert_eq!(again.head().by, by);
    for line in &lines {
        let read = again.next_line().expect("what is written is read");
        assert_eq!(read.as_ref(), Some(line), "as the same line");
    }
    assert!(matches!(again.next_line(), Ok(None)));
    Outcome::Taken(if lines.is_empty() { "Empty" } else { "History" })
}

fn refused(error: &FormatError, input: &[u8]) -> Outcome {
    assert!(!error.to_string().is_empty());
    match error {
        FormatError::Io(error) => panic!("memory can be read: {error}"),
        FormatError::NoHistory => Outcome::Refused("NoHistory"),
        FormatError::Version(_) => Outcome::Refused("Version"),
        FormatError::Line { line, .. } => {
            let lines = input.split(|byte| *byte == b'\n').count() as u64;
            assert!(
                (1..=lines).contains(line),
                "it names line {line} of {lines}"
            );
            Outcome::Refused("Line")
        }
    }
}

fn samples() -> Vec<Sample> {
    // The example of docs/consistency.md, whole and in part.
    let document = include_str!("../../../../docs/consistency.md");
    let (_, behind) = document
        .split_once("```json\n{\"tiderace_history\"")
        .or_else(|| document.split_once("```\n{\"tiderace_history\""))
        .expect("the document has an example");
    let (behind, _) = behind.split_once("```").expect("the example ends");
    let example = format!("{{\"tiderace_history\"{behind}");
    let lines: Vec<&str> = example.lines().collect();
    let input = |lines: &[&str]| format!("{}\n", lines.join("\n")).into_bytes();
    vec![
        ("example".to_owned(), input(&lines[..lines.len().min(12)])),
        ("head".to_owned(), input(&lines[..1])),
        ("two".to_owned(), input(&[lines[0], lines[1]])),
    ]
}
