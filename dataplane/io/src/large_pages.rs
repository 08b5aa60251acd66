//! The allocator of programs that own large buffers: an allocation of a huge page or more is a mapping of its own, aligned
//! to one, for which huge pages are asked (`madvise(2)`, `MADV_HUGEPAGE`). A direct write pins the pages of its buffer one by
//! one, and a copy walks them: with 512 times fewer pages both cost less. Everything smaller goes to the system's allocator.
//!
//! Where the kernel gives no huge pages nothing is lost but the alignment: a mapping is touched page by page as before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// A huge page of x86-64, and of aarch64 with small pages.
const HUGE_BYTES: usize = 2 << 20;
/// A multiple of every kernel's page size.
const STEP_BYTES: usize = 64 << 10;

/// See the module. Declare it with `#[global_allocator]`.
#[derive(Clone, Copy, Default, Debug)]
pub struct LargePages;

const fn is_large(layout: Layout) -> bool {
    layout.size() >= HUGE_BYTES && layout.align() <= HUGE_BYTES
}

/// A mapping of zeros that begins at a huge page. Null: the kernel gives none.
fn map(bytes: usize) -> *mut u8 {
    let Some(len) = bytes.checked_next_multiple_of(STEP_BYTES) else {
        return ptr::null_mut();
    };
    let Some(whole) = len.checked_add(HUGE_BYTES) else {
        return ptr::null_mut();
    };
    // SAFETY: a new mapping at a place that the kernel chooses touches nobody's memory.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            whole,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    let base: *mut u8 = base.cast();
    let head = base.align_offset(HUGE_BYTES);
    let start = base.wrapping_add(head);
    let tail = whole - head - len;
    // SAFETY: both pieces lie in the mapping just made, outside of what is given away, and are whole steps.
    unsafe {
        if head > 0 {
            libc::munmap(base.cast(), head);
        }
        if tail > 0 {
            libc::munmap(start.wrapping_add(len).cast(), tail);
        }
        // Advice that is not taken costs nothing.
        libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
    }
    start
}

// SAFETY: large allocations are mappings of at least their size, aligned to at least their alignment, and given back whole;
// which allocations those are follows from the layout alone, so every one goes back to where it came from.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_large(layout) {
            let len = layout.size().next_multiple_of(STEP_BYTES);
            // SAFETY: the caller gives back a mapping that was made for this layout.
            unsafe { libc::munmap(at.cast(), len) };
            return;
        }
        // SAFETY: it came from the system's allocator, for it is not large.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: `size` is not zero, and with the alignment is a valid layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_large(layout) && !is_large(wanted) {
            // SAFETY: the caller's contract is the system's.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: a valid layout that is not empty.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both are at least so long, and a new allocation overlaps nothing; the old one is given back once.
            unsafe {
                ptr::copy_nonoverlapping(at, moved, layout.size().min(size));
                self.dealloc(at, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(at: *mut u8, len: usize, byte: u8) -> bool {
        // SAFETY: the tests pass what they allocated.
        unsafe { std::slice::from_raw_parts(at, len) }
            .iter()
            .all(|it| *it == byte)
    }

    #[test]
    fn sizes_on_both_sides_of_the_bound_are_zeroed_moved_and_given_back() {
        let sizes = [
            1,
            HUGE_BYTES - 1,
            HUGE_BYTES,
            HUGE_BYTES + 1,
            3 * HUGE_BYTES + 4096,
        ];
        for from in sizes {
            for to in sizes {
                let layout = |size| Layout::from_size_align(size, 8).expect("valid");
                // SAFETY: every block is used within its size and given back once, with its layout.
                unsafe {
                    let at = LargePages.alloc_zeroed(layout(from));
                    assert!(filled(at, from, 0));
                    if from >= HUGE_BYTES {
                        assert_eq!(at.align_offset(HUGE_BYTES), 0);
                    }
                    at.write_bytes(7, from);
                    let moved = LargePages.realloc(at, layout(from), to);
                    assert!(filled(moved, from.min(to), 7));
                    moved.write_bytes(9, to);
                    LargePages.dealloc(moved, layout(to));
                }
            }
        }
    }

    #[test]
    fn an_alignment_beyond_a_huge_page_is_kept() {
        let layout = Layout::from_size_align(HUGE_BYTES, 2 * HUGE_BYTES).expect("valid");
        // SAFETY: it is given back once, with its layout.
        unsafe {
            let at = LargePages.alloc(layout);
            assert_eq!(at.align_offset(2 * HUGE_BYTES), 0);
            LargePages.dealloc(at, layout);
        }
    }
}
