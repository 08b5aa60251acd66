//! Seeds of a zone of several nodes: that zones are made at all, that somebody else leads now and then, and that each seed gives the
//! same trace twice. Thousands are for the program: `cargo run --release -p sim -- --nodes 3 --seeds 0..10000`.

use sim::run::{Options, run};
use sim::zone::OneZone;

#[test]
fn a_zone_keeps_one_catalogue_through_everything() {
    let zone = OneZone::new(3);
    for seed in 0..20 {
        let report = run(&zone, seed, Options::default());
        assert_eq!(report.violation, None, "seed {seed}");
    }
    let seen = zone.seen();
    assert_eq!(seen.seeds, 20);
    assert!(seen.zones > 10, "{seen:?}");
    assert!(seen.led_by_others > 3, "{seen:?}");
    assert!(seen.shared_versions > 100, "{seen:?}");
}

#[test]
fn a_seed_of_a_zone_gives_the_same_trace_twice() {
    for (nodes, seed) in [(2, 100), (3, 101), (5, 102)] {
        let zone = OneZone::new(nodes);
        let first = run(&zone, seed, Options::default());
        let second = run(&zone, seed, Options::default());
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
}
