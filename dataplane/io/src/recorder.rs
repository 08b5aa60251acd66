//! Writes a disk recording (`recording`) of this process: every operation on the files of its journals, its end, and the
//! bytes of its connections. Exists in a build with the feature `disk-recording` alone, which is for finding out what a
//! power cut can leave behind, and never for serving anybody: it holds one lock over all journals, so that there is one
//! order, and copies every byte.
//!
//! A record is in the kernel's hands before the operation that it tells of, so a process that is killed leaves a recording
//! that ends where it ended.

use crate::recording::{BLOCKING, Event, MAGIC, Operation, Record};
use bytes::{Bytes, BytesMut};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tiderace_base::disk::DiskError;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation;

/// Names the folder that recordings go to. Unset: nothing is recorded.
const VARIABLE: &str = "DISK_RECORDING";
/// Starts of one node that one folder holds.
const STARTS_MAX: u32 = 10_000;

/// The recording of this process.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    file: File,
    journals: u16,
    /// Reused for each record.
    scratch: BytesMut,
}

impl Recording {
    /// Begins the recording that the environment asks for with `DISK_RECORDING=<folder>`, in the folder's next file.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn from_environment() -> io::Result<Option<Self>> {
        std::env::var_os(VARIABLE)
            .map(|folder| Self::create(Path::new(&folder)))
            .transpose()
    }

    /// Begins a recording in the folder's next file.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut number = 0;
        let mut file = loop {
            match File::create_new(folder.join(format!("{number:04}.recording"))) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && number < STARTS_MAX =>
                {
                    number += 1;
                }
                created => break created?,
            }
        };
        file.write_all(&MAGIC)?;
        Ok(Self(Arc::new(Mutex::new(State {
            file,
            journals: 0,
            scratch: BytesMut::new(),
        }))))
    }

    /// A journal is opened.
    pub(crate) fn journal(&self, name: &str) -> JournalRecorder {
        let journal = {
            let mut state = self.0.lock().expect("nobody panics with it");
            state.journals += 1;
            state.journals - 1
        };
        let recorder = JournalRecorder {
            recording: self.clone(),
            journal,
        };
        recorder.note(Event::Opened {
            name: name.to_owned(),
        });
        recorder
    }
}

/// Records what is done for one journal.
#[derive(Clone, Debug)]
pub(crate) struct JournalRecorder {
    recording: Recording,
    journal: u16,
}

impl JournalRecorder {
    /// # Panics
    /// When the recording cannot be written: one with a hole would prove what is not so.
    pub(crate) fn note(&self, event: Event) {
        let record = Record {
            journal: self.journal,
            event,
        };
        let mut state = self.recording.0.lock().expect("nobody panics with it");
        let State { file, scratch, .. } = &mut *state;
        scratch.clear();
        record.encode(scratch);
        file.write_all(scratch)
            .expect("a recording without holes needs room on its disk");
    }

    /// Records an operation of recovery around `run`.
    pub(crate) fn blocking<T>(
        &self,
        operation: Operation,
        run: impl FnOnce() -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let whole = match &operation {
            Operation::Write { data, .. } => data.len() as i32,
            Operation::Zero { bytes, .. } => *bytes as i32,
            _ => 0,
        };
        self.note(Event::Began {
            token: BLOCKING,
            operation,
        });
        let result = run();
        self.note(Event::Ended {
            token: BLOCKING,
            result: if result.is_ok() { whole } else { -libc::EIO },
        });
        result
    }

    /// Records what is about to be sent.
    pub(crate) fn sending(&self, conn: ConnectionId, parts: &[Bytes]) {
        self.note(Event::Sending {
            connection: conn.get(),
            bytes: parts.concat().into(),
        });
    }

    /// Records what a machine is about to see, as far as it came from a client.
    pub(crate) fn seeing(&self, event: &operation::Event) {
        if let operation::Event::Received { conn, data } = event {
            self.note(Event::Received {
                connection: conn.get(),
                bytes: data.clone(),
            });
        }
    }
}
