//! Hands libFuzzer's inputs to one target of `tests/fuzz`, the one that `FUZZ_TARGET` names: a broken property panics, and
//! libFuzzer keeps the input. What the targets assert stands with them; here is nothing but the way to them.
#![no_main]

use fuzz::{Target, targets};
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    targets::named(&name).unwrap_or_else(|| panic!("there is no target {name:?}"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = (TARGET.run)(input);
});
