//! The bytes of positions, members, entries and messages, little-endian, for links and for the control journal. Reading takes
//! arbitrary bytes and never panics; each value has one encoding.
//!
//! | value | bytes |
//! |---|---|
//! | position | term u64, index u64 |
//! | members | counts of voters, incoming and learners u16 each, reserved u16, then their ids u64 each, ascending |
//! | entry | kind u8 (1 a term begins, 2 members, 3 a command), reserved [u8; 3], payload bytes u32, position, payload |
//! | message | kind u8, a flag u8, reserved [u8; 6], term u64, then as [`Message`] lists its fields |
//!
//! A term fits 32 bits, because an entry's header has no more for it; at a term a second that lasts 136 years.

use super::entries::{Entry, Members, Payload, Position};
use super::message::Message;
use crate::encoding::{DecodeError, Reader, Write};
use bytes::Bytes;
use std::collections::BTreeSet;
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::{RaftIndex, Term};
use tiderace_base::time::Mono;

/// Members of each kind.
pub(crate) const MEMBERS_MAX: usize = 255;
/// Beyond it nothing can stand: arithmetic on what another node says must not end a process.
const INDEX_MAX: RaftIndex = RaftIndex::new(1 << 62);
/// An entry before its payload.
const ENTRY_HEADER_BYTES: usize = 24;

fn take_term(reader: &mut Reader<'_>) -> Result<Term, DecodeError> {
    let term = reader.u64()?;
    if term > u64::from(u32::MAX) {
        return Err(DecodeError::BadField("term"));
    }
    Ok(Term::new(term))
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    out.put_u64(position.term.get());
    out.put_u64(position.index.get());
}

pub(crate) fn take_position(reader: &mut Reader<'_>) -> Result<Position, DecodeError> {
    let term = take_term(reader)?;
    let index = RaftIndex::new(reader.u64()?);
    if index > INDEX_MAX {
        return Err(DecodeError::BadField("index"));
    }
    Ok(Position { term, index })
}

pub(crate) fn put_members(out: &mut Vec<u8>, members: &Members) {
    let sets = [&members.voters, &members.incoming, &members.learners];
    for set in sets {
        assert!(set.len() <= MEMBERS_MAX, "a zone keeps to its members");
        out.put_u16(set.len() as u16);
    }
    out.put_u16(0);
    for node in sets.into_iter().flatten() {
        out.put_u64(node.get());
    }
}

pub(crate) fn take_members(reader: &mut Reader<'_>) -> Result<Members, DecodeError> {
    let mut counts = [0; 3];
    for count in &mut counts {
        *count = usize::from(reader.u16()?);
        if *count > MEMBERS_MAX {
            return Err(DecodeError::BadField("members"));
        }
    }
    reader.reserved(2)?;
    let mut take = |count| {
        let mut set = BTreeSet::new();
        for _ in 0..count {
            let node = NodeId::new(reader.u64()?);
            if node.get() == 0 || set.last().is_some_and(|last| *last >= node) {
                return Err(DecodeError::BadField("members"));
            }
            set.insert(node);
        }
        Ok(set)
    };
    Ok(Members {
        voters: take(counts[0])?,
        incoming: take(counts[1])?,
        learners: take(counts[2])?,
    })
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let start = out.len();
    out.put_u8(match entry.payload {
        Payload::Term => 1,
        Payload::Members(_) => 2,
        Payload::Command(_) => 3,
    });
    out.put(&[0; 3]);
    out.put_u32(0);
    put_position(out, entry.position);
    match &entry.payload {
        Payload::Term => {}
        Payload::Members(members) => put_members(out, members),
        Payload::Command(bytes) => out.put(bytes),
    }
    // What a leader may propose is bounded far below 32 bits.
    let payload = (out.len() - start - ENTRY_HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&payload.to_le_bytes());
}

