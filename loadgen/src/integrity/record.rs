//! A record that says who it is: run, producer, partition, number, and a checksum over all of it, so that a delivered
//! record can be told from every other and a changed one from a whole one.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `TIDELEDG` |
//! | 8 | 8 | the run, random |
//! | 16 | 4 | the producer, from 0 |
//! | 20 | 4 | the partition |
//! | 24 | 8 | number within (run, producer, partition), from 0 |
//! | 32 | 4 | CRC32C of all other bytes |
//! | 36 | | filling that follows from the number |

use tiderace_base::checksum::Crc32c;
use tiderace_base::prng::Prng;

const MAGIC: [u8; 8] = *b"TIDELEDG";
const CRC_AT: usize = 32;
/// The smallest record.
pub(crate) const BYTES_MIN: usize = 36;

/// Which record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Name {
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
}

/// One producer's records in one partition: what order is promised for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Lane {
    pub(crate) run: u64,
    pub(crate) producer: u32,
    pub(crate) partition: u32,
}

/// What a delivered value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    /// None of ours.
    Foreign,
    /// One of ours, but changed.
    Damaged,
    /// A whole one.
    Whole(Name),
}

/// The value of a record.
pub(crate) fn write(name: Name, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes.max(BYTES_MIN)];
    value[..8].copy_from_slice(&MAGIC);
    value[8..16].copy_from_slice(&name.lane.run.to_le_bytes());
    value[16..20].copy_from_slice(&name.lane.producer.to_le_bytes());
    value[20..24].copy_from_slice(&name.lane.partition.to_le_bytes());
    value[24..32].copy_from_slice(&name.seq.to_le_bytes());
    Prng::new(name.seq ^ name.lane.run).fill(&mut value[BYTES_MIN..]);
    let crc = checksum(&value);
    value[CRC_AT..BYTES_MIN].copy_from_slice(&crc.to_le_bytes());
    value
}

fn checksum(value: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&value[..CRC_AT]);
    crc.update(&value[BYTES_MIN..]);
    crc.finish()
}

/// Reads a delivered value.
pub(crate) fn read(value: &[u8]) -> Read {
    if value.len() < BYTES_MIN || value[..8] != MAGIC {
        return Read::Foreign;
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&value[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let half = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&value[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    if half(CRC_AT) != checksum(value) {
        return Read::Damaged;
    }
    Read::Whole(Name {
        lane: Lane {
            run: word(8),
            producer: half(16),
            partition: half(20),
        },
        seq: word(24),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_itself_and_any_change_shows() {
        let name = Name {
            lane: Lane {
                run: 7,
                producer: 3,
                partition: 2,
            },
            seq: 1 << 40,
        };
        for bytes in [0, 36, 37, 500] {
            let value = write(name, bytes);
            assert_eq!(value.len(), bytes.max(BYTES_MIN));
            assert_eq!(read(&value), Read::Whole(name));
            for at in 8..value.len() {
                let mut changed = value.clone();
                changed[at] ^= 1;
                assert_eq!(read(&changed), Read::Damaged, "byte {at}");
            }
        }
        assert_eq!(
            read(b"something else that is long enough to be read"),
            Read::Foreign
        );
    }
}
