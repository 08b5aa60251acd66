//! The journal's own cell of a truncation. Key: slot u16, LSN of its entry u64. Value: epoch u32, first sequence u64, the
//! oldest life in which dead entries may lie u64, the life of its own entry u64. J-62

use crate::cuts::Cut;
use tiderace_base::ids::SlotId;
use tiderace_base::limits::SLOTS;
use tiderace_base::position::{Epoch, Lsn, SlotSeq};

const VALUE_BYTES: usize = 28;

pub(crate) fn encode_key(slot: SlotId, at: Lsn) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&slot.get().to_le_bytes());
    bytes[2..].copy_from_slice(&at.get().to_le_bytes());
    bytes
}

pub(crate) fn decode_key(bytes: &[u8]) -> Option<(SlotId, Lsn)> {
    let (slot, at) = bytes.split_first_chunk::<2>()?;
    let slot = u16::from_le_bytes(*slot);
    let at = u64::from_le_bytes(at.try_into().ok()?);
    (slot < SLOTS).then(|| (SlotId::new(slot), Lsn::new(at)))
}

pub(crate) fn encode_value(cut: &Cut) -> [u8; VALUE_BYTES] {
    let mut bytes = [0; VALUE_BYTES];
    bytes[..4].copy_from_slice(&cut.epoch.get().to_le_bytes());
    bytes[4..12].copy_from_slice(&cut.from.get().to_le_bytes());
    bytes[12..20].copy_from_slice(&cut.oldest.to_le_bytes());
    bytes[20..].copy_from_slice(&cut.life.to_le_bytes());
    bytes
}

pub(crate) fn decode_value(at: Lsn, bytes: &[u8]) -> Option<Cut> {
    let bytes: &[u8; VALUE_BYTES] = bytes.try_into().ok()?;
    let (epoch, words) = bytes.split_first_chunk::<4>()?;
    let (words, _) = words.as_chunks::<8>();
    let [from, oldest, life] = words else {
        return None;
    };
    Some(Cut {
        epoch: Epoch::new(u32::from_le_bytes(*epoch)),
        from: SlotSeq::new(u64::from_le_bytes(*from)),
        at,
        oldest: u64::from_le_bytes(*oldest),
        life: u64::from_le_bytes(*life),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_round_trips_and_strange_bytes_are_none() {
        let at = Lsn::new(77);
        let cut = Cut {
            epoch: Epoch::new(3),
            from: SlotSeq::new(4),
            at,
            oldest: 5,
            life: 6,
        };
        let key = encode_key(SlotId::new(9), at);
        assert_eq!(decode_key(&key), Some((SlotId::new(9), at)));
        assert_eq!(decode_value(at, &encode_value(&cut)), Some(cut));
        assert_eq!(decode_key(&key[1..]), None);
        assert_eq!(decode_key(&[255; 10]), None);
        assert_eq!(decode_value(at, &[0; 27]), None);
    }
}
