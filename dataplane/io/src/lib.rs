//! The syscalls: the ring, the epoll fallback, sockets, files and pinning. Executes operations that own
//! their buffers and reports their completions. Knows no protocol. The only room with unsafe code.

#![allow(
    unsafe_code,
    reason = "the ring and its buffers are shared with the kernel; each block says why it is sound"
)]
