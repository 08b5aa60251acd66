//! The journal's own cell of a partition: the number of the latest sealed life that holds some of it. Key: stream u64,
//! partition u32. Value: the life's number, u64. Where old data is looked for begins here.

use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};

/// The cell's kind.
pub(crate) const KIND: u8 = 3;

pub(crate) fn encode_key(key: PartitionKey) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.stream.get().to_le_bytes());
    bytes[8..].copy_from_slice(&key.partition.get().to_le_bytes());
    bytes
}

pub(crate) fn decode_key(bytes: &[u8]) -> Option<PartitionKey> {
    let (stream, partition) = bytes.split_first_chunk::<8>()?;
    Some(PartitionKey {
        stream: StreamId::new(u64::from_le_bytes(*stream)),
        partition: PartitionIndex::new(u32::from_le_bytes(partition.try_into().ok()?)),
    })
}

pub(crate) fn decode_value(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_round_trips_and_strange_bytes_are_none() {
        let key = PartitionKey {
            stream: StreamId::new(7),
            partition: PartitionIndex::new(9),
        };
        assert_eq!(decode_key(&encode_key(key)), Some(key));
        assert_eq!(decode_key(&[0; 11]), None);
        assert_eq!(decode_value(&5_u64.to_le_bytes()), Some(5));
        assert_eq!(decode_value(&[0; 9]), None);
    }
}
