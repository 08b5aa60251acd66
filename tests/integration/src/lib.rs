//! Real processes on real sockets and real disks. The tests are beside this file, in `tests/`.

#![forbid(unsafe_code)]
