//! A bounded queue from one thread to one other: a ring of places, a head that only the taker moves and a tail that only
//! the giver moves, each on its own cache line. Never blocks, never allocates after it was made.
//!
//! Invariant: places `head..tail` hold values and belong to the taker, all others are empty and belong to the giver. A
//! place changes hands by the release store of the index that the other side loads with acquire.

use std::mem::MaybeUninit;

use super::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell, fence};

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
    fn place(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.places[index & (self.places.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // The last owner sees what the others did before they let go.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: both sides are gone; `head..tail` hold values, each dropped once.
            self.place(head)
                .with_mut(|place| unsafe { (*place).assume_init_drop() });
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
        self.shared.place(self.tail).with_mut(|place| unsafe {
            (*place).write(value);
        });
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
        let place = self.shared.place(self.head);
        // SAFETY: the place lies inside `head..tail`, so it holds a value, which is moved out once because the head
        // passes it now.
        let value = place.with_mut(|place| unsafe { (*place).assume_init_read() });
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
