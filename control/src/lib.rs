//! The control plane without IO: catalogue, membership, placement, fail-over. It decides who owns what and
//! never carries an event. It does not know that shards exist.

#![forbid(unsafe_code)]
