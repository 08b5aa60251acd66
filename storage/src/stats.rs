//! Counters and gauges of one journal, for whoever shows them. Plain numbers, copied out; nothing here is on a hot path.

/// What a journal has done since it opened (counts), and how it stands now (gauges).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Chunks submitted.
    pub chunks: u64,
    /// Of those, closing ones.
    pub closing_chunks: u64,
    /// Bytes of chunks submitted, headers and padding included.
    pub chunk_bytes: u64,
    /// Entries committed.
    pub entries: u64,
    /// Bytes of entries committed.
    pub entry_bytes: u64,
    /// Chunks whose directory could not hold every row.
    pub directory_overflows: u64,
    /// Segments begun.
    pub rolls: u64,
    /// Segments released for another life.
    pub segments_recycled: u64,
    /// Bytes of zeros written ahead of the appends.
    pub prewritten_bytes: u64,
    /// Spare segments that could not be made, for another reason than a full disk.
    pub spares_failed: u64,
    /// Superblocks written.
    pub superblocks: u64,
    /// Checkpoints finished.
    pub checkpoints: u64,
    /// Checkpoints given up.
    pub checkpoints_failed: u64,
    /// Bytes of checkpoint parts written.
    pub checkpoint_bytes: u64,
    /// Drafts refused as busy.
    pub refused_busy: u64,
    /// Drafts refused because the disk is full.
    pub refused_read_only: u64,
    /// Cold reads asked for.
    pub reads: u64,
    /// Bytes read for them.
    pub read_bytes: u64,
    /// Segments whose index was looked into for cold reads.
    pub segments_searched: u64,
    /// Footers loaded from the disk.
    pub footers_loaded: u64,
    /// Footers rebuilt by scanning their segment.
    pub footers_rebuilt: u64,
    /// Bytes read in search of damage.
    pub scrubbed_bytes: u64,
    /// Times that everything was read.
    pub scrubs: u64,
    /// Checkpoint parts and superblock copies that were found damaged and written anew.
    pub scrub_repairs: u64,
    /// Damaged places that are known and kept (gauge).
    pub damaged: u64,
    /// Chunk writes in flight (gauge).
    pub chunks_inflight: u64,
    /// Segments kept, the open one included (gauge).
    pub segments: u64,
    /// Segment files ready to be begun (gauge).
    pub spares: u64,
    /// Whether data is refused because the disk is full (gauge).
    pub read_only: bool,
    /// Write buffers allocated (gauge).
    pub regions: u64,
    /// Of those, how many a slow reader holds and nothing else (gauge; as of the last search for a free one).
    pub regions_pinned: u64,
    /// Bytes of frozen chunks held for tail reads (gauge).
    pub tail_bytes: u64,
    /// Bytes of cells fed to the checkpoint under way and not yet on the disk (gauge).
    pub checkpoint_backlog_bytes: u64,
    /// Everything below is durable (gauge).
    pub durable_lsn: u64,
    /// The next append goes here (gauge).
    pub end_lsn: u64,
}
