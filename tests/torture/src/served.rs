//! Starts a node on a directory of which is known what must come of it, and holds everything it does against that: its exit
//! code and its words, or every record of every partition, what it says cannot be read, what its search for damage names,
//! what `/readyz` says, and that footers are mended. Invariant: a record that differs from what was written, and one that is
//! missing without a word where the rules do not allow it, is a violation.

use crate::cycles::let_pass;
use crate::directory::Directory;
use crate::oracle::{Expected, Log, format};
use crate::settled::{self, Image, PARTITIONS, PATH, SHARDS, Settled};
use integration::ledger::Event;
use integration::node::{Node, Setup, get};
use integration::scratch::Scratch;
use integration::{HANG, within};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tiderace_client::{Client, ConsumeError, From, Item, Offset, Options, PartitionIndex};
use tokio::runtime::Runtime;

/// Between two looks at a number that a node counts.
const LOOK: Duration = Duration::from_millis(20);
/// Starts of a directory that must be refused.
const REFUSALS: u32 = 3;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// Everything is there, and nothing had to be mended.
    Whole,
    /// Everything is there, and what stood in for something damaged was named or mended.
    Repaired,
    /// The start was refused, and named what is damaged or old.
    Refused,
    /// It runs, and the search named what is damaged; everything else is there.
    Named,
    /// Records are gone and nobody can tell: a lie of the disk.
    Lie,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [
        Self::Whole,
        Self::Repaired,
        Self::Refused,
        Self::Named,
        Self::Lie,
    ];

    /// Its name in the summary and in `docs/torture.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Repaired => "repaired",
            Self::Refused => "refused",
            Self::Named => "named",
            Self::Lie => "a lie",
        }
    }
}

/// How a directory is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trial {
    /// It is killed and started once more.
    pub again: bool,
    /// Bytes of another time or place were put there, so that what is lost may have been anywhere.
    pub is_elsewhere: bool,
}

/// What a partition must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Partition {
    /// Offsets that must be delivered.
    good: BTreeSet<u64>,
    /// Offsets that may be refused as damaged, or delivered.
    doubtful: BTreeSet<u64>,
}

impl Partition {
    fn end(&self) -> u64 {
        let last = |offsets: &BTreeSet<u64>| offsets.last().map_or(0, |last| last + 1);
        last(&self.good).max(last(&self.doubtful))
    }
}

/// What the partitions of the stream must hold, if the logs are these; `was` is the image before it was damaged, whose entries
/// say what lay in the damaged places.
fn partitions(logs: &[Log], was: &Image, stream: u64) -> Vec<Partition> {
    let mut partitions = vec![Partition::default(); PARTITIONS as usize];
    for (log, was) in logs.iter().zip(&was.shards) {
        for segment in &log.segments {
            for entry in segment.entries.iter().filter(|it| it.stream == stream) {
                partitions[entry.partition as usize]
                    .good
                    .extend(entry.base..entry.next);
            }
            let before = was.segments.iter().find(|it| it.seq == segment.seq);
            for entry in before.into_iter().flat_map(|it| &it.entries) {
                let place = entry.at..entry.at + entry.bytes;
                let is_hit = segment
                    .damaged
                    .iter()
                    .any(|it| it.start < place.end && place.start < it.end);
                if is_hit && entry.stream == stream {
                    partitions[entry.partition as usize]
                        .doubtful
                        .extend(entry.base..entry.next);
                }
            }
        }
    }
    for partition in &mut partitions {
        let Partition { good, doubtful } = partition;
        doubtful.retain(|offset| !good.contains(offset));
    }
    partitions
}

