//! What clients saw of a node, judged as it is seen by every checker of `tests/history`, and written as a history file beside
//! it, so that a violation can be looked at with the program `history`. Invariants: an observation is judged and written in
//! one order, under one lock; a broken property is kept, and said whenever somebody asks.

use history::format::Writer;
use history::{BatchName, Judge, Observation, Reader};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;
use tiderace_base::ids::PartitionKey;

/// The history of one stream.
#[derive(Debug)]
pub struct Chronicle {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    judge: Judge,
    file: Writer<BufWriter<File>>,
    begun: Instant,
    /// One past the greatest acknowledged offset, by partition.
    acked: Vec<u64>,
    /// Readers that were named.
    readers: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("acked", &self.acked)
            .finish_non_exhaustive()
    }
}

impl Chronicle {
    /// Nothing was seen yet of a stream with so many partitions. The history goes into a file at `path`.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn begin(path: PathBuf, partitions: u32) -> Self {
        let file = File::create(&path).expect("a file in a directory of our own");
        let file = Writer::begin(BufWriter::new(file), "torture").expect("there is room");
        Self {
            path,
            inner: Mutex::new(Inner {
                judge: Judge::default(),
                file,
                begun: Instant::now(),
                acked: vec![0; partitions as usize],
                readers: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics in here")
    }

    /// Something was seen.
    pub fn saw(&self, observation: &Observation) {
        Self::note(&mut self.lock(), observation);
    }

    /// A reader has read everything below `end`. False, and nothing is noted: something behind that is acknowledged already.
    pub fn read_through(&self, reader: Reader, partition: PartitionKey, end: u64) -> bool {
        let inner = &mut *self.lock();
        let is_whole = inner.acked[partition.partition.get() as usize] <= end;
        if is_whole {
            let observation = Observation::ReadThrough {
                reader,
                partition,
                end,
            };
            Self::note(inner, &observation);
        }
        is_whole
    }

    fn note(inner: &mut Inner, observation: &Observation) {
        let at_ns = u64::try_from(inner.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        inner.judge.observe(at_ns, observation);
        inner
            .file
            .write(at_ns, observation)
            .expect("there is room for the history");
        if let Observation::Acknowledged { batch, offset, .. } = observation {
            let partition = batch.partition.partition.get() as usize;
            let end = &mut inner.acked[partition];
            *end = (*end).max(offset + 1);
        }
    }

    /// A record was acknowledged.
    pub fn acknowledged(&self, batch: BatchName, ack: &tiderace_client::Ack) {
        self.saw(&Observation::Acknowledged {
            batch,
            offset: ack.offset.get(),
            epoch: ack.epoch.get(),
            duplicate: ack.duplicate,
        });
    }

    /// Something came that may not come.
    pub fn broken(&self, what: String) {
        self.saw(&Observation::ProtocolBroken { what });
    }

    /// A name for another reader.
    pub fn reader(&self) -> Reader {
        let inner = &mut *self.lock();
        inner.readers += 1;
        Reader(inner.readers)
    }

    /// One past the greatest offset that was acknowledged, by partition.
    #[must_use]
    pub fn acked(&self) -> Vec<u64> {
        self.lock().acked.clone()
    }

    /// How many records were acknowledged, and how many were delivered, to all readers together.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.judge.acknowledged(), inner.judge.delivered())
    }

    /// Where the history is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asserts that no property is broken.
    ///
    /// # Panics
    /// When one is: with what broke it and where the history is.
    #[track_caller]
    pub fn holds(&self) {
        let violation = self.lock().judge.violation().cloned();
        if let Some(violation) = violation {
            panic!("{violation}; history: {}", self.path.display());
        }
    }
}
