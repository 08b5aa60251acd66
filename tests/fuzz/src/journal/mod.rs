//! Journals to damage: what was written to each is known entry by entry, so that what a recovery brings back can be held against
//! it. A disk in memory that is cheap to copy, an owner whose state is a digest of what it was told, a driver that executes
//! what a journal asks for, the written journals themselves, and the damage.

pub(crate) mod damage;
pub(crate) mod disk;
pub(crate) mod driver;
pub(crate) mod owner;
pub(crate) mod sealing;
pub(crate) mod written;
