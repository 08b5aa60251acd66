//! The journal against a disk that loses power: whatever order completions come in, wherever it crashes, and whatever of
//! the unsynced blocks is kept, what was acknowledged is there and nothing else is.

mod crashes;
mod damage;
mod disk;
mod scrub;
mod serving;
mod shortage;
mod slots;
mod upkeep;
mod world;
