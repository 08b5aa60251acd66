//! What the generator saw, as a history file of version 1 (docs/consistency.md), so that the program `history` can judge a
//! run whose server was killed. A second writer of that format: it shares nothing with the judge but the document.
//!
//! The unit is the record, because that is what the generator numbers: a "batch" of one record, whose producer is the run's
//! number and the generator's producer, and whose number is that of the lane. Invariants: a record's sending is written
//! before the engine may send it; what the engine says is written before the generator goes on; an outcome that the engine
//! does not know is `indeterminate`.

use super::record::{Lane, Name};
use std::collections::BTreeSet;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::checksum::crc32c;
use tiderace_base::time::Now;
use tiderace_client::core::consumer::Cursor;
use tiderace_client::core::producer::Placed;
use tiderace_client::error::SendError;
use tiderace_wire::error::ErrorCode;

/// A batch as it was delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) append_time_us: u64,
}

/// A history file.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    to: BufWriter<File>,
    begun_ns: Option<u64>,
    at_ns: u64,
    stream: u64,
    keeps: bool,
    /// Partitions whose reader has a position.
    positioned: BTreeSet<u32>,
    /// What the file said when it could not be written.
    failed: Option<String>,
}

impl HistoryFile {
    /// Begins a new file.
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        let wrong = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let mut to = BufWriter::new(File::create(path).map_err(wrong)?);
        writeln!(
            to,
            "{{\"tiderace_history\":1,\"by\":\"loadgen integrity\"}}"
        )
        .map_err(wrong)?;
        Ok(Self {
            to,
            begun_ns: None,
            at_ns: 0,
            stream: 0,
            keeps: true,
            positioned: BTreeSet::new(),
            failed: None,
        })
    }

    /// What comes is seen now.
    pub(crate) fn turn(&mut self, now: Now) {
        let now_ns = now.mono.as_ns();
        self.at_ns = now_ns - *self.begun_ns.get_or_insert(now_ns);
    }

    fn saw(&mut self, saw: Arguments<'_>) {
        let written = writeln!(self.to, "{{\"at_ns\":{},\"saw\":{{{saw}}}}}", self.at_ns);
        if let Err(error) = written {
            self.failed.get_or_insert(error.to_string());
        }
    }

    /// Hands what was written to the kernel: it survives this process.
    ///
    /// # Errors
    /// What went wrong since the file was begun.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if let Err(error) = self.to.flush() {
            self.failed.get_or_insert(error.to_string());
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The stream exists, and a reader of each partition asks for its beginning.
    pub(crate) fn created(&mut self, stream: &Stream) {
        self.stream = stream.id.get();
        self.keeps = stream.retention == Retention::default();
        let durability = match stream.durability {
            Durability::Memory => "memory",
            Durability::Local => "local",
            Durability::Quorum => "quorum",
        };
        let (id, trims) = (self.stream, !self.keeps);
        self.saw(format_args!(
            "\"stream_known\":{{\"stream\":{id},\"durability\":\"{durability}\",\"trims\":{trims}}}"
        ));
        for partition in 0..stream.partitions {
            self.saw(format_args!(
                "\"asked\":{{\"reader\":\"{partition:x}\",\"partition\":\"{id}/{partition}\"}}"
            ));
        }
    }

    fn named(&self, name: Name) -> String {
        let Lane {
            run,
            producer,
            partition,
        } = name.lane;
        let producer = (u128::from(run) << 32) | u128::from(producer);
        format!(
            "{{\"partition\":\"{}/{partition}\",\"producer\":\"{producer:x}\",\"producer_epoch\":0,\"seq\":{}}}",
            self.stream, name.seq
        )
    }

    /// A record is about to be handed to the engine.
    pub(crate) fn sent(&mut self, name: Name, value: &[u8]) {
        let (batch, digest) = (self.named(name), crc32c(value));
        self.saw(format_args!(
            "\"submitted\":{{\"batch\":{batch},\"epoch\":0,\"records\":1,\"digest\":\"{digest:x}\"}}"
        ));
    }

    /// The engine did not take it.
    pub(crate) fn not_sent(&mut self, name: Name) {
        let batch = self.named(name);
        self.saw(format_args!("\"refused\":{{\"batch\":{batch}}}"));
    }

    /// Records of a lane that were sent in one batch have an outcome.
    pub(crate) fn settled(
        &mut self,
        lane: Lane,
        first: u64,
        count: u64,
        result: &Result<Placed, SendError>,
    ) {
        if let Err(SendError::AckedLost(_)) = result
            && let Some(seq) = first.checked_sub(1)
        {
            let batch = self.named(Name { lane, seq });
            self.saw(format_args!("\"forgotten\":{{\"batch\":{batch}}}"));
        }
        for index in 0..count {
            let seq = first + index;
            let batch = self.named(Name { lane, seq });
            match result {
                Ok(placed) => self.saw(format_args!(
                    "\"acknowledged\":{{\"batch\":{batch},\"offset\":{},\"epoch\":{},\"duplicate\":{}}}",
                    placed.base_offset.get() + index,
                    placed.epoch,
                    placed.duplicate
                )),
                Err(error) => {
                    let what = outcome(error);
                    self.saw(format_args!("\"{what}\":{{\"batch\":{batch}}}"));
                }
            }
        }
    }

    /// A record has no outcome.
    pub(crate) fn unknown(&mut self, lane: Lane, seq: u64) {
        let batch = self.named(Name { lane, seq });
        self.saw(format_args!("\"indeterminate\":{{\"batch\":{batch}}}"));
    }

    /// A connection was lost.
    pub(crate) fn link_lost(&mut self) {
        self.saw(format_args!("\"link_lost\":{{\"node\":0}}"));
    }

    /// A partition's reader begins, if it has not. It asked for the beginning, and where everything is kept that is 0,
    /// whatever comes first. `end` is the visible end as the node told it last.
    pub(crate) fn positioned(&mut self, partition: u32, first: u64, end: u64) {
        if self.positioned.insert(partition) {
            let (stream, start) = (self.stream, if self.keeps { 0 } else { first });
            self.saw(format_args!(
                "\"positioned\":{{\"reader\":\"{partition:x}\",\"partition\":\"{stream}/{partition}\",\"next\":{start},\
                 \"start\":{start},\"end\":{end}}}"
            ));
        }
    }

    /// A record came. `name` if it is one of this run's.
    pub(crate) fn delivered(
        &mut self,
        from: Origin,
        name: Option<Name>,
        offset: u64,
        value: &[u8],
    ) {
        let batch = name.map_or_else(|| "null".to_owned(), |name| self.named(name));
        let (stream, partition, digest) = (self.stream, from.partition, crc32c(value));
        let Origin {
            epoch,
            append_time_us,
            ..
        } = from;
        self.saw(format_args!(
            "\"delivered\":{{\"reader\":\"{partition:x}\",\"partition\":\"{stream}/{partition}\",\"batch\":{batch},\
             \"offset\":{offset},\"records\":1,\"digest\":\"{digest:x}\",\"epoch\":{epoch},\
             \"append_time_us\":{append_time_us}}}"
        ));
    }

    /// Offsets are gone.
    pub(crate) fn gap(&mut self, partition: u32, from: u64, to: u64) {
        self.saw(format_args!(
            "\"gap_told\":{{\"reader\":\"{partition:x}\",\"from\":{from},\"to\":{to}}}"
        ));
    }

    /// The partition's past is another one from here on.
    pub(crate) fn past_changed(&mut self, partition: u32, from: u64) {
        let stream = self.stream;
        self.saw(format_args!(
            "\"past_changed\":{{\"reader\":\"{partition:x}\",\"partition\":\"{stream}/{partition}\",\"from\":{from}}}"
        ));
    }

    /// Something came that may not come.
    pub(crate) fn broken(&mut self, what: &str) {
        let what = serde_json::Value::from(what);
        self.saw(format_args!("\"protocol_broken\":{{\"what\":{what}}}"));
    }

    /// Everything that was visible has been read.
    pub(crate) fn read_through(&mut self, cursor: &Cursor) {
        let Some(next) = cursor.next() else {
            return;
        };
        let (partition, next) = (cursor.key().partition.get(), next.get());
        self.positioned(partition, next, cursor.end().get());
        let stream = self.stream;
        self.saw(format_args!(
            "\"read_through\":{{\"reader\":\"{partition:x}\",\"partition\":\"{stream}/{partition}\",\"end\":{next}}}"
        ));
    }
}

