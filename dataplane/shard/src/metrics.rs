//! What a shard counts. Written by the shard alone with relaxed stores, read by the admin port; one cache line is never
//! shared with another shard's. Counters only grow within a boot; gauges say what is so now.

use core::sync::atomic::{AtomicU64, Ordering};

/// Whether a metric grows or moves both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows within a boot.
    Counter,
    /// Says what is so now.
    Gauge,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident,)*) => {
        /// The metrics of one shard.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $name: Metric,)*
        }

        impl Metrics {
            /// Every metric: its name without prefix, its help, its kind and its value.
            pub fn each(&self, mut take: impl FnMut(&'static str, &'static str, Kind, u64)) {
                $(take(stringify!($name), concat!($($doc),*).trim(), Kind::$kind, self.$name.get());)*
            }
        }
    };
}

metrics! {
    /// Batches appended to the journal.
    Counter batches_appended_total,
    /// Records appended to the journal.
    Counter records_appended_total,
    /// Bytes of batches appended to the journal, headers included.
    Counter bytes_appended_total,
    /// Batches acknowledged, duplicates included.
    Counter batches_acked_total,
    /// Retries that were answered with the first answer.
    Counter duplicates_total,
    /// Retries of batches that were appended, of which nobody knows where any more.
    Counter duplicates_forgotten_total,
    /// Requests answered with an error.
    Counter errors_total,
    /// Batches delivered to subscribers.
    Counter batches_delivered_total,
    /// Turns of subscriptions: how often one was looked at for something to send.
    Counter subscription_turns_total,
    /// Bytes delivered to subscribers.
    Counter bytes_delivered_total,
    /// Sends ended early because their readers were slow and somebody waited for the memory that they held.
    Counter sends_ended_early_total,
    /// Connections closed because the rest of a frame that was begun is not in the journal any more.
    Counter frames_incomplete_total,
    /// Bytes that were read from the journal and are being sent.
    Gauge send_held_bytes,
    /// Connections accepted.
    Counter connections_accepted_total,
    /// Connections closed because of what they sent.
    Counter connections_refused_total,
    /// Connections open.
    Gauge connections,
    /// Subscriptions open.
    Gauge subscriptions,
    /// Partitions held.
    Gauge partitions,
    /// Producers remembered, each counted once for every partition that remembers it.
    Gauge producers,
    /// Producers forgotten because their partition, or the shard, remembers as many as it may.
    Counter producers_expired_total,
    /// Those of them that went because the shard's memory allows no more.
    Counter producers_expired_for_memory_total,
    /// Places of batches remembered for retries, beyond each producer's last.
    Gauge producer_places,
    /// Producers of whose batches only the last one's place is still remembered: the shard has no room for more.
    Counter producer_windows_cut_total,
    /// Connections whose next frame waits for room in the journal or the mesh.
    Gauge connections_waiting,
    /// Batches appended and not yet durable.
    Gauge batches_undurable,
    /// Chunks written to the journal.
    Counter journal_chunks_total,
    /// Bytes written to the journal, padding included.
    Counter journal_bytes_total,
    /// Journal segments in use.
    Gauge journal_segments,
    /// Spare segments ready.
    Gauge journal_spares,
    /// Journal segments released for another life.
    Counter journal_segments_recycled_total,
    /// Bytes of zeros written ahead of the appends.
    Counter journal_prewritten_bytes_total,
    /// Spare segments that could not be made, for another reason than a full disk; each is tried again.
    Counter journal_spares_failed_total,
    /// Checkpoints completed.
    Counter journal_checkpoints_total,
    /// Checkpoints given up for want of space or descriptors; each is tried again.
    Counter journal_checkpoints_failed_total,
    /// Bytes of the journal read in search of damage.
    Counter journal_scrubbed_bytes_total,
    /// Times that the whole journal was read in search of damage.
    Counter journal_scrubs_total,
    /// Footers, checkpoint parts and superblock copies that were damaged or absent and were written anew.
    Counter journal_scrub_repairs_total,
    /// Damaged places of the journal that nothing on this node can replace: each is named in the log.
    Gauge journal_damaged,
    /// One while the disk is full and appends are refused.
    Gauge read_only,
    /// Nanoseconds from append to durable, summed over batches.
    Counter durable_ns_total,
    /// One once the shard serves.
    Gauge serving,
    /// Turns taken.
    Counter turns_total,
    /// Partitions of streams that the catalogue does not know: kept and reported.
    Gauge partitions_unknown,
}

/// One metric.
#[derive(Debug, Default)]
pub struct Metric(AtomicU64);

impl Metric {
    /// Adds to a counter. Only its shard writes it, so no read-modify-write is needed.
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Takes from a gauge.
    pub fn sub(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(count),
            Ordering::Relaxed,
        );
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it says.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
