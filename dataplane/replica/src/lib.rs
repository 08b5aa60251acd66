//! Leader and follower of one slot: shipping, epochs, sealing, truncation, commit. Knows no socket, no
//! file and no other slot.

#![forbid(unsafe_code)]
