//! 10,000 connections that have shaken hands and then say nothing, while a producer goes on: each is still there afterwards,
//! and the node's memory stays near what it was told.
//!
//! Where the kernel lets a process have fewer files, it is as many as it allows, and the output says how many.

use integration::limits::raise_open_files;
use integration::node::{Node, Setup};
use integration::peer::Peer;
use integration::scratch::Scratch;
use integration::witness::Witness;

const WANTED: usize = 10_000;
/// Files of a process that are not connections of this test.
const OTHER_FILES: u64 = 200;
const MIB: u64 = 1 << 20;
/// What the node is configured to take.
const MEMORY_MIB: u64 = 64;
/// What a process takes besides: its code, its threads, an allocator that keeps what it was given.
const PROCESS_MIB: u64 = 32;
/// What an idle connection may cost besides the buffers that all share.
const BYTES_PER_CONNECTION: u64 = 4 * 1024;

#[test]
fn ten_thousand_idle_connections_cost_little_and_nobody_else() {
    let allowed = raise_open_files(WANTED as u64 + OTHER_FILES);
    let count = WANTED.min(usize::try_from(allowed - OTHER_FILES).expect("a limit is no secret"));
    let scratch = Scratch::new("many-idle");
    let setup = Setup::new(&scratch).with("memory", format!("{MEMORY_MIB}MiB"));
    let node = Node::start(&setup);
    let mut witness = Witness::new(setup.server, "honest/beside-idle");
    let (before, _) = node.resident_bytes();

    let mut idle = Vec::with_capacity(count);
    for number in 0..count {
        idle.push(Peer::open(setup.server).0);
        if number % 100 == 0 {
            witness.is_served();
        }
    }
    assert!(node.metric("tiderace_shard_connections") >= count as u64);
    for _ in 0..100 {
        witness.is_served();
    }
    let (now, most) = node.resident_bytes();
    println!(
        "{count} idle connections (of {WANTED} wanted; {allowed} files are allowed): {} MiB before, {} MiB with them, {} MiB at most",
        before / MIB,
        now / MIB,
        most / MIB
    );
    let budget = (MEMORY_MIB + PROCESS_MIB) * MIB + count as u64 * BYTES_PER_CONNECTION;
    assert!(
        most <= budget,
        "{most} bytes are within the budget of {budget}"
    );

    // Nobody was forgotten.
    for peer in &mut idle {
        peer.still_serves();
    }
    drop(idle);
    witness.lost_nothing();
    node.stop();
}
