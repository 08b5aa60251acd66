//! Sending by copy against `IORING_OP_SEND_ZC`, which pins the sender's pages instead. Loopback copies such a send all
//! the same, when it hands it to the receiving socket, and says so in the notification: this bench shows what the detour
//! costs there, and how many sends really were without a copy.

#![expect(
    unsafe_code,
    clippy::print_stderr,
    reason = "entries of a ring point to memory; a bench talks to people"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 1 << 20];
/// Sends in flight.
const DEPTH: usize = 4;
/// `IORING_SEND_ZC_REPORT_USAGE`, and what it makes of a notification's result: `IORING_NOTIF_USAGE_ZC_COPIED`.
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;

/// A connection whose other end a thread reads to its end.
fn drained() -> (TcpStream, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("one connection");
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).expect("readable") > 0 {}
    });
    (TcpStream::connect(address).expect("a listener"), reader)
}

struct Sender {
    ring: IoUring,
    stream: TcpStream,
    data: Vec<u8>,
    zero_copy: bool,
    copied: u64,
    notified: u64,
}

impl Sender {
    fn entry(&self, len: usize) -> squeue::Entry {
        let (fd, data) = (types::Fd(self.stream.as_raw_fd()), self.data.as_ptr());
        let entry = if self.zero_copy {
            opcode::SendZc::new(fd, data, len as u32)
                .flags(libc::MSG_WAITALL)
                .zc_flags(REPORT_USAGE)
                .build()
        } else {
            opcode::Send::new(fd, data, len as u32)
                .flags(libc::MSG_WAITALL)
                .build()
        };
        // In order: pieces of one send never stand between those of another.
        entry.flags(squeue::Flags::IO_LINK)
    }

    /// Sends `data` as often as asked, `DEPTH` at a time, and waits until its memory is free again.
    fn send(&mut self, times: u64) -> Duration {
        let begun = Instant::now();
        let mut left = times;
        while left > 0 {
            let now = left.min(DEPTH as u64);
            for n in 0..now {
                let mut entry = self.entry(self.data.len());
                if n + 1 == now {
                    entry = entry.clear_flags();
                }
                // SAFETY: the data outlives the loop below, which waits for the last completion of each.
                unsafe { self.ring.submission().push(&entry) }.expect("room for DEPTH");
            }
            let mut open = now;
            while open > 0 {
                self.ring.submit_and_wait(1).expect("a ring in order");
                for completion in self.ring.completion() {
                    if cqueue::notif(completion.flags()) {
                        self.notified += 1;
                        self.copied += u64::from(completion.result() as u32 & COPIED != 0);
                    } else {
                        assert_eq!(completion.result(), self.data.len() as i32);
                    }
                    open -= u64::from(!cqueue::more(completion.flags()));
                }
            }
            left -= now;
        }
        begun.elapsed()
    }
}

fn sends(c: &mut Criterion) {
    let mut group = c.benchmark_group("send over loopback");
    for bytes in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, zero_copy) in [("SEND", false), ("SEND_ZC", true)] {
            let (stream, reader) = drained();
            let mut sender = Sender {
                ring: IoUring::builder()
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .build(16)
                    .expect("io_uring is allowed here"),
                stream,
                data: vec![7; bytes],
                zero_copy,
                copied: 0,
                notified: 0,
            };
            group.bench_function(BenchmarkId::new(name, bytes), |b| {
                b.iter_custom(|times| sender.send(times));
            });
            if zero_copy {
                eprintln!("{} of {} sends were copied", sender.copied, sender.notified);
            }
            drop(sender);
            reader.join().expect("the reader reads to the end");
        }
    }
    group.finish();
}

criterion_group!(benches, sends);
criterion_main!(benches);
