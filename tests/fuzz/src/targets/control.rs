//! Control sections of every kind, behind the checksums: the number of the kind, then the section.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, reasons};
use compat::samples;
use tiderace_base::limits::{CONTROL_BYTES_MAX, LINK_HEADER_BYTES};
use tiderace_wire::frame::Control;
use tiderace_wire::link::Kind;

/// See the module.
pub const TARGET: Target = Target {
    name: "control",
    reads: "`Control::decode`: the control section of every kind of frame, from any peer",
    holds: "what is taken is written again as the same bytes, so nothing was ignored and nothing made up",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 1500,
    // A list is copied into structs, a text into a string; the section bounds both.
    held_bytes_max: 4 * CONTROL_BYTES_MAX,
    runs_in_tests: 100_000,
};

/// Runs one input: the number of a kind, then a section that keeps its bounds, as every section that is decoded does (P-3).
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((code, section)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    let Some(kind) = Kind::from_code(*code) else {
        return Outcome::Refused("BadKind");
    };
    let (min, max) = kind.control_bounds();
    if !(min..=max).contains(&section.len()) {
        return Outcome::Refused("BadLength");
    }
    match Control::decode(kind, section) {
        Ok(control) => {
            holds(&control, section);
            Outcome::Taken(kind.name())
        }
        Err(error) => Outcome::Refused(reasons::control(error)),
    }
}

/// What must hold of a section that was taken.
pub(crate) fn holds(control: &Control<'_>, section: &[u8]) {
    let batches = samples::batches_behind(control);
    // A give without tasks is read, and nobody may write it.
    if matches!(control, Control::TaskGive(give) if give.tasks.is_empty()) {
        return;
    }
    let again = samples::encode(control, samples::MESSAGE, &batches);
    let again = &again[LINK_HEADER_BYTES..again.len() - batches.len()];
    assert!(again == section, "{control:?} is written as other bytes");
}

fn samples() -> Vec<Sample> {
    samples::frames()
        .into_iter()
        .map(|(control, bytes)| {
            let kind = control.kind();
            let section = LINK_HEADER_BYTES..bytes.len() - samples::batches_behind(&control).len();
            let input = [&[kind.code()], &bytes[section]].concat();
            (kind.name().to_owned(), input)
        })
        .collect()
}