/// Writes a directory, starts a node on it, and holds what it does against what is expected. A second start must come to the same.
///
/// # Panics
/// When it does anything else.
#[must_use]
pub fn judge(
    scratch: &Scratch,
    runtime: &Runtime,
    directory: &Directory,
    expected: &Expected,
    was: &Image,
    settled: &Settled,
    Trial {
        again,
        is_elsewhere,
    }: Trial,
) -> Outcome {
    let data_dir = scratch.join("data");
    directory.write(&data_dir);
    let setup = settled::setup(scratch, &data_dir).with("scrub", "4GiB");
    match expected {
        Expected::Refused { exits, words } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let first = Node::spawn(&setup);
            refuses(first, &setup, exits, &words, directory, &data_dir);
            Outcome::Refused
        }
        Expected::Runs { shards, control } => {
            let wanted = partitions(shards, was, settled.stream);
            let whole = partitions(&was.shards, was, settled.stream);
            // What control has forgotten may have been an epoch that a shard's log holds, or the stream.
            let forgets = control.end < was.control.end;
            let mut node = Node::spawn(&setup);
            if forgets && !node.runs() {
                let words = ["the control journal knows none above"];
                refuses(node, &setup, &[65], &words, directory, &data_dir);
                return Outcome::Refused;
            }
            runs(&node);
            if forgets && !knows_the_stream(runtime, &setup) {
                return Outcome::Lie;
            }
            reads(runtime, &setup, &node, &wanted, settled);
            let journals = || {
                let names = was.journals().map(|(name, _)| name);
                names.zip(shards.iter().chain([&**control]))
            };
            wait_for_search(&node, &setup);
            for (name, log) in journals() {
                names_damage(&node, &name, log);
            }
            says_ready(&setup, journals());
            tells_stand_ins(&node, journals());
            let mended = footers_are_mended(&data_dir, journals(), directory, was);
            if again {
                node.kill();
                node = Node::spawn(&setup);
                runs(&node);
                reads(runtime, &setup, &node, &wanted, settled);
            }
            node.kill();
            let mut logs = journals();
            let is_lost = whole.iter().zip(&wanted).any(|(whole, wanted)| {
                let mut all = whole.good.iter();
                all.any(|it| !wanted.good.contains(it) && !wanted.doubtful.contains(it))
            });
            if is_lost {
                lost_at_the_end(shards, was, settled.stream, is_elsewhere);
            }
            if is_lost || forgets {
                Outcome::Lie
            } else if logs.any(|(_, log)| log.segments.iter().any(|it| !it.damaged.is_empty())) {
                Outcome::Named
            } else if mended || stood_in(&journals().collect::<Vec<_>>(), was) {
                Outcome::Repaired
            } else {
                Outcome::Whole
            }
        }
    }
}

/// What may be lost in silence is what nobody can tell from what never came: the end of the newest segment that had anything. Said here
/// of the image before it was damaged, whatever the oracle makes of the one behind.
fn lost_at_the_end(shards: &[Log], was: &Image, stream: u64, is_elsewhere: bool) {
    for (log, was) in shards.iter().zip(&was.shards).filter(|_| !is_elsewhere) {
        let holds = |seq: u64, at: usize| {
            let kept = log.segments.iter().find(|segment| segment.seq == seq);
            kept.is_some_and(|segment| {
                let is_hit = segment.damaged.iter().any(|it| it.contains(&at));
                is_hit || segment.entries.iter().any(|entry| entry.at == at)
            })
        };
        let newest = was.segments.iter().rfind(|it| !it.entries.is_empty());
        let newest = newest.map_or(0, |segment| segment.seq);
        for segment in &was.segments {
            let mut ours = segment.entries.iter().filter(|it| it.stream == stream);
            let lost = ours.find(|entry| !holds(segment.seq, entry.at));
            assert!(
                lost.is_none() || segment.seq == newest,
                "{lost:?} of segment {} is lost without a word, and {newest} is the newest",
                segment.seq
            );
        }
    }
}

/// A start must be refused, and so must the next ones: whoever tries again gets the same answer, from files of which not a byte
/// has changed.
fn refuses(
    mut node: Node,
    setup: &Setup,
    exits: &[i32],
    words: &[&str],
    directory: &Directory,
    data_dir: &Path,
) {
    for start in 1..=REFUSALS {
        assert!(
            !node.runs(),
            "start {start} must be refused for {words:?}, and the node runs:\n{}",
            node.log()
        );
        let ended = node.wait();
        let code = ended.status.code().unwrap_or(-1);
        assert!(
            exits.contains(&code),
            "start {start} must be refused with {exits:?} for {words:?}, and ended with {code}:\n{}",
            ended.log
        );
        for word in words {
            assert!(
                ended.log.contains(word),
                "refusal {start} does not say {word:?}:\n{}",
                ended.log
            );
        }
        let after = Directory::read(data_dir, Some(directory));
        let changed = after.differs(directory);
        assert!(changed.is_empty(), "refusal {start} changed {changed:?}");
        if start == REFUSALS {
            return;
        }
        node = Node::spawn(setup);
    }
}

fn runs(node: &Node) {
    assert!(
        node.runs(),
        "nothing keeps this node from starting, and it does not:\n{}",
        node.log()
    );
}

fn knows_the_stream(runtime: &Runtime, setup: &Setup) -> bool {
    runtime.block_on(async {
        let connecting = Client::connect(setup.server, Options::default());
        let client = within("a connection", connecting).await.expect("a node");
        let listing = within("a listing", client.list_streams("", 100)).await;
        let (streams, _) = listing.expect("a node lists");
        streams.iter().any(|stream| *stream.path == *PATH)
    })
}

