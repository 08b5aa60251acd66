//! Every interleaving, within bounds, of the threads that meet in the mesh: the queue and the sleeper's flag as they are, on
//! a model of memory that may show a thread any value that the C11 rules allow and stops where two threads touch one place
//! without order, or where a thread sleeps for ever (loom; "CDSChecker", Norris and Demsky, OOPSLA 2013).

#[expect(clippy::duplicate_mod, reason = "the same code, on the model's memory")]
#[path = "../sleeping.rs"]
mod sleeping;
#[expect(clippy::duplicate_mod, reason = "the same code, on the model's memory")]
#[path = "../spsc.rs"]
mod spsc;
mod sync;

use loom::sync::Notify;
use loom::thread;
use sleeping::Sleeping;
use spsc::queue;
use sync::{Arc, AtomicBool, AtomicUsize, Ordering};

/// Runs every interleaving in which threads are interrupted up to so many times where they need not be.
fn every_interleaving(check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

/// What the kernel keeps of an eventfd: a write is reported once, however late the ring is looked at.
struct Eventfd(Notify);

#[test]
fn values_come_in_order_and_none_is_lost_or_torn() {
    every_interleaving(|| {
        let (mut giver, mut taker) = queue::<Box<usize>>(2);
        let other = thread::spawn(move || {
            let mut given = 0;
            for value in 0..3 {
                if giver.push(Box::new(value)).is_err() {
                    break;
                }
                given += 1;
            }
            given
        });
        let mut taken = 0;
        for _ in 0..2 {
            if let Some(value) = taker.pop() {
                assert_eq!(*value, taken);
                taken += 1;
            }
        }
        let given = other.join().expect("the giver only pushes");
        while let Some(value) = taker.pop() {
            assert_eq!(*value, taken);
            taken += 1;
        }
        assert_eq!(taken, given);
    });
}

#[test]
fn what_nobody_took_is_dropped_once() {
    every_interleaving(|| {
        let dropped = Arc::new(AtomicUsize::new(0));
        struct Counts(Arc<AtomicUsize>);
        impl Drop for Counts {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (mut giver, mut taker) = queue(2);
        let counter = Arc::clone(&dropped);
        let other = thread::spawn(move || {
            for _ in 0..2 {
                assert!(giver.push(Counts(Arc::clone(&counter))).is_ok());
            }
        });
        drop(taker.pop());
        drop(taker);
        other.join().expect("the giver only pushes");
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    });
}

/// It may wake for nothing and fall asleep again. One value: of a swap between two stores of another thread the model does
/// not know that it comes before the second, and lets a later load of its thread go back behind that.
#[test]
fn a_sleeper_is_woken_for_what_was_published_while_it_fell_asleep() {
    every_interleaving(|| {
        let (mut giver, mut taker) = queue(2);
        let sleeping = Arc::new(Sleeping::new());
        let eventfd = Arc::new(Eventfd(Notify::new()));
        let publisher = {
            let (sleeping, eventfd) = (Arc::clone(&sleeping), Arc::clone(&eventfd));
            thread::spawn(move || {
                giver.push(7).expect("there is room for two");
                if sleeping.must_wake() {
                    eventfd.0.notify();
                }
            })
        };
        while taker.pop().is_none() {
            sleeping.prepare_sleep();
            if taker.is_empty() {
                eventfd.0.wait();
            }
            sleeping.awake();
        }
        publisher.join().expect("the publisher only publishes");
    });
}

#[test]
fn whoever_found_the_queue_full_hears_that_there_is_room() {
    every_interleaving(|| {
        let (mut giver, mut taker) = queue(1);
        let eventfd = Arc::new(Eventfd(Notify::new()));
        let wakes = Arc::clone(&eventfd);
        let other = thread::spawn(move || {
            let mut taken = 0;
            while taken < 2 {
                if taker.pop().is_some() {
                    taken += 1;
                    if taker.giver_waits() {
                        wakes.0.notify();
                    }
                } else {
                    thread::yield_now();
                }
            }
        });
        for value in 0..2 {
            let mut value = value;
            while let Err(back) = giver.push(value) {
                value = back;
                if !giver.wait_for_room() {
                    eventfd.0.wait();
                }
            }
        }
        other.join().expect("the taker only takes");
    });
}

/// The model sees what it is for: what was looked at before anything was said is slept through. Each side is seen to find
/// nothing in some interleaving, and in this one both do.
#[test]
fn a_sleeper_that_looks_before_it_says_so_is_found() {
    let slept_through = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&slept_through);
    every_interleaving(move || {
        let published = Arc::new(AtomicBool::new(false));
        let sleeping = Arc::new(Sleeping::new());
        let publisher = {
            let (published, sleeping) = (Arc::clone(&published), Arc::clone(&sleeping));
            thread::spawn(move || {
                published.store(true, Ordering::Release);
                sleeping.must_wake()
            })
        };
        let found_nothing = !published.load(Ordering::Acquire);
        sleeping.prepare_sleep();
        let woken = publisher.join().expect("the publisher only publishes");
        seen.fetch_add(usize::from(found_nothing && !woken), Ordering::Relaxed);
    });
    let seen = slept_through.load(Ordering::Relaxed);
    assert!(seen > 0, "the model is blind");
}
