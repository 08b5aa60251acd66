//! Frames and batches written by hand, field by field from the tables of `docs/protocol.md` and not by the code that the node
//! reads them with: so that they can lie wherever a table allows a byte to be, with checksums that hold.

use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{MessageId, PartitionKey};
use tiderace_wire::body::BodyBuilder;
use tiderace_wire::link::Kind;

/// Bytes of a link header.
pub const LINK_BYTES: usize = 32;
/// Bytes of a produce's control section.
pub const PRODUCE_BYTES: usize = 16;
/// Bytes of a batch header.
pub const BATCH_BYTES: usize = 128;

/// Who a batch is from, so that its repeats are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The producer.
    pub id: u128,
    /// Its epoch.
    pub epoch: u32,
    /// The batch's number.
    pub seq: u64,
}

/// A frame that holds.
#[must_use]
pub fn frame(kind: Kind, id: MessageId, control: &[u8], batches: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; LINK_BYTES];
    frame[0..2].copy_from_slice(b"Tr");
    frame[2] = 1;
    frame[3] = kind.code();
    put_u64(&mut frame, 8, id.get());
    put_u32(&mut frame, 16, length(control));
    put_u32(&mut frame, 20, length(batches));
    put_u32(&mut frame, 24, crc32c(control));
    frame.extend_from_slice(control);
    seal_link(&mut frame);
    frame.extend_from_slice(batches);
    frame
}

/// Makes a link header's own checksum hold.
pub fn seal_link(frame: &mut [u8]) {
    let crc = crc32c(&frame[..28]);
    put_u32(frame, 28, crc);
}

/// Makes both checksums in front of a control section hold.
pub fn seal_control(frame: &mut [u8]) {
    let control = u32::from_le_bytes(frame[16..20].try_into().expect("four bytes"));
    let crc = crc32c(&frame[LINK_BYTES..LINK_BYTES + control as usize]);
    put_u32(frame, 24, crc);
    seal_link(frame);
}

/// A produce frame. Epoch zero: the producer does not know any.
#[must_use]
pub fn produce(id: MessageId, epoch: u32, batch: &[u8]) -> Vec<u8> {
    produce_since(id, epoch, 0, batch)
}

/// A produce frame that says how far the partition had come when its producer began.
#[must_use]
pub fn produce_since(id: MessageId, epoch: u32, since: u64, batch: &[u8]) -> Vec<u8> {
    let mut control = [0; PRODUCE_BYTES];
    put_u32(&mut control, 0, epoch);
    put_u64(&mut control, 8, since);
    frame(Kind::Produce, id, &control, batch)
}

/// A batch that holds: one record without a key for each value.
#[must_use]
pub fn batch(key: PartitionKey, from: Option<Origin>, values: &[&[u8]]) -> Vec<u8> {
    const TIME_US: u64 = 1_700_000_000_000_000;
    let mut builder = BodyBuilder::new(0, usize::MAX);
    for value in values {
        builder
            .push(None, Some(value), &[], TIME_US)
            .expect("it fits a body");
    }
    let body = builder.finish();
    batch_of(key, from, length(values), body.body())
}

/// A batch whose body is whatever it is.
#[must_use]
pub fn batch_of(
    key: PartitionKey,
    from: Option<Origin>,
    record_count: u32,
    body: &[u8],
) -> Vec<u8> {
    let mut batch = vec![0; BATCH_BYTES];
    batch[0..4].copy_from_slice(b"TRB1");
    batch[4] = 1;
    put_u64(&mut batch, 8, key.stream.get());
    put_u32(&mut batch, 16, key.partition.get());
    put_u32(&mut batch, 20, record_count);
    if let Some(origin) = from {
        batch[6] = 1 << 4;
        batch[32..48].copy_from_slice(&origin.id.to_le_bytes());
        put_u64(&mut batch, 48, origin.seq);
        put_u32(&mut batch, 56, origin.epoch);
    }
    batch.extend_from_slice(body);
    seal_batch(&mut batch);
    batch
}

/// Makes size and checksums of a batch hold.
pub fn seal_batch(batch: &mut [u8]) {
    let (bytes, crc) = (length(&batch[BATCH_BYTES..]), crc32c(&batch[BATCH_BYTES..]));
    put_u32(batch, 24, bytes);
    put_u32(batch, 28, crc);
    seal_producer(batch);
}

/// Makes the checksum of a batch's producer part hold.
pub fn seal_producer(batch: &mut [u8]) {
    let crc = crc32c(&batch[..76]);
    put_u32(batch, 76, crc);
}

/// Writes a number.
pub fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Writes a number.
pub fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

fn length<T>(things: &[T]) -> u32 {
    u32::try_from(things.len()).expect("a frame is below 4 GiB")
}
