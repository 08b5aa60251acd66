//! Frames of groups and tasks. Their bytes are published; a node of this release refuses them as a kind that it does not
//! serve.

use super::{fixed_frames, write_frame};
use crate::error::ErrorCode;
use crate::layout::{ControlError, coded, fixed};
use crate::link::{Flags, Kind};
use bytes::BytesMut;
use tiderace_base::ids::{MessageId, PartitionIndex, StreamId};
use tiderace_base::position::{Epoch, Offset};

/// Tasks of one frame.
pub const TASKS_PER_GIVE_MAX: usize = 1024;

fixed!(
    /// Moves a group's position.
    pub struct GroupCommit [40] {
        /// The group: 128 bits.
        group: u128;
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex;
        /// Epoch of the record before the position.
        epoch: Epoch;
        /// The next offset that the group wants.
        offset: Offset;
    }
);

fixed!(
    /// The position is moved.
    pub struct GroupCommitted [16] {
        /// The request.
        request: MessageId;
        /// Why it was refused.
        code: Option<ErrorCode>, pad 6;
    }
);

fixed!(
    /// A worker asks for tasks.
    pub struct TaskTake [40] {
        /// The worker: 128 bits.
        worker: u128;
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex;
        /// The most that it takes.
        tasks_max: u32;
        /// For how long, in microseconds.
        lease_us: u64;
    }
);

fixed!(
    /// A task given to a worker.
    pub struct Task [16] {
        /// Its record.
        offset: Offset;
        /// How often it was given, this time included.
        attempt: u32, pad 4;
    }
);

fixed!(
    pub(crate) struct TaskGiveHead [24] {
        /// The request.
        request: MessageId;
        /// Until when they are the worker's, in microseconds since 1970.
        lease_until_us: u64;
        /// The slot's epoch.
        epoch: Epoch;
        /// How many tasks follow.
        count: u32;
    }
);

/// Tasks for a worker, before the batches that hold their records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskGive {
    /// The request.
    pub request: MessageId,
    /// Until when they are the worker's, in microseconds since 1970.
    pub lease_until_us: u64,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// At least one, at most [`TASKS_PER_GIVE_MAX`].
    pub tasks: Vec<Task>,
}

impl TaskGive {
    /// The kind of its frame.
    pub const KIND: Kind = Kind::TaskGive;

    /// Appends link header and control section; `batch_bytes` bytes of batches must follow.
    ///
    /// # Panics
    /// When there are no tasks or too many, or `batch_bytes` is outside the bounds of the kind.
    pub fn encode(
        &self,
        out: &mut BytesMut,
        message_id: MessageId,
        flags: Flags,
        batch_bytes: usize,
    ) {
        write_frame(out, Self::KIND, flags, message_id, batch_bytes, |out| {
            let head = TaskGiveHead {
                request: self.request,
                lease_until_us: self.lease_until_us,
                epoch: self.epoch,
                count: self.tasks.len() as u32,
            };
            out.extend_from_slice(&head.to_bytes());
            for task in &self.tasks {
                out.extend_from_slice(&task.to_bytes());
            }
        });
    }

    /// Reads a control section.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &[u8]) -> Result<Self, ControlError> {
        let (head, rest) = TaskGiveHead::from_prefix(control)?;
        if head.count as usize > TASKS_PER_GIVE_MAX {
            return Err(ControlError::TooLong);
        }
        match rest.len().cmp(&(head.count as usize * Task::BYTES)) {
            core::cmp::Ordering::Less => return Err(ControlError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(ControlError::Long),
        }
        let tasks = rest
            .chunks_exact(Task::BYTES)
            .map(Task::from_bytes)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            request: head.request,
            lease_until_us: head.lease_until_us,
            epoch: head.epoch,
            tasks,
        })
    }
}

coded!(
    /// How a worker ends or extends its lease.
    pub enum SettleOutcome: u8 {
        /// The task is done.
        Ack = 1,
        /// It should be given again, after the delay.
        Nack = 2,
        /// The lease should last for the delay, from now.
        Extend = 3,
        /// It should never be given again.
        Dead = 4,
    }
);

fixed!(
    /// A worker ends or extends its lease of a task.
    pub struct TaskSettle [48] {
        /// The worker.
        worker: u128;
        /// The stream.
        stream: StreamId;
        /// The partition.
        partition: PartitionIndex;
        /// How.
        outcome: SettleOutcome, pad 3;
        /// The task's record.
        offset: Offset;
        /// The delay of a nack or an extension, in microseconds; else zero.
        delay_us: u64;
    }
);

fixed!(
    /// What became of a task.
    pub struct TaskSettled [16] {
        /// The request.
        request: MessageId;
        /// Why it was refused.
        code: Option<ErrorCode>, pad 6;
    }
);

fixed_frames!(
    GroupCommit,
    GroupCommitted,
    TaskTake,
    TaskSettle,
    TaskSettled
);