pub(crate) fn take_entry(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let kind = reader.u8()?;
    reader.reserved(3)?;
    let bytes = reader.u32()? as usize;
    let position = take_position(reader)?;
    if position.index == RaftIndex::ZERO {
        return Err(DecodeError::BadField("index"));
    }
    let bytes = reader.bytes(bytes)?;
    let mut payload = Reader::new(bytes);
    let payload = match kind {
        1 => {
            payload.end()?;
            Payload::Term
        }
        2 => {
            let members = take_members(&mut payload)?;
            payload.end()?;
            Payload::Members(members)
        }
        3 => Payload::Command(Bytes::copy_from_slice(bytes)),
        _ => return Err(DecodeError::UnknownKind(kind)),
    };
    Ok(Entry { position, payload })
}

pub(crate) fn put_message(out: &mut Vec<u8>, message: &Message) {
    let mut head = |kind: u8, flag: bool, term: Term| {
        out.put_u8(kind);
        out.put_u8(u8::from(flag));
        out.put(&[0; 6]);
        out.put_u64(term.get());
    };
    match message {
        Message::PreVote { term, last } => {
            head(1, false, *term);
            put_position(out, *last);
        }
        Message::PreVoted {
            asked,
            term,
            granted,
        } => {
            head(2, *granted, *term);
            out.put_u64(asked.get());
        }
        Message::Vote {
            term,
            last,
            handed_over,
        } => {
            head(3, *handed_over, *term);
            put_position(out, *last);
        }
        Message::Voted { term, granted } => head(4, *granted, *term),
        Message::Heartbeat { term, sent } => {
            head(5, false, *term);
            out.put_u64(sent.as_ns());
        }
        Message::HeartbeatSeen {
            term,
            sent,
            committed,
        } => {
            head(6, false, *term);
            out.put_u64(sent.as_ns());
            out.put_u64(committed.get());
        }
        Message::Append {
            term,
            before,
            committed,
            entries,
        } => {
            head(7, false, *term);
            put_position(out, *before);
            out.put_u64(committed.get());
            for entry in entries {
                put_entry(out, entry);
            }
        }
        Message::Appended {
            term,
            last,
            before,
            boot,
            counts,
        } => {
            head(8, *counts, *term);
            put_position(out, *last);
            out.put_u64(before.get());
            out.put_u64(boot.get());
        }
        Message::Damaged { term, boot } => {
            head(9, false, *term);
            out.put_u64(boot.get());
        }
        Message::Readmitted { term, boot } => {
            head(10, false, *term);
            out.put_u64(boot.get());
        }
        Message::StandNow { term } => head(11, false, *term),
    }
}

