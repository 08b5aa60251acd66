//! A small load on the real program, recorded, and its crash images: they all hold. Then the same recording with a bug
//! planted in it, as a node with that bug would have made it: it is found. So the check can fail, and for the right reason.

use crash::check::{Check, Image, Outcome, Settings};
use crash::image::{Directory, Files};
use crash::load::{Plan, layout, record, write};
use crash::recording::{Recording, Step};
use integration::node::{Node, Setup};
use integration::program;
use integration::scratch::Scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tiderace_base::disk::JournalFile;
use tiderace_io::recording::{Event, Operation};

const THREADS: usize = 2;
const PLAN: Plan = Plan {
    shards: 2,
    kills: 1,
    small_records: 300,
    large_records: 60,
    sessions: 2,
    seed: 7,
};

/// What one run of the real program left: its recording, and its files as they were in the end.
struct Run {
    recording: Recording,
    settings: Settings,
    files: Vec<Files>,
    layout: Vec<u8>,
}

/// Made by the first test that needs it.
fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let scratch = Scratch::new("crash-recorded");
        let folder = scratch.join("recording");
        let settings = record(PLAN, &scratch, &folder);
        let data = scratch.join("data");
        let journals = ["shard-0000", "shard-0001", "control"];
        Run {
            recording: Recording::read(&folder).expect("a recording"),
            settings,
            files: journals.map(|name| files(&data.join(name))).into(),
            layout: layout(&folder).expect("a recording has it"),
        }
    })
}

fn files(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).expect("a journal's folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter_map(|path| {
            let file = JournalFile::from_name(path.file_name()?.to_str()?)?;
            Some((file, Arc::new(std::fs::read(&path).expect("a file"))))
        })
        .collect()
}

fn check(recording: &Recording, images: usize) -> Outcome {
    let check = Check::new(recording, run().settings);
    check.run(&check.sample(images, 3), THREADS, &|| {})
}

/// The recording of a node that differs in one thing.
fn planted(change: impl FnOnce(&mut Vec<Step>)) -> Recording {
    let mut recording = run().recording.clone();
    change(&mut recording.steps);
    recording
}

/// Some image broke a property whose name begins so: a loss has more than one.
#[track_caller]
fn assert_found(outcome: &Outcome, property: &str) {
    let mut failures = outcome.failures.iter();
    assert!(
        failures.any(|(_, what)| what.starts_with(property)),
        "the planted bug went unnoticed, or was taken for another: {:#?}",
        outcome.failures
    );
}

#[test]
fn every_image_of_a_real_load_holds() {
    let Run {
        recording,
        settings,
        ..
    } = run();
    let check = Check::new(recording, *settings);
    assert!(check.history.promises(), "{}", check.summary());
    let outcome = check.run(&check.sample(300, 1), THREADS, &|| {});
    assert_eq!(outcome.failures, []);
    assert!(outcome.images >= 290 && outcome.points > 100, "{outcome:?}");
    assert!(
        outcome.acknowledged > 1_000 && outcome.delivered > 1_000 && outcome.starts_cut > 0,
        "{outcome:?}"
    );
}

/// The images are started from in memory. A few of them on a real disk, by the program that people run.
#[test]
fn the_program_starts_from_images_on_a_real_disk() {
    let Run {
        recording,
        settings,
        layout,
        ..
    } = run();
    let check = Check::new(recording, *settings);
    for (number, image) in check.sample(4, 11).into_iter().enumerate() {
        let own = Scratch::new("crash-started");
        let directories = check.directories(image);
        let setup = Setup::new(&own).with("segment", "4MiB");
        write(&directories, layout, &setup.data_dir).expect("written");
        let node = Node::start(&setup);
        node.stop();
        let recovered = files(&setup.data_dir.join("shard-0000"));
        assert!(
            recovered.contains_key(&JournalFile::Superblock),
            "image {number} ({image}) was started from where it was written"
        );
    }
}

#[test]
fn a_recording_misses_nothing_that_happened_to_the_files() {
    let Run {
        recording, files, ..
    } = run();
    let mut directories = vec![Directory::default(); recording.shards + 1];
    for step in &recording.steps {
        directories[step.journal].step(&step.event);
    }
    for (directory, files) in directories.iter().zip(files) {
        let recorded = directory.seen_files();
        let names = |files: &Files| files.keys().copied().collect::<Vec<_>>();
        assert_eq!(names(&recorded), names(files));
        for (file, bytes) in files {
            assert!(recorded[file] == *bytes, "{file} is as it was recorded");
        }
    }
}

