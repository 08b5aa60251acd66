//! A control section behind a header that was in order: the first byte of an input chooses the kind, the rest is the section.
//! What is taken means its bytes: written again, it is the same. P-5, P-6, P-7

use compat::samples;
use tiderace_base::limits::LINK_HEADER_BYTES;
use tiderace_wire::frame::Control;
use tiderace_wire::link::Kind;

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "section",
    about: "a control section of any kind: what is taken is written again as the same bytes",
    corpus,
    seal: no_seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let sections = samples::frames().into_iter().map(|(control, bytes)| {
        let place = Kind::ALL.iter().position(|kind| *kind == control.kind());
        let kind = place.expect("every kind is listed") as u8;
        let batches = samples::batches_behind(&control).len();
        let mut input = vec![kind];
        input.extend_from_slice(&bytes[LINK_HEADER_BYTES..bytes.len() - batches]);
        input
    });
    sections.collect()
}

fn run(input: &[u8]) -> Taken {
    let Some((kind, section)) = input.split_first() else {
        return Taken::No;
    };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let (shortest, longest) = kind.control_bounds();
    if !(shortest..=longest).contains(&section.len()) {
        // The header refuses it; the section may not panic all the same.
        let _ = Control::decode(kind, section);
        return Taken::No;
    }
    match Control::decode(kind, section) {
        Ok(control) => {
            is_written_again(&control, section);
            Taken::Yes
        }
        Err(_) => Taken::No,
    }
}

/// # Panics
/// When what was decoded is written with other bytes.
pub(super) fn is_written_again(control: &Control<'_>, section: &[u8]) {
    // What must hold a row cannot be written without one.
    let is_writable = match control {
        Control::Produced(frame) => frame.acks().len() > 0,
        Control::TaskGive(frame) => !frame.tasks.is_empty(),
        _ => true,
    };
    if is_writable {
        let batches = samples::batches_behind(control);
        let again = samples::encode(control, samples::MESSAGE, &batches);
        let again = &again[LINK_HEADER_BYTES..again.len() - batches.len()];
        assert_eq!(again, section, "nothing is left out or made up");
    }
}