/// Takes a message, which is all that is left.
pub(crate) fn take_message(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let kind = reader.u8()?;
    let flag = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::BadField("flag")),
    };
    reader.reserved(6)?;
    let term = take_term(reader)?;
    if flag && !matches!(kind, 2 | 3 | 4 | 8) {
        return Err(DecodeError::BadField("flag"));
    }
    let message = match kind {
        1 => Message::PreVote {
            term,
            last: take_position(reader)?,
        },
        2 => Message::PreVoted {
            asked: take_term(reader)?,
            term,
            granted: flag,
        },
        3 => Message::Vote {
            term,
            last: take_position(reader)?,
            handed_over: flag,
        },
        4 => Message::Voted {
            term,
            granted: flag,
        },
        5 => Message::Heartbeat {
            term,
            sent: Mono::from_ns(reader.u64()?),
        },
        6 => Message::HeartbeatSeen {
            term,
            sent: Mono::from_ns(reader.u64()?),
            committed: RaftIndex::new(reader.u64()?),
        },
        7 => {
            let before = take_position(reader)?;
            let committed = RaftIndex::new(reader.u64()?);
            let mut entries = Vec::new();
            while !reader.is_empty() {
                entries.push(take_entry(reader)?);
            }
            Message::Append {
                term,
                before,
                committed,
                entries,
            }
        }
        8 => Message::Appended {
            term,
            last: take_position(reader)?,
            before: RaftIndex::new(reader.u64()?),
            boot: BootId::new(reader.u64()?),
            counts: flag,
        },
        9 => Message::Damaged {
            term,
            boot: BootId::new(reader.u64()?),
        },
        10 => Message::Readmitted {
            term,
            boot: BootId::new(reader.u64()?),
        },
        11 => Message::StandNow { term },
        _ => return Err(DecodeError::UnknownKind(kind)),
    };
    reader.end()?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    fn position(prng: &mut Prng) -> Position {
        Position {
            term: Term::new(prng.below(9)),
            index: RaftIndex::new(prng.range(1, 90)),
        }
    }

    fn members(prng: &mut Prng) -> Members {
        let mut some = || {
            let count = prng.below(4);
            (0..count).map(|_| NodeId::new(prng.range(1, 9))).collect()
        };
        Members {
            voters: some(),
            incoming: some(),
            learners: some(),
        }
    }

    fn entry(prng: &mut Prng) -> Entry {
        let payload = match prng.below(3) {
            0 => Payload::Term,
            1 => Payload::Members(members(prng)),
            _ => {
                let mut bytes = vec![0; prng.below(20) as usize];
                prng.fill(&mut bytes);
                Payload::Command(bytes.into())
            }
        };
        Entry {
            position: position(prng),
            payload,
        }
    }

    fn message(prng: &mut Prng) -> Message {
        let term = Term::new(prng.below(9));
        let boot = BootId::new(prng.next_u64());
        let sent = Mono::from_ns(prng.below(1 << 40));
        let flag = prng.chance(1, 2);
        match prng.below(11) {
            0 => Message::PreVote {
                term,
                last: position(prng),
            },
            1 => Message::PreVoted {
                asked: Term::new(prng.below(9)),
                term,
                granted: flag,
            },
            2 => Message::Vote {
                term,
                last: position(prng),
                handed_over: flag,
            },
            3 => Message::Voted {
                term,
                granted: flag,
            },
            4 => Message::Heartbeat { term, sent },
            5 => Message::HeartbeatSeen {
                term,
                sent,
                committed: RaftIndex::new(prng.below(90)),
            },
            6 => Message::Append {
                term,
                before: position(prng),
                committed: RaftIndex::new(prng.below(90)),
                entries: (0..prng.below(4)).map(|_| entry(prng)).collect(),
            },
            7 => Message::Appended {
                term,
                last: position(prng),
                before: RaftIndex::new(prng.below(90)),
                boot,
                counts: flag,
            },
            8 => Message::Damaged { term, boot },
            9 => Message::Readmitted { term, boot },
            _ => Message::StandNow { term },
        }
    }

    fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        take_message(&mut Reader::new(bytes))
    }

    #[test]
    fn what_was_written_is_read_and_a_changed_byte_is_refused_or_means_something_else() {
        let mut prng = Prng::new(1);
        for _ in 0..4000 {
            let message = message(&mut prng);
            let mut bytes = Vec::new();
            put_message(&mut bytes, &message);
            assert_eq!(decode(&bytes).as_ref(), Ok(&message));
            let at = prng.below(bytes.len() as u64) as usize;
            let mut changed = bytes.clone();
            changed[at] ^= prng.range(1, 256) as u8;
            if let Ok(other) = decode(&changed) {
                assert_ne!(other, message);
                let mut again = Vec::new();
                put_message(&mut again, &other);
                assert_eq!(again, changed, "each message has one encoding");
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_take_no_more_than_they_are() {
        let mut prng = Prng::new(2);
        for _ in 0..20_000 {
            let mut bytes = vec![0; prng.below(120) as usize];
            prng.fill(&mut bytes);
            if bytes.len() > 16 && prng.chance(3, 4) {
                bytes[0] = prng.range(1, 12) as u8;
                bytes[1..8].fill(0);
                bytes[12..16].fill(0);
            }
            drop(decode(&bytes));
        }
    }
}
