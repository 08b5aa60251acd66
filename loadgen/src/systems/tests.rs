//! The comparison as a whole, from samples to what people see: the middle of the rounds, pairs within them, the table and
//! the plot. Nothing here starts anything.

use super::figures::tests::sample;
use super::server::Durable;
use super::*;

fn standing(system: System, durable: Durable) -> Standing {
    Standing {
        system,
        version: format!("{system} 1.0"),
        acknowledged: "on the disk & <safe>".to_owned(),
        durable,
        sends: "one batch",
        client: "a client",
    }
}

/// Tiderace twice as fast as NATS in each round while the machine drifts; Redis failed in the second.
fn comparison() -> Comparison {
    let cases = cases::all(2000.0);
    let systems = vec![
        standing(System::Tiderace, Durable::Yes),
        standing(System::Nats, Durable::No),
        standing(System::Redis, Durable::AsConfigured),
    ];
    let samples = cases
        .iter()
        .map(|_| {
            vec![
                vec![Some(sample(2000.0, 100_000)), Some(sample(1000.0, 200_000))],
                vec![Some(sample(1000.0, 200_000)), Some(sample(500.0, 400_000))],
                vec![Some(sample(4000.0, 50_000)), None],
            ]
        })
        .collect();
    Comparison {
        environment: Environment::read(None),
        calibration: Vec::new(),
        rounds: 2,
        duration_s: 4.0,
        server_cpu: 0,
        generator_cpu: 1,
        rows: rows(&cases, &systems, samples),
        workloads: cases,
        systems,
        skipped: vec![Skipped {
            system: System::Iggy,
            reason: "the address of a server was not given".to_owned(),
        }],
        failures: vec![Failure {
            system: System::Redis,
            workload: "64 x 1000 B batches",
            round: 2,
            reason: "the connection broke".to_owned(),
        }],
        warnings: Vec::new(),
    }
}

#[test]
fn pairs_are_of_the_same_round_and_of_the_workloads_own_figure() {
    let comparison = comparison();
    let of = |workload, system| {
        comparison
            .rows_of(workload)
            .find(|row| row.system == system)
            .expect("it is a row")
    };
    let batches = of("64 x 1000 B batches", System::Nats);
    let ratio = batches.tiderace_over.as_ref().expect("two pairs");
    assert_eq!(ratio.pairs, 2);
    let [low, high] = ratio.interval95.expect("two pairs");
    assert!((low - 2.0).abs() < 1e-9 && (high - 2.0).abs() < 1e-9);
    let single = of("one 256 B record at a time", System::Nats);
    assert!((single.tiderace_over.as_ref().expect("two").median - 0.5).abs() < 1e-9);
    // The second round of one that failed has no pair.
    let redis = of("64 x 1000 B batches", System::Redis);
    assert_eq!(redis.tiderace_over.as_ref().expect("one").pairs, 1);
    let tiderace = of("64 x 1000 B batches", System::Tiderace);
    assert_eq!(tiderace.tiderace_over, None);
    let median = tiderace.median.as_ref().expect("two samples");
    assert!((median.records_per_s - 1500.0).abs() < 1e-9);
}

#[test]
fn the_table_names_everybody_and_what_each_has_on_the_disk() {
    let text = table::text(&comparison());
    let rows: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for row in [
        "nats* 750 0.8 300.0 600.0 too few 0.50 64 40 x 2.00 (2.00 to 2.00)",
        "redis? 4000 4.0 50.0 100.0 too few 0.50 64 40 x 0.50 (one pair)",
    ] {
        assert!(rows.iter().any(|line| line == row), "{row}\n{text}");
    }
    assert!(text.contains("iggy       skipped: the address of a server was not given"));
    assert!(
        text.contains("FAILED     64 x 1000 B batches on redis, round 2: the connection broke")
    );
    assert!(text.contains("acknowledged: on the disk & <safe>"));
    for case in &comparison().workloads {
        assert!(text.contains(case.name), "{}", case.name);
    }
}

#[test]
fn the_plot_is_well_formed_and_draws_what_was_measured() {
    let mut comparison = comparison();
    comparison.warn();
    for row in comparison.rows.iter_mut().take(2) {
        row.median = None;
    }
    let svg = plot::svg(&comparison);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    // Everything but the three elements with content closes itself.
    let opened = svg.matches('<').count();
    let closed = svg.matches("</").count() * 2 + svg.matches("/>").count();
    assert_eq!(opened, closed);
    assert!(svg.contains("on the disk &amp; &lt;safe&gt;"));
    assert_eq!(svg.matches(">not measured<").count(), 2);
    // One for each of the rows that were measured, all but two, and one in the legend.
    assert_eq!(
        svg.matches("<circle ").count(),
        comparison.rows.len() - 2 + 1
    );
    // Nothing was measured at p99.9: it is only in the legend.
    assert_eq!(svg.matches("<path ").count(), 1);
    assert!(svg.contains("Apache Iggy is not in it"));
    assert!(svg.contains("WARNING: "));
    assert!(!svg.contains("NaN"));
}