/// Reads every partition to its end.
fn reads(runtime: &Runtime, setup: &Setup, node: &Node, wanted: &[Partition], settled: &Settled) {
    runtime.block_on(async {
        let connecting = Client::connect(setup.server, Options::default());
        let client = within("a connection", connecting).await.expect("a node");
        let described = loop {
            let described = within("a description", client.describe_stream(PATH)).await;
            match described {
                Ok(info) if info.partitions.iter().all(|it| it.offsets.is_some()) => break info,
                Ok(_) => {}
                Err(error) => panic!("the stream is gone: {error}:\n{}", node.log()),
            }
        };
        for (index, wanted) in (0..).zip(wanted) {
            let end = described.partitions[index as usize]
                .offsets
                .map(|it| it.1.get());
            assert_eq!(
                end,
                Some(wanted.end()),
                "partition {index} has the end that its log has:\n{}",
                node.log()
            );
            let reading = read_one(&client, index, wanted, settled);
            within("a partition's records", reading).await;
        }
        client.close();
    });
}

async fn read_one(client: &Client, index: u32, wanted: &Partition, settled: &Settled) {
    let partition = PartitionIndex::new(index);
    let subscribe = client.subscribe(PATH, From::Offset(Offset::new(0)));
    let mut consumer = subscribe.partition(partition).start();
    let mut delivered = BTreeSet::new();
    let mut next = 0;
    while next < wanted.end() {
        let item = consumer.next().await.expect("the client is open");
        match item {
            Ok(Item::Batch(batch)) => {
                let records = batch.records().expect("a body that holds");
                for record in records.filter(|it| it.offset().get() >= next) {
                    let offset = record.offset().get();
                    let event = Event::of(record.value().expect("a value"));
                    let acked = settled.acked.get(&(index, offset));
                    assert!(
                        acked.is_none_or(|acked| *acked == event),
                        "at {offset} of partition {index} was {acked:?} and is {event:?}"
                    );
                    assert!(
                        wanted.good.contains(&offset) || wanted.doubtful.contains(&offset),
                        "{offset} of partition {index} is in no log that a start keeps, and is delivered"
                    );
                    delivered.insert(offset);
                }
                next = batch.next_offset().get();
            }
            Err(error) => {
                let ConsumeError::Damaged { at, .. } = error else {
                    panic!("a reader of partition {index} hears at {next}: {error}");
                };
                let at = at.get();
                assert!(
                    wanted.doubtful.contains(&at),
                    "{at} of partition {index} is whole, and its reader hears {error}"
                );
                // Behind it: the next offset that is not known to be unreadable.
                next = at + 1;
                while wanted.doubtful.contains(&next) {
                    next += 1;
                }
                consumer.seek(partition, From::Offset(Offset::new(next)));
            }
            Ok(other) => panic!("nothing was dropped or lost, but there came {other:?}"),
        }
    }
    let missing: Vec<&u64> = wanted.good.difference(&delivered).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} of partition {index} are whole and were not delivered"
    );
}

/// Waits until `enough`, which must come.
fn wait_until(what: &str, node: &Node, mut enough: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !enough() {
        assert!(begun.elapsed() < HANG, "hangs: {what}:\n{}", node.log());
        let_pass(LOOK);
    }
}

/// Waits for the end of every shard's first pass.
fn wait_for_search(node: &Node, _setup: &Setup) {
    wait_until("the search for damage", node, || {
        node.metric("tiderace_shard_journal_scrubs_total") >= SHARDS as u64
    });
}

/// A place that a node has named: its journal, file, first byte and one past its last.
type Told = (String, String, usize, usize);

fn told(log: &str) -> Vec<Told> {
    let lines = log.lines().filter(|line| line.contains(") are damaged"));
    lines.filter_map(told_by).collect()
}

/// `.. N bytes from byte A of FILE (LSN L) are damaged .. journal="NAME" ..`
fn told_by(line: &str) -> Option<Told> {
    let (before, after) = line.split_once(" bytes from byte ")?;
    let bytes: usize = before.rsplit(' ').next()?.parse().ok()?;
    let (at, after) = after.split_once(" of ")?;
    let at: usize = at.parse().ok()?;
    let file = after.split(' ').next()?;
    let journal = line.split_once("journal=")?.1;
    let (journal, end) = match journal.strip_prefix('"') {
        Some(quoted) => (quoted, quoted.find('"')?),
        None => (journal, journal.find(' ').unwrap_or(journal.len())),
    };
    Some((journal[..end].to_owned(), file.to_owned(), at, at + bytes))
}

