//! Sizes, durations and points in time, as people write them on a command line and in a file. Whatever is taken is shown in
//! a way that is taken as the same again.

use tiderace::hostile;

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "units",
    about: "sizes, durations and points in time: what is shown of one is read as the same again",
    corpus,
    seal: no_seal,
    run,
};

/// 2026-01-01.
const NOW_US: u64 = 1_767_225_600_000_000;

fn corpus() -> Vec<Vec<u8>> {
    let texts = [
        "8MiB",
        "1.5 GiB",
        "512",
        "64KB",
        "0",
        "18446744073709551615",
        "1h30m",
        "50us",
        "2d",
        "100ms",
        "1w2d3h4m5s6ms",
        "2013-01-01T10:15:00Z",
        "2013-01-01 11:15:00.5+01:00",
        "2024-02-29",
        "5m",
        "2h ago",
        "now",
        "1970-01-01",
        "9999-12-31T23:59:59.999999Z",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn run(input: &[u8]) -> Taken {
    let Ok(text) = core::str::from_utf8(input) else {
        return Taken::No;
    };
    let mut is_taken = false;
    if let Some((bytes, shown)) = hostile::bytes(text) {
        let again = hostile::bytes(&shown).map(|(bytes, _)| bytes);
        assert_eq!(again, Some(bytes), "shown as {shown}");
        is_taken = true;
    }
    if let Some((ns, shown)) = hostile::duration(text) {
        let again = hostile::duration(&shown).map(|(ns, _)| ns);
        assert_eq!(again, Some(ns), "shown as {shown}");
        is_taken = true;
    }
    if let Some((us, shown)) = hostile::time_us(text, NOW_US) {
        // Milliseconds are shown.
        let again = hostile::time_us(&shown, NOW_US).map(|(us, _)| us);
        assert_eq!(again, Some(us - us % 1000), "shown as {shown}");
        is_taken = true;
    }
    Taken::from(is_taken)
}