#[test]
fn the_ordinary_program_cannot_record() {
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).expect("a program");
        let name = b"DISK_RECORDING";
        bytes.windows(name.len()).any(|window| window == name)
    };
    assert!(holds(program::recording()));
    assert!(!holds(program::path()));
}

#[test]
fn a_seed_decides_everything_whatever_the_number_of_threads() {
    let Run {
        recording,
        settings,
        ..
    } = run();
    let check = Check::new(recording, *settings);
    let images = check.sample(24, 5);
    let alone = check.run(&images, 1, &|| {});
    assert_eq!(alone, check.run(&images, 3, &|| {}));
    let (told, verdict) = check.replay(images[12], false);
    let (told_again, verdict_again) = check.replay(images[12], false);
    assert_eq!((told, verdict), (told_again, verdict_again));
}

#[test]
fn an_acknowledgement_before_its_write_has_ended_is_found() {
    let history = Check::new(&run().recording, run().settings).history;
    let acknowledging: BTreeSet<usize> = history.acknowledging.iter().copied().collect();
    let recording = planted(|steps| {
        // Whatever acknowledges goes before the end of the log's write that it waited for. From the front on, so that
        // the places of those behind stay as they are.
        for at in acknowledging {
            let journal = steps[at].journal;
            let waited_for = steps[..at].iter().rposition(|step| {
                step.journal == journal
                    && matches!(step.event, Event::Ended { result, .. } if result > 0)
            });
            let waited_for = waited_for.expect("something was written before");
            // It may not answer what was not asked yet.
            let is_asked = !steps[waited_for..at]
                .iter()
                .any(|step| matches!(step.event, Event::Received { .. }));
            if is_asked {
                let said = steps.remove(at);
                steps.insert(waited_for, said);
            }
        }
    });
    let check = Check::new(&recording, run().settings);
    // At the very points at which something was just acknowledged.
    let mut points = check.history.acknowledging.clone();
    points.dedup();
    let images = points.iter().take(200).map(|at| Image {
        point: at + 1,
        seed: 4,
    });
    let images: Vec<Image> = images.collect();
    let outcome = check.run(&images, THREADS, &|| {});
    assert_found(&outcome, "acknowledged_is_never_");
}

#[test]
fn a_log_that_is_written_without_dsync_is_found() {
    let control = run().recording.shards;
    let recording = planted(|steps| {
        // The shards' logs: without the catalogue's, nothing else could be told.
        for step in steps.iter_mut().filter(|step| step.journal != control) {
            if let Event::Began {
                operation:
                    Operation::Write {
                        file: JournalFile::Segment(_),
                        durable,
                        ..
                    },
                ..
            } = &mut step.event
            {
                *durable = false;
            }
        }
    });
    // A lost chunk that a later one or a superblock proves is refused by the start, the last ones are missed by the readers:
    // of the failures that are kept, most are of the first kind, and by chance all.
    let outcome = check(&recording, 200);
    let is_loss = |what: &str| {
        what.starts_with("acknowledged_is_never_")
            || what.contains("were acknowledged and are damaged")
    };
    assert!(
        !outcome.failures.is_empty(),
        "the planted bug went unnoticed"
    );
    for (image, what) in &outcome.failures {
        assert!(is_loss(what), "taken for another, at {image}: {what}");
    }
}

#[test]
fn entries_that_are_never_made_durable_are_found() {
    let recording = planted(|steps| {
        let mut syncs: BTreeMap<(usize, u64), ()> = BTreeMap::new();
        steps.retain(|step| match &step.event {
            Event::Began {
                token,
                operation: Operation::SyncDirectory,
            } => {
                syncs.insert((step.journal, *token), ());
                false
            }
            Event::Ended { token, .. } => syncs.remove(&(step.journal, *token)).is_none(),
            _ => true,
        });
    });
    let outcome = check(&recording, 100);
    assert!(
        !outcome.failures.is_empty(),
        "the planted bug went unnoticed"
    );
}