/// Asserts that each damaged place of a log is named, and no other.
fn names_damage(node: &Node, name: &str, log: &Log) {
    for segment in &log.segments {
        let meets = |it: &std::ops::Range<usize>, told: &Told| {
            is_of(&told.0, name) && told.1 == segment.name() && it.start < told.3 && told.2 < it.end
        };
        for place in &segment.damaged {
            wait_until(
                &format!("bytes {place:?} of {name}/{} are named", segment.name()),
                node,
                || told(&node.log()).iter().any(|told| meets(place, told)),
            );
        }
        for told in told(&node.log()) {
            let is_its = is_of(&told.0, name) && told.1 == segment.name();
            assert!(
                !is_its || segment.damaged.iter().any(|place| meets(place, &told)),
                "{told:?} is not damaged: {:?}",
                segment.damaged
            );
        }
    }
}

/// Whether a log line's journal is that of this folder.
fn is_of(said: &str, folder: &str) -> bool {
    let number = |text: &str| {
        let digits = text.trim_start_matches(|it: char| !it.is_ascii_digit());
        digits.parse::<u32>().ok()
    };
    said.starts_with(&folder[..5]) && number(said) == number(folder)
}

/// Asserts that `/readyz` says whether something of the shards is damaged.
fn says_ready<'a>(setup: &Setup, mut logs: impl Iterator<Item = (String, &'a Log)>) {
    let is_damaged = logs.any(|(_, log)| log.segments.iter().any(|it| !it.damaged.is_empty()));
    let (status, said) = get(setup.admin, "/readyz");
    assert_eq!(status, 200, "{said}");
    assert_eq!(said.contains("damaged: "), is_damaged, "{said}");
}

/// What stood in for something that was lost is told when the node starts, and nothing else is.
fn tells_stand_ins<'a>(node: &Node, journals: impl Iterator<Item = (String, &'a Log)>) {
    let log = node.log();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let (mut copies, mut checkpoints, mut adopted, mut alone) = (0, 0, 0, 0);
    for (_, log) in journals {
        copies += usize::from(log.copy_lost);
        checkpoints += usize::from(log.checkpoint_lost);
        adopted += usize::from(log.adopted);
        alone += usize::from(log.previous_lost && !log.checkpoint_lost);
    }
    for (words, wanted) in [
        ("one copy of the superblock cannot be read", copies),
        ("the checkpoint up to checkpoint-", checkpoints),
        ("the newest write of the superblock is lost", adopted),
        ("the older checkpoint, up to checkpoint-", alone),
    ] {
        assert_eq!(told(words), wanted, "{words:?} is said so often:\n{log}");
    }
}

/// Whether something stood in for what was lost: the other copy of the superblock, the checkpoint before, or a segment that
/// proves that there was a later superblock.
fn stood_in(journals: &[(String, &Log)], was: &Image) -> bool {
    let lost = |log: &Log| (log.copy_lost, log.checkpoint_lost, log.adopted);
    let mut pairs = journals.iter().zip(was.journals());
    pairs.any(|((_, log), (_, was))| lost(log) != lost(was))
}

/// Whether the damage hit a footer; each one that can be built is there again.
fn footers_are_mended<'a>(
    data_dir: &Path,
    journals: impl Iterator<Item = (String, &'a Log)>,
    directory: &Directory,
    was: &Image,
) -> bool {
    let mut is_hit = false;
    let mut wrong: BTreeMap<String, (u64, format::Life)> = BTreeMap::new();
    for (name, log) in journals {
        let older = log.segments.iter().filter(|it| !it.replayed);
        for segment in older.filter(|it| it.damaged.is_empty()) {
            let path = format!("{name}/footer-{:08}", segment.file);
            let life = (segment.seq, segment.salt, segment.start, segment.end);
            let speaks_of = |directory: &Directory| {
                let held = directory.get(&path);
                held.and_then(|file| format::footer_life(file, log.journal))
            };
            if speaks_of(directory) != Some(life) {
                is_hit |= speaks_of(&was.directory) == Some(life);
                wrong.insert(path, (log.journal, life));
            }
        }
    }
    let begun = Instant::now();
    for (path, (journal, life)) in &wrong {
        let is_mended = || {
            let file = std::fs::read(data_dir.join(path)).unwrap_or_default();
            format::footer_life(&file, *journal) == Some(*life)
        };
        while !is_mended() {
            assert!(begun.elapsed() < HANG, "hangs: {path} is built again");
            let_pass(LOOK);
        }
    }
    is_hit
}
