//! The journal without IO: writer, reader, recovery, segments, index and checkpoints. It asks for reads,
//! writes and syncs as values and is told of their completion; it never opens a file itself.

#![forbid(unsafe_code)]
