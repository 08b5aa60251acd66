//! Assembly without a runtime: shards, control and the routing between them. This is what the simulator
//! drives; threads, sockets and files are added by the `tiderace` program.

#![forbid(unsafe_code)]
