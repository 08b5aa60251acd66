//! What voters and learners say to one another. Any of them may be lost, come twice, or come late.

use super::entries::{Entry, Position};
use tiderace_base::ids::BootId;
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::time::Mono;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Would you vote for me in this term? Nothing is promised by asking or answering.
    PreVote {
        /// The term that would begin.
        term: Term,
        /// The asker's last entry.
        last: Position,
    },
    /// The answer to a [`Message::PreVote`] for this term.
    PreVoted {
        /// The term asked for.
        asked: Term,
        /// The answerer's own.
        term: Term,
        /// Whether it would.
        granted: bool,
    },
    /// Vote for me.
    Vote {
        /// The candidate's term.
        term: Term,
        /// Its last entry.
        last: Position,
        /// The leader handed over to it: nobody's lease holds any more.
        handed_over: bool,
    },
    /// The answer to a [`Message::Vote`].
    Voted {
        /// The answerer's term.
        term: Term,
        /// Whether it voted for the candidate.
        granted: bool,
    },
    /// I lead. Grants nobody anything by itself; see [`Message::HeartbeatSeen`].
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// When it was sent, by the leader's clock; comes back in the answer.
        sent: Mono,
    },
    /// The sender seals for nobody for the length of a lease.
    HeartbeatSeen {
        /// The answerer's term: a later one than the leader's ends its time.
        term: Term,
        /// What the heartbeat said.
        sent: Mono,
        /// How far the answerer knows the log to be committed: a leader whose word of it was lost says it again.
        committed: RaftIndex,
    },
    /// Entries, or none: how far the log is committed.
    Append {
        /// The leader's term.
        term: Term,
        /// What must stand before the entries.
        before: Position,
        /// How far the log is committed.
        committed: RaftIndex,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// What the answerer holds, all of it durable.
    Appended {
        /// Its term.
        term: Term,
        /// Its last entry.
        last: Position,
        /// Where the entries that it answers began.
        before: RaftIndex,
        /// Its run.
        boot: BootId,
        /// False: it was damaged, and counts for nothing yet.
        counts: bool,
    },
    /// The sender's log was damaged in this run's past: whatever it had promised may be gone.
    Damaged {
        /// The leader's term.
        term: Term,
        /// The sender's run.
        boot: BootId,
    },
    /// The leader has counted nothing of the damaged sender in this term.
    Readmitted {
        /// The leader's term.
        term: Term,
        /// The run that it was told of.
        boot: BootId,
    },
    /// The leader's lease is over by its own word: stand for election now.
    StandNow {
        /// The leader's term.
        term: Term,
    },
}

impl Message {
    /// The term of the sender, as far as the receiver has to follow it; a pre-vote's is nobody's yet.
    #[must_use]
    pub const fn term(&self) -> Option<Term> {
        match self {
            Self::PreVote { .. } => None,
            Self::PreVoted { term, .. }
            | Self::Vote { term, .. }
            | Self::Voted { term, .. }
            | Self::Heartbeat { term, .. }
            | Self::HeartbeatSeen { term, .. }
            | Self::Append { term, .. }
            | Self::Appended { term, .. }
            | Self::Damaged { term, .. }
            | Self::Readmitted { term, .. }
            | Self::StandNow { term } => Some(*term),
        }
    }
}
