//! Counts what the thread that runs a target holds and held at most. A reader that believes a length before it has checked it
//! shows here, long before a machine runs out of memory. Counts only; every request goes to the system's allocator unchanged.
#![expect(
    unsafe_code,
    reason = "a counting allocator is an unsafe trait; it only counts and forwards"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static HELD_BYTES_MAX: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that ends has no counters any more, and nobody asks for them.
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = HELD_BYTES_MAX.try_with(|most| most.set(most.get().max(held.get())));
    });
}

const fn signed(bytes: usize) -> isize {
    // A layout's size never exceeds isize::MAX.
    bytes.cast_signed()
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes) - signed(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `call` and says how many bytes its thread held at most on top of what it held before.
pub fn most_held<T>(call: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD_BYTES.get();
    HELD_BYTES_MAX.set(before);
    let result = call();
    let most = HELD_BYTES_MAX.get() - before;
    (most.max(0).cast_unsigned(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_of_counts_while_it_was_held() {
        let (bytes, ()) = most_held(|| {
            drop(vec![0_u8; 10_000]);
            drop(vec![0_u8; 70_000]);
        });
        assert!((70_000..80_000).contains(&bytes), "{bytes}");
        let (bytes, ()) = most_held(|| ());
        assert_eq!(bytes, 0);
    }
}