/// The kind of observation that a failure is: nothing was appended, for certain; it was, and its place is forgotten; or nobody
/// knows.
fn outcome(error: &SendError) -> &'static str {
    match error {
        SendError::Refused(refusal) => match refusal.code {
            ErrorCode::DuplicateForgotten => "stored",
            ErrorCode::SequenceReused => "indeterminate",
            _ => "refused",
        },
        SendError::Deadline {
            maybe_stored: false,
        }
        | SendError::AckedLost(_)
        | SendError::RestartsSpent
        | SendError::TooLarge
        | SendError::NoSuchPartition => "refused",
        SendError::Deadline { maybe_stored: true }
        | SendError::Closed
        | SendError::OutcomeUnknown
        | SendError::Fenced
        | SendError::Stream(_) => "indeterminate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_client::error::Refusal;

    #[test]
    fn only_what_is_certain_is_refused() {
        let refused = |code| {
            SendError::Refused(Refusal {
                code,
                detail_a: 0,
                detail_b: 0,
            })
        };
        let outcomes = [
            (refused(ErrorCode::BatchBody), "refused"),
            (refused(ErrorCode::DuplicateForgotten), "stored"),
            (refused(ErrorCode::SequenceReused), "indeterminate"),
            (
                SendError::Deadline {
                    maybe_stored: false,
                },
                "refused",
            ),
            (SendError::Deadline { maybe_stored: true }, "indeterminate"),
            (SendError::OutcomeUnknown, "indeterminate"),
            (SendError::Fenced, "indeterminate"),
        ];
        for (error, expected) in outcomes {
            assert_eq!(outcome(&error), expected, "{error:?}");
        }
    }
}
