//! A bounded queue from one thread to one other: a ring of places, a head that only the taker moves and a tail that only
//! the giver moves, each on its own cache line. Never blocks, never allocates after it was made.
//!
//! Invariant: places `head..tail` hold values and belong to the taker, all others are empty and belong to the giver. A
//! place changes hands by the release store of the index that the other side loads with acquire.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// Two lines, because the neighbour is prefetched.
#[repr(align(128))]
struct Line<T>(T);

struct Shared<T> {
    head: Line<AtomicUsize>,
    tail: Line<AtomicUsize>,
    /// The giver found the queue full and wants to hear when it is not.
    giver_waits: Line<AtomicBool>,
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a place is touched by one side at a time, as the module's invariant says; values move from one thread to the
// other, hence `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: the queue owns its values.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn place(&self, index: usize) -> *mut MaybeUninit<T> {
        self.places[index & (self.places.len() - 1)].get()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let tail = *self.tail.0.get_mut();
        let mut head = *self.head.0.get_mut();
        while head != tail {
            // SAFETY: both sides are gone; `head..tail` hold values, each dropped once.
            unsafe { (*self.place(head)).assume_init_drop() };
            head = head.wrapping_add(1);
        }
    }
}

/// The end that values are put into.
pub(crate) struct Giver<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that values are taken from.
pub(crate) struct Taker<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

/// A queue of `capacity` values, a power of two.
pub(crate) fn queue<T: Send>(capacity: usize) -> (Giver<T>, Taker<T>) {
    assert!(capacity.is_power_of_two(), "places are found with a mask");
    let shared = Arc::new(Shared {
        head: Line(AtomicUsize::new(0)),
        tail: Line(AtomicUsize::new(0)),
        giver_waits: Line(AtomicBool::new(false)),
        places: (0..capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
    });
    let giver = Giver {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    let taker = Taker {
        shared,
        head: 0,
        tail_seen: 0,
    };
    (giver, taker)
}

impl<T: Send> Giver<T> {
    /// Puts a value in, or hands it back when the queue is full.
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let capacity = self.shared.places.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(value);
            }
        }
        // SAFETY: the place lies outside `head..tail`, so it is empty and the giver's until the tail is stored.
        unsafe { (*self.shared.place(self.tail)).write(value) };
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Asks to be woken when the queue has room. True: it has room already, push again. The fence pairs with that of
    /// [`Taker::giver_waits`], as in the module `waker`: either this sees the new head, or the taker sees the wish.
    pub(crate) fn wait_for_room(&mut self) -> bool {
        self.shared.giver_waits.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) < self.shared.places.len()
    }
}

impl<T: Send> Taker<T> {
    /// The oldest value.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: the place lies inside `head..tail`, so it holds a value, which is moved out once because the head
        // passes it now.
        let value = unsafe { (*self.shared.place(self.head)).assume_init_read() };
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether there is nothing to take now.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.shared.tail.0.load(Ordering::Acquire)
    }

    /// After values were taken: whether the giver wants to be woken. Answers true once for each wish.
    pub(crate) fn giver_waits(&self) -> bool {
        fence(Ordering::SeqCst);
        let waits = &self.shared.giver_waits.0;
        waits.load(Ordering::Relaxed) && waits.swap(false, Ordering::Relaxed)
    }
}

impl<T> std::fmt::Debug for Giver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Giver").field("tail", &self.tail).finish()
    }
}

impl<T> std::fmt::Debug for Taker<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taker").field("head", &self.head).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_hands_the_value_back_and_says_when_there_is_room() {
        let (mut giver, mut taker) = queue(2);
        assert_eq!(giver.push(1), Ok(()));
        assert_eq!(giver.push(2), Ok(()));
        assert_eq!(giver.push(3), Err(3));
        assert!(!taker.giver_waits());
        assert!(!giver.wait_for_room());
        assert_eq!(taker.pop(), Some(1));
        assert!(taker.giver_waits());
        assert!(!taker.giver_waits());
        assert_eq!(giver.push(3), Ok(()));
        assert_eq!(
            (taker.pop(), taker.pop(), taker.pop()),
            (Some(2), Some(3), None)
        );
        assert!(taker.is_empty());
    }

    #[test]
    fn order_is_kept_between_two_threads() {
        const COUNT: u64 = 200_000;
        let (mut giver, mut taker) = queue(64);
        let other = std::thread::spawn(move || {
            for number in 0..COUNT {
                let mut value = Box::new(number);
                while let Err(back) = giver.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..COUNT {
            let value = loop {
                match taker.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(*value, expected);
        }
        other.join().expect("the giver only pushes");
    }

    #[test]
    fn what_nobody_took_is_dropped_once() {
        let counted = Arc::new(());
        let (mut giver, mut taker) = queue(8);
        for _ in 0..5 {
            giver.push(Arc::clone(&counted)).expect("room for eight");
        }
        drop(taker.pop());
        drop((giver, taker));
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
